"""Waiting for an event or for a time, whichever comes first, by a task that may be cancelled meanwhile.

And how much of what concerns every partition is done before everybody else has a turn.
"""

from __future__ import annotations

import asyncio
import contextlib

TURN_PARTITIONS = 500
"""After so many partitions whoever works through all of them gives the event loop back once (`asyncio.sleep(0)`): a
first answer tells of all that a broker leads, and ten thousand in one go kept everybody else waiting for a third of a
second (hazard 56). A partition that was looked at before such a turn may have changed after it."""


async def woken(event: asyncio.Event, timeout_seconds: float | None) -> None:
    """Return when `event` is set or the time is over.

    Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes in the moment the event is set, and
    the cancelled loop then runs on for ever and the daemon never finishes its drain.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await event.wait()

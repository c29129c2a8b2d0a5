"""Waiting for an event or for a time, whichever comes first, by a task that may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
import contextlib


async def woken(event: asyncio.Event, timeout_seconds: float | None) -> None:
    """Return when `event` is set or the time is over.

    Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes in the moment the event is set, and
    the cancelled loop then runs on for ever and the daemon never finishes its drain.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await event.wait()

"""Threads that write while a daemon backs up, and the instants in between that a restore is asked for."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Sequence
from typing import Protocol

from kbackupd.model.clock import SystemClock
from kbackupd.testbed.daemon import Daemon
from tests.integration.capture.backup import flush
from tests.integration.conditions import PATIENCE_SECONDS, reaches

FLUSHES = 3
CLOCK = SystemClock()


class LiveLoad(Protocol):
    threads: list[threading.Thread]
    """Not started yet; each ends soon after `stop`."""
    stop: threading.Event

    def enough(self) -> bool: ...


def end(load: LiveLoad) -> None:
    load.stop.set()
    for thread in load.threads:
        if thread.is_alive():
            thread.join(PATIENCE_SECONDS)


async def back_up_under(load: LiveLoad, daemon: Daemon, what: str) -> list[int]:
    """Run the load until it says `enough`, and on through some flushes; then everything is durable and the daemon gone.

    A machine may be so fast that all is written before a leader is asked twice: only what was heard by a flush is
    certain to be an instant of its own.

    Returns:
        When it began, and when each flush was answered: at each of these the archive tells more than at the last.
    """
    for thread in load.threads:
        thread.start()
    marks = [CLOCK.now_ms()]
    await reaches(load.enough, what)
    for _ in range(FLUSHES):
        await flush(daemon)
        marks.append(CLOCK.now_ms())
    await asyncio.to_thread(end, load)
    await flush(daemon)
    assert daemon.stop() == 0
    return marks


def instants_between(marks: Sequence[int], count: int) -> list[int]:
    """Random ones, as many in each span between two of the marks."""
    dice = random.Random(1)
    spans = itertools.cycle(itertools.pairwise(marks))
    return [dice.randrange(first, max(last, first + 1)) for first, last in itertools.islice(spans, count)]

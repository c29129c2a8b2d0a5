"""Threads that write while a daemon backs up, and the instants in between that a restore is asked for."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kbackupd.model.clock import SystemClock
from kbackupd.testbed.daemon import Daemon
from tests.integration.capture.backup import flush
from tests.integration.conditions import PATIENCE_SECONDS, reaches

FLUSHES = 3
CLOCK = SystemClock()


@dataclass(slots=True)
class LiveLoad(ABC):
    """What writes into `topic`, each in a thread of its own, until it is told to stop."""

    topic: str
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    """Not started yet; each ends soon after `stop`."""

    @abstractmethod
    def fewest(self) -> int:
        """How often the slowest of them is done by now; 0 while one has not begun."""

    def enough(self, times: int) -> bool:
        assert all(thread.is_alive() for thread in self.threads)
        return self.fewest() >= times


Loaded = TypeVar("Loaded", bound=LiveLoad)


def writing(load: Loaded, *works: Callable[[], None]) -> Iterator[Loaded]:
    """The body of a fixture: the load with a thread for each of `works`, which have ended at its end."""
    load.threads = [threading.Thread(target=work, daemon=True) for work in works]
    yield load
    end(load)


def end(load: LiveLoad) -> None:
    load.stop.set()
    for thread in load.threads:
        if thread.is_alive():
            thread.join(PATIENCE_SECONDS)


async def back_up_under(load: LiveLoad, daemon: Daemon, *, times: int) -> list[int]:
    """Run the load until all of it is done `times` times, and on through some flushes; then the daemon drains.

    A machine may be so fast that all is written before a leader is asked twice: only what was heard by a flush is
    certain to be an instant of its own.

    Returns:
        When it began, and when each flush was answered: at each of these the archive tells more than at the last.
    """
    for thread in load.threads:
        thread.start()
    marks = [CLOCK.now_ms()]
    await reaches(lambda: load.enough(times), f"each was done {times} times")
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

"""How late the event loop is: the delay with which a sleeper that asks for a fixed time gets its turn.

Everything the daemon does waits in one loop. What holds it up (a step without an await, too little processor time)
shows here first, whoever causes it, and before the watchdog has to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from kbackupd.model.clock import Clock

INTERVAL_SECONDS = 0.25
"""Between two samples: a stall of this length is met by one for certain, a shorter one by its share of luck."""
WINDOW_SECONDS = 60.0


class LoopLag:
    """Samples the lag while it runs; says the worst of the last one to two minutes to whoever asks.

    Args:
        observe: called with every sample, in seconds.
    """

    def __init__(self, clock: Clock, observe: Callable[[float], None]) -> None:
        self._clock = clock
        self._observe = observe
        self._due: float | None = None
        self._window_began = clock.monotonic()
        self._worst_before = 0.0
        self._worst = 0.0

    async def run(self) -> None:
        """Sample until cancelled."""
        try:
            while True:
                self._due = self._clock.monotonic() + INTERVAL_SECONDS
                await asyncio.sleep(INTERVAL_SECONDS)
                lag = self._late()
                self._turn_window()
                self._worst = max(self._worst, lag)
                self._observe(lag)
        finally:
            self._due = None

    def worst_seconds(self) -> float:
        """The largest lag of this window and the one before, and of the sample that is due and has not come.

        Whoever scrapes may get the loop's first turn after a stall, before the sampler does.
        """
        self._turn_window()
        return max(self._worst_before, self._worst, self._late())

    def _late(self) -> float:
        return 0.0 if self._due is None else max(0.0, self._clock.monotonic() - self._due)

    def _turn_window(self) -> None:
        now = self._clock.monotonic()
        if now - self._window_began < WINDOW_SECONDS:
            return
        # What was said before stays for a whole window more: no stall falls between two scrapes.
        self._worst_before = self._worst if now - self._window_began < 2 * WINDOW_SECONDS else 0.0
        self._worst = 0.0
        self._window_began = now


@contextlib.asynccontextmanager
async def sampling_lag(lag: LoopLag) -> AsyncIterator[None]:
    """`lag` samples inside."""
    task = asyncio.create_task(lag.run(), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

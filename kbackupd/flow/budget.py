"""A budget in bytes: whoever wants to hold more waits for its turn (invariant I9).

Capture reserves before a request is sent, and when the budget is full Kafka itself is the spool; a restore reserves
before it reads and before it queues for the target. Waiters are served in the order they came, so that a large request
is not starved by small ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

SHARE_WORTH_SEALING = 4
"""What is held open is sealed before its time, to make room, if it is at least one in so many of the budget's bytes."""


class MemoryBudget:
    """Counts bytes; knows nothing of what they are for."""

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes <= 0:
            raise ValueError("a memory budget needs at least one byte")
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self.peak_bytes = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def starved(self) -> bool:
        """Somebody waits."""
        return bool(self._waiters)

    def starved_by(self, held_bytes: int) -> bool:
        """Somebody waits for what the `held_bytes` of the open segment take: it should be sealed before its time.

        That is so if they are a real share of the budget, or all that is taken: nobody else will give anything back.
        Where it is requests that fill it, they end by themselves, and sealing the little that is held would make an
        object of every few records and room for nobody.
        """
        return self.starved and (
            held_bytes * SHARE_WORTH_SEALING >= self.limit_bytes or held_bytes >= self.reserved_bytes
        )

    async def reserve(self, count: int) -> int:
        """Take `count` bytes, waiting until they are free; returns how many were taken (at most the whole budget).

        Cancellation takes nothing.
        """
        count = min(count, self.limit_bytes)
        if not self._waiters and self.reserved_bytes + count <= self.limit_bytes:
            self._add(count)
            return count
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((count, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(count)
            else:
                # Whoever gave bytes back between the cancellation and this line has taken us out of the queue already.
                with contextlib.suppress(ValueError):
                    self._waiters.remove((count, granted))
                self._serve()
            raise
        return count

    async def take(self, count: int) -> int:
        """Reserve exactly `count` bytes, which what lies in the store has already decided; returns `count`.

        More than the whole budget gets through when nothing else is held: the one declared exception. Cancellation
        takes nothing.
        """
        return self.adjust(await self.reserve(count), count)

    def adjust(self, taken: int, needed: int) -> int:
        """Turn a reservation of `taken` bytes into one of `needed`, at once, even beyond the limit; returns `needed`.

        Growing is the declared exception for a first batch larger than what was asked for: the bytes are here already.
        """
        self._add(needed - taken)
        self._serve()
        return needed

    def release(self, taken: int) -> None:
        """Give back what `reserve`, `take` or `adjust` returned."""
        self.reserved_bytes -= taken
        self._serve()

    def _serve(self) -> None:
        while self._waiters and self.reserved_bytes + self._waiters[0][0] <= self.limit_bytes:
            count, granted = self._waiters.popleft()
            if not granted.done():
                self._add(count)
                granted.set_result(None)

    def _add(self, count: int) -> None:
        self.reserved_bytes += count
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)

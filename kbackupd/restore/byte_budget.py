"""A bound in bytes on what a restore holds in memory; whoever wants more waits for its turn (invariant I9)."""

from __future__ import annotations

import asyncio


class ByteBudget:
    """Served in the order of asking, so that a large batch is not starved by small ones.

    Something larger than the whole budget gets through when nothing else is held: the one declared exception.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.peak_bytes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, count_bytes: int) -> None:
        """Return when `count_bytes` are ours; cancelled, nothing is."""
        async with self._turn:
            while self.held_bytes and self.held_bytes + count_bytes > self.limit_bytes:
                self._freed.clear()
                await self._freed.wait()
            self.held_bytes += count_bytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def give_back(self, count_bytes: int) -> None:
        self.held_bytes -= count_bytes
        self._freed.set()

"""One budget in bytes for everything asked for, fetched and not yet durable (invariant I9).

Reserved before a request is sent. When it is full, fetching waits: Kafka itself is the spool. Waiters are served in
the order they came, so that a large request is not starved by small ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

HOLDING_FACTOR = 2
"""How many times a byte is charged while it is held until durable. It waits as it came, and zstd may need as much again
for its result. What nobody compresses is sent from where it lies, but the allocator keeps holes between blocks that
come and go: without this the process grew to one and a half times what it held (docs/performance.md)."""


class MemoryBudget:
    """Counts bytes; knows nothing of what they are for."""

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes <= 0:
            raise ValueError("a memory budget needs at least one byte")
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def starved(self) -> bool:
        """Somebody waits: whatever is held open should be sealed, though its time has not come."""
        return bool(self._waiters)

    async def reserve(self, count: int) -> int:
        """Take `count` bytes, waiting until they are free; returns how many were taken (at most the whole budget).

        Cancellation takes nothing.
        """
        count = min(count, self.limit_bytes)
        if not self._waiters and self.reserved_bytes + count <= self.limit_bytes:
            self.reserved_bytes += count
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

    def adjust(self, taken: int, needed: int) -> int:
        """Turn a reservation of `taken` bytes into one of `needed`, at once, even beyond the limit; returns `needed`.

        Growing is the declared exception for a first batch larger than what was asked for: the bytes are here already.
        """
        self.reserved_bytes += needed - taken
        self._serve()
        return needed

    def release(self, taken: int) -> None:
        """Give back what `reserve` or `adjust` returned."""
        self.reserved_bytes -= taken
        self._serve()

    def _serve(self) -> None:
        while self._waiters and self.reserved_bytes + self._waiters[0][0] <= self.limit_bytes:
            count, granted = self._waiters.popleft()
            if not granted.done():
                self.reserved_bytes += count
                granted.set_result(None)

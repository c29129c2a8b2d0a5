"""A limit on bytes per second over all fetch loops together (`source.rate_limit`)."""

from __future__ import annotations

import asyncio

from kbackupd.model.clock import Clock

BURST_SECONDS = 1.0
"""Unused allowance kept for later is worth this long at most."""


class RateLimit:
    """Whoever fetched pays afterwards: nobody can know before how much an answer holds.

    Args:
        bytes_per_second: None for no limit.
    """

    def __init__(self, bytes_per_second: int | None, clock: Clock) -> None:
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._paid_until = clock.monotonic()

    def spend(self, count: int) -> None:
        """`count` bytes were received."""
        if self._bytes_per_second is not None:
            earliest = self._clock.monotonic() - BURST_SECONDS
            self._paid_until = max(self._paid_until, earliest) + count / self._bytes_per_second

    @property
    def wait_seconds(self) -> float:
        """How long until the next request may be sent."""
        return max(0.0, self._paid_until - self._clock.monotonic())

    async def admit(self) -> None:
        """Return when all that was received until now is paid for."""
        wait = self.wait_seconds
        if wait > 0:
            await asyncio.sleep(wait)

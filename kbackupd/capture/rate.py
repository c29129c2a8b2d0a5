"""A limit on bytes per second over all fetch loops together (`source.rate_limit`)."""

from __future__ import annotations

import asyncio

from kbackupd.capture.waiting import woken
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
        self._changed = asyncio.Event()

    def change(self, bytes_per_second: int | None) -> None:
        """Another limit from now on; what is owed under the old one is paid at the new pace, and not before."""
        if bytes_per_second == self._bytes_per_second:
            return
        now = self._clock.monotonic()
        owed_bytes = max(0.0, self._paid_until - now) * (self._bytes_per_second or 0)
        self._bytes_per_second = bytes_per_second
        self._paid_until = now + (owed_bytes / bytes_per_second if bytes_per_second is not None else 0.0)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

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
        while (wait := self.wait_seconds) > 0:
            await woken(self._changed, wait)

"""Time, injected: monotonic seconds for durations, epoch milliseconds and aware UTC for stamps."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back within a process."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch; may step either way."""


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock for tests: stands still until told to move; wall and monotonic time move apart on request."""

    def __init__(self, *, monotonic_seconds: float = 1_000.0, now_ms: int = 1_767_225_600_000) -> None:
        self._monotonic_seconds = monotonic_seconds
        self._now_ms = now_ms

    def monotonic(self) -> float:
        return self._monotonic_seconds

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, seconds: float) -> None:
        self._monotonic_seconds += seconds
        self._now_ms += round(seconds * 1000)

    def step_wall(self, milliseconds: int) -> None:
        """Step the wall clock alone, as NTP or an operator would."""
        self._now_ms += milliseconds


def iso(ms: int) -> str:
    """`ms` since the epoch as ISO 8601 UTC with milliseconds, as kbackupd prints every stamp."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

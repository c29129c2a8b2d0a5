"""Errors that repeat are said once per interval, with how often they happened in between.

A broker that is down for a night fails every request; one line a minute with a count tells all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from kbackupd.model.clock import Clock


@dataclass(slots=True)
class _Seen:
    reported_at: float
    suppressed: int


class RepeatLimiter:
    """Decides whether an occurrence of `key` is to be reported now.

    Args:
        clock: monotonic seconds come from here.
        interval_seconds: at most one report per key in this time.
        capacity: keys remembered; beyond it the one reported longest ago is forgotten, so memory is bounded whatever
            the keys are made of.
    """

    def __init__(self, clock: Clock, *, interval_seconds: float = 60.0, capacity: int = 1024) -> None:
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._capacity = capacity
        self._seen: OrderedDict[Hashable, _Seen] = OrderedDict()

    def admit(self, key: Hashable) -> int | None:
        """How many occurrences to report now, those kept back since the last report included, or None: stay quiet."""
        now = self._clock.monotonic()
        seen = self._seen.get(key)
        if seen is not None and now - seen.reported_at < self._interval_seconds:
            seen.suppressed += 1
            return None
        count = 1 if seen is None else 1 + seen.suppressed
        self._seen[key] = _Seen(now, 0)
        self._seen.move_to_end(key)
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        return count

    def forget(self, key: Hashable) -> int:
        """It is over: the next occurrence is reported at once. Returns how many were kept back unreported."""
        seen = self._seen.pop(key, None)
        return seen.suppressed if seen is not None else 0

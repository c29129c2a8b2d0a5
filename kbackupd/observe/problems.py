"""The list of what an operator should look at now: each subject once, with since when and how often."""

from __future__ import annotations

from dataclasses import dataclass

from kbackupd.model.clock import Clock
from kbackupd.model.status import Problem


@dataclass(slots=True)
class _Open:
    message: str
    hint: str
    since_ms: int
    count: int


class Problems:
    """Problems that are open. One task reports, anybody reads; nothing here blocks.

    Args:
        clock: stamps come from here.
        capacity: subjects kept; further ones are only counted, and `current` says how many they are. During a total
            outage every partition is a problem of its own, and ten thousand of them help nobody.
    """

    def __init__(self, clock: Clock, *, capacity: int = 200) -> None:
        self._clock = clock
        self._capacity = capacity
        self._open: dict[str, _Open] = {}
        self._beyond = 0
        self._beyond_since_ms = 0

    def report(self, subject: str, message: str, *, hint: str = "") -> None:
        """`subject` has this problem now; the newest message stands, the first time is kept."""
        known = self._open.get(subject)
        if known is not None:
            known.message, known.hint = message, hint
            known.count += 1
        elif len(self._open) < self._capacity:
            self._open[subject] = _Open(message, hint, self._clock.now_ms(), 1)
        else:
            if not self._beyond:
                self._beyond_since_ms = self._clock.now_ms()
            self._beyond += 1

    def clear(self, subject: str) -> None:
        """`subject` is well again. Harmless if it had no problem."""
        self._open.pop(subject, None)
        if len(self._open) < self._capacity:
            self._beyond = 0

    def current(self) -> tuple[Problem, ...]:
        """Oldest first."""
        problems = [
            Problem(subject=subject, message=p.message, hint=p.hint, since_ms=p.since_ms, count=p.count)
            for subject, p in self._open.items()
        ]
        if self._beyond:
            problems.append(
                Problem(
                    subject="(others)",
                    message="more problems than are listed",
                    hint="those listed usually share the cause",
                    since_ms=self._beyond_since_ms,
                    count=self._beyond,
                )
            )
        return tuple(problems)

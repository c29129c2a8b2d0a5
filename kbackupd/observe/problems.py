"""The list of what an operator should look at now: each subject once, with since when and how often.

A problem is over some day and is cleared then. A note is of what happened and cannot be undone: a batch that is corrupt
at the source, an object that was found damaged. It stays until the daemon ends; were it a problem, health would be red
for as long, and nobody would see what turns red next.
"""

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


class _Subjects:
    """Each subject's newest message. Further subjects than there is room for are only counted."""

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._open: dict[str, _Open] = {}
        self._beyond = 0
        self._beyond_since_ms = 0

    def report(self, subject: str, message: str, hint: str) -> None:
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
        self._open.pop(subject, None)
        if len(self._open) < self._capacity:
            self._beyond = 0

    def current(self, beyond: str) -> tuple[Problem, ...]:
        found = [
            Problem(subject=subject, message=p.message, hint=p.hint, since_ms=p.since_ms, count=p.count)
            for subject, p in self._open.items()
        ]
        if self._beyond:
            found.append(
                Problem(
                    subject="(others)",
                    message=beyond,
                    hint="those listed usually share the cause",
                    since_ms=self._beyond_since_ms,
                    count=self._beyond,
                )
            )
        return tuple(found)


class Problems:
    """Problems that are open, and notes. One task reports, anybody reads; nothing here blocks.

    Args:
        clock: stamps come from here.
        capacity: subjects kept of either; further ones are only counted, and the last row says how many they are.
            During a total outage every partition is a problem of its own, and ten thousand of them help nobody.
    """

    def __init__(self, clock: Clock, *, capacity: int = 200) -> None:
        self._problems = _Subjects(clock, capacity)
        self._notes = _Subjects(clock, capacity)

    def report(self, subject: str, message: str, *, hint: str = "") -> None:
        """`subject` has this problem now; the newest message stands, the first time is kept."""
        self._problems.report(subject, message, hint)

    def clear(self, subject: str) -> None:
        """`subject` is well again. Harmless if it had no problem."""
        self._problems.clear(subject)

    def current(self) -> tuple[Problem, ...]:
        """The open problems, oldest first."""
        return self._problems.current("more problems than are listed")

    def note(self, subject: str, message: str, *, hint: str = "") -> None:
        """This happened to `subject`, and stays so; the newest message stands, the first time is kept."""
        self._notes.report(subject, message, hint)

    def withdraw(self, subject: str) -> None:
        """The note on `subject` is not true any more. Harmless if there is none."""
        self._notes.clear(subject)

    def notes(self) -> tuple[Problem, ...]:
        """Oldest first."""
        return self._notes.current("more notes than are listed")

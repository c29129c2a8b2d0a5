"""At what pace retention moves a partition's log start, and when it reaches what is not durable yet.

Pure: times are monotonic seconds passed in. Retention moves in jumps, a log segment at a time, so the pace is taken
over several of them. It holds on while nobody tells us (paused, or the leader is silent): that is when it matters.
"""

from __future__ import annotations

STEPS_MAX = 8
"""Jumps looked back over."""
SPACING_SECONDS = 30.0
"""Jumps closer than this count as one: a client that deletes records all the time would leave no past."""
OBSERVED_SECONDS = 60.0
"""No pace is told before a partition was observed that long: one jump in the first second says nothing."""


class LogStartPace:
    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[tuple[float, int]] = []
        """(When it was first told, log start offset), ascending in both; the first is where observation began."""

    def told(self, at: float, log_start_offset: int) -> None:
        """A leader's answer to a request sent at `at`."""
        steps = self._steps
        if not steps or log_start_offset < steps[-1][1]:
            # Lower than before is another log: what was observed says nothing about it.
            self._steps = [(at, log_start_offset)]
        elif log_start_offset > steps[-1][1]:
            if len(steps) > 1 and at - steps[-1][0] < SPACING_SECONDS:
                steps[-1] = (steps[-1][0], log_start_offset)
            else:
                steps.append((at, log_start_offset))
                del steps[:-STEPS_MAX]

    def seconds_until(self, offset: int, *, heard: float, now: float) -> float | None:
        """Until the log start reaches `offset`, at its pace; None if it does not move or was not observed for long.

        Args:
            heard: when the newest request was sent whose answer would have told of a move.
        """
        if len(self._steps) < 2:
            return None
        (began, first), (last_moved, newest) = self._steps[0], self._steps[-1]
        observed = max(heard, last_moved) - began
        if observed < OBSERVED_SECONDS:
            return None
        per_second = (newest - first) / observed
        return max(0.0, (offset - newest) / per_second - (now - max(heard, last_moved)))

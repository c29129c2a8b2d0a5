"""When to seal the open segment: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RollReason(StrEnum):
    SIZE = "size"
    AGE = "age"
    FLUSH = "flush"
    STARVED = "starved"
    """The memory budget is full of what this segment holds, somebody waits, and no upload is about to free any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollPolicy:
    segment_max_bytes: int
    flush_interval_seconds: float
    system_interval_seconds: float
    """How long system streams alone may wait: at least the checkpoint interval (hazard 56a)."""


@dataclass(slots=True, kw_only=True)
class OpenFacts:
    """What the decision needs to know of the open segment; times are monotonic seconds, None if there is none."""

    held_bytes: int = 0
    oldest_user: float | None = None
    """When the oldest user batch, ledger event or round of samples came in."""
    oldest_system: float | None = None

    @property
    def empty(self) -> bool:
        return self.oldest_user is None and self.oldest_system is None


def decide(policy: RollPolicy, facts: OpenFacts, *, now: float, starved: bool, in_flight: int) -> RollReason | None:
    """Why to seal now, or None.

    Args:
        starved: somebody waits for the memory this segment holds (`MemoryBudget.starved_by`).
        in_flight: segments closed and not durable yet.
    """
    if facts.empty:
        return None
    if facts.held_bytes >= policy.segment_max_bytes:
        return RollReason.SIZE
    if starved and facts.held_bytes > 0 and in_flight == 0:
        return RollReason.STARVED
    deadline = next_deadline(policy, facts)
    return RollReason.AGE if deadline is not None and now >= deadline else None


def next_deadline(policy: RollPolicy, facts: OpenFacts) -> float | None:
    """Monotonic time at which age alone will ask for sealing."""
    deadlines = []
    if facts.oldest_user is not None:
        deadlines.append(facts.oldest_user + policy.flush_interval_seconds)
    if facts.oldest_system is not None:
        deadlines.append(facts.oldest_system + policy.system_interval_seconds)
    return min(deadlines, default=None)

"""Up to when the archive proves to hold everything. Pure.

The recovery point of a partition is when the question was sent whose answer gave a high watermark that is covered
without a hole. Of several partitions it is the oldest. Answers are stored when they change and from time to time, so
the truth is that moment or later, and what is said to be lost is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from kbackupd.archive.history import PartitionHistory
from kbackupd.restore.instant import PartitionAsOf


def recovery_point_ms(history: PartitionHistory) -> int | None:
    """None: nothing proves any; so of a branch that is not the newest, for samples do not say which they are of."""
    if history.branches and history.branch != max(history.branches):
        return None
    covered = history.contiguous_next_offset
    proofs = (sample.sent_ms for sample in history.samples if 0 <= sample.high_watermark <= covered)
    return max(proofs, default=None)


def recovery_point_at(history: PartitionHistory, state: PartitionAsOf, at_ms: int) -> int | None:
    """The same of what a partition held at `at_ms`: that instant itself, where nothing more came until then.

    The cut at an instant says which branch it is of. None: no leader had told of it by then, what was there is not
    covered, or part of it may have been compacted away before it was captured.

    Args:
        history: as of the instant (`history_at`).
    """
    if not state.known or state.compacted_since or history.contiguous_next_offset < state.next_offset:
        return None
    return max(state.sent_ms, min(state.held_until_ms, at_ms))


def oldest(points_ms: Iterable[int | None]) -> int | None:
    """None: one of them is not known, or there are none."""
    found = list(points_ms)
    known = [point for point in found if point is not None]
    return min(known) if known and len(known) == len(found) else None

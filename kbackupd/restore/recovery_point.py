"""Up to when the archive proves to hold everything. Pure.

The recovery point of a partition is when the question was sent whose answer gave a high watermark that is covered
without a hole. Of several partitions it is the oldest. Answers are stored when they change and from time to time, so
the truth is that moment or later, and what is said to be lost is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from kbackupd.archive.history import PartitionHistory


def recovery_point_ms(history: PartitionHistory) -> int | None:
    """None: nothing proves any; so of a branch that is not the newest, for samples do not say which they are of."""
    if history.branches and history.branch != max(history.branches):
        return None
    covered = history.contiguous_next_offset
    proofs = (sample.sent_ms for sample in history.samples if 0 <= sample.high_watermark <= covered)
    return max(proofs, default=None)


def oldest(points_ms: Iterable[int | None]) -> int | None:
    """None: one of them is not known, or there are none."""
    found = list(points_ms)
    known = [point for point in found if point is not None]
    return min(known) if known and len(known) == len(found) else None

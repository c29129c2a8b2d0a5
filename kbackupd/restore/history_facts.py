"""What a plan and a rewriter ask of a partition's history: its runs, what it lacks, and what came of its transactions.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from kbackupd.archive.history import PartitionHistory
from kbackupd.model.events import GAP_MEANING
from kbackupd.model.positions import OffsetRange
from kbackupd.model.segment import Run
from kbackupd.restore.plan import NotInArchive
from kbackupd.restore.visibility import Outcomes

HOLE_MEANING = "no segment holds these offsets and nothing explains why: kbackupd validate tells more"


def runs_read(history: PartitionHistory) -> Iterable[Run]:
    """Each run that is read, once."""
    seen: set[tuple[str, int]] = set()
    for one in history.slices:
        for stored in one.sources:
            place = (stored.ref.key, stored.run.position)
            if place not in seen:
                seen.add(place)
                yield stored.run


def not_in_archive(history: PartitionHistory) -> tuple[NotInArchive, ...]:
    """Gaps and holes, ascending."""
    gaps = [
        NotInArchive(
            offsets=OffsetRange(gap.first_offset, gap.next_offset), cause=gap.cause, meaning=GAP_MEANING[gap.cause]
        )
        for gap in history.gaps
    ]
    holes = [NotInArchive(offsets=hole, cause=None, meaning=HOLE_MEANING) for hole in history.holes]
    return tuple(sorted(gaps + holes, key=lambda one: one.offsets))


def outcomes_of(history: PartitionHistory) -> Outcomes:
    """The partition's transaction outcomes, as far as the archive knows them."""
    return Outcomes(
        history.outcomes,
        unseen=[one.offsets for one in not_in_archive(history)],
        last_stable_offset=_last_stable_offset(history),
        compacted_below=max((run.next_offset for run in runs_read(history) if run.flags.holes), default=0),
    )


def _last_stable_offset(history: PartitionHistory) -> int:
    if len(history.branches) == 1:
        return max((sample.last_stable_offset for sample in history.samples), default=-1)
    # A sample does not say its branch, and a truncation takes the last stable offset back: only the newest counts.
    return history.samples[-1].last_stable_offset if history.samples else -1

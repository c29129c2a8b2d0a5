"""A partition's history by stretches of its runs, where these tell as much as the runs would.

Pure. That is so where nothing was cut, overlaps or is still open: stretches of runs on the root branch that follow each
other with leader epochs that do not fall ("Roll-ups" in docs/format.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from kbackupd.archive.history import PartitionEvidence, SegmentPlace, StoredRun
from kbackupd.archive.lineage import ROOT_BRANCH
from kbackupd.archive.rollup_rows import Row, coalesced
from kbackupd.model.events import Gap, PartitionSeen
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import CODEC_NONE, ObjectRef, Run, RunFlag, Sample

_NO_OBJECT = ObjectRef("", "")


class ToldByStretches(NamedTuple):
    """All that is said of a partition, but that each of its runs stands for many."""

    evidence: PartitionEvidence
    """`build_history` makes the same of it as of the runs, but for transaction markers."""
    stretches: Sequence[Row]
    """Rows of the table; as few as can be, ascending."""


def told_by_stretches(
    id: PartitionId,
    stretches: Sequence[Row],
    *,
    seen: Sequence[tuple[SegmentPlace, PartitionSeen]],
    gaps: Sequence[tuple[SegmentPlace, Gap]],
    samples: Sequence[Sample],
) -> ToldByStretches | None:
    """What the stretches tell of the partition; None if they do not tell all.

    Args:
        stretches: of runs that have no transactions open behind them, on a log that was never cut; in any order.
        seen: but those of abandoned segments.
    """
    rows = sorted(((0, *row[1:]) for row in stretches), key=itemgetter(3))  # topics count per roll-up
    if not _follow_each_other(rows) or any(gap.branch != ROOT_BRANCH for _, gap in gaps):
        return None
    rows = list(coalesced(rows))
    evidence = PartitionEvidence(
        id=id,
        runs=tuple(_run(id, number, row) for number, row in enumerate(rows)),
        seen=tuple(event for _, event in sorted(seen, key=itemgetter(0))),
        gaps=tuple(gap for _, gap in sorted(gaps, key=itemgetter(0))),
        samples=tuple(samples),
    )
    return ToldByStretches(evidence, rows)


def _follow_each_other(stretches: Sequence[Row]) -> bool:
    return all(row[15] and row[2] == ROOT_BRANCH for row in stretches) and all(
        one[4] <= other[3] and one[14] <= other[13] for one, other in pairwise(stretches)
    )


def _run(id: PartitionId, number: int, row: Row) -> StoredRun:
    """A stretch as the run that it adds up to."""
    run = Run(
        id=id,
        system=False,
        asked_offset=row[3],
        first_offset=row[3],
        next_offset=row[4],
        branch=ROOT_BRANCH,
        replica=-1,
        captured_ms=row[10],
        batches=row[6],
        records=row[7],
        flags=RunFlag(0),
        base_timestamp_ms=-1,
        max_timestamp_ms=row[12],
        largest_batch_bytes=0,
        position=number,
        stored_bytes=row[8],
        raw_bytes=row[9],
        codec=CODEC_NONE,
        crc32c=0,
        leader_epochs=(),
    )
    return StoredRun(run=run, ref=_NO_OBJECT, place=SegmentPlace("", 0, number))

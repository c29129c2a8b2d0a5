"""`offsets: preserve`: every record at its original offset. What that takes, and in which order. Pure.

A log takes records one after the other, so every offset without one must be taken by something that nobody sees:
filler records before the first offset, deleted again, and transaction markers behind it. Positions committed at the
source are valid as they stand then, its end included, wherever the source itself would still have taken them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kbackupd.archive.history import PartitionHistory
from kbackupd.model.positions import OffsetRange
from kbackupd.model.units import format_duration
from kbackupd.restore.produce_batch import Holds, ProduceBatch

FILLERS_PER_SECOND = 2_000_000
MARKERS_PER_SECOND = 10_000
HOLES_PER_SECOND = 400
"""Of one partition: a hole ends a stretch of batches in flight and begins another. All three as measured on two cores
(docs/adr/0023); they are for an estimate of time and nothing else."""
HOLE_OFFSETS = 50_000
"""Filled at a time: some seconds, after which progress shows."""
TRANSACTIONS_PER_SECOND = 50
MOST_FILLERS = 1 << 33
MOST_MARKERS = 100_000_000
MOST_TRANSACTIONS = 1_000_000
"""All of one partition. Beyond that it would take many hours, with nothing to show for it until the end."""


class Way(StrEnum):
    """What fills holes."""

    MARKERS = "transaction markers"
    """Some ten thousand offsets a second."""
    TRANSACTIONS = "empty transactions"
    """Some hundred a second, in each of many partitions at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreservedOffsets:
    """What it takes to bring a partition's records to their offsets."""

    log_start: int
    """The target's log start: what lies before it was gone at the source, or was never captured."""
    next_offset: int
    """The target's log end."""
    to_fill: int
    """Offsets behind the log start that have no record, as far as the index tells: what is aborted is not counted."""
    holes: int
    """At most so many stretches of these."""
    refused: str
    """Why it cannot be done; "" if it can."""


def preserved_offsets(history: PartitionHistory, *, records: int) -> PreservedOffsets:
    """What preserving takes for `history`, whose runs hold `records` by their headers, markers and aborted ones too."""
    start = log_start(history)
    markers = sum(outcome.offset >= start for outcome in history.outcomes)
    lacking = max(history.next_offset - start - records, 0)
    made = PreservedOffsets(
        log_start=start,
        next_offset=history.next_offset,
        to_fill=lacking + markers,
        holes=markers + min(lacking, records + 1),
        refused="",
    )
    return replace(made, refused=_refused(made))


def log_start(history: PartitionHistory) -> int:
    """Where the target's log begins: behind what was gone when capture began.

    Not at the first record: positions committed at the source may lie between its log start and that.
    """
    start = history.first_offset
    for gap in sorted(history.gaps, key=lambda gap: gap.first_offset):
        if gap.first_offset > start:
            break
        start = max(start, gap.next_offset)
    return start


def total_seconds(partitions: Iterable[PreservedOffsets]) -> float:
    """Of work that moves no record, as if one broker did it all, which in a small cluster is near the truth."""
    rows = list(partitions)
    filling = max(
        sum(row.to_fill for row in rows) / MARKERS_PER_SECOND,
        max((row.holes for row in rows), default=0) / HOLES_PER_SECOND,
    )
    return sum(row.log_start for row in rows) / FILLERS_PER_SECOND + filling


class KeepingOffsets:
    """Puts fills between one partition's batches, so that each lands where it was.

    Args:
        position: where the log ends, at or behind its start.
    """

    def __init__(self, position: int) -> None:
        self.position = position

    def steps(self, batches: Sequence[ProduceBatch]) -> Iterator[ProduceBatch]:
        """`batches` without holes inside, ascending, each after the fill it needs.

        Raises:
            ValueError: a batch begins before the place where the log ends by then.
        """
        for batch in batches:
            yield from self.until(batch.source_first_offset)
            yield batch
            self.position += batch.records

    def until(self, next_offset: int) -> Iterator[ProduceBatch]:
        """The fills after which the log ends at `next_offset`; none if it does."""
        if next_offset < self.position:
            raise ValueError(f"offset {next_offset} lies before the end of the log, {self.position}")
        while self.position < next_offset:
            offsets = min(next_offset - self.position, HOLE_OFFSETS)
            yield ProduceBatch(
                data=b"",
                records=offsets,
                base_sequence=-1,
                source_first_offset=self.position,
                holds=Holds.NOTHING,
            )
            self.position += offsets


def _refused(made: PreservedOffsets) -> str:
    if made.log_start > MOST_FILLERS:
        seconds = made.log_start / FILLERS_PER_SECOND
        return (
            f"its log begins at offset {made.log_start}: filling up to there would take {format_duration(seconds)}"
            f" (at most {MOST_FILLERS} offsets are filled)"
        )
    if made.to_fill > MOST_MARKERS:
        offsets = OffsetRange(made.log_start, made.next_offset)
        seconds = made.to_fill / MARKERS_PER_SECOND
        return (
            f"{made.to_fill} of the offsets {offsets} have no record: filling them would take"
            f" {format_duration(seconds)} (at most {MOST_MARKERS} are filled)"
        )
    return ""

"""A partition by sums over columns of its runs, where these tell as much as the runs: no value is made for a run.

Pure. Which partitions these are `stretches` decides: most, for most logs are captured once and in order.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import le

from kbackupd.archive.evidence import Abandoned
from kbackupd.archive.held_rows import HeldRows
from kbackupd.archive.history import PartitionEvidence, SegmentPlace
from kbackupd.archive.rollup_footers import gap_of, sample_of, seen_of
from kbackupd.archive.rollup_rows import OF_SEGMENTS, stretches_of
from kbackupd.archive.stretches import told_by_stretches
from kbackupd.format.tables import (
    COLUMNS,
    GAPS,
    LEADER_EPOCHS,
    OPEN_TRANSACTIONS,
    OUTCOMES,
    RUNS,
    SAMPLES,
    SEEN,
    TRUNCATIONS,
    Columns,
    empty_columns,
)
from kbackupd.model.events import Gap, PartitionSeen
from kbackupd.model.positions import OffsetRange, PartitionId
from kbackupd.model.scope import OffsetBounds
from kbackupd.model.segment import RUN_FLAGS, Run, RunFlag, Sample

_AT = {name: number for number, name in enumerate(COLUMNS[RUNS])}
SUMMED = ("batches", "records", "stored_length", "raw_length", "largest_batch", "flags")
"""Columns of runs that their sums are made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSums:
    """What some runs are together; by default none."""

    runs: int = 0
    batches: int = 0
    records: int = 0
    stored_bytes: int = 0
    raw_bytes: int = 0
    largest_read_bytes: int = 0
    """Of the one that takes the most: stored and raw bytes, or the stored ones alone where they are the raw ones."""
    largest_batch_bytes: int = 0
    log_append_time: bool = False
    legacy: bool = False

    @classmethod
    def of(cls, runs: Iterable[Run]) -> RunSums:
        held = list(runs)
        numbers = [
            [run.batches for run in held],
            [run.records for run in held],
            [run.stored_bytes for run in held],
            [run.raw_bytes for run in held],
            [run.largest_batch_bytes for run in held],
        ]
        return cls._of(numbers, {run.flags for run in held})

    @classmethod
    def of_columns(cls, columns: Sequence[Sequence[int]]) -> RunSums:
        """Of rows of the table, by its columns `SUMMED`."""
        *numbers, bits = columns
        return cls._of(numbers, {RUN_FLAGS[one] for one in set(bits)})

    @classmethod
    def _of(cls, numbers: Sequence[Sequence[int]], found: Collection[RunFlag]) -> RunSums:
        """`numbers` as in `SUMMED`, one for each run; `found`: each combination of flags that any has."""
        batches, records, stored, raw, largest_batch = numbers
        return cls(
            runs=len(stored),
            batches=sum(batches),
            records=sum(records),
            stored_bytes=sum(stored),
            raw_bytes=sum(raw),
            largest_read_bytes=max(map(_read_bytes, stored, raw), default=0),
            largest_batch_bytes=max(largest_batch, default=0),
            log_append_time=any(one.log_append_time for one in found),
            legacy=any(one.legacy for one in found),
        )


def _read_bytes(stored: int, raw: int) -> int:
    """What reading a run takes: its bytes as they are stored and, where that is another form, as they were."""
    return raw if stored == raw else stored + raw


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPartition:
    """A partition whose runs follow each other on one branch, with nothing left open: each is read once and whole."""

    evidence: PartitionEvidence
    """All that is said of it, but that each of its runs stands for many, and without transaction markers."""
    has_transactions: bool
    """Some ended in it; that some did not the sums could not tell."""
    unheard_of: bool
    """No segment says anything of it."""
    _runs: Columns
    """Rows of the table, by offset."""

    @property
    def has_holes(self) -> bool:
        """Some run lacks offsets: it was compacted before it was captured."""
        return any(RUN_FLAGS[bits].holes for bits in set(self._runs[_AT["flags"]]))

    def sums(
        self, held: OffsetRange | None = None, asked: OffsetBounds = OffsetBounds(), since_ms: int | None = None
    ) -> RunSums:
        """Of the runs that have anything in `held` (None: of all), of that anything in `asked`, and that may have
        records from `since_ms` on."""
        starts, ends = self._runs[_AT["asked_offset"]], self._runs[_AT["next_offset"]]
        first, following = 0, len(starts)
        if held is not None:
            if held.first_offset >= held.next_offset or not asked.reach_into(held.first_offset, held.next_offset):
                return RunSums()
            first, following = bisect_right(ends, held.first_offset), bisect_left(starts, held.next_offset)
        if asked.first_offset is not None:
            first = max(first, bisect_right(ends, asked.first_offset))
        if asked.next_offset is not None:
            following = min(following, bisect_left(starts, asked.next_offset))
        columns: list[Sequence[int]] = [self._runs[_AT[name]][first:following] for name in SUMMED]
        if since_ms is not None:
            stamps = zip(self._runs[_AT["max_timestamp"]][first:following], columns[-1], strict=True)
            # A compressed message of format 0 or 1 may bear any timestamp: its producer made it.
            chosen = [stamp >= since_ms or RUN_FLAGS[bits].legacy for stamp, bits in stamps]
            columns = [list(compress(column, chosen)) for column in columns]
        return RunSums.of_columns(columns)


def plain_partition(id: PartitionId, sources: Sequence[HeldRows], abandoned: Abandoned) -> PlainPartition | None:
    """The partition by the rows of all `sources`; None unless it is plain."""
    runs: list[tuple[Columns, Columns]] = []
    seen: list[tuple[SegmentPlace, PartitionSeen]] = []
    gaps: list[tuple[SegmentPlace, Gap]] = []
    samples: list[tuple[SegmentPlace, Sample]] = []
    transactions = False
    for source in sources:
        tables = source.tables(id, OF_SEGMENTS)
        if OPEN_TRANSACTIONS in tables or TRUNCATIONS in tables:
            return None
        for table, columns in tables.items():
            if table == RUNS:
                runs.append((columns, tables.get(LEADER_EPOCHS) or empty_columns(LEADER_EPOCHS)))
            elif table == SAMPLES:
                samples += ((source.place(row), sample_of(id, values)) for _, _, row, *values in _rows(columns))
            elif table == GAPS:
                gaps += ((source.place(row), gap_of(id, values)) for _, _, row, *values in _rows(columns))
            elif table == SEEN:
                for _, _, row, *values in _rows(columns):
                    if not abandoned(place := source.place(row)):
                        seen.append((place, seen_of(id, values)))
            elif table == OUTCOMES:
                transactions = True
    together, epochs = _in_order(runs)
    samples.sort(key=lambda one: one[0])
    found = told_by_stretches(
        id, stretches_of(together, epochs), seen=seen, gaps=gaps, samples=[sample for _, sample in samples]
    )
    if found is None:
        return None
    return PlainPartition(
        evidence=found.evidence,
        has_transactions=transactions,
        unheard_of=not (transactions or together[0] or seen or gaps or samples),
        _runs=_by_offset(together),
    )


def _rows(columns: Columns) -> Iterable[tuple[int, ...]]:
    return zip(*columns, strict=True)


def _in_order(runs: list[tuple[Columns, Columns]]) -> tuple[Columns, Columns]:
    """The rows of all sources one behind the other, so that those captured in order stand in order."""
    if len(runs) == 1:
        return runs[0]
    together, epochs = empty_columns(RUNS), empty_columns(LEADER_EPOCHS)
    for some, their_epochs in sorted(runs, key=lambda one: one[0][_AT["asked_offset"]][0]):
        for held, values in zip(together, some, strict=True):
            held.extend(values)
        for held, values in zip(epochs, their_epochs, strict=True):
            held.extend(values)
    return together, epochs


def _by_offset(runs: Columns) -> Columns:
    """They do not overlap; what one roll-up lacks between its runs another one may have."""
    starts = runs[_AT["asked_offset"]]
    if all(map(le, starts, starts[1:])):
        return runs
    order = sorted(range(len(starts)), key=starts.__getitem__)
    return [array("q", map(column.__getitem__, order)) for column in runs]

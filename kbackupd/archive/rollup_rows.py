"""From footers to a roll-up of level 1, and the rules that hold at every level: how rows become blocks, runs stretches.

Pure. What `docs/format.md`, "Roll-ups", says about the order and the sums of rows is decided here and nowhere else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise, repeat
from operator import attrgetter, itemgetter
from typing import Protocol

from kbackupd.archive.segments import CatalogSegment
from kbackupd.format import keys
from kbackupd.format.rollup import LEDGER_EVENTS, Coverage, Mention, RollupBody, RollupHead, SealedRollup
from kbackupd.format.run_table import run_columns
from kbackupd.format.tables import (
    BLOCK_ROWS,
    COLUMNS,
    GAPS,
    IN_FLIGHT,
    LEADER_EPOCHS,
    OPEN_TRANSACTIONS,
    OUTCOMES,
    PARTITIONS,
    RUNS,
    SAMPLES,
    SEEN,
    SEGMENTS,
    STRETCHES,
    TRUNCATIONS,
    Columns,
    empty_columns,
)
from kbackupd.model.events import Gap, GapCause, LedgerEvent, PartitionSeen, Truncated
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import EarlierEpoch, Footer, Identity, ObjectRef, RunFlag

GAP_CAUSES = tuple(GapCause)
"""A gap's cause is its index in here: the order of the specification."""

_CORRUPT = int(RunFlag.CORRUPT)

ROWS_PER_DRAFT = 200_000
"""A roll-up made from footers that has so many takes no further segment: it is some 45 MB while it is made."""

Row = tuple[int, ...]


class _OfPartition(Protocol):
    @property
    def id(self) -> PartitionId: ...


OF_SEGMENTS = (RUNS, LEADER_EPOCHS, SAMPLES, OUTCOMES, OPEN_TRANSACTIONS, SEEN, GAPS, TRUNCATIONS)
"""Tables that repeat rows of footers, sorted by partition."""


class TableWriter:
    """Cuts one table's rows, as they come, into full blocks."""

    def __init__(self, body: RollupBody, table: str) -> None:
        self._body = body
        self._table = table
        self._waiting = empty_columns(table)

    def extend(self, columns: Sequence[array[int]], first: int = 0, following: int | None = None) -> None:
        """Append the rows `[first, following)` of `columns`."""
        for held, column in zip(self._waiting, columns, strict=True):
            held.extend(column[first:following])
        while len(self._waiting[0]) >= BLOCK_ROWS:
            self._body.add(self._table, [column[:BLOCK_ROWS] for column in self._waiting])
            self._waiting = [column[BLOCK_ROWS:] for column in self._waiting]

    def append_all(self, rows: Sequence[Row]) -> None:
        self.extend(columns_of(self._table, rows))

    def close(self) -> None:
        if self._waiting[0]:
            self._body.add(self._table, self._waiting)


class Mentions:
    """Which mentions of topics a roll-up keeps: what exceeds all before it."""

    def __init__(self) -> None:
        self._most: dict[int, int] = {}
        self.kept: list[Mention] = []

    def add(self, mention: Mention) -> None:
        if mention.partitions > self._most.get(mention.topic, 0):
            self._most[mention.topic] = mention.partitions
            self.kept.append(mention)


def coverage_of(ranges: Iterable[tuple[int, int, int]]) -> Coverage:
    """Ascending ranges of sequences; those that touch are joined."""
    joined: list[tuple[int, int, int]] = []
    for epoch, first, following in ranges:
        if joined and joined[-1][0] == epoch and joined[-1][2] == first:
            joined[-1] = (epoch, joined[-1][1], following)
        else:
            joined.append((epoch, first, following))
    return tuple(joined)


def rollup_key(writer: str, level: int, coverage: Coverage, generation: int) -> str:
    (first_epoch, first_seq, _), (last_epoch, _, following) = coverage[0], coverage[-1]
    return keys.rollup_key(keys.RollupKey(writer, level, first_epoch, first_seq, last_epoch, following - 1, generation))


class RollupDraft:
    """Collects the footers of consecutive segments of one writer; what it holds is arrays, 8 bytes a number."""

    def __init__(self, writer: str, identity: Identity) -> None:
        self._writer = writer
        self._identity = identity
        self._names: dict[TopicId, str] = {}
        self._index: dict[TopicId, int] = {}
        self._tables = {table: empty_columns(table) for table in COLUMNS}
        self._events: list[tuple[int, LedgerEvent]] = []
        self._mentions = Mentions()
        self._earlier: list[tuple[int, tuple[EarlierEpoch, ...]]] = []
        self._previous: list[tuple[int, ObjectRef | None]] = []
        self._places: list[tuple[int, int]] = []
        self._last: ObjectRef | None = None

    @property
    def segments(self) -> int:
        return len(self._places)

    @property
    def span(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(writer epoch, sequence) of the first and the last."""
        return self._places[0], self._places[-1]

    @property
    def rows(self) -> int:
        """Of all tables together: a measure of memory."""
        return sum(len(self._tables[table][0]) for table in OF_SEGMENTS)

    def add(self, segment: CatalogSegment) -> None:
        """The next segment, in the archive's order, with its whole footer."""
        footer, number = segment.footer, len(self._places)
        self._places.append((footer.writer_epoch, footer.seq))
        if footer.previous != self._last or number == 0:
            self._previous.append((number, footer.previous))
        self._last = segment.ref
        if footer.earlier:
            self._earlier.append((number, footer.earlier))
        for topic_id, name in footer.topics.items():
            self._names.setdefault(topic_id, name)
            self._index.setdefault(topic_id, len(self._index))
        for mention in segment.mentions:
            topic = self._index[mention.topic_id]
            self._mentions.add(Mention(number, topic, mention.partitions, mention.internal))
        digests = [int.from_bytes(piece, "big", signed=True) for piece in _pieces(segment.ref.digest)]
        digests += [int.from_bytes(piece, "big", signed=True) for piece in _pieces(footer.body_sha256)]
        self._put(
            SEGMENTS,
            footer.writer_epoch,
            footer.seq,
            footer.sealed_ms,
            footer.sealed_monotonic_ms,
            segment.size_bytes,
            footer.body_bytes,
            *digests,
        )
        for seq in footer.in_flight:
            self._put(IN_FLIGHT, number, seq)
        self._add_rows(number, footer)

    def _add_rows(self, number: int, footer: Footer) -> None:
        # Column by column: ten million rows of a long archive pass here.
        runs = self._tables[RUNS]
        self._locate(RUNS, number, [run.id for run in footer.runs])
        for column, values in zip(runs[3:-1], run_columns(footer.runs), strict=True):
            column.extend(values)
        runs[-1].extend(len(run.leader_epochs) for run in footer.runs)
        self._put_all(
            LEADER_EPOCHS,
            [(*self._at(run.id), epoch, start) for run in footer.runs for epoch, start in run.leader_epochs],
        )
        self._put_rows(OUTCOMES, number, footer.outcomes, ("offset", "producer_id", "producer_epoch", "committed"))
        begun = ("producer_id", "producer_epoch", "first_offset")
        self._put_rows(OPEN_TRANSACTIONS, number, footer.open_transactions, begun)
        self._put_rows(SAMPLES, number, footer.samples, COLUMNS[SAMPLES][3:])
        said = COLUMNS[SEEN][3:]
        self._put_rows(SEEN, number, [event for event in footer.events if isinstance(event, PartitionSeen)], said)
        cut = COLUMNS[TRUNCATIONS][3:]
        self._put_rows(TRUNCATIONS, number, [event for event in footer.events if isinstance(event, Truncated)], cut)
        for event in footer.events:
            if isinstance(event, Gap):
                offsets = (event.branch, event.first_offset, event.next_offset)
                self._put(GAPS, *self._at(event.id), number, *offsets, GAP_CAUSES.index(event.cause), event.at_ms)
            elif isinstance(event, LEDGER_EVENTS):
                self._events.append((number, event))

    def _locate(self, table: str, number: int, ids: Sequence[PartitionId]) -> None:
        topic, partition, segment = self._tables[table][:3]
        topic.extend(self._index[topic_id] for topic_id, _ in ids)
        partition.extend(number for _, number in ids)
        segment.extend(repeat(number, len(ids)))

    def _put_rows(self, table: str, number: int, rows: Sequence[_OfPartition], names: Sequence[str]) -> None:
        """Rows of one segment whose columns are attributes of the values."""
        if rows:
            self._locate(table, number, [row.id for row in rows])
            for column, name in zip(self._tables[table][3:], names, strict=True):
                column.extend(map(int, map(attrgetter(name), rows)))

    def _put_all(self, table: str, rows: Sequence[Row]) -> None:
        for column, values in zip(self._tables[table], zip(*rows, strict=True), strict=False):
            column.extend(values)

    def _put(self, table: str, *values: int) -> None:
        for column, value in zip(self._tables[table], values, strict=True):
            column.append(value)

    def _at(self, id: PartitionId) -> tuple[int, int]:
        return self._index[id.topic_id], id.partition

    def finished(self, *, generation: int = 0) -> tuple[dict[str, Columns], RollupHead]:
        """All tables, sorted, and what stands beside them. The draft is spent."""
        order = sorted(self._index)
        moved = {self._index[topic_id]: row for row, topic_id in enumerate(order)}
        tables = dict(self._tables)
        for table in OF_SEGMENTS:
            columns = tables[table]
            columns[0] = array("q", map(moved.__getitem__, columns[0]))
            tables[table] = sorted_rows(columns)
        tables[PARTITIONS] = columns_of(PARTITIONS, list(partition_rows(tables)))
        tables[STRETCHES] = columns_of(STRETCHES, list(coalesced(run_stretches(tables[RUNS], tables[LEADER_EPOCHS]))))
        head = RollupHead(
            level=1,
            generation=generation,
            coverage=coverage_of((epoch, seq, seq + 1) for epoch, seq in self._places),
            sources=(),
            topics=tuple((topic_id, self._names[topic_id]) for topic_id in order),
            events=tuple(self._events),
            mentions=tuple(
                Mention(one.segment, moved[one.topic], one.partitions, one.internal) for one in self._mentions.kept
            ),
            earlier=tuple(self._earlier),
            previous=tuple(self._previous),
        )
        return tables, head

    def seal(self, *, generation: int = 0) -> SealedRollup:
        """The roll-up of all that was added. The draft is spent."""
        tables, head = self.finished(generation=generation)
        body = RollupBody()
        for table in COLUMNS:
            writer = TableWriter(body, table)
            writer.extend(tables[table])
            writer.close()
        return body.seal(rollup_key(self._writer, 1, head.coverage, generation), self._identity, head)


def columns_of(table: str, rows: Sequence[Row]) -> Columns:
    return [array("q", column) for column in zip(*rows, strict=True)] if rows else empty_columns(table)


def _pieces(digest: str) -> Iterator[bytes]:
    data = bytes.fromhex(digest)
    return (data[at : at + 8] for at in range(0, 32, 8))


def sorted_rows(columns: Columns) -> Columns:
    """Rows by (topic, partition); those of one partition stay in the order in which they came."""
    places = list(zip(columns[0], columns[1], strict=True))
    order = sorted(range(len(places)), key=places.__getitem__)
    return [array("q", map(column.__getitem__, order)) for column in columns]


def groups_of(columns: Sequence[array[int]]) -> Iterator[tuple[tuple[int, int], int, int]]:
    """((topic, partition), first row, following row) of every partition in sorted rows."""
    at = 0
    for place, rows in groupby(zip(columns[0], columns[1], strict=True)):
        first, at = at, at + sum(1 for _ in rows)
        yield place, first, at


NO_SAMPLE: Row = (-1, 0, 0, 0, 0, 0, 0)
"""Of a partition's row in `partitions`: its last sample, if there is none."""


def partition_rows(tables: dict[str, Columns]) -> Iterator[Row]:
    """The rows of `partitions` from the sorted tables that they count."""
    counted: dict[tuple[int, int], list[int]] = {}
    last: dict[tuple[int, int], Row] = {}
    for number, table in enumerate((RUNS, OUTCOMES, OPEN_TRANSACTIONS, SAMPLES)):
        for place, first, following in groups_of(tables[table]):
            counted.setdefault(place, [0, 0, 0, 0])[number] = following - first
            if table == SAMPLES:
                last[place] = tuple(column[following - 1] for column in tables[SAMPLES][2:])
    for table in (SEEN, GAPS, TRUNCATIONS):
        for place, _, _ in groups_of(tables[table]):
            counted.setdefault(place, [0, 0, 0, 0])
    for place in sorted(counted):
        yield (*place, *counted[place], *last.get(place, NO_SAMPLE))


def run_stretches(runs: Sequence[array[int]], epochs: Sequence[array[int]]) -> Iterator[Row]:
    """Each run as a stretch of its own, in the order of `runs`."""
    names = COLUMNS[RUNS]
    take = itemgetter(
        *(
            names.index(name)
            for name in (
                "topic",
                "partition",
                "branch",
                "asked_offset",
                "next_offset",
                "batches",
                "records",
                "stored_length",
                "raw_length",
                "captured_ms",
                "max_timestamp",
                "first_offset",
                "flags",
                "epochs",
            )
        )
    )
    numbers, starts = epochs[2], epochs[3]
    at = 0
    for row in zip(*take(runs), strict=True):
        topic, partition, branch, asked, following, batches, records, stored, raw, captured, ms, first, flags, n = row
        begins = starts[at : at + n]
        first_epoch, last_epoch = (numbers[at], numbers[at + n - 1]) if n else (-1, -1)
        at += n
        plain = (
            not flags & _CORRUPT
            and n > 0
            and asked < following
            and asked <= first
            and asked <= begins[0]
            and begins[-1] < following
            and all(one <= other for one, other in pairwise(begins))
        )
        yield (
            topic,
            partition,
            branch,
            asked,
            following,
            1,
            batches,
            records,
            stored,
            raw,
            captured,
            captured,
            ms,
            first_epoch,
            last_epoch,
            int(plain),
        )


def coalesced(stretches: Iterable[Row]) -> Iterator[Row]:
    """Neighbours that follow each other without a break become one; see the specification for what a break is."""
    held: Row | None = None
    for row in stretches:
        if held is not None:
            if held[15] and row[15] and held[:3] == row[:3] and held[4] == row[3] and held[14] <= row[13]:
                held = (
                    *held[:4],
                    row[4],
                    held[5] + row[5],
                    held[6] + row[6],
                    held[7] + row[7],
                    held[8] + row[8],
                    held[9] + row[9],
                    min(held[10], row[10]),
                    max(held[11], row[11]),
                    max(held[12], row[12]),
                    held[13],
                    row[14],
                    1,
                )
                continue
            yield held
        held = row
    if held is not None:
        yield held

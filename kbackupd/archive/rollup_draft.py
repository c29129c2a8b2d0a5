"""A roll-up of level 1 while it is made: the footers of consecutive segments become rows.

Pure.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Protocol

from kbackupd.archive.rollup_rows import (
    GAP_CAUSES,
    OF_SEGMENTS,
    Mentions,
    Row,
    TableWriter,
    coalesced,
    columns_of,
    coverage_of,
    partition_rows,
    rollup_key,
    run_stretches,
    sort_rows,
)
from kbackupd.archive.segments import CatalogSegment
from kbackupd.format.rollup import LEDGER_EVENTS, Mention, RollupBody, RollupHead, SealedRollup
from kbackupd.format.run_table import run_columns
from kbackupd.format.tables import (
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
from kbackupd.model.events import Gap, LedgerEvent, PartitionSeen, Truncated
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import EarlierEpoch, Footer, Identity, ObjectRef

ROWS_PER_DRAFT = 200_000
"""A roll-up made from footers that has so many takes no further segment: it is some 45 MB while it is made."""


class _OfPartition(Protocol):
    @property
    def id(self) -> PartitionId: ...


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
            sort_rows(columns)
        tables[PARTITIONS] = columns_of(PARTITIONS, partition_rows(tables))
        tables[STRETCHES] = columns_of(STRETCHES, coalesced(run_stretches(tables[RUNS], tables[LEADER_EPOCHS])))
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


def _pieces(digest: str) -> Iterator[bytes]:
    data = bytes.fromhex(digest)
    return (data[at : at + 8] for at in range(0, 32, 8))

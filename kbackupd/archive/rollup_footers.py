"""What footers said, put together again from a roll-up's rows: the way back of `rollup_draft`.

Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter, itemgetter

from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.rollup_rows import GAP_CAUSES, Row
from kbackupd.archive.rollup_source import UsableRollup
from kbackupd.archive.segments import CatalogSegment, TopicMention
from kbackupd.format.run_table import made_runs
from kbackupd.format.tables import (
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
from kbackupd.model.events import Gap, LedgerEvent, PartitionSeen, Truncated
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Footer, OpenTransaction, Run, Sample, TransactionOutcome


@dataclass(slots=True)
class SaidRows:
    """What one segment says, while its rows are gathered."""

    runs: list[Run] = field(default_factory=list)
    outcomes: list[TransactionOutcome] = field(default_factory=list)
    open_transactions: list[OpenTransaction] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    events: list[LedgerEvent] = field(default_factory=list)
    mentions: list[TopicMention] = field(default_factory=list)


def assembled(rollup: UsableRollup, tables: Mapping[str, Columns]) -> list[CatalogSegment]:
    """The segments that the tables say something of, or that tell what topics and lives there are, in their order."""
    footer = rollup.opened.footer
    head = footer.head
    said: dict[int, SaidRows] = defaultdict(SaidRows)
    for row, event in head.events:
        said[row].events.append(event)
    for mention in head.mentions:
        topic_id = head.topics[mention.topic][0]
        said[mention.segment].mentions.append(TopicMention(topic_id, mention.partitions, mention.internal))
    earlier = dict(head.earlier)
    for row in earlier:
        said[row]  # it is kept for what it says of lives before
    _gather(said, _Ids(head.topics), tables)
    previous = dict(head.previous)
    names = dict(head.topics)
    segments = rollup.segments
    found = []
    for row, one in sorted(said.items(), key=itemgetter(0)):
        ref = rollup.ref(row)
        epoch, seq, sealed_ms, monotonic_ms, size, body_bytes = (column[row] for column in segments[:6])
        found.append(
            CatalogSegment(
                place=SegmentPlace(rollup.writer, epoch, seq),
                ref=ref,
                footer=Footer(
                    identity=footer.identity,
                    key=ref.key,
                    writer=rollup.writer,
                    writer_epoch=epoch,
                    seq=seq,
                    previous=previous[row] if row in previous else rollup.ref(row - 1),
                    in_flight=rollup.in_flight.get(row, ()),
                    earlier=earlier.get(row, ()),
                    sealed_ms=sealed_ms,
                    sealed_monotonic_ms=monotonic_ms,
                    body_bytes=body_bytes,
                    body_sha256=rollup.body_sha256(row),
                    topics=names,
                    runs=tuple(sorted(one.runs, key=lambda run: run.position)),
                    outcomes=tuple(one.outcomes),
                    open_transactions=tuple(one.open_transactions),
                    samples=tuple(one.samples),
                    events=tuple(one.events),
                ),
                size_bytes=size,
                mentions=tuple(one.mentions),
            )
        )
    return found


def said_rows(topics: Sequence[tuple[TopicId, str]], tables: Mapping[str, Columns]) -> dict[int, SaidRows]:
    """Row of `segments` → what the rows of the tables, of any partitions, say in that segment's name.

    Args:
        topics: those of the roll-up, by their numbers.
        tables: of `OF_SEGMENTS`; one that is left out has no rows.
    """
    said: dict[int, SaidRows] = defaultdict(SaidRows)
    _gather(said, _Ids(topics), tables)
    for one in said.values():
        if len(one.runs) > 1:
            one.runs.sort(key=attrgetter("position"))
    return said


class _Ids:
    """Partition ids by a roll-up's numbers, each made once."""

    def __init__(self, topics: Sequence[tuple[TopicId, str]]) -> None:
        self._topics = topics
        self._held: dict[tuple[int, int], PartitionId] = {}

    def of(self, topic: int, partition: int) -> PartitionId:
        held = self._held.get((topic, partition))
        if held is None:
            held = self._held[topic, partition] = PartitionId(self._topics[topic][0], partition)
        return held


def _gather(said: dict[int, SaidRows], ids: _Ids, tables: Mapping[str, Columns]) -> None:
    def rows(table: str) -> Iterator[Row]:
        return zip(*tables.get(table, ()), strict=True)

    if RUNS in tables:
        for row, run in _runs(ids, tables[RUNS], tables.get(LEADER_EPOCHS) or empty_columns(LEADER_EPOCHS)):
            said[row].runs.append(run)
    for topic, partition, row, offset, producer_id, producer_epoch, committed in rows(OUTCOMES):
        said[row].outcomes.append(
            TransactionOutcome(
                id=ids.of(topic, partition),
                offset=offset,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                committed=committed == 1,
            )
        )
    for topic, partition, row, producer_id, producer_epoch, first in rows(OPEN_TRANSACTIONS):
        said[row].open_transactions.append(
            OpenTransaction(
                id=ids.of(topic, partition),
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                first_offset=first,
            )
        )
    for topic, partition, row, *values in rows(SAMPLES):
        said[row].samples.append(sample_of(ids.of(topic, partition), values))
    for topic, partition, row, *values in rows(SEEN):
        said[row].events.append(seen_of(ids.of(topic, partition), values))
    for topic, partition, row, *values in rows(GAPS):
        said[row].events.append(gap_of(ids.of(topic, partition), values))
    for topic, partition, row, branch, parent, offset, epoch, at_ms in rows(TRUNCATIONS):
        said[row].events.append(
            Truncated(
                id=ids.of(topic, partition),
                branch=branch,
                parent=parent,
                offset=offset,
                leader_epoch=epoch,
                at_ms=at_ms,
            )
        )


def sample_of(id: PartitionId, values: Sequence[int]) -> Sample:
    return Sample(id, *values)


def seen_of(id: PartitionId, values: Sequence[int]) -> PartitionSeen:
    first, log_start, high, epoch, at_ms = values
    return PartitionSeen(
        id=id, first_offset=first, log_start_offset=log_start, high_watermark=high, leader_epoch=epoch, at_ms=at_ms
    )


def gap_of(id: PartitionId, values: Sequence[int]) -> Gap:
    branch, first, following, cause, at_ms = values
    return Gap(id=id, branch=branch, first_offset=first, next_offset=following, cause=GAP_CAUSES[cause], at_ms=at_ms)


def _runs(ids: _Ids, table: Columns, epochs: Columns) -> Iterator[tuple[int, Run]]:
    topics, partitions, rows, *columns, counts = table
    pairs = zip(epochs[2], epochs[3], strict=True)
    leader_epochs = (tuple(islice(pairs, count)) for count in counts)
    return zip(rows, made_runs(map(ids.of, topics, partitions), columns, leader_epochs), strict=True)

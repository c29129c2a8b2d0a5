"""A segment's footer: values <-> JSON in columns ("A segment's footer" in docs/format.md).

Columns instead of rows: ten thousand runs cost a third of the bytes and are decoded without ten thousand objects of
intermediate form. Everything that is read is checked; what comes out is a `Footer` that holds together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from kbackupd.format.columns import (
    Bit,
    Count,
    Digest,
    Int32,
    Int64,
    Range,
    Ref,
    TopicIdText,
    TopicIndex,
    Violation,
    check_columns,
    check_indices,
    check_ranges,
    decode_json,
    partition_ids,
)
from kbackupd.format.container import Tail
from kbackupd.format.keys import SegmentKey, parse_segment_key
from kbackupd.format.ledger import EventRow, decode_event, encode_event
from kbackupd.format.run_table import (
    LeaderEpochColumns,
    RunColumns,
    check_runs,
    decode_runs,
    encode_leader_epochs,
    encode_runs,
)
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.events import LedgerEvent
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import (
    EarlierEpoch,
    Footer,
    OpenTransaction,
    Sample,
    TransactionOutcome,
)


class EarlierRow(Struct):
    writer_epoch: Count
    durable: list[Range]
    last: Ref | None


class _Outcomes(Struct):
    topic: list[Count]
    partition: list[Count]
    offset: list[Count]
    producer_id: list[Int64]
    producer_epoch: list[Int32]
    committed: list[Bit]


class _OpenTransactions(Struct):
    topic: list[Count]
    partition: list[Count]
    producer_id: list[Int64]
    producer_epoch: list[Int32]
    first_offset: list[Count]


class _Samples(Struct):
    topic: list[Count]
    partition: list[Count]
    sent_ms: list[Int64]
    answered_ms: list[Int64]
    log_start_offset: list[Int64]
    last_stable_offset: list[Int64]
    high_watermark: list[Int64]
    leader_epoch: list[Int32]


class _Footer(Struct):
    writer: str
    writer_epoch: Count
    seq: Count
    previous: Ref | None
    in_flight: list[Count]
    earlier: list[EarlierRow]
    sealed_ms: Count
    sealed_monotonic_ms: Int64
    body_sha256: Digest
    topics: list[tuple[TopicIdText, str]]
    runs: RunColumns
    leader_epochs: LeaderEpochColumns
    outcomes: _Outcomes
    open_transactions: _OpenTransactions
    samples: _Samples
    events: list[EventRow]


def encode_footer(footer: Footer) -> bytes:
    """The footer as JSON.

    Raises:
        ValueError: it mentions a topic id that its `topics` lack.
    """
    topics = TopicIndex(footer.topics)
    return msgspec.json.encode(
        _Footer(
            writer=footer.writer,
            writer_epoch=footer.writer_epoch,
            seq=footer.seq,
            previous=Ref.of(footer.previous),
            in_flight=list(footer.in_flight),
            earlier=encode_earlier(footer.earlier),
            sealed_ms=footer.sealed_ms,
            sealed_monotonic_ms=footer.sealed_monotonic_ms,
            body_sha256=footer.body_sha256,
            topics=topics.rows,
            runs=encode_runs(footer.runs, topics),
            leader_epochs=encode_leader_epochs(footer.runs),
            outcomes=_encode_outcomes(footer.outcomes, topics),
            open_transactions=_encode_open(footer.open_transactions, topics),
            samples=_encode_samples(footer.samples, topics),
            events=[encode_event(event, topics.index) for event in footer.events],
        )
    )


def _encode_outcomes(rows: Sequence[TransactionOutcome], topics: TopicIndex) -> _Outcomes:
    return _Outcomes(
        *topics.columns(row.id for row in rows),
        [row.offset for row in rows],
        [row.producer_id for row in rows],
        [row.producer_epoch for row in rows],
        [int(row.committed) for row in rows],
    )


def _encode_open(rows: Sequence[OpenTransaction], topics: TopicIndex) -> _OpenTransactions:
    return _OpenTransactions(
        *topics.columns(row.id for row in rows),
        [row.producer_id for row in rows],
        [row.producer_epoch for row in rows],
        [row.first_offset for row in rows],
    )


def _encode_samples(rows: Sequence[Sample], topics: TopicIndex) -> _Samples:
    return _Samples(
        *topics.columns(row.id for row in rows),
        [row.sent_ms for row in rows],
        [row.answered_ms for row in rows],
        [row.log_start_offset for row in rows],
        [row.last_stable_offset for row in rows],
        [row.high_watermark for row in rows],
        [row.leader_epoch for row in rows],
    )


def decode_footer(key: str, tail: Tail) -> Footer:
    """The footer of the segment `key`, every rule of the specification checked.

    Raises:
        CorruptObjectError: any of them is broken; the reason names the place.
    """
    rows = decode_json(key, "footer", tail.footer_json, _Footer)
    try:
        return _decode(key, tail, rows)
    except Violation as problem:
        raise CorruptObjectError(key, f"footer: {problem}") from problem


def check_footer(key: str, tail: Tail) -> None:
    """Refuse what `decode_footer` would refuse, without making ten thousand values that nobody asked for.

    Raises:
        CorruptObjectError: any rule of the specification is broken.
    """
    rows = decode_json(key, "footer", tail.footer_json, _Footer)
    try:
        topics = _head(key, rows)
        ids = [topic_id for topic_id, _ in topics]
        decode_earlier(rows.earlier, following_epoch=rows.writer_epoch)
        check_runs(rows.runs, rows.leader_epochs, ids, tail.body_bytes)
        _decode_outcomes(rows.outcomes, ids)
        _decode_open(rows.open_transactions, ids)
        _check_samples(rows.samples, ids)
        for _ in _decode_events(rows.events, topics):
            pass
    except Violation as problem:
        raise CorruptObjectError(key, f"footer: {problem}") from problem


def _head(key: str, rows: _Footer) -> list[tuple[TopicId, str]]:
    """The topics' dictionary, once it and the numbers beside it are checked."""
    if parse_segment_key(key) != SegmentKey(rows.writer, rows.writer_epoch, rows.seq, rows.sealed_ms):
        raise Violation("writer, writer_epoch, seq or sealed_ms contradict the key")
    topics = [(TopicId(topic_id), name) for topic_id, name in rows.topics]
    if len(dict(topics)) != len(topics):
        raise Violation("topics: a topic id stands twice")
    if any(seq >= rows.seq for seq in rows.in_flight) or sorted(set(rows.in_flight)) != rows.in_flight:
        raise Violation("in_flight: not earlier sequences in ascending order")
    return topics


def _decode(key: str, tail: Tail, rows: _Footer) -> Footer:
    topics = _head(key, rows)
    ids = [topic_id for topic_id, _ in topics]
    return Footer(
        identity=tail.identity,
        key=key,
        writer=rows.writer,
        writer_epoch=rows.writer_epoch,
        seq=rows.seq,
        previous=None if rows.previous is None else rows.previous.value(),
        in_flight=tuple(rows.in_flight),
        earlier=decode_earlier(rows.earlier, following_epoch=rows.writer_epoch),
        sealed_ms=rows.sealed_ms,
        sealed_monotonic_ms=rows.sealed_monotonic_ms,
        body_bytes=tail.body_bytes,
        body_sha256=rows.body_sha256,
        topics=dict(topics),
        runs=decode_runs(rows.runs, rows.leader_epochs, ids, tail.body_bytes),
        outcomes=_decode_outcomes(rows.outcomes, ids),
        open_transactions=_decode_open(rows.open_transactions, ids),
        samples=_decode_samples(rows.samples, ids),
        events=tuple(_decode_events(rows.events, topics)),
    )


def _decode_events(rows: Sequence[EventRow], topics: Sequence[tuple[TopicId, str]]) -> Iterable[LedgerEvent]:
    return (decode_event(row, topics) for row in rows)


def encode_earlier(rows: Iterable[EarlierEpoch]) -> list[EarlierRow]:
    return [EarlierRow(row.writer_epoch, list(row.durable), Ref.of(row.last)) for row in rows]


def decode_earlier(rows: Iterable[EarlierRow], *, following_epoch: int | None) -> tuple[EarlierEpoch, ...]:
    """Raises Violation unless the epochs ascend and, if that is known, are below the one whose word this is."""
    earlier = []
    reached = -1
    for row in rows:
        if not reached < row.writer_epoch or (following_epoch is not None and row.writer_epoch >= following_epoch):
            raise Violation("earlier: not earlier epochs in ascending order")
        reached = row.writer_epoch
        earlier.append(
            EarlierEpoch(
                writer_epoch=row.writer_epoch,
                durable=check_ranges("earlier: durable", row.durable),
                last=None if row.last is None else row.last.value(),
            )
        )
    return tuple(earlier)


def _decode_outcomes(table: _Outcomes, ids: Sequence[TopicId]) -> tuple[TransactionOutcome, ...]:
    check_columns("outcomes", table)
    keys = partition_ids("outcomes: topic", table.topic, table.partition, ids)
    columns = zip(table.offset, table.producer_id, table.producer_epoch, table.committed, strict=True)
    return tuple(
        TransactionOutcome(
            id=id_, offset=offset, producer_id=producer_id, producer_epoch=producer_epoch, committed=committed == 1
        )
        for id_, (offset, producer_id, producer_epoch, committed) in zip(keys, columns, strict=True)
    )


def _decode_open(table: _OpenTransactions, ids: Sequence[TopicId]) -> tuple[OpenTransaction, ...]:
    check_columns("open_transactions", table)
    keys = partition_ids("open_transactions: topic", table.topic, table.partition, ids)
    columns = zip(table.producer_id, table.producer_epoch, table.first_offset, strict=True)
    return tuple(
        OpenTransaction(id=id_, producer_id=producer_id, producer_epoch=producer_epoch, first_offset=first)
        for id_, (producer_id, producer_epoch, first) in zip(keys, columns, strict=True)
    )


def _check_samples(table: _Samples, ids: Sequence[TopicId]) -> None:
    check_columns("samples", table)
    check_indices("samples: topic", table.topic, len(ids))


def _decode_samples(table: _Samples, ids: Sequence[TopicId]) -> tuple[Sample, ...]:
    _check_samples(table, ids)
    keys = partition_ids("samples: topic", table.topic, table.partition, ids)
    columns = (getattr(table, name) for name in table.__struct_fields__[2:])
    return tuple(map(Sample._make, zip(keys, *columns, strict=True)))

"""A checkpoint <-> bytes: a container without runs ("Checkpoints" in docs/format.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from kbackupd.format.columns import (
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
    group_pairs,
    partition_ids,
)
from kbackupd.format.container import (
    CHECKPOINT,
    MAGIC,
    MAGIC_BYTES,
    NeedMore,
    Tail,
    check_magic,
    encode_tail,
    parse_tail,
)
from kbackupd.format.keys import CheckpointKey, parse_checkpoint_key
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Checkpoint, Identity, PartitionCheckpoint, TopicCheckpoint

_BODY_SHA256 = hashlib.sha256(MAGIC[CHECKPOINT]).hexdigest()


class _Topic(Struct, omit_defaults=True):
    topic_id: TopicIdText
    name: str
    partitions: Count
    internal: bool
    configs: dict[str, str]
    closed: bool
    deleted: bool = False


class _Partitions(Struct):
    topic: list[Count]
    partition: list[Count]
    first_offset: list[Count]
    next_offset: list[Count]
    branch: list[Count]
    next_branch: list[Count]
    state: list[str]
    leader_epoch: list[Int32]


class _LeaderEpochs(Struct):
    row: list[Count]
    epoch: list[Int32]
    start_offset: list[Count]


class _OpenTransactions(Struct):
    row: list[Count]
    producer_id: list[Int64]
    producer_epoch: list[Int32]
    first_offset: list[Count]


class _Checkpoint(Struct):
    writer: str
    writer_epoch: Count
    number: Count
    sealed_ms: Count
    body_sha256: Digest
    chain_head: Ref | None
    coverage: dict[str, list[Range]]
    declared_next_epoch: Count
    segments: list[tuple[str, Digest, Count]]
    events: Count
    topics: list[_Topic]
    partitions: _Partitions
    leader_epochs: _LeaderEpochs
    open_transactions: _OpenTransactions
    pauses: list[str]


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The whole object.

    Raises:
        ValueError: a partition of a topic that `topics` lacks, or anything else that a reader would refuse.
    """
    index = TopicIndex({topic.id: topic.name for topic in checkpoint.topics})
    rows = checkpoint.partitions
    epochs = [(row, *pair) for row, partition in enumerate(rows) for pair in partition.leader_epochs]
    opened = [(row, *begun) for row, partition in enumerate(rows) for begun in partition.open_transactions]
    footer_json = msgspec.json.encode(
        _Checkpoint(
            writer=checkpoint.writer,
            writer_epoch=checkpoint.writer_epoch,
            number=checkpoint.number,
            sealed_ms=checkpoint.sealed_ms,
            body_sha256=_BODY_SHA256,
            chain_head=Ref.of(checkpoint.chain_head),
            coverage={str(epoch): list(ranges) for epoch, ranges in checkpoint.coverage.items()},
            declared_next_epoch=checkpoint.declared_next_epoch,
            segments=list(checkpoint.segments),
            events=checkpoint.events,
            topics=[
                _Topic(row.id, row.name, row.partitions, row.internal, row.configs, row.closed, row.deleted)
                for row in checkpoint.topics
            ],
            partitions=_Partitions(
                *index.columns(row.id for row in rows),
                [row.first_offset for row in rows],
                [row.next_offset for row in rows],
                [row.branch for row in rows],
                [row.next_branch for row in rows],
                [row.state for row in rows],
                [row.leader_epoch for row in rows],
            ),
            leader_epochs=_LeaderEpochs(*_columns(epochs, 3)),
            open_transactions=_OpenTransactions(*_columns(opened, 4)),
            pauses=list(checkpoint.pauses),
        )
    )
    tail, _ = encode_tail(
        kind=CHECKPOINT,
        key=checkpoint.key,
        identity=checkpoint.identity,
        footer_json=footer_json,
        body_bytes=MAGIC_BYTES,
    )
    data = MAGIC[CHECKPOINT] + tail
    try:
        decode_checkpoint(checkpoint.key, data, checkpoint.identity)
    except CorruptObjectError as problem:
        raise ValueError(f"a checkpoint that no reader would take: {problem}") from problem
    return data


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> list[list[int]]:
    return [[row[column] for row in rows] for column in range(width)]


def decode_checkpoint(key: str, data: bytes | memoryview, identity: Identity | None = None) -> Checkpoint:
    """The checkpoint in the whole object `data`, every byte and rule checked.

    Raises:
        CorruptObjectError: anything is not as written, or of another archive than `identity`.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail = parse_tail(key, data, len(data), kind=CHECKPOINT, expect=identity)
    if isinstance(tail, NeedMore):
        raise CorruptObjectError(key, "object: its end is not all there")
    check_magic(key, data, CHECKPOINT)
    rows = decode_json(key, "footer", tail.footer_json, _Checkpoint)
    try:
        return _decode(key, tail, rows)
    except Violation as problem:
        raise CorruptObjectError(key, f"footer: {problem}") from problem


def _decode(key: str, tail: Tail, rows: _Checkpoint) -> Checkpoint:
    if parse_checkpoint_key(key) != CheckpointKey(rows.writer, rows.writer_epoch, rows.number):
        raise Violation("writer, writer_epoch or number contradict the key")
    if tail.body_bytes != MAGIC_BYTES or rows.body_sha256 != _BODY_SHA256:
        raise Violation("body: a checkpoint has none but its magic")
    topics = tuple(
        TopicCheckpoint(
            id=TopicId(row.topic_id),
            name=row.name,
            partitions=row.partitions,
            internal=row.internal,
            configs=row.configs,
            closed=row.closed,
            deleted=row.deleted,
        )
        for row in rows.topics
    )
    ids = [topic.id for topic in topics]
    if len(set(ids)) != len(ids):
        raise Violation("topics: a topic id stands twice")
    return Checkpoint(
        identity=tail.identity,
        key=key,
        writer=rows.writer,
        writer_epoch=rows.writer_epoch,
        number=rows.number,
        sealed_ms=rows.sealed_ms,
        chain_head=None if rows.chain_head is None else rows.chain_head.value(),
        coverage={_epoch(text): check_ranges("coverage", ranges) for text, ranges in rows.coverage.items()},
        declared_next_epoch=rows.declared_next_epoch,
        segments=tuple(rows.segments),
        events=rows.events,
        topics=topics,
        partitions=_decode_partitions(rows, ids),
        pauses=tuple(rows.pauses),
    )


def _epoch(text: str) -> int:
    # Only one spelling of a number: "7" and "07" would be two keys for one epoch.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and str(int(text)) == text):
        raise Violation(f"coverage: {text!r} is not a writer epoch")
    return int(text)


def _decode_partitions(rows: _Checkpoint, ids: Sequence[TopicId]) -> tuple[PartitionCheckpoint, ...]:
    table, epochs, opened = rows.partitions, rows.leader_epochs, rows.open_transactions
    count = check_columns("partitions", table)
    check_columns("leader_epochs", epochs)
    check_columns("open_transactions", opened)
    check_indices("open_transactions: row", opened.row, count)
    pairs = group_pairs("leader_epochs", epochs.row, epochs.epoch, epochs.start_offset, count)
    begun: dict[int, list[tuple[int, int, int]]] = {}
    for row, producer_id, producer_epoch, first in zip(
        opened.row, opened.producer_id, opened.producer_epoch, opened.first_offset, strict=True
    ):
        begun.setdefault(row, []).append((producer_id, producer_epoch, first))
    keys = partition_ids("partitions: topic", table.topic, table.partition, ids)
    columns = zip(*(getattr(table, name) for name in table.__struct_fields__[2:]), strict=True)
    return tuple(
        PartitionCheckpoint(
            id=id_,
            first_offset=first,
            next_offset=following,
            branch=branch,
            next_branch=next_branch,
            state=state,
            leader_epoch=epoch,
            leader_epochs=pairs.get(row, ()),
            open_transactions=tuple(begun.get(row, ())),
        )
        for row, (id_, (first, following, branch, next_branch, state, epoch)) in enumerate(
            zip(keys, columns, strict=True)
        )
    )

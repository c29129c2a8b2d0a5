"""Ledger events <-> JSON ("Events have a `type`" in docs/format.md).

A topic stands in JSON as an index into the footer's `topics`. A new type of event is an incompatible change: a reader
that skipped one would take a hole for damage, or the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from msgspec import Struct

from kbackupd.format.columns import Count, Int32, Int64, TopicIdText, Violation
from kbackupd.model.events import (
    Gap,
    GapCause,
    LedgerEvent,
    PartitionSeen,
    Paused,
    TopicDeleted,
    TopicExcluded,
    TopicSeen,
    Truncated,
)
from kbackupd.model.positions import PartitionId, TopicId


class _Topic(Struct, tag_field="type", tag="topic"):
    topic: Count
    partitions: Count
    internal: bool
    configs: dict[str, str]
    previous: TopicIdText | None
    at_ms: Int64


class _TopicDeleted(Struct, tag_field="type", tag="topic_deleted"):
    topic: Count
    at_ms: Int64


class _TopicExcluded(Struct, tag_field="type", tag="topic_excluded"):
    topic: Count
    at_ms: Int64


class _Partition(Struct, tag_field="type", tag="partition"):
    topic: Count
    partition: Count
    first_offset: Int64
    log_start_offset: Int64
    high_watermark: Int64
    leader_epoch: Int32
    at_ms: Int64


class _Gap(Struct, tag_field="type", tag="gap"):
    topic: Count
    partition: Count
    branch: Count
    first_offset: Count
    next_offset: Count
    cause: GapCause
    at_ms: Int64


class _Truncated(Struct, tag_field="type", tag="truncated"):
    topic: Count
    partition: Count
    branch: Count
    parent: Count
    offset: Count
    leader_epoch: Int32
    at_ms: Int64


class _Paused(Struct, tag_field="type", tag="paused"):
    topics: str
    paused: bool
    at_ms: Int64


EventRow = _Topic | _TopicDeleted | _TopicExcluded | _Partition | _Gap | _Truncated | _Paused


def encode_event(event: LedgerEvent, index_of: Callable[[TopicId], int]) -> EventRow:
    """The event's JSON form; `index_of` gives a topic's place in the footer's `topics`."""
    match event:
        case TopicSeen():
            return _Topic(
                topic=index_of(event.topic_id),
                partitions=event.partitions,
                internal=event.internal,
                configs=event.configs,
                previous=event.previous,
                at_ms=event.at_ms,
            )
        case TopicDeleted():
            return _TopicDeleted(topic=index_of(event.topic_id), at_ms=event.at_ms)
        case TopicExcluded():
            return _TopicExcluded(topic=index_of(event.topic_id), at_ms=event.at_ms)
        case PartitionSeen():
            return _Partition(
                topic=index_of(event.id.topic_id),
                partition=event.id.partition,
                first_offset=event.first_offset,
                log_start_offset=event.log_start_offset,
                high_watermark=event.high_watermark,
                leader_epoch=event.leader_epoch,
                at_ms=event.at_ms,
            )
        case Gap():
            return _Gap(
                topic=index_of(event.id.topic_id),
                partition=event.id.partition,
                branch=event.branch,
                first_offset=event.first_offset,
                next_offset=event.next_offset,
                cause=event.cause,
                at_ms=event.at_ms,
            )
        case Truncated():
            return _Truncated(
                topic=index_of(event.id.topic_id),
                partition=event.id.partition,
                branch=event.branch,
                parent=event.parent,
                offset=event.offset,
                leader_epoch=event.leader_epoch,
                at_ms=event.at_ms,
            )
        case Paused():
            return _Paused(topics=event.topics, paused=event.paused, at_ms=event.at_ms)
        case _:
            assert_never(event)


def decode_event(row: EventRow, topics: Sequence[tuple[TopicId, str]]) -> LedgerEvent:
    """The inverse of `encode_event`.

    Raises:
        Violation: an index beyond `topics`, or a gap that ends before it begins.
    """
    if isinstance(row, _Paused):
        return Paused(topics=row.topics, paused=row.paused, at_ms=row.at_ms)
    if row.topic >= len(topics):
        raise Violation(f"events: index {row.topic} points beyond {len(topics)} topics")
    topic_id, name = topics[row.topic]
    match row:
        case _Topic():
            return TopicSeen(
                topic_id=topic_id,
                name=name,
                partitions=row.partitions,
                internal=row.internal,
                configs=row.configs,
                previous=None if row.previous is None else TopicId(row.previous),
                at_ms=row.at_ms,
            )
        case _TopicDeleted():
            return TopicDeleted(topic_id=topic_id, at_ms=row.at_ms)
        case _TopicExcluded():
            return TopicExcluded(topic_id=topic_id, at_ms=row.at_ms)
        case _Partition():
            return PartitionSeen(
                id=PartitionId(topic_id, row.partition),
                first_offset=row.first_offset,
                log_start_offset=row.log_start_offset,
                high_watermark=row.high_watermark,
                leader_epoch=row.leader_epoch,
                at_ms=row.at_ms,
            )
        case _Gap():
            if row.first_offset > row.next_offset:
                raise Violation(f"events: gap [{row.first_offset}, {row.next_offset}) ends before it begins")
            return Gap(
                id=PartitionId(topic_id, row.partition),
                branch=row.branch,
                first_offset=row.first_offset,
                next_offset=row.next_offset,
                cause=row.cause,
                at_ms=row.at_ms,
            )
        case _Truncated():
            return Truncated(
                id=PartitionId(topic_id, row.partition),
                branch=row.branch,
                parent=row.parent,
                offset=row.offset,
                leader_epoch=row.leader_epoch,
                at_ms=row.at_ms,
            )
        case _:
            assert_never(row)

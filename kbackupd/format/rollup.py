"""A roll-up's frame: blocks collected into an object, and its footer <-> values ("Roll-ups" in docs/format.md)."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
from msgspec import Struct

from kbackupd.format.columns import (
    Bit,
    Count,
    Digest,
    Ref,
    TopicIdText,
    Violation,
    check_columns,
    check_indices,
    converted,
    decode_json,
)
from kbackupd.format.container import MAGIC, MAGIC_BYTES, ROLLUP, NeedMore, Tail, encode_tail, parse_tail
from kbackupd.format.footer import EarlierRow, decode_earlier, encode_earlier
from kbackupd.format.keys import RollupKey, parse_rollup_key
from kbackupd.format.ledger import EventRow, decode_event, encode_event
from kbackupd.format.tables import BY_TOPIC, SEGMENTS, BlockRef, encode_block
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.events import LedgerEvent, Paused, TopicDeleted, TopicExcluded, TopicSeen
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import EarlierEpoch, Identity, ObjectRef

Coverage = tuple[tuple[int, int, int], ...]
"""(writer epoch, first sequence, sequence after the last), ascending."""

LEDGER_EVENTS = (TopicSeen, TopicDeleted, TopicExcluded, Paused)
"""Events that are in a roll-up's footer; those of partitions are in its tables."""


@dataclass(frozen=True, slots=True)
class Mention:
    """Segment number `segment` speaks of `partitions` partitions of a topic: more than any covered one before."""

    segment: int
    topic: int
    partitions: int
    internal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupHead:
    """What a roll-up says beside its tables; `segment` is a row of its table of segments."""

    level: int
    generation: int
    coverage: Coverage
    sources: tuple[ObjectRef, ...]
    topics: tuple[tuple[TopicId, str], ...]
    """Ascending by id; a row's topic is an index into it."""
    events: tuple[tuple[int, LedgerEvent], ...]
    mentions: tuple[Mention, ...]
    earlier: tuple[tuple[int, tuple[EarlierEpoch, ...]], ...]
    previous: tuple[tuple[int, ObjectRef | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupFooter:
    identity: Identity
    key: str
    writer: str
    head: RollupHead
    blocks: tuple[BlockRef, ...]
    body_bytes: int
    body_sha256: str

    @property
    def segments(self) -> int:
        """How many it covers."""
        return sum(following - first for _, first, following in self.head.coverage)

    def blocks_of(self, table: str) -> tuple[BlockRef, ...]:
        return tuple(block for block in self.blocks if block.table == table)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRollup:
    ref: ObjectRef
    parts: list[bytes]
    size_bytes: int
    footer: RollupFooter


class _Mentions(Struct):
    segment: list[Count]
    topic: list[Count]
    partitions: list[Count]
    internal: list[Bit]


class _Blocks(Struct):
    table: list[str]
    position: list[Count]
    stored_length: list[Count]
    rows: list[Count]
    first_topic: list[Count]
    first_partition: list[Count]
    last_topic: list[Count]
    last_partition: list[Count]
    sha256: list[Digest]


class _Rollup(Struct):
    writer: str
    level: Count
    generation: Count
    coverage: list[tuple[Count, Count, Count]]
    sources: list[Ref]
    body_sha256: Digest
    topics: list[tuple[TopicIdText, str]]
    blocks: _Blocks
    events: list[tuple[Count, EventRow]]
    mentions: _Mentions
    earlier: list[tuple[Count, list[EarlierRow]]]
    previous: list[tuple[Count, Ref | None]]


class RollupBody:
    """The blocks of a roll-up while it is made; all their bytes are held, nothing else of it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [MAGIC[ROLLUP]]
        self._sha256 = hashlib.sha256(MAGIC[ROLLUP])
        self._blocks: list[BlockRef] = []
        self.size_bytes = MAGIC_BYTES

    def add(self, table: str, columns: Sequence[array[int]]) -> None:
        """Append a block of at least one row; those of a table in the order of their rows, tables one after another."""
        stored = encode_block(columns)
        keyed = table in BY_TOPIC
        self._blocks.append(
            BlockRef(
                table,
                self.size_bytes,
                len(stored),
                len(columns[0]),
                columns[0][0] if keyed else 0,
                columns[1][0] if keyed else 0,
                columns[0][-1] if keyed else 0,
                columns[1][-1] if keyed else 0,
                hashlib.sha256(stored).hexdigest(),
            )
        )
        self._parts.append(stored)
        self._sha256.update(stored)
        self.size_bytes += len(stored)

    def seal(self, key: str, identity: Identity, head: RollupHead) -> SealedRollup:
        """The whole object.

        Raises:
            ValueError: a reader would refuse it; a defect of the caller.
        """
        at = parse_rollup_key(key)
        if at is None:
            raise ValueError(f"not the key of a roll-up: {key}")
        footer_json = msgspec.json.encode(_encode(at, head, self._blocks, self._sha256.hexdigest()))
        tail, digest = encode_tail(
            kind=ROLLUP, key=key, identity=identity, footer_json=footer_json, body_bytes=self.size_bytes
        )
        try:
            footer = _decode_footer(
                key,
                Tail(
                    kind=ROLLUP,
                    identity=identity,
                    footer_json=footer_json,
                    body_bytes=self.size_bytes,
                    digest=digest,
                ),
            )
        except CorruptObjectError as problem:
            raise ValueError(f"a roll-up that no reader would take: {problem}") from problem
        return SealedRollup(
            ref=ObjectRef(key, digest),
            parts=[*self._parts, tail],
            size_bytes=self.size_bytes + len(tail),
            footer=footer,
        )


def _encode(at: RollupKey, head: RollupHead, blocks: Sequence[BlockRef], body_sha256: str) -> _Rollup:
    index = {topic_id: row for row, (topic_id, _) in enumerate(head.topics)}
    return _Rollup(
        writer=at.writer,
        level=head.level,
        generation=head.generation,
        coverage=list(head.coverage),
        sources=[Ref(ref.key, ref.digest) for ref in head.sources],
        body_sha256=body_sha256,
        topics=[(str(topic_id), name) for topic_id, name in head.topics],
        blocks=_Blocks(*([getattr(block, name) for block in blocks] for name in BlockRef.__struct_fields__)),
        events=[(segment, encode_event(event, index.__getitem__)) for segment, event in head.events],
        mentions=_Mentions(
            [one.segment for one in head.mentions],
            [one.topic for one in head.mentions],
            [one.partitions for one in head.mentions],
            [int(one.internal) for one in head.mentions],
        ),
        earlier=[(segment, encode_earlier(rows)) for segment, rows in head.earlier],
        previous=[(segment, Ref.of(ref)) for segment, ref in head.previous],
    )


def open_rollup(
    key: str, tail_bytes: bytes | memoryview, total_size: int, expect: Identity | None = None
) -> tuple[RollupFooter, ObjectRef] | NeedMore:
    """A roll-up's footer from the object's last bytes; the blocks are checked when they are read.

    Raises:
        CorruptObjectError: anything is not as written; the reason names the place.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail = parse_tail(key, tail_bytes, total_size, kind=ROLLUP, expect=expect)
    if isinstance(tail, NeedMore):
        return tail
    return _decode_footer(key, tail), ObjectRef(key, tail.digest)


def _decode_footer(key: str, tail: Tail) -> RollupFooter:
    rows = decode_json(key, "footer", tail.footer_json, _Rollup)
    try:
        return _decode(key, tail, rows)
    except Violation as problem:
        raise CorruptObjectError(key, f"footer: {problem}") from problem


def _decode(key: str, tail: Tail, rows: _Rollup) -> RollupFooter:
    coverage = _coverage(rows)
    at = parse_rollup_key(key)
    (first_epoch, first_seq, _), (last_epoch, _, following) = coverage[0], coverage[-1]
    if at != RollupKey(rows.writer, rows.level, first_epoch, first_seq, last_epoch, following - 1, rows.generation):
        raise Violation("writer, level, generation or coverage contradict the key")
    topics = [(TopicId(topic_id), name) for topic_id, name in rows.topics]
    if any(one[0] >= other[0] for one, other in pairwise(topics)):
        raise Violation("topics: ids do not ascend")
    segments = sum(end - first for _, first, end in coverage)
    check_columns("mentions", rows.mentions)
    check_indices("mentions: topic", rows.mentions.topic, len(topics))
    for name, column in (
        ("mentions", rows.mentions.segment),
        ("events", [segment for segment, _ in rows.events]),
        ("earlier", [segment for segment, _ in rows.earlier]),
        ("previous", [segment for segment, _ in rows.previous]),
    ):
        check_indices(f"{name}: segment", column, segments)
    if not any(segment == 0 for segment, _ in rows.previous):
        raise Violation("previous: nothing of the first segment")
    events = tuple((segment, decode_event(row, topics)) for segment, row in rows.events)
    if not all(isinstance(event, LEDGER_EVENTS) for _, event in events):
        raise Violation("events: an event of a partition")
    return RollupFooter(
        identity=tail.identity,
        key=key,
        writer=rows.writer,
        head=RollupHead(
            level=rows.level,
            generation=rows.generation,
            coverage=coverage,
            sources=tuple(ref.value() for ref in rows.sources),
            topics=tuple(topics),
            events=events,
            mentions=tuple(
                Mention(segment, topic, partitions, internal == 1)
                for segment, topic, partitions, internal in zip(
                    rows.mentions.segment,
                    rows.mentions.topic,
                    rows.mentions.partitions,
                    rows.mentions.internal,
                    strict=True,
                )
            ),
            earlier=tuple(
                (segment, decode_earlier(earlier, following_epoch=None)) for segment, earlier in rows.earlier
            ),
            previous=tuple((segment, None if ref is None else ref.value()) for segment, ref in rows.previous),
        ),
        blocks=_blocks(rows.blocks, tail.body_bytes, len(topics), segments),
        body_bytes=tail.body_bytes,
        body_sha256=rows.body_sha256,
    )


def _coverage(rows: _Rollup) -> Coverage:
    reached = (0, 0)
    for epoch, first, following in rows.coverage:
        if (epoch, first) < reached or first >= following:
            raise Violation(f"coverage: [{epoch}, {first}, {following}] is empty or out of order")
        reached = (epoch, following)
    if not rows.coverage:
        raise Violation("coverage: is empty")
    return tuple(rows.coverage)


def _blocks(table: _Blocks, body_bytes: int, topics: int, segments: int) -> tuple[BlockRef, ...]:
    check_columns("blocks", table)
    for limit, by_topic in ((topics, True), (1, False)):
        lasts = [
            last for name, last in zip(table.table, table.last_topic, strict=True) if (name in BY_TOPIC) is by_topic
        ]
        check_indices("blocks: topic", lasts, limit)
    found: list[BlockRef] = []
    reached = MAGIC_BYTES
    for row in zip(*(getattr(table, name) for name in table.__struct_fields__), strict=True):
        try:
            block = converted(row, BlockRef)
        except msgspec.ValidationError as problem:
            raise Violation(f"blocks: {problem}") from problem
        if block.position != reached:
            raise Violation(f"blocks: one begins at byte {block.position}, the one before ends at {reached}")
        before = found[-1] if found else None
        if before is not None and before.table == block.table:
            if (before.last_topic, before.last_partition) > (block.first_topic, block.first_partition):
                raise Violation(f"blocks: {block.table} is out of order at byte {block.position}")
        elif any(one.table == block.table for one in found):
            raise Violation(f"blocks: {block.table} stands in two places")
        reached = block.end
        found.append(block)
    if reached != body_bytes:
        raise Violation(f"blocks: end at byte {reached}, the body at {body_bytes}")
    if sum(block.rows for block in found if block.table == SEGMENTS) != segments:
        raise Violation("blocks: not one row of segments for each sequence covered")
    return tuple(found)

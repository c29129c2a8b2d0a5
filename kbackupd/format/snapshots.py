"""A snapshot of groups or of the cluster <-> bytes: a container without runs ("Snapshots" in docs/format.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from kbackupd.format.columns import (
    Count,
    Digest,
    Int32,
    Int64,
    Ref,
    TopicIdText,
    Violation,
    check_columns,
    check_indices,
    decode_json,
)
from kbackupd.format.container import (
    MAGIC,
    MAGIC_BYTES,
    NeedMore,
    Tail,
    check_magic,
    encode_tail,
    parse_tail,
)
from kbackupd.format.keys import SnapshotKey, SnapshotKind, parse_snapshot_key
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity
from kbackupd.model.snapshots import (
    Acl,
    BrokerState,
    ClusterContent,
    CommittedOffset,
    Content,
    CoordinatorState,
    GroupsContent,
    GroupState,
    PartState,
    Quota,
    ReadOutcome,
    Snapshot,
    TopicState,
)


class _Coordinators(Struct):
    node_id: list[Int32]
    outcome: list[ReadOutcome]
    cause: list[str]
    answered_ms: list[Int64]


class _Groups(Struct):
    group_id: list[str]
    type: list[str]
    protocol_type: list[str]
    state: list[str]
    coordinator: list[Int32]
    members: list[Int64]
    outcome: list[ReadOutcome]
    cause: list[str]
    sent_ms: list[Int64]
    answered_ms: list[Int64]


class _Positions(Struct):
    group: list[Count]
    topic: list[Count]
    partition: list[Count]
    offset: list[Count]
    leader_epoch: list[Int32]
    metadata: list[str]


class _Head(Struct):
    writer: str
    writer_epoch: Count
    number: Count
    taken_ms: Count
    asked_ms: Count
    previous: Ref | None
    body_sha256: Digest


class _GroupsFooter(_Head):
    lists_all: bool
    coordinators: _Coordinators
    topics: list[tuple[TopicIdText | None, str]]
    groups: _Groups
    positions: _Positions


class _Part(Struct):
    outcome: ReadOutcome
    cause: str
    answered_ms: Int64


class _Parts(Struct):
    brokers: _Part
    topics: _Part
    acls: _Part
    quotas: _Part


class _Brokers(Struct):
    node_id: list[Int32]
    host: list[str]
    port: list[Int32]
    rack: list[str]


class _Topics(Struct):
    topic_id: list[TopicIdText]
    name: list[str]
    partitions: list[Count]
    internal: list[bool]
    configs: list[dict[str, str]]
    outcome: list[ReadOutcome]
    cause: list[str]
    answered_ms: list[Int64]


class _Acls(Struct):
    resource_type: list[str]
    resource_name: list[str]
    pattern_type: list[str]
    principal: list[str]
    host: list[str]
    operation: list[str]
    permission: list[str]


class _Quota(Struct):
    entity: dict[str, str | None]
    values: dict[str, float]


class _ClusterFooter(_Head):
    parts: _Parts
    brokers: _Brokers
    topics: _Topics
    acls: _Acls
    quotas: list[_Quota]


Footer = TypeVar("Footer", _GroupsFooter, _ClusterFooter)


def encode_groups(snapshot: Snapshot[GroupsContent]) -> tuple[bytes, str]:
    """The whole object, and its digest.

    Raises:
        ValueError: something that a reader would refuse.
    """
    content = snapshot.content
    topics = {(position.topic_id, position.topic): 0 for group in content.groups for position in group.positions}
    for row, topic in enumerate(topics):
        topics[topic] = row
    # Column by column: there may be a hundred thousand positions, and rows of them would be held beside the columns.
    rows = [(row, one) for row, group in enumerate(content.groups) for one in group.positions]
    footer = _GroupsFooter(
        *_head(snapshot, "groups"),
        lists_all=content.lists_all,
        coordinators=_Coordinators(
            [one.node_id for one in content.coordinators], *_part_columns(one.part for one in content.coordinators)
        ),
        topics=list(topics),
        groups=_Groups(
            [one.group_id for one in content.groups],
            [one.type for one in content.groups],
            [one.protocol_type for one in content.groups],
            [one.state for one in content.groups],
            [one.coordinator for one in content.groups],
            [one.members for one in content.groups],
            [one.part.outcome for one in content.groups],
            [one.part.cause for one in content.groups],
            [one.sent_ms for one in content.groups],
            [one.part.answered_ms for one in content.groups],
        ),
        positions=_Positions(
            [row for row, _ in rows],
            [topics[one.topic_id, one.topic] for _, one in rows],
            [one.partition for _, one in rows],
            [one.offset for _, one in rows],
            [one.leader_epoch for _, one in rows],
            [one.metadata for _, one in rows],
        ),
    )
    del rows
    return _sealed(snapshot, "groups", footer)


def encode_cluster(snapshot: Snapshot[ClusterContent]) -> tuple[bytes, str]:
    """As `encode_groups`."""
    content = snapshot.content
    footer = _ClusterFooter(
        *_head(snapshot, "cluster"),
        parts=_Parts(
            _part(content.brokers_part),
            _part(content.topics_part),
            _part(content.acls_part),
            _part(content.quotas_part),
        ),
        brokers=_Brokers(*_columns([(one.node_id, one.host, one.port, one.rack) for one in content.brokers], 4)),
        topics=_Topics(
            [one.topic_id for one in content.topics],
            [one.name for one in content.topics],
            [one.partitions for one in content.topics],
            [one.internal for one in content.topics],
            [dict(one.configs) for one in content.topics],
            *_part_columns(one.part for one in content.topics),
        ),
        acls=_Acls(*_columns(content.acls, 7)),
        quotas=[_Quota(dict(one.entity), dict(one.values)) for one in content.quotas],
    )
    return _sealed(snapshot, "cluster", footer)


def _head(snapshot: Snapshot[Content], kind: str) -> tuple[str, int, int, int, int, Ref | None, str]:
    return (
        snapshot.writer,
        snapshot.writer_epoch,
        snapshot.number,
        snapshot.taken_ms,
        snapshot.asked_ms,
        Ref.of(snapshot.previous),
        _body_sha256(kind),
    )


def _body_sha256(kind: str) -> str:
    return hashlib.sha256(MAGIC[kind]).hexdigest()


def _part(part: PartState) -> _Part:
    return _Part(part.outcome, part.cause, part.answered_ms)


def _part_columns(parts: Iterable[PartState]) -> tuple[list[ReadOutcome], list[str], list[int]]:
    kept = list(parts)
    return [one.outcome for one in kept], [one.cause for one in kept], [one.answered_ms for one in kept]


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list]:  # type: ignore[type-arg]  # of mixed types
    return [[row[column] for row in rows] for column in range(width)]


def _sealed(snapshot: Snapshot[Content], kind: SnapshotKind, footer: Footer) -> tuple[bytes, str]:
    tail, digest = encode_tail(
        kind=kind,
        key=snapshot.key,
        identity=snapshot.identity,
        footer_json=msgspec.json.encode(footer),
        body_bytes=MAGIC_BYTES,
    )
    data = MAGIC[kind] + tail
    try:
        _opened(snapshot.key, data, snapshot.identity, kind, type(footer))
    except CorruptObjectError as problem:
        raise ValueError(f"a snapshot that no reader would take: {problem}") from problem
    return data, digest


def decode_groups(
    key: str, data: bytes | memoryview, identity: Identity | None = None
) -> tuple[Snapshot[GroupsContent], str]:
    """The snapshot in the whole object `data` and its digest, every byte and rule checked.

    Raises:
        CorruptObjectError: anything is not as written, or of another archive than `identity`.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail, footer = _opened(key, data, identity, "groups", _GroupsFooter)
    return _snapshot(key, tail, footer, _groups_content(footer)), tail.digest


def decode_cluster(
    key: str, data: bytes | memoryview, identity: Identity | None = None
) -> tuple[Snapshot[ClusterContent], str]:
    """As `decode_groups`."""
    tail, footer = _opened(key, data, identity, "cluster", _ClusterFooter)
    return _snapshot(key, tail, footer, _cluster_content(footer)), tail.digest


def _opened(
    key: str, data: bytes | memoryview, identity: Identity | None, kind: SnapshotKind, shape: type[Footer]
) -> tuple[Tail, Footer]:
    """Everything checked, nothing built yet."""
    tail = parse_tail(key, data, len(data), kind=kind, expect=identity)
    if isinstance(tail, NeedMore):
        raise CorruptObjectError(key, "object: its end is not all there")
    check_magic(key, data, kind)
    footer = decode_json(key, "footer", tail.footer_json, shape)
    try:
        if tail.body_bytes != MAGIC_BYTES or footer.body_sha256 != _body_sha256(kind):
            raise Violation("body: a snapshot has none but its magic")
        at = SnapshotKey(kind, footer.writer, footer.writer_epoch, footer.number, footer.taken_ms)
        if parse_snapshot_key(key) != at:
            raise Violation("writer, writer_epoch, number or taken_ms contradict the key")
        if isinstance(footer, _GroupsFooter):
            _check_groups(footer)
        else:
            _check_cluster(footer)
    except Violation as problem:
        raise CorruptObjectError(key, f"footer: {problem}") from problem
    return tail, footer


def _check_groups(footer: _GroupsFooter) -> None:
    count = check_columns("groups", footer.groups)
    if len(set(footer.groups.group_id)) != count:
        raise Violation("groups: a group id stands twice")
    check_columns("coordinators", footer.coordinators)
    check_columns("positions", footer.positions)
    check_indices("positions: group", footer.positions.group, count)
    check_indices("positions: topic", footer.positions.topic, len(footer.topics))


def _check_cluster(footer: _ClusterFooter) -> None:
    for name, table in (("brokers", footer.brokers), ("topics", footer.topics), ("acls", footer.acls)):
        check_columns(name, table)
    if len(set(footer.topics.topic_id)) != len(footer.topics.topic_id):
        raise Violation("topics: a topic id stands twice")


def _snapshot(key: str, tail: Tail, footer: _Head, content: Content) -> Snapshot[Content]:
    return Snapshot(
        identity=tail.identity,
        key=key,
        writer=footer.writer,
        writer_epoch=footer.writer_epoch,
        number=footer.number,
        asked_ms=footer.asked_ms,
        taken_ms=footer.taken_ms,
        previous=None if footer.previous is None else footer.previous.value(),
        content=content,
    )


def _groups_content(footer: _GroupsFooter) -> GroupsContent:
    topics = [(None if id is None else TopicId(id), name) for id, name in footer.topics]
    positions: list[list[CommittedOffset]] = [[] for _ in footer.groups.group_id]
    for group, topic, *rest in _rows(footer.positions):
        positions[group].append(CommittedOffset(*topics[topic], *rest))
    return GroupsContent(
        lists_all=footer.lists_all,
        coordinators=tuple(
            CoordinatorState(node_id=node_id, part=_part_of(*part)) for node_id, *part in _rows(footer.coordinators)
        ),
        groups=tuple(
            GroupState(
                group_id=group_id,
                type=type,
                protocol_type=protocol_type,
                state=state,
                coordinator=coordinator,
                members=members,
                part=_part_of(outcome, cause, answered_ms),
                sent_ms=sent_ms,
                positions=tuple(positions[row]),
            )
            for row, (
                group_id,
                type,
                protocol_type,
                state,
                coordinator,
                members,
                outcome,
                cause,
                sent_ms,
                answered_ms,
            ) in enumerate(_rows(footer.groups))
        ),
    )


def _cluster_content(footer: _ClusterFooter) -> ClusterContent:
    return ClusterContent(
        brokers_part=_part_value(footer.parts.brokers),
        brokers=tuple(
            BrokerState(node_id=node_id, host=host, port=port, rack=rack)
            for node_id, host, port, rack in _rows(footer.brokers)
        ),
        topics_part=_part_value(footer.parts.topics),
        topics=tuple(
            TopicState(
                topic_id=TopicId(topic_id),
                name=name,
                partitions=partitions,
                internal=internal,
                configs=configs,
                part=_part_of(*part),
            )
            for topic_id, name, partitions, internal, configs, *part in _rows(footer.topics)
        ),
        acls_part=_part_value(footer.parts.acls),
        acls=tuple(Acl(*row) for row in _rows(footer.acls)),
        quotas_part=_part_value(footer.parts.quotas),
        quotas=tuple(Quota(entity=one.entity, values=one.values) for one in footer.quotas),
    )


def _rows(table: Struct) -> Iterable[tuple]:  # type: ignore[type-arg]  # one column, one type: the Struct says which
    return zip(*(getattr(table, name) for name in table.__struct_fields__), strict=True)


def _part_of(outcome: ReadOutcome, cause: str, answered_ms: int) -> PartState:
    return PartState(outcome=outcome, cause=cause, answered_ms=answered_ms)


def _part_value(part: _Part) -> PartState:
    return _part_of(part.outcome, part.cause, part.answered_ms)


@dataclass(frozen=True, slots=True)
class SnapshotFormat(Generic[Content]):
    """How one kind of snapshot becomes bytes and comes back."""

    kind: SnapshotKind
    encode: Callable[[Snapshot[Content]], tuple[bytes, str]]
    decode: Callable[[str, bytes, Identity | None], tuple[Snapshot[Content], str]]


GROUPS_FORMAT: Final[SnapshotFormat[GroupsContent]] = SnapshotFormat("groups", encode_groups, decode_groups)
CLUSTER_FORMAT: Final[SnapshotFormat[ClusterContent]] = SnapshotFormat("cluster", encode_cluster, decode_cluster)

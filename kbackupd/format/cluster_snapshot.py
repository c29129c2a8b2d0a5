"""A snapshot of the cluster <-> bytes ("Snapshots" in docs/format.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from kbackupd.format.columns import Count, Int32, Int64, TopicIdText, Violation, check_columns
from kbackupd.format.snapshots import (
    Head,
    SnapshotFormat,
    head_of,
    opened,
    part_columns,
    part_of,
    rows_of,
    sealed,
    snapshot_of,
)
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity
from kbackupd.model.snapshots import (
    Acl,
    BrokerState,
    ClusterContent,
    PartState,
    Quota,
    ReadOutcome,
    Snapshot,
    TopicState,
)


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


class _Footer(Head):
    parts: _Parts
    brokers: _Brokers
    topics: _Topics
    acls: _Acls
    quotas: list[_Quota]


def encode_cluster(snapshot: Snapshot[ClusterContent]) -> tuple[bytes, str]:
    """The whole object, and its digest.

    Raises:
        ValueError: something that a reader would refuse.
    """
    content = snapshot.content
    footer = _Footer(
        *head_of(snapshot, "cluster"),
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
            *part_columns(one.part for one in content.topics),
        ),
        acls=_Acls(*_columns(content.acls, 7)),
        quotas=[_Quota(dict(one.entity), dict(one.values)) for one in content.quotas],
    )
    return sealed(snapshot, "cluster", footer, _check)


def _part(part: PartState) -> _Part:
    return _Part(part.outcome, part.cause, part.answered_ms)


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list]:  # type: ignore[type-arg]  # of mixed types
    return [[row[column] for row in rows] for column in range(width)]


def decode_cluster(
    key: str, data: bytes | memoryview, identity: Identity | None = None
) -> tuple[Snapshot[ClusterContent], str]:
    """The snapshot in the whole object `data` and its digest, every byte and rule checked.

    Raises:
        CorruptObjectError: anything is not as written, or of another archive than `identity`.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail, footer = opened(key, data, identity, "cluster", _Footer, _check)
    return snapshot_of(key, tail, footer, _content(footer)), tail.digest


def _check(footer: _Footer) -> None:
    for name, table in (("brokers", footer.brokers), ("topics", footer.topics), ("acls", footer.acls)):
        check_columns(name, table)
    if len(set(footer.topics.topic_id)) != len(footer.topics.topic_id):
        raise Violation("topics: a topic id stands twice")


def _content(footer: _Footer) -> ClusterContent:
    return ClusterContent(
        brokers_part=_part_value(footer.parts.brokers),
        brokers=tuple(
            BrokerState(node_id=node_id, host=host, port=port, rack=rack)
            for node_id, host, port, rack in rows_of(footer.brokers)
        ),
        topics_part=_part_value(footer.parts.topics),
        topics=tuple(
            TopicState(
                topic_id=TopicId(topic_id),
                name=name,
                partitions=partitions,
                internal=internal,
                configs=configs,
                part=part_of(*part),
            )
            for topic_id, name, partitions, internal, configs, *part in rows_of(footer.topics)
        ),
        acls_part=_part_value(footer.parts.acls),
        acls=tuple(Acl(*row) for row in rows_of(footer.acls)),
        quotas_part=_part_value(footer.parts.quotas),
        quotas=tuple(Quota(entity=one.entity, values=one.values) for one in footer.quotas),
    )


def _part_value(part: _Part) -> PartState:
    return part_of(part.outcome, part.cause, part.answered_ms)


CLUSTER_FORMAT: Final[SnapshotFormat[ClusterContent]] = SnapshotFormat("cluster", encode_cluster, decode_cluster)

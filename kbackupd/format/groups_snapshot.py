"""A snapshot of groups <-> bytes ("Snapshots" in docs/format.md)."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from kbackupd.format.columns import Count, Int32, Int64, TopicIdText, Violation, check_columns, check_indices
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
from kbackupd.model.snapshots import CommittedOffset, CoordinatorState, GroupsContent, GroupState, ReadOutcome, Snapshot


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


class _Footer(Head):
    lists_all: bool
    coordinators: _Coordinators
    topics: list[tuple[TopicIdText | None, str]]
    groups: _Groups
    positions: _Positions


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
    footer = _Footer(
        *head_of(snapshot, "groups"),
        lists_all=content.lists_all,
        coordinators=_Coordinators(
            [one.node_id for one in content.coordinators], *part_columns(one.part for one in content.coordinators)
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
    return sealed(snapshot, "groups", footer, _check)


def decode_groups(
    key: str, data: bytes | memoryview, identity: Identity | None = None
) -> tuple[Snapshot[GroupsContent], str]:
    """The snapshot in the whole object `data` and its digest, every byte and rule checked.

    Raises:
        CorruptObjectError: anything is not as written, or of another archive than `identity`.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail, footer = opened(key, data, identity, "groups", _Footer, _check)
    return snapshot_of(key, tail, footer, _content(footer)), tail.digest


def _check(footer: _Footer) -> None:
    count = check_columns("groups", footer.groups)
    if len(set(footer.groups.group_id)) != count:
        raise Violation("groups: a group id stands twice")
    check_columns("coordinators", footer.coordinators)
    check_columns("positions", footer.positions)
    check_indices("positions: group", footer.positions.group, count)
    check_indices("positions: topic", footer.positions.topic, len(footer.topics))


def _content(footer: _Footer) -> GroupsContent:
    topics = [(None if id is None else TopicId(id), name) for id, name in footer.topics]
    positions: list[list[CommittedOffset]] = [[] for _ in footer.groups.group_id]
    for group, topic, *rest in rows_of(footer.positions):
        positions[group].append(CommittedOffset(*topics[topic], *rest))
    return GroupsContent(
        lists_all=footer.lists_all,
        coordinators=tuple(
            CoordinatorState(node_id=node_id, part=part_of(*part)) for node_id, *part in rows_of(footer.coordinators)
        ),
        groups=tuple(
            GroupState(
                group_id=group_id,
                type=type,
                protocol_type=protocol_type,
                state=state,
                coordinator=coordinator,
                members=members,
                part=part_of(outcome, cause, answered_ms),
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
            ) in enumerate(rows_of(footer.groups))
        ),
    )


GROUPS_FORMAT: Final[SnapshotFormat[GroupsContent]] = SnapshotFormat("groups", encode_groups, decode_groups)

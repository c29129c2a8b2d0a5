"""The positions of consumer groups at an instant, as values for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from kbackupd.archive.catalog import DamagedObject
from kbackupd.archive.snapshots import archive_snapshot_at
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.model.clock import iso
from kbackupd.model.errors import IncompleteError
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import GroupState, ReadOutcome
from kbackupd.store.protocol import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionReport:
    topic: str
    topic_id: TopicId | None
    """None: no topic of that name was known then."""
    partition: int
    offset: int
    leader_epoch: int
    """−1: the client gave none."""
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """With an outcome that is not `ok` the positions are older than the snapshot: as of `answered_ms`, −1 for never."""

    group_id: str
    type: str
    protocol_type: str
    state: str
    coordinator: int
    members: int
    outcome: ReadOutcome
    cause: str
    sent_ms: int
    answered_ms: int
    positions: tuple[PositionReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorReport:
    node_id: int
    outcome: ReadOutcome
    cause: str
    answered_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsReport:
    """What `kbackupd groups --format json` prints; members are only ever added."""

    backup_id: str
    at_ms: int | None
    """What was asked for; None: the newest."""
    taken_ms: int
    """When the snapshot was taken that was the last one by then."""
    snapshot: str
    """Its key."""
    complete: bool
    """Every group was listed and answered for when it was taken, whichever are shown."""
    lists_all: bool
    coordinators: tuple[CoordinatorReport, ...]
    groups: tuple[GroupReport, ...]
    damaged: tuple[DamagedObject, ...]
    """Newer snapshots that could not be trusted."""


async def groups_at(store: ObjectStore, backup_id: str, at_ms: int | None, glob: str = "*") -> GroupsReport:
    """The groups that `glob` matches as they were at `at_ms` (None: last), in the archive `backup_id` under `store`.

    Raises:
        IncompleteError: nothing had been captured by then, or nothing of it can be trusted.
        KbackupError: as `archive_snapshot_at`.
    """
    found = await archive_snapshot_at(store, backup_id, GROUPS_FORMAT, at_ms)
    snapshot = found.snapshot
    if snapshot is None:
        when = "" if at_ms is None else f" by {iso(at_ms)}"
        damaged = "".join(f"; {one.key} is damaged: {one.reason}" for one in found.damaged)
        raise IncompleteError(
            f"{backup_id}: no positions of groups had been captured{when}{damaged}",
            hint="the daemon takes them at backup.snapshot_interval"
            if found.first_ms is None
            else f"the first snapshot is of {iso(found.first_ms)}",
        )
    content = snapshot.content
    return GroupsReport(
        backup_id=backup_id,
        at_ms=at_ms,
        taken_ms=snapshot.taken_ms,
        snapshot=snapshot.key,
        complete=content.complete,
        lists_all=content.lists_all,
        coordinators=tuple(
            CoordinatorReport(
                node_id=one.node_id,
                outcome=one.part.outcome,
                cause=one.part.cause,
                answered_ms=one.part.answered_ms,
            )
            for one in content.coordinators
        ),
        groups=tuple(_group(one) for one in content.groups if fnmatchcase(one.group_id, glob)),
        damaged=found.damaged,
    )


def _group(group: GroupState) -> GroupReport:
    return GroupReport(
        group_id=group.group_id,
        type=group.type,
        protocol_type=group.protocol_type,
        state=group.state,
        coordinator=group.coordinator,
        members=group.members,
        outcome=group.part.outcome,
        cause=group.part.cause,
        sent_ms=group.sent_ms,
        answered_ms=group.answered_ms,
        positions=tuple(
            PositionReport(
                topic=one.topic,
                topic_id=one.topic_id,
                partition=one.partition,
                offset=one.offset,
                leader_epoch=one.leader_epoch,
                metadata=one.metadata,
            )
            for one in group.positions
        ),
    )

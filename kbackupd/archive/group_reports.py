"""What is told of consumer groups at an instant, as values for people and programs; members are only ever added."""

from __future__ import annotations

from dataclasses import dataclass

from kbackupd.archive.catalog import DamagedObject
from kbackupd.archive.coordinator_items import LostRange
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import NEVER_MS, ReadOutcome

LOG, SNAPSHOT, BOTH = "log", "snapshot", "log and snapshot"
"""Who tells."""


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
    committed_ms: int = NEVER_MS
    """By the coordinator's clock; −1: a snapshot does not tell."""
    certain: bool = True
    """False: a newer word on it may be among what the log has lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """Its positions were true at a moment within [sent_ms, answered_ms].

    With an outcome that is not `ok` they are older than the snapshot: as of `answered_ms`, −1 for never.
    """

    group_id: str
    type: str
    protocol_type: str
    state: str
    """Empty: not known."""
    coordinator: int
    """−1: not known."""
    members: int
    """−1: not known."""
    outcome: ReadOutcome
    cause: str
    sent_ms: int
    answered_ms: int
    positions: tuple[PositionReport, ...]
    source: str = SNAPSHOT
    """`log` or `snapshot`."""
    as_of_ms: int = NEVER_MS
    """What was committed by then is in; by how much that is before the instant asked for, is the resolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorReport:
    node_id: int
    outcome: ReadOutcome
    cause: str
    answered_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPartitionReport:
    """How far one partition of `__consumer_offsets` went at the instant; −1 where no leader had answered by then."""

    partition: int
    next_offset: int
    sent_ms: int
    answered_ms: int
    held_until_ms: int
    """Nothing came up to then."""
    lost: tuple[LostRange, ...]
    unreadable: int
    """Records that this version cannot read."""
    base: str = ""
    """Key of the snapshot from which on the log was read; empty: from its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    topic_id: TopicId
    complete: bool
    """Every partition had been heard of by the instant, and nothing below its cut is lost."""
    as_of_ms: int
    """What was committed by then is in, in every partition that had been heard of."""
    partitions: tuple[LogPartitionReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsReport:
    """What `kbackupd groups --format json` prints."""

    backup_id: str
    at_ms: int | None
    """What was asked for; None: the newest."""
    taken_ms: int
    """When the snapshot was taken that was the last one by then; −1: there is none."""
    snapshot: str
    """Its key; empty: there is none."""
    complete: bool
    """Of all groups, whichever are shown, nothing is lost or hidden."""
    lists_all: bool
    """As far as the snapshot goes: brokers leave out groups that the backup may not describe."""
    coordinators: tuple[CoordinatorReport, ...]
    groups: tuple[GroupReport, ...]
    damaged: tuple[DamagedObject, ...]
    """Newer snapshots that could not be trusted."""
    source: str = SNAPSHOT
    """`log`, `snapshot`, or `log and snapshot` where some groups are told by the one and some by the other."""
    as_of_ms: int = NEVER_MS
    """The least of the groups'."""
    log: LogReport | None = None
    """None: `__consumer_offsets` was not captured by then."""

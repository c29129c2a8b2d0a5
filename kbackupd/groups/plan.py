"""A plan to move consumer groups: what people review, and exactly what is executed (docs/offset-reset.md).

Pure. A position is the next offset to be read. A row says where its group stands in the target and where it shall, None
for "has no position". The plan names the cluster, the topics by their ids and its own digest, so that it fits one
cluster in one state and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from kbackupd.model.offset_map import Exactness

PLAN_FORMAT = 1


class PlanKind(StrEnum):
    PLAN = "offset-plan"
    ROLLBACK = "offset-rollback"
    """What was before a plan was executed."""


class Strategy(StrEnum):
    """Where new positions come from."""

    TIMESTAMP = "timestamp"
    OFFSET = "offset"
    GROUP = "group"
    CLUSTER_SCAN = "cluster-scan"
    MANUAL = "manual"


class Position(NamedTuple):
    """What a group has committed for a partition; two that differ in anything are different."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPosition:
    """One row: a group's position in one partition of the target."""

    group: str
    topic: str
    partition: int
    current_offset: int | None
    """None: it has none."""
    new_offset: int | None
    """None: it shall have none."""
    exactness: Exactness
    reason: str
    source_topic: str | None = None
    source_partition: int | None = None
    source_offset: int | None = None
    current_leader_epoch: int = -1
    current_metadata: str = ""
    new_leader_epoch: int = -1
    new_metadata: str = ""

    @property
    def current(self) -> Position | None:
        if self.current_offset is None:
            return None
        return Position(self.current_offset, self.current_leader_epoch, self.current_metadata)

    @property
    def new(self) -> Position | None:
        if self.new_offset is None:
            return None
        return Position(self.new_offset, self.new_leader_epoch, self.new_metadata)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.group, self.topic, self.partition

    @property
    def changes(self) -> bool:
        return self.current != self.new


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPlanned:
    """A position that was asked for and for which nothing could be worked out."""

    group: str
    topic: str
    partition: int
    source_offset: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A topic of the source that was not restored, and how many positions groups had in it."""

    topic: str
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTopicId:
    """A topic of the target as it was when the plan was made."""

    topic: str
    topic_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArchive:
    """The archive that source positions are of."""

    location: str
    backup_id: str
    archive_id: str
    source_cluster_id: str
    at_ms: int | None = None
    """The instant that was asked for; None: the newest."""
    positions_ms: int | None = None
    """When the snapshot was taken that the positions are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPlan:
    format: int
    kind: PlanKind
    strategy: Strategy
    made_ms: int
    target_cluster_id: str
    archive: PlanArchive | None
    offset_map: str | None
    """Digest of the map that was used."""
    timestamp_ms: int | None
    undoes: str | None
    """Of a rollback: the digest of the plan that was executed."""
    topics: tuple[TargetTopicId, ...]
    partitions: tuple[PlannedPosition, ...]
    """By group, topic, partition."""
    not_planned: tuple[NotPlanned, ...]
    left_out: tuple[LeftOut, ...]
    """Topics that the restore did not bring: not selected, not in the archive, or internal."""
    absent_groups: tuple[str, ...]
    """Groups of the plan that the target did not have."""
    digest: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.group for row in self.partitions))

    @property
    def changes(self) -> int:
        return sum(row.changes for row in self.partitions)

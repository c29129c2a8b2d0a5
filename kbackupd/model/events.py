"""The ledger's events: what happened to a topic or a partition that its bytes cannot say (invariant I6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kbackupd.model.positions import PartitionId, TopicId


class GapCause(StrEnum):
    LOG_START_MOVED = "log_start_moved"
    """Retention or DeleteRecords removed the records before they were fetched."""
    TRUNCATED = "truncated"
    """An election removed them from the source's log."""
    TOPIC_DELETED = "topic_deleted"
    CORRUPT_AT_SOURCE = "corrupt_at_source"
    EXCLUDED = "excluded"
    """Configuration said so (`start: latest`, or the topic was not included then)."""


GAP_MEANING: Mapping[GapCause, str] = {
    GapCause.LOG_START_MOVED: "the source deleted these records (retention, DeleteRecords) before they were captured",
    GapCause.TRUNCATED: "an election removed these records from the source's log before they were captured",
    GapCause.TOPIC_DELETED: "the topic was deleted before these records were captured",
    GapCause.CORRUPT_AT_SOURCE: "the source served damaged bytes; they are in the archive as they came, not as records",
    GapCause.EXCLUDED: "configuration kept these records out of the backup",
}
"""For people, of offsets that are not in the archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSeen:
    """A topic incarnation as metadata and DescribeConfigs showed it; again whenever that changed."""

    topic_id: TopicId
    name: str
    partitions: int
    internal: bool
    at_ms: int
    configs: dict[str, str] = field(default_factory=dict)
    previous: TopicId | None = None
    """The incarnation of the same name that this one replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDeleted:
    topic_id: TopicId
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicExcluded:
    """A topic known to the archive is no longer captured because configuration says so."""

    topic_id: TopicId
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSeen:
    """Coverage of the partition begins at `first_offset`; recorded for empty partitions too."""

    id: PartitionId
    first_offset: int
    log_start_offset: int
    high_watermark: int
    leader_epoch: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Offsets `[first_offset, next_offset)` of a branch are not in the archive, and why."""

    id: PartitionId
    branch: int
    first_offset: int
    next_offset: int
    cause: GapCause
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """The source's log was cut at `offset`; what follows is captured on `branch`, the old tail stays on `parent`."""

    id: PartitionId
    branch: int
    parent: int
    offset: int
    leader_epoch: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """An operator paused (or resumed) the topics that `topics` (a glob) matches."""

    topics: str
    paused: bool
    at_ms: int


LedgerEvent = TopicSeen | TopicDeleted | TopicExcluded | PartitionSeen | Gap | Truncated | Paused


def topic_of(event: LedgerEvent) -> TopicId | None:
    """The topic incarnation an event is about; None for a pause, which is about names."""
    match event:
        case TopicSeen() | TopicDeleted() | TopicExcluded():
            return event.topic_id
        case PartitionSeen() | Gap() | Truncated():
            return event.id.topic_id
        case Paused():
            return None

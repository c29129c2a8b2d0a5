"""What the cluster beside its records was like at an instant: from snapshots, and from the ledger's topic events.

The ledger tells the configuration of every topic that is backed up, at each change; snapshots tell it of all topics,
and what was hidden. Of the two the newer counts, per incarnation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kbackupd.archive.archive import Archive
from kbackupd.archive.catalog import DamagedObject
from kbackupd.archive.segments import CatalogSegment
from kbackupd.archive.snapshots import snapshot_among
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.model.events import TopicDeleted, TopicSeen
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import NEVER_MS, ClusterContent, GroupsContent, ReadOutcome, Snapshot, TopicState
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    taken_ms: int
    groups: int
    positions: int
    not_read: int
    """Groups that were hidden, or whose coordinator did not answer, when this was taken: as they were before."""
    lists_all: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDescription:
    """Brokers, ACLs or quotas; with `answered_ms` −1 nothing is known of it, and `count` means nothing."""

    name: str
    count: int
    answered_ms: int
    outcome: ReadOutcome
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfiguration:
    name: str
    topic_id: TopicId
    partitions: int
    configs: Mapping[str, str]
    as_of_ms: int | None
    """When this was known to be so; None: it never was."""
    outcome: ReadOutcome
    cause: str
    backed_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDescription:
    at_ms: int | None
    """None: the newest state."""
    groups: GroupCounts | None
    cluster_taken_ms: int | None
    parts: tuple[PartDescription, ...]
    topics: tuple[TopicConfiguration, ...]
    damaged: tuple[DamagedObject, ...]


async def state_at(archive: Archive, store: ObjectStore, at_ms: int | None) -> StateDescription:
    """The state at `at_ms` (None: the newest); reads two objects as a rule, `archive` has listed them.

    Args:
        store: the path that `archive` was opened under.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    document = archive.document
    scoped = ScopedStore(store, document.backup_id)
    listed = [info.key for info in archive.catalog.objects]
    groups = await snapshot_among(scoped, GROUPS_FORMAT, listed, at_ms, document.identity)
    cluster = await snapshot_among(scoped, CLUSTER_FORMAT, listed, at_ms, document.identity)
    content = cluster.snapshot.content if cluster.snapshot else None
    return StateDescription(
        at_ms=at_ms,
        groups=_group_counts(groups.snapshot) if groups.snapshot else None,
        cluster_taken_ms=cluster.snapshot.taken_ms if cluster.snapshot else None,
        parts=_parts(content) if content else (),
        topics=topic_configurations(archive.catalog.segments, content, at_ms),
        damaged=(*groups.damaged, *cluster.damaged),
    )


def _group_counts(snapshot: Snapshot[GroupsContent]) -> GroupCounts:
    content = snapshot.content
    return GroupCounts(
        taken_ms=snapshot.taken_ms,
        groups=len(content.groups),
        positions=sum(len(one.positions) for one in content.groups),
        not_read=sum(one.part.outcome is not ReadOutcome.OK for one in content.groups),
        lists_all=content.lists_all,
    )


def _parts(content: ClusterContent) -> tuple[PartDescription, ...]:
    return tuple(
        PartDescription(name=name, count=count, answered_ms=part.answered_ms, outcome=part.outcome, cause=part.cause)
        for name, count, part in (
            ("brokers", len(content.brokers), content.brokers_part),
            ("ACLs", len(content.acls), content.acls_part),
            ("quotas", len(content.quotas), content.quotas_part),
        )
    )


def topic_configurations(
    segments: Iterable[CatalogSegment], content: ClusterContent | None, at_ms: int | None
) -> tuple[TopicConfiguration, ...]:
    """Topics that were there at `at_ms`, by name, each with its configuration as of then."""
    told, deleted = _ledger_at(segments, at_ms)
    captured = {topic.topic_id: topic for topic in content.topics} if content else {}
    found = [_configuration(told.get(id), captured.get(id)) for id in {*told, *captured} - deleted]
    return tuple(sorted(found, key=lambda one: (one.name, one.topic_id)))


def _ledger_at(
    segments: Iterable[CatalogSegment], at_ms: int | None
) -> tuple[dict[TopicId, TopicSeen], frozenset[TopicId]]:
    """The last word of the ledger on each topic up to `at_ms`, and which topics it had seen go."""
    told: dict[TopicId, TopicSeen] = {}
    deleted: set[TopicId] = set()
    for segment in segments:
        for event in segment.footer.events:
            match event:
                case TopicSeen() if at_ms is None or event.at_ms <= at_ms:
                    told[event.topic_id] = event
                    deleted.discard(event.topic_id)
                case TopicDeleted() if at_ms is None or event.at_ms <= at_ms:
                    deleted.add(event.topic_id)
                case _:
                    pass
    return told, frozenset(deleted)


def _configuration(told: TopicSeen | None, captured: TopicState | None) -> TopicConfiguration:
    if captured is None or (told is not None and told.at_ms > captured.part.answered_ms != NEVER_MS):
        assert told is not None
        return TopicConfiguration(
            name=told.name,
            topic_id=told.topic_id,
            partitions=told.partitions,
            configs=told.configs,
            as_of_ms=told.at_ms,
            outcome=ReadOutcome.OK,
            cause="",
            backed_up=True,
        )
    # Where no snapshot was ever told it, an empty configuration in the ledger means "hidden", not "none".
    never = captured.part.answered_ms == NEVER_MS
    earlier = told if never and told is not None and told.configs else None
    return TopicConfiguration(
        name=captured.name,
        topic_id=captured.topic_id,
        partitions=captured.partitions,
        configs=earlier.configs if earlier else captured.configs,
        as_of_ms=earlier.at_ms if earlier else None if never else captured.part.answered_ms,
        outcome=captured.part.outcome,
        cause=captured.part.cause,
        backed_up=told is not None,
    )

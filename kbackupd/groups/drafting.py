"""New positions by each strategy that rests on an archive: asks archive and target; `strategies` decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kbackupd.archive.archive import Archive
from kbackupd.archive.snapshots import archive_document
from kbackupd.groups.cluster_scan import ClusterScan, Sought, SourceRecords
from kbackupd.groups.coordinators import Coordinators
from kbackupd.groups.history import ArchivedPositions, positions_at
from kbackupd.groups.plan import NotPlanned, PlanArchive
from kbackupd.groups.planning import selects
from kbackupd.groups.request import PlanRequest
from kbackupd.groups.state import TargetTopic
from kbackupd.groups.strategies import Drafts, SourcePosition, as_found, at_timestamp, through_map
from kbackupd.groups.target import TargetLogs, groups_in_target, refuse_untold
from kbackupd.groups.target_records import TargetRecords
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import IncompleteError, RefusedError, UsageError
from kbackupd.model.offset_map import OffsetMapDocument
from kbackupd.model.settings import SYSTEM_TOPICS, RestoreSettings
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore


@dataclass(slots=True, kw_only=True)
class Drafting:
    """What the strategies decide from, and what they find out on the way."""

    request: PlanRequest
    settings: RestoreSettings
    store: ObjectStore
    connection: KafkaConnection
    coordinators: Coordinators
    list_groups: Callable[[], Awaitable[Sequence[str]]]
    source_records: Callable[[Archive], SourceRecords]
    cluster_id: str
    topics: Mapping[str, TargetTopic]
    notes: list[str] = field(default_factory=list)
    archive: PlanArchive | None = None

    _targets: dict[str, str | None] = field(default_factory=dict)
    """By source topic: positions are many, topics few."""
    _restored: dict[str, bool] = field(default_factory=dict)

    def target_of(self, topic: str) -> str | None:
        """As the map says, else as the configuration does."""
        if topic not in self._targets:
            document = self.request.offset_map
            mapped = document.topic(topic) if document else None
            self._targets[topic] = mapped.target if mapped else self.settings.options.target_of(topic)
        return self._targets[topic]

    def restores_into(self, target_topic: str) -> bool:
        """Whether the restore may bring something there; where it names no topics, to every one but internal ones."""
        if target_topic not in self._restored:
            options, document = self.settings.options, self.request.offset_map
            self._restored[target_topic] = target_topic not in SYSTEM_TOPICS and (
                options.may_make(target_topic)
                or any(topic.target == target_topic for topic in (document.topics if document else ()))
            )
        return self._restored[target_topic]

    def wants(self, target_topic: str) -> bool:
        return selects(self.request.topics, target_topic)


async def identify(drafting: Drafting) -> None:
    """Which archive it is, and that the offset map is of it and of this target."""
    source = drafting.settings.source
    document = await archive_document(drafting.store, source.backup_id)
    identity = document.identity
    drafting.archive = PlanArchive(
        location=ScopedStore(drafting.store, source.backup_id).location,
        backup_id=identity.backup_id,
        archive_id=identity.archive_id,
        source_cluster_id=identity.cluster_id,
        at_ms=drafting.request.at_ms,
    )
    offset_map = drafting.request.offset_map
    if offset_map is None:
        return
    if offset_map.archive_id != identity.archive_id:
        raise RefusedError(
            f"the offset map is of archive {offset_map.archive_id} ({offset_map.archive}), the configuration's is "
            f"{identity.archive_id}",
            hint="use the map that the restore from this archive wrote",
        )
    if offset_map.target_cluster_id != drafting.cluster_id:
        raise RefusedError(
            f"the offset map is of a restore into cluster {offset_map.target_cluster_id}, the target is "
            f"{drafting.cluster_id}",
            hint="use the map that the restore into this cluster wrote",
        )
    for topic in offset_map.topics:
        there = drafting.topics.get(topic.target)
        if there is not None and drafting.wants(topic.target) and there.topic_id != topic.target_topic_id:
            raise RefusedError(
                f"topic {topic.target} was deleted and made anew since it was restored: the map does not fit it",
                hint="use the map of the restore that made the present topic, or leave the topic out with --topic",
            )


async def _archived(drafting: Drafting) -> ArchivedPositions:
    request = drafting.request
    found = await positions_at(
        drafting.store,
        drafting.settings.source.backup_id,
        request.at_ms,
        request.groups,
        pinned=request.pinned,
        decided=request.decided,
    )
    drafting.notes += found.notes
    assert drafting.archive is not None
    drafting.archive = replace(drafting.archive, positions_ms=found.as_of_ms)
    kept = tuple(
        position
        for position in found.positions
        if (target := drafting.target_of(position.topic)) is None or drafting.wants(target)
    )
    return replace(found, positions=kept)


def _offset_map(request: PlanRequest) -> OffsetMapDocument:
    if request.offset_map is None:
        raise UsageError(
            f"--strategy {request.strategy} needs the restore's offset map: --offset-map FILE",
            hint="kbackupd restore --offset-map FILE writes it; without one: --strategy cluster-scan",
        )
    return request.offset_map


async def by_group(drafting: Drafting) -> Drafts:
    document = _offset_map(drafting.request)
    archived = await _archived(drafting)
    _miss_none(drafting, {position.group for position in archived.positions} | _groups_of(archived.unknown))
    drafts = through_map(archived.positions, document)
    drafts.not_planned += archived.unknown
    return drafts


def _groups_of(rows: Iterable[NotPlanned]) -> set[str]:
    return {row.group for row in rows}


def _miss_none(drafting: Drafting, known: set[str]) -> None:
    """A group that was named and is not in the archive is a mistake, not an empty plan (hazard 12)."""
    missing = [name for name in drafting.request.named_groups if name not in known]
    if missing:
        raise UsageError(
            f"group {missing[0]!r} has no position in the archive then",
            hint="kbackupd groups --at TIME shows which groups it has, and where they stood",
        )


async def by_offset(drafting: Drafting) -> Drafts:
    request, document = drafting.request, _offset_map(drafting.request)
    if (request.offset is None) == (not request.given):
        raise UsageError(
            "--strategy offset needs source offsets: either --offset N for all partitions, or --positions FILE",
            hint="they are offsets of the source cluster; to give those of the target: --strategy manual",
        )
    positions: list[SourcePosition] = []
    if request.offset is not None:
        sources = {topic.target: topic for topic in document.topics}
        for group, partitions in (await _wanted(drafting)).items():
            for tp in partitions:
                topic = sources.get(tp.topic)
                one = next((p for p in topic.partitions if p.target_partition == tp.partition), None) if topic else None
                if topic is not None and one is not None:
                    positions.append(
                        SourcePosition(
                            group=group,
                            topic=topic.source,
                            partition=one.source_partition,
                            offset=request.offset,
                            topic_id=topic.topic_id,
                        )
                    )
        return through_map(positions, document)
    groups = await _selected_groups(drafting) if any(row.group is None for row in request.given) else []
    for row in request.given:
        if row.offset is None:
            raise UsageError(f"{row.topic}/{row.partition}: no offset; to delete a position: --strategy manual")
        positions += [
            SourcePosition(group=group, topic=row.topic, partition=row.partition, offset=row.offset)
            for group in ([row.group] if row.group is not None else groups)
            if selects(request.groups, group)
        ]
    return through_map(positions, document)


async def by_timestamp(drafting: Drafting) -> Drafts:
    timestamp_ms = drafting.request.timestamp_ms
    if timestamp_ms is None:
        raise UsageError("--strategy timestamp needs --timestamp TIME", hint="ISO 8601 or epoch milliseconds")
    wanted = await _wanted(drafting)
    partitions = sorted({tp for tps in wanted.values() for tp in tps})
    logs = TargetLogs(drafting.connection)
    found = await logs.offsets(dict.fromkeys(partitions, timestamp_ms))
    return at_timestamp(wanted, found, await logs.ranges(partitions), timestamp_ms)


async def by_scan(drafting: Drafting) -> Drafts:
    archived = await _archived(drafting)
    _miss_none(drafting, {position.group for position in archived.positions} | _groups_of(archived.unknown))
    archive = await Archive.open(
        drafting.store,
        drafting.settings.source.backup_id,
        wanted=lambda name: drafting.settings.options.target_of(name) is not None,
    )
    newest = archive.newest()
    drafts = Drafts(not_planned=list(archived.unknown))
    sought: list[Sought] = []
    positions: list[SourcePosition] = []
    for position in archived.positions:
        target = drafting.target_of(position.topic)
        topic = newest.get(position.topic)
        if target is None or topic is None or topic.internal:
            drafts.left_out[position.topic] += 1
            continue
        there = drafting.topics.get(target)
        if position.partition >= topic.partitions:
            drafts.refuse(position, "the archive does not have the partition")
        elif position.topic_id not in (None, topic.topic_id):
            drafts.refuse(position, "the position is of another incarnation of the topic than the newest")
        elif there is None or position.partition not in there.leaders:
            drafts.refuse(position, f"the target has no partition {position.partition} of {target}")
        else:
            positions.append(position)
            sought.append(
                Sought(
                    id=topic.partition_ids[position.partition],
                    topic=position.topic,
                    partition=position.partition,
                    offset=position.offset,
                    target=TopicPartition(target, position.partition),
                )
            )
    scan = ClusterScan(
        drafting.source_records(archive), TargetLogs(drafting.connection), lambda: TargetRecords(drafting.connection)
    )
    found = as_found(positions, await scan.find(sought), drafting.target_of)
    drafts.planned += found.planned
    drafts.not_planned += found.not_planned
    drafts.left_out += found.left_out
    return drafts


async def _selected_groups(drafting: Drafting) -> list[str]:
    """The groups that are named, and those that archive or target know and the globs match."""
    known = set(drafting.request.named_groups) | {
        id for id in await drafting.list_groups() if selects(drafting.request.groups, id)
    }
    return sorted(known | {position.group for position in (await _archived_if_any(drafting)).positions})


async def _archived_if_any(drafting: Drafting) -> ArchivedPositions:
    try:
        return await _archived(drafting)
    except IncompleteError as error:
        drafting.notes.append(f"{error.message}: only groups that the target has are considered")
        return ArchivedPositions(as_of_ms=0, positions=(), unknown=(), notes=())


async def _wanted(drafting: Drafting) -> dict[str, list[TopicPartition]]:
    """Group → every partition of every restored topic it has a position in, in the archive or in the target.

    A group that is named and has none anywhere gets the topics of `--topic`.
    """
    request = drafting.request
    archived = await _archived_if_any(drafting)
    topics: dict[str, set[str]] = {name: set() for name in request.named_groups}
    for position in archived.positions:
        target = drafting.target_of(position.topic)
        if target is not None and drafting.restores_into(target):
            topics.setdefault(position.group, set()).add(target)
    there = {id for id in await drafting.list_groups() if selects(request.groups, id)} | set(topics)
    groups = await groups_in_target(drafting.coordinators, there)
    refuse_untold(groups)
    for id, group in groups.items():
        names = {tp.topic for tp in group.positions if drafting.restores_into(tp.topic)}
        if names:
            topics.setdefault(id, set()).update(names)
    wanted: dict[str, list[TopicPartition]] = {}
    for id, names in topics.items():
        if not names:
            if not request.topics:
                raise UsageError(
                    f"group {id!r} has no position in the archive or the target: which topics is it to read?",
                    hint="name them: --topic GLOB",
                )
            names = set(drafting.topics)
        wanted[id] = [
            TopicPartition(name, partition)
            for name in sorted(names)
            if name in drafting.topics and drafting.wants(name)
            for partition in sorted(drafting.topics[name].leaders)
        ]
    return wanted

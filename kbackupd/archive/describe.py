"""What an archive holds, as values for people and programs; nothing but footers and roll-ups is needed.

Pure, but for `describe_stored`, which reads, and `archives_under`, which lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.history import GapSpan, PartitionEvidence, PartitionHistory, build_history
from kbackupd.archive.segments import nothing
from kbackupd.archive.state import StateDescription
from kbackupd.archive.sums import SummedPartition, read_sums, rows_of
from kbackupd.format import documents, keys
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.positions import OffsetRange, TopicId
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionDescription:
    partition: int
    branch: int
    branches: tuple[int, ...]
    first_offset: int
    next_offset: int
    records: int
    """By the headers of the runs that are read; with `estimated`, runs that are read in part count whole."""
    batches: int
    estimated: bool
    stored_bytes: int
    raw_bytes: int
    """As the broker served them."""
    first_captured_ms: int | None
    last_captured_ms: int | None
    max_timestamp_ms: int | None
    high_watermark: int | None
    """At the last sample; None if there is none."""
    open_transactions: int
    gaps: tuple[GapSpan, ...]
    holes: tuple[OffsetRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    name: str
    topic_id: TopicId
    newest: bool
    """No later incarnation of the same name is known."""
    internal: bool
    first_seen_ms: int
    deleted_ms: int | None
    excluded_ms: int | None
    previous: TopicId | None
    configs: Mapping[str, str]
    records: int
    stored_bytes: int
    raw_bytes: int
    partitions: tuple[PartitionDescription, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterDescription:
    writer: str
    epochs: int
    """Highest writer epoch: how often it was started."""
    segments: int
    stored_bytes: int
    checkpoints: int
    last_sealed_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedDescription:
    object: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveDescription:
    location: str
    backup_id: str
    archive_id: str
    cluster_id: str
    created_ms: int
    start: str
    segments: int
    stored_bytes: int
    """Of segments, footers included."""
    writers: tuple[WriterDescription, ...]
    topics: tuple[TopicDescription, ...]
    damaged: tuple[DamagedDescription, ...]
    state: StateDescription | None = None
    """Configuration and groups, newest or at an instant; None where nobody asked the snapshots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSummary:
    """One archive below a path, by its listing and its `backup.json`."""

    backup_id: str
    archive_id: str | None
    cluster_id: str | None
    created_ms: int | None
    objects: int
    stored_bytes: int
    writers: tuple[str, ...]
    last_sealed_ms: int | None
    problem: str | None
    """Why `backup.json` could not be read; None if it could."""


def describe(archive: Archive) -> ArchiveDescription:
    """Everything that footers say, per topic incarnation and partition on its newest branch."""
    partitions = {
        topic.topic_id: tuple(_partition(archive.history(id)) for id in topic.partition_ids) for topic in archive.topics
    }
    return _description(archive, partitions)


async def describe_stored(store: ObjectStore, backup_id: str) -> tuple[Archive, ArchiveDescription]:
    """The same of the archive `backup_id` under `store`, from sums wherever these tell all; and the archive itself.

    Of a partition whose log was never cut, nor captured twice, nor left with transactions open, roll-ups hold sums of
    its runs; of the others the rows are read, some topics at a time. Memory does not grow with the rows of the rest.

    Raises:
        KbackupError: as `Archive.open`.
    """
    damaged: dict[str, CorruptObjectError] = {}
    while True:
        archive = await Archive.open(store, backup_id, wanted=nothing, summing_up=True, distrusted=damaged)
        try:
            return archive, _description(archive, await _summed_up(ScopedStore(store, backup_id), archive))
        except CorruptObjectError as error:
            if keys.parse_rollup_key(error.key) is None:
                raise
            damaged[error.key] = error  # again without it


ROWS_AT_ONCE = 200_000
"""Runs of partitions that no sums can tell of, read together: some 150 MB."""


async def _summed_up(store: ObjectStore, archive: Archive) -> Mapping[TopicId, tuple[PartitionDescription, ...]]:
    sums = await read_sums(store, archive.catalog)
    found: dict[TopicId, tuple[PartitionDescription, ...]] = {}
    waiting: list[ArchivedTopic] = []
    rows = 0

    async def tell() -> None:
        evidence = await rows_of(store, archive.catalog, {topic.topic_id for topic in waiting})
        for topic in waiting:
            histories = (build_history(evidence.get(id) or PartitionEvidence(id=id)) for id in topic.partition_ids)
            found[topic.topic_id] = tuple(map(_partition, histories))
        waiting.clear()

    for topic in archive.topics:
        summed = [sums.partition(id) for id in topic.partition_ids]
        if all(one is not None for one in summed):
            found[topic.topic_id] = tuple(_summed(one) for one in summed if one is not None)
            continue
        waiting.append(topic)
        rows += sums.runs(topic.topic_id)
        if rows >= ROWS_AT_ONCE:
            await tell()
            rows = 0
    await tell()
    return found


def _summed(one: SummedPartition) -> PartitionDescription:
    return replace(
        _partition(one.history),
        first_captured_ms=one.first_captured_ms,
        last_captured_ms=one.last_captured_ms,
    )


def _description(
    archive: Archive, partitions: Mapping[TopicId, tuple[PartitionDescription, ...]]
) -> ArchiveDescription:
    newest = {topic.topic_id for topic in archive.newest().values()}
    return ArchiveDescription(
        location=archive.location,
        backup_id=archive.document.backup_id,
        archive_id=archive.document.archive_id,
        cluster_id=archive.document.cluster_id,
        created_ms=archive.document.created_ms,
        start=archive.document.start,
        segments=archive.catalog.readable,
        stored_bytes=archive.catalog.readable_bytes,
        writers=_writers(archive),
        topics=tuple(_topic(topic, topic.topic_id in newest, partitions[topic.topic_id]) for topic in archive.topics),
        damaged=(
            *(DamagedDescription(object=one.key, reason=one.reason) for one in archive.damaged),
            *(
                DamagedDescription(object=one.key, reason=f"{one.reason} (what it sums up was read instead)")
                for one in archive.catalog.damaged_rollups
            ),
        ),
    )


def _writers(archive: Archive) -> tuple[WriterDescription, ...]:
    found: dict[str, WriterDescription] = {}

    def add(writer: str, epoch: int, *, segments: int = 0, size: int = 0, checkpoints: int = 0, at_ms: int = 0) -> None:
        held = found.get(writer)
        last_ms = max(held.last_sealed_ms or 0 if held else 0, at_ms)
        found[writer] = WriterDescription(
            writer=writer,
            epochs=max(held.epochs if held else 0, epoch),
            segments=(held.segments if held else 0) + segments,
            stored_bytes=(held.stored_bytes if held else 0) + size,
            checkpoints=(held.checkpoints if held else 0) + checkpoints,
            last_sealed_ms=last_ms or None,
        )

    for info in archive.catalog.objects:
        if claim := keys.parse_claim_key(info.key):
            add(claim.writer, claim.writer_epoch)
        elif segment := keys.parse_segment_key(info.key):
            add(segment.writer, segment.writer_epoch, segments=1, size=info.size_bytes, at_ms=segment.sealed_ms)
        elif checkpoint := keys.parse_checkpoint_key(info.key):
            add(checkpoint.writer, checkpoint.writer_epoch, checkpoints=1)
    return tuple(found[writer] for writer in sorted(found))


def _topic(topic: ArchivedTopic, newest: bool, partitions: tuple[PartitionDescription, ...]) -> TopicDescription:
    return TopicDescription(
        name=topic.name,
        topic_id=topic.topic_id,
        newest=newest,
        internal=topic.internal,
        first_seen_ms=topic.first_seen_ms,
        deleted_ms=topic.deleted_ms,
        excluded_ms=topic.excluded_ms,
        previous=topic.previous,
        configs=topic.configs,
        records=sum(one.records for one in partitions),
        stored_bytes=sum(one.stored_bytes for one in partitions),
        raw_bytes=sum(one.raw_bytes for one in partitions),
        partitions=partitions,
    )


def _partition(history: PartitionHistory) -> PartitionDescription:
    read = {(one.sources[0].ref.key, one.run.position): one.run for one in history.slices}
    runs = list(read.values())
    whole = len(runs) == len(history.slices) and all(
        one.first_offset <= max(one.run.first_offset, one.run.asked_offset)
        and one.next_offset == one.run.next_offset
        and len(one.sources) == 1
        for one in history.slices
    )
    sample = history.last_sample
    return PartitionDescription(
        partition=history.id.partition,
        branch=history.branch,
        branches=history.branches,
        first_offset=history.first_offset,
        next_offset=history.next_offset,
        records=sum(run.records for run in runs),
        batches=sum(run.batches for run in runs),
        estimated=not whole,
        stored_bytes=sum(run.stored_bytes for run in runs),
        raw_bytes=sum(run.raw_bytes for run in runs),
        first_captured_ms=min((run.captured_ms for run in runs), default=None),
        last_captured_ms=max((run.captured_ms for run in runs), default=None),
        max_timestamp_ms=max((run.max_timestamp_ms for run in runs), default=None),
        high_watermark=sample.high_watermark if sample else None,
        open_transactions=len(history.open_transactions),
        gaps=history.gaps,
        holes=history.holes,
    )


@dataclass(slots=True)
class _Listed:
    objects: int = 0
    stored_bytes: int = 0
    headed: bool = False
    last_sealed_ms: int | None = None


async def archives_under(store: ObjectStore) -> tuple[ArchiveSummary, ...]:
    """The archives below a path: every directory with a `backup.json` or with objects that look like an archive's.

    Raises:
        KbackupError: the store could not be read for certain.
    """
    listed: dict[str, _Listed] = {}
    writers: dict[str, set[str]] = {}
    async for info in store.list_from(""):
        backup_id, slash, key = info.key.partition("/")
        if not slash:
            continue
        one = listed.setdefault(backup_id, _Listed())
        one.objects += 1
        one.stored_bytes += info.size_bytes
        one.headed |= key == keys.BACKUP_KEY
        claim, segment = keys.parse_claim_key(key), keys.parse_segment_key(key)
        if claim is not None:
            writers.setdefault(backup_id, set()).add(claim.writer)
        if segment is not None:
            one.last_sealed_ms = max(one.last_sealed_ms or 0, segment.sealed_ms)
            writers.setdefault(backup_id, set()).add(segment.writer)
    found = []
    for backup_id, one in sorted(listed.items()):
        if one.headed or backup_id in writers:
            found.append(await _summary(store, backup_id, one, tuple(sorted(writers.get(backup_id, ())))))
    return tuple(found)


async def _summary(store: ObjectStore, backup_id: str, one: _Listed, writers: tuple[str, ...]) -> ArchiveSummary:
    document, problem = None, None
    try:
        document = documents.decode_backup(await store.get(f"{backup_id}/{keys.BACKUP_KEY}"))
    except ObjectMissingError:
        problem = f"{keys.BACKUP_KEY} is missing"
    except (CorruptObjectError, UnsupportedFormatError) as error:
        problem = error.message
    return ArchiveSummary(
        backup_id=backup_id,
        archive_id=document.archive_id if document else None,
        cluster_id=document.cluster_id if document else None,
        created_ms=document.created_ms if document else None,
        objects=one.objects,
        stored_bytes=one.stored_bytes,
        writers=writers,
        last_sealed_ms=one.last_sealed_ms,
        problem=problem,
    )

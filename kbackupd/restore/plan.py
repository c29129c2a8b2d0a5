"""What a restore will do, worked out before anything is touched: from an opened archive and the options to a plan.

Pure. The plan pins the archive (per writer and epoch, up to which sequence) and says topic by topic what is created,
which offsets come from where, what is known to be missing and what that means. `--dry-run` prints exactly what is
executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.history import PartitionEvidence, PartitionHistory
from kbackupd.model.errors import UsageError
from kbackupd.model.events import GAP_MEANING, GapCause
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.segment import Run, RunFlag
from kbackupd.model.settings import RestoreSettings, RetentionAfter
from kbackupd.restore.visibility import Outcomes, Visibility

PLAN_FORMAT = 1

NEVER_SEEN = "it existed at the source and was never looked into: it had no leader, or the daemon was killed too soon"
HOLE_MEANING = "no segment holds these offsets and nothing explains why: kbackupd validate tells more"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedEpoch:
    """The archive as the plan saw it: of this writer epoch, the segments with these sequences."""

    writer: str
    writer_epoch: int
    sequences: tuple[tuple[int, int], ...]
    """Half-open ranges; what lies between them was not there, or could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotInArchive:
    """Offsets that cannot be restored: a gap with its cause, or a hole (`cause` None); an empty range: nobody knows."""

    offsets: OffsetRange
    cause: GapCause | None
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTransaction:
    """A transaction without a marker in the archive, and what happens to its records."""

    producer_id: int
    producer_epoch: int
    first_offset: int
    outcome: Visibility
    restored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    partition: int
    branch: int
    offsets: OffsetRange
    """Coverage on that branch: what is in the archive, less `not_in_archive`."""
    runs: int
    """Reads from the store, at most."""
    batches: int
    records: int
    """By the headers of the runs read: markers, aborted records and overlaps included, so an upper bound."""
    download_bytes: int
    raw_bytes: int
    """After the archive's own compression: what is read through."""
    largest_read_bytes: int
    """Stored and raw bytes of the largest single run."""
    largest_batch_bytes: int
    log_append_time: bool
    legacy: bool
    not_in_archive: tuple[NotInArchive, ...]
    open_transactions: tuple[PlannedTransaction, ...]

    @property
    def is_empty(self) -> bool:
        return self.batches == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    source: str
    target: str
    topic_id: TopicId
    deleted_at_source_ms: int | None
    earlier_incarnations: tuple[TopicId, ...]
    """Of the same name, in the archive and not restored."""
    configs: dict[str, str]
    """Recorded overrides, applied last as far as `retention_after` allows."""
    partitions: tuple[PartitionPlan, ...]

    @property
    def largest_batch_bytes(self) -> int:
        return max((partition.largest_batch_bytes for partition in self.partitions), default=0)

    def id_of(self, partition: PartitionPlan) -> PartitionId:
        return PartitionId(self.topic_id, partition.partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedInArchive:
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    format: int
    archive: str
    backup_id: str
    archive_id: str
    source_cluster_id: str
    pinned: tuple[PinnedEpoch, ...]
    target: tuple[str, ...]
    retention_after: RetentionAfter
    topics: tuple[TopicPlan, ...]
    damaged: tuple[DamagedInArchive, ...]
    """Objects of the archive that cannot be trusted, or were there once; what they held is missing."""

    @property
    def partitions(self) -> int:
        return sum(len(topic.partitions) for topic in self.topics)

    @property
    def records(self) -> int:
        return sum(partition.records for topic in self.topics for partition in topic.partitions)

    @property
    def download_bytes(self) -> int:
        return sum(partition.download_bytes for topic in self.topics for partition in topic.partitions)

    @property
    def raw_bytes(self) -> int:
        return sum(partition.raw_bytes for topic in self.topics for partition in topic.partitions)


def make_plan(archive: Archive, settings: RestoreSettings) -> RestorePlan:
    """The plan for what `settings` select of `archive`.

    Raises:
        UsageError: nothing is selected, a topic named is not in the archive, or two would become one; all at once.
    """
    topics = [(topic, target) for topic, target in _selected(archive, settings)]
    return RestorePlan(
        format=PLAN_FORMAT,
        archive=archive.location,
        backup_id=archive.document.backup_id,
        archive_id=archive.document.archive_id,
        source_cluster_id=archive.document.cluster_id,
        pinned=tuple(
            PinnedEpoch(writer=writer, writer_epoch=epoch, sequences=sequences)
            for (writer, epoch), sequences in sorted(archive.pinned.items())
        ),
        target=settings.target.bootstrap_servers,
        retention_after=settings.options.retention_after,
        topics=tuple(_topic_plan(archive, topic, target) for topic, target in topics),
        damaged=(
            *(DamagedInArchive(key=one.key, reason=one.reason) for one in archive.damaged),
            *(DamagedInArchive(key=one.key, reason=one.reason) for one in archive.lost),
        ),
    )


def _selected(archive: Archive, settings: RestoreSettings) -> list[tuple[ArchivedTopic, str]]:
    newest = archive.newest()
    options = settings.options
    named = dict.fromkeys([*options.topics.literals, *(mapping.source for mapping in options.topic_mapping)])
    problems = [f"topic {name!r} is not in the archive" for name in named if name not in newest]
    problems += [
        f"topic {name!r} is internal and never restored by producing"
        for name in named
        if name in newest and newest[name].internal
    ]
    chosen: list[tuple[ArchivedTopic, str]] = []
    sources: dict[str, str] = {}
    for name, topic in sorted(newest.items()):
        target = None if topic.internal else options.target_of(name)
        if target is None:
            continue
        if target in sources:
            problems.append(f"{sources[target]!r} and {name!r} would both become {target!r}")
        sources[target] = name
        chosen.append((topic, target))
    if not chosen and not problems:
        problems.append("options select no topic of the archive")
    if problems:
        there = ", ".join(name for name, topic in sorted(newest.items()) if not topic.internal) or "no topics"
        raise UsageError("; ".join(problems), hint=f"{archive.location} holds {there}")
    return chosen


def _topic_plan(archive: Archive, topic: ArchivedTopic, target: str) -> TopicPlan:
    return TopicPlan(
        source=topic.name,
        target=target,
        topic_id=topic.topic_id,
        deleted_at_source_ms=topic.deleted_ms,
        earlier_incarnations=tuple(
            other.topic_id for other in archive.topics if other.name == topic.name and other.topic_id != topic.topic_id
        ),
        configs=dict(topic.configs),
        partitions=tuple(
            _partition_plan(archive.history(id), never_seen=_never_seen(archive, topic, id))
            for id in topic.partition_ids
        ),
    )


def _never_seen(archive: Archive, topic: ArchivedTopic, id: PartitionId) -> bool:
    """Metadata counted the partition, and that is all: whether it was empty nobody knows."""
    return topic.deleted_ms is None and topic.excluded_ms is None and archive.evidence(id) == PartitionEvidence(id=id)


def _partition_plan(history: PartitionHistory, *, never_seen: bool) -> PartitionPlan:
    runs = list(_runs(history))
    outcomes = outcomes_of(history)
    return PartitionPlan(
        partition=history.id.partition,
        branch=history.branch,
        offsets=OffsetRange(history.first_offset, history.next_offset),
        runs=len(runs),
        batches=sum(run.batches for run in runs),
        records=sum(run.records for run in runs),
        download_bytes=sum(run.stored_bytes for run in runs),
        raw_bytes=sum(run.raw_bytes for run in runs),
        largest_read_bytes=max((run.stored_bytes + run.raw_bytes for run in runs), default=0),
        largest_batch_bytes=max((run.largest_batch_bytes for run in runs), default=0),
        log_append_time=any(run.flags & RunFlag.LOG_APPEND_TIME for run in runs),
        legacy=any(run.flags & RunFlag.LEGACY_MAGIC for run in runs),
        not_in_archive=(NotInArchive(offsets=OffsetRange(0, 0), cause=None, meaning=NEVER_SEEN),)
        if never_seen
        else _not_in_archive(history),
        open_transactions=tuple(
            PlannedTransaction(
                producer_id=row.producer_id,
                producer_epoch=row.producer_epoch,
                first_offset=row.first_offset,
                outcome=(outcome := outcomes.of_batch(row.producer_id, row.first_offset)),
                restored=outcome.kept,
            )
            for row in history.open_transactions
        ),
    )


def _runs(history: PartitionHistory) -> Iterable[Run]:
    """Each run that is read, once."""
    seen: set[tuple[str, int]] = set()
    for one in history.slices:
        for stored in one.sources:
            place = (stored.ref.key, stored.run.position)
            if place not in seen:
                seen.add(place)
                yield stored.run


def _not_in_archive(history: PartitionHistory) -> tuple[NotInArchive, ...]:
    gaps = [
        NotInArchive(
            offsets=OffsetRange(gap.first_offset, gap.next_offset), cause=gap.cause, meaning=GAP_MEANING[gap.cause]
        )
        for gap in history.gaps
    ]
    holes = [NotInArchive(offsets=hole, cause=None, meaning=HOLE_MEANING) for hole in history.holes]
    return tuple(sorted(gaps + holes, key=lambda one: one.offsets))


def outcomes_of(history: PartitionHistory) -> Outcomes:
    """The partition's transaction outcomes, as far as the archive knows them."""
    return Outcomes(
        history.outcomes,
        unseen=[one.offsets for one in _not_in_archive(history)],
        last_stable_offset=_last_stable_offset(history),
        compacted_below=max((run.next_offset for run in _runs(history) if run.flags & RunFlag.HOLES), default=0),
    )


def _last_stable_offset(history: PartitionHistory) -> int:
    if len(history.branches) == 1:
        return max((sample.last_stable_offset for sample in history.samples), default=-1)
    # A sample does not say its branch, and a truncation takes the last stable offset back: only the newest counts.
    return history.samples[-1].last_stable_offset if history.samples else -1

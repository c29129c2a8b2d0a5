"""What a restore will do, worked out before anything is touched: from an opened archive and the options to a plan.

Pure. The plan pins the archive (per writer and epoch, up to which sequence) and says topic by topic what is created,
which offsets come from where, what is known to be missing and what that means. `--dry-run` prints exactly what is
executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.history import PartitionEvidence, PartitionHistory
from kbackupd.archive.lineage import ROOT_BRANCH
from kbackupd.model.events import GAP_MEANING, GapCause
from kbackupd.model.offset_map import OffsetsMode
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.scope import OffsetBounds, RecordPatterns, RecordsOf, TimeWindow
from kbackupd.model.segment import Run, RunFlag
from kbackupd.model.settings import RestoreOptions, RestoreSettings, RetentionAfter
from kbackupd.restore.choice import GO_FIRST, ChosenTopic, choose_topics, not_there
from kbackupd.restore.cut import PartitionCut, RecordFilter
from kbackupd.restore.instant import Instant, PartitionAsOf, history_at, partition_as_of
from kbackupd.restore.preserve import PreservedOffsets, preserved_offsets, total_seconds
from kbackupd.restore.recovery_point import oldest, recovery_point_ms
from kbackupd.restore.visibility import Outcomes, Visibility

PLAN_FORMAT = 1

NEVER_SEEN = "it existed at the source and was never looked into: it had no leader, or the daemon was killed too soon"
HOLE_MEANING = "no segment holds these offsets and nothing explains why: kbackupd validate tells more"

UNHEARD = "it existed at that instant, and no leader had told of it by then: what it held nobody knows"

BEYOND = "asked for, and beyond the archive, which holds {held}"


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
class PlannedCut:
    """What is wanted of every partition, beside its own offsets; the defaults are everything that is committed."""

    window: TimeWindow = field(default_factory=TimeWindow)
    visibility: RecordsOf = RecordsOf.COMMITTED
    filters: RecordPatterns = field(default_factory=RecordPatterns)
    as_of_ms: int | None = None
    """The instant of capture; None: the end of what was captured."""
    without_coordinators: bool = False
    """`__transaction_state` of then is not in the archive: which transactions were decided shows from markers alone."""
    provenance_headers: bool = False
    """Not a cut, but it changes the records."""

    @property
    def decodes_everything(self) -> bool:
        """No batch can pass unread: the slow path, or nearly its cost."""
        return bool(self.filters) or self.provenance_headers


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    partition: int
    branch: int
    offsets: OffsetRange
    """Coverage on that branch: what is in the archive, less `not_in_archive`."""
    asked_offsets: OffsetBounds
    """Those that are restored; its sides are open where nobody asked."""
    left_out: bool
    """Not among the partitions asked for: it exists in the target and stays empty."""
    runs: int
    """Reads from the store, at most."""
    runs_skipped: int
    """In which nothing can be that is wanted."""
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
    preserved: PreservedOffsets | None = None
    """None: offsets are not kept."""
    as_of: PartitionAsOf | None = None
    """None: no instant was asked for."""
    recovery_point_ms: int | None = None
    """Everything that the source had by then is in the archive; None: nothing proves it."""

    @property
    def is_empty(self) -> bool:
        return self.batches == 0

    @property
    def offsets_wanted(self) -> int:
        """How many of the offsets covered are asked for."""
        first, following = self.asked_offsets.first_offset, self.asked_offsets.next_offset
        low = self.offsets.first_offset if first is None else max(first, self.offsets.first_offset)
        high = self.offsets.next_offset if following is None else min(following, self.offsets.next_offset)
        return 0 if self.left_out else max(high - low, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    source: str
    target: str
    topic_id: TopicId
    deleted_at_source_ms: int | None
    earlier_incarnations: tuple[TopicId, ...]
    """Of the same name, in the archive and not restored."""
    newer_incarnations: tuple[TopicId, ...]
    """Likewise, where an older one was asked for."""
    configs: dict[str, str]
    """Recorded overrides, applied last as far as `retention_after` allows."""
    target_partitions: int
    """As many as there are `partitions`, or more, which stay empty."""
    partitions: tuple[PartitionPlan, ...]

    @property
    def goes_first(self) -> bool:
        """Restored before any topic begins that does not."""
        return self.source in GO_FIRST

    @property
    def moves_log_start(self) -> bool:
        """Fillers are written before some partition's first offset, and deleted."""
        return any(one.preserved is not None and one.preserved.log_start > 0 for one in self.partitions)

    @property
    def recovery_point_ms(self) -> int | None:
        """The oldest of its partitions that are restored."""
        return oldest(partition.recovery_point_ms for partition in self.partitions if not partition.left_out)

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
    cut: PlannedCut
    offsets: OffsetsMode
    append: bool
    """Into topics that hold records, too."""
    fill_seconds: float
    """For offsets without records, roughly; not counting the records."""
    topics: tuple[TopicPlan, ...]
    """In the order in which they are restored."""
    not_there: tuple[str, ...]
    """Topics that are selected and in the archive, and did not exist at the instant asked for."""
    damaged: tuple[DamagedInArchive, ...]
    """Objects of the archive that cannot be trusted, or were there once; what they held is missing."""

    @property
    def partitions(self) -> int:
        return sum(len(topic.partitions) for topic in self.topics)

    @property
    def offsets_to_fill(self) -> int:
        """At least; 0 where offsets are not kept."""
        kept = (partition.preserved for topic in self.topics for partition in topic.partitions)
        return sum(one.log_start + one.to_fill for one in kept if one is not None)

    @property
    def records(self) -> int:
        return sum(partition.records for topic in self.topics for partition in topic.partitions)

    @property
    def download_bytes(self) -> int:
        return sum(partition.download_bytes for topic in self.topics for partition in topic.partitions)

    @property
    def raw_bytes(self) -> int:
        return sum(partition.raw_bytes for topic in self.topics for partition in topic.partitions)

    def cut_of(self, partition: PartitionPlan) -> PartitionCut:
        """What is wanted of one of its partitions."""
        return _cut(self.cut, partition.asked_offsets, partition.as_of)


def make_plan(archive: Archive, settings: RestoreSettings, instant: Instant | None = None) -> RestorePlan:
    """The plan for what `settings` select of `archive`.

    Args:
        instant: what `read_instant` tells of these options and this archive.

    Raises:
        UsageError: nothing is selected, something named is not in the archive, or two topics would become one; all at
            once.
    """
    options = settings.options
    chosen = choose_topics(archive, options)
    cut = PlannedCut(
        window=options.scope.window,
        visibility=options.scope.records_of,
        filters=options.scope.patterns,
        provenance_headers=options.provenance_headers,
        as_of_ms=options.scope.as_of_ms,
        without_coordinators=instant is not None and not instant.coordinators_known,
    )
    if (instant is None) != (options.scope.as_of_ms is None):
        raise ValueError("an instant is to be read where one is asked for, and nowhere else")
    topics = tuple(_topic_plan(archive, one, options, cut, instant) for one in chosen)
    preserved = (partition.preserved for topic in topics for partition in topic.partitions)
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
        retention_after=options.retention_after,
        cut=cut,
        offsets=options.offsets,
        append=options.append,
        fill_seconds=total_seconds(one for one in preserved if one is not None),
        topics=topics,
        not_there=tuple(not_there(archive, options)),
        damaged=(
            *(DamagedInArchive(key=one.key, reason=one.reason) for one in archive.damaged),
            *(DamagedInArchive(key=one.key, reason=one.reason) for one in archive.lost),
        ),
    )


def planned_history(archive: Archive, topic: TopicPlan, partition: PartitionPlan) -> PartitionHistory:
    """What is read of the partition, as far as the instant lets it."""
    id = topic.id_of(partition)
    if partition.as_of is None:
        return archive.history(id, partition.branch)
    return history_at(archive.evidence(id), partition.branch, partition.as_of)


def _topic_plan(
    archive: Archive, chosen: ChosenTopic, options: RestoreOptions, cut: PlannedCut, instant: Instant | None
) -> TopicPlan:
    topic, scope = chosen.topic, options.scope
    latest = archive.topic(topic.topic_id) or topic
    return TopicPlan(
        source=topic.name,
        target=chosen.target,
        topic_id=topic.topic_id,
        deleted_at_source_ms=latest.deleted_ms,
        earlier_incarnations=chosen.earlier,
        newer_incarnations=chosen.newer,
        configs=dict(topic.configs),
        target_partitions=chosen.target_partitions,
        partitions=tuple(
            _partition_plan(
                *_history(archive, id, scope.branches.get((topic.name, id.partition)), instant),
                cut=cut,
                asked=scope.offsets_of(topic.name, id.partition),
                left_out=not scope.takes(topic.name, id.partition),
                never_seen=_never_seen(archive, topic, id),
                preserves=options.offsets is OffsetsMode.PRESERVE,
            )
            for id in topic.partition_ids
        ),
    )


def _history(
    archive: Archive, id: PartitionId, branch: int | None, instant: Instant | None
) -> tuple[PartitionHistory, PartitionAsOf | None]:
    if instant is None:
        return archive.history(id, branch), None
    cut, evidence = instant.cuts[id], archive.evidence(id)
    state = partition_as_of(instant, evidence)
    return history_at(evidence, ROOT_BRANCH if cut is None else cut.branch, state), state


def _never_seen(archive: Archive, topic: ArchivedTopic, id: PartitionId) -> bool:
    """Metadata counted the partition, and that is all: whether it was empty nobody knows."""
    return topic.deleted_ms is None and topic.excluded_ms is None and archive.evidence(id) == PartitionEvidence(id=id)


def _cut(cut: PlannedCut, asked: OffsetBounds, as_of: PartitionAsOf | None) -> PartitionCut:
    return PartitionCut(
        offsets=asked,
        window=cut.window,
        filter=RecordFilter(cut.filters),
        instant_offset=None if as_of is None else as_of.next_offset,
        completed={} if as_of is None else as_of.completed,
    )


def _partition_plan(
    history: PartitionHistory,
    as_of: PartitionAsOf | None,
    *,
    cut: PlannedCut,
    asked: OffsetBounds,
    left_out: bool,
    never_seen: bool,
    preserves: bool,
) -> PartitionPlan:
    runs = [] if left_out else list(_runs(_cut(cut, asked, as_of).needed(history)))
    return PartitionPlan(
        partition=history.id.partition,
        branch=history.branch,
        offsets=OffsetRange(history.first_offset, history.next_offset),
        asked_offsets=asked,
        left_out=left_out,
        runs=len(runs),
        runs_skipped=sum(1 for _ in _runs(history)) - len(runs),
        batches=sum(run.batches for run in runs),
        records=(records := sum(run.records for run in runs)),
        download_bytes=sum(run.stored_bytes for run in runs),
        raw_bytes=sum(run.raw_bytes for run in runs),
        largest_read_bytes=max((run.stored_bytes + run.raw_bytes for run in runs), default=0),
        largest_batch_bytes=max((run.largest_batch_bytes for run in runs), default=0),
        log_append_time=any(run.flags & RunFlag.LOG_APPEND_TIME for run in runs),
        legacy=any(run.flags & RunFlag.LEGACY_MAGIC for run in runs),
        not_in_archive=()
        if left_out
        else tuple(_lacking(history, asked, never_seen=never_seen, unheard=as_of is not None and not as_of.known)),
        open_transactions=() if left_out else tuple(_open_transactions(history, asked, cut.visibility)),
        preserved=preserved_offsets(history, records=records) if preserves and not left_out else None,
        as_of=as_of,
        recovery_point_ms=recovery_point_ms(history),
    )


def _lacking(
    history: PartitionHistory, asked: OffsetBounds, *, never_seen: bool, unheard: bool
) -> Iterator[NotInArchive]:
    """What is not in the archive of the offsets asked for, ascending."""
    if never_seen:
        yield NotInArchive(offsets=OffsetRange(0, 0), cause=None, meaning=NEVER_SEEN)
        return
    if unheard:
        yield NotInArchive(offsets=OffsetRange(0, 0), cause=None, meaning=UNHEARD)
        return
    held = OffsetRange(history.first_offset, history.next_offset)
    if asked.first_offset is not None and asked.first_offset < held.first_offset:
        below = OffsetRange(asked.first_offset, held.first_offset)
        yield NotInArchive(offsets=below, cause=None, meaning=BEYOND.format(held=held))
    for one in _not_in_archive(history):
        first = max(one.offsets.first_offset, asked.first_offset or 0)
        following = one.offsets.next_offset
        if asked.next_offset is not None:
            following = min(following, asked.next_offset)
        if first < following:
            yield replace(one, offsets=OffsetRange(first, following))
    if asked.next_offset is not None and asked.next_offset > held.next_offset:
        above = OffsetRange(held.next_offset, asked.next_offset)
        yield NotInArchive(offsets=above, cause=None, meaning=BEYOND.format(held=held))


def _open_transactions(
    history: PartitionHistory, asked: OffsetBounds, visibility: RecordsOf
) -> Iterator[PlannedTransaction]:
    outcomes = outcomes_of(history)
    for row in history.open_transactions:
        if asked.next_offset is None or row.first_offset < asked.next_offset:
            outcome = outcomes.of_batch(row.producer_id, row.first_offset)
            yield PlannedTransaction(
                producer_id=row.producer_id,
                producer_epoch=row.producer_epoch,
                first_offset=row.first_offset,
                outcome=outcome,
                restored=outcome.kept or visibility is RecordsOf.UNCOMMITTED,
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

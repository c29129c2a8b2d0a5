"""What a restore will do, worked out before anything is touched: from an opened archive and the options to a plan.

Pure. The plan pins the archive (per writer and epoch, up to which sequence) and says topic by topic what is created,
which offsets come from where, what is known to be missing and what that means. `--dry-run` prints what is executed, as
far as nothing comes into the archive meanwhile; a restore that is gone on with makes its plan of the archive of then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kbackupd.model.events import GapCause
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.scope import OffsetBounds, RecordPatterns, RecordsOf, TimeWindow
from kbackupd.model.settings import KeepOffsets, RetentionAfter
from kbackupd.restore.choice import GO_FIRST
from kbackupd.restore.cut import PartitionCut, RecordFilter
from kbackupd.restore.instant import PartitionAsOf
from kbackupd.restore.preserve import PreservedOffsets
from kbackupd.restore.recovery_point import oldest
from kbackupd.restore.visibility import Visibility

PLAN_FORMAT = 1


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

    def of(self, asked: OffsetBounds, as_of: PartitionAsOf | None) -> PartitionCut:
        """What it is of one partition."""
        return PartitionCut(
            offsets=asked,
            window=self.window,
            filter=RecordFilter(self.filters),
            instant_offset=None if as_of is None else as_of.next_offset,
            completed={} if as_of is None else as_of.completed,
        )


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
    """Of the single run that takes the most: stored and raw bytes, or the stored ones alone where they are the raw."""
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
    def keeps_offsets(self) -> bool:
        return any(one.preserved is not None for one in self.partitions)

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
    offsets: KeepOffsets
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
    def keeping_offsets(self) -> tuple[TopicPlan, ...]:
        """The topics whose records come back at the offsets they had."""
        return tuple(topic for topic in self.topics if topic.keeps_offsets)

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
        return self.cut.of(partition.asked_offsets, partition.as_of)

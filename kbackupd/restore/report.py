"""What a restore did, exactly: counts per partition, where records went, what is missing and why, and how long it took.

Pure. The verdict and the exit code are decided here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kbackupd.model.positions import TopicId
from kbackupd.model.scope import OffsetBounds
from kbackupd.restore.acls import AclsOutcome
from kbackupd.restore.configs import Changes
from kbackupd.restore.instant import PartitionAsOf
from kbackupd.restore.offset_map import MappedRun
from kbackupd.restore.plan import NotInArchive, PlannedCut
from kbackupd.restore.preserve import Way
from kbackupd.restore.tally import Missing
from kbackupd.restore.verify import Verified
from kbackupd.restore.visibility import Visibility

MAPPED_RUNS_LISTED = 1_000
"""Per partition; a topic of small transactions has a run for each."""


class Verdict(StrEnum):
    COMPLETE = "complete"
    DECLARED_GAPS = "complete, with gaps the archive declares"
    INCOMPLETE = "incomplete"
    DAMAGED = "incomplete, the archive is damaged"

    @property
    def exit_code(self) -> int:
        match self:
            case Verdict.COMPLETE:
                return 0
            case Verdict.DECLARED_GAPS | Verdict.INCOMPLETE:
                return 6
            case Verdict.DAMAGED:
                return 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTransaction:
    """Records of a transaction that is not plainly committed or aborted."""

    producer_id: int
    producer_epoch: int
    outcome: Visibility
    first_offset: int
    next_offset: int
    records: int
    restored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    partition: int
    records_restored: int
    """Acknowledged by the target."""
    bytes_restored: int
    records_found: int
    """Of those restored, by an earlier run of this restore."""
    left_out: bool
    """Not among the partitions asked for: empty in the target."""
    as_of: PartitionAsOf | None
    """How near the instant asked for it comes; None: none was."""
    asked_offsets: OffsetBounds
    records_cut_away: int
    """Read, and outside of the offsets or the time window asked for."""
    records_filtered: int
    """Inside of them, and not what the filters look for."""
    records_aborted: int
    records_undecided: int
    """Of transactions still open where capture ended: dropped."""
    records_restored_aborted: int
    """Restored, of aborted transactions (`visibility: uncommitted`)."""
    records_restored_undecided: int
    """Likewise, of undecided ones."""
    records_of_unknown_outcome: int
    """Restored; their transaction's marker is not in the archive."""
    records_missing: int
    """Wanted, and not in the target: damaged, refused, or of a partition that failed. Of that one at most so many, by
    the headers of what was not read."""
    records_restamped: int
    """Restored with the timestamp that LogAppendTime gave them, as CreateTime: the timestamp type differs."""
    records_converted: int
    """From message formats 0 and 1."""
    control_batches: int
    """Transaction markers; they mean something only to the log they came from."""
    fast_batches: int
    slow_batches: int
    target_first_offset: int
    target_next_offset: int
    offsets_filled: int
    """With what no reader sees, so that the records are where they were; those before the log start included."""
    offset_map: tuple[MappedRun, ...]
    """The first runs; `offset_map_runs` counts all."""
    offset_map_runs: int
    transactions: tuple[ListedTransaction, ...]
    missing: tuple[Missing, ...]
    not_in_archive: tuple[NotInArchive, ...]
    failure: str
    """Why the partition was not restored to its end; "" if it was."""
    verified: Verified | None
    """None: not read back (`verify: false`, or it failed)."""

    @property
    def is_exact(self) -> bool:
        """Everything the archive holds and says is committed arrived, once."""
        read_back = self.verified is None or not self.verified.problem
        return not self.failure and not self.records_missing and not self.missing and read_back


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicReport:
    source: str
    target: str
    topic_id: TopicId
    target_topic_id: TopicId
    created: bool
    appended: bool
    """It held records before, and keeps its own configuration."""
    replicas: int | None
    """Of each partition, or of the one with the fewest; None: the target did not tell at the end."""
    recovery_point_ms: int | None
    """Everything that the source had by then was in the archive, whatever was wanted of it; None: nothing proves it."""
    target_partitions: int
    """More than `partitions` where that was asked for; those stay empty."""
    partitions: tuple[PartitionReport, ...]
    config_applied: Changes
    config_held: Changes
    config_held_because: tuple[str, ...]
    config_refused: dict[str, str]
    config_command: str
    """Applies what was held back or refused; "" if nothing was."""
    config_deletes: tuple[str, ...] = ()
    """What the broker deletes again by what was applied (`retention_after: recorded`)."""

    @property
    def is_exact(self) -> bool:
        return not self.config_refused and all(partition.is_exact for partition in self.partitions)

    @property
    def records_restored(self) -> int:
        return sum(partition.records_restored for partition in self.partitions)

    @property
    def bytes_restored(self) -> int:
        return sum(partition.bytes_restored for partition in self.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    verdict: Verdict
    archive: str
    backup_id: str
    archive_id: str
    source_cluster_id: str
    target_cluster_id: str
    cut: PlannedCut
    """What was wanted of all there is."""
    topics: tuple[TopicReport, ...]
    not_there: tuple[str, ...]
    """Topics that did not exist at the instant asked for."""
    notes: tuple[str, ...]
    """What preflight found that is no reason to refuse."""
    acls: AclsOutcome | None
    """None: they were not asked for."""
    filling: Way | None
    """How offsets without a record were filled; None: offsets were not kept."""
    damaged: tuple[str, ...]
    """What of the archive could not be trusted."""
    partitions: int
    records_restored: int
    bytes_restored: int
    records_found: int
    """Of those restored, by earlier runs of this restore, which this one went on with."""
    records_cut_away: int
    records_filtered: int
    records_aborted: int
    records_undecided: int
    records_missing: int
    began_ms: int
    """Of this run."""
    first_began_ms: int
    """Of the first run of this restore."""
    restore_seconds: float
    """From the start to the last acknowledged record: the achieved RTO without verification."""
    verify_seconds: float
    total_seconds: float
    bytes_per_second: float
    """Mean, of `restore_seconds`."""
    peak_buffered_bytes: int

    @property
    def exit_code(self) -> int:
        return self.verdict.exit_code

    @property
    def offsets_filled(self) -> int:
        return sum(partition.offsets_filled for topic in self.topics for partition in topic.partitions)


def verdict_of(topics: tuple[TopicReport, ...], *, damaged: bool, refused: bool = False) -> Verdict:
    """`refused`: something that is no record was not taken by the target."""
    if damaged:
        return Verdict.DAMAGED
    if refused or not all(topic.is_exact for topic in topics):
        return Verdict.INCOMPLETE
    lacking = [one for topic in topics for partition in topic.partitions for one in partition.not_in_archive]
    if any(one.cause is None for one in lacking):
        return Verdict.INCOMPLETE
    # Of an instant: what nobody can tell to have been committed was dropped, what was compacted away may be missing.
    states = [partition.as_of for topic in topics for partition in topic.partitions if not partition.left_out]
    doubtful = any(one is not None and (one.ambiguous or one.compacted_since) for one in states)
    return Verdict.DECLARED_GAPS if lacking or doubtful else Verdict.COMPLETE

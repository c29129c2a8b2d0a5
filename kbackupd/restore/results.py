"""From what each partition's work left behind to the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import KbackupError
from kbackupd.model.scope import RecordsOf
from kbackupd.restore.acls import AclsOutcome
from kbackupd.restore.configs import config_command
from kbackupd.restore.offset_map import OffsetMap
from kbackupd.restore.plan import PartitionPlan, RestorePlan, TopicPlan
from kbackupd.restore.preserve import Way
from kbackupd.restore.report import (
    MAPPED_RUNS_LISTED,
    ListedTransaction,
    PartitionReport,
    RestoreReport,
    TopicReport,
    verdict_of,
)
from kbackupd.restore.tally import Tally
from kbackupd.restore.topics import ConfigOutcome, ReadyTopic
from kbackupd.restore.verify import Expected, Verified


@dataclass(slots=True, kw_only=True)
class PartitionResult:
    """What one partition's restore has come to; grows while it runs."""

    tally: Tally
    offset_map: OffsetMap
    expected: Expected
    records: int = 0
    """Acknowledged."""
    data_bytes: int = 0
    found_records: int = 0
    """Of these, restored by an earlier run."""
    offsets_filled: int = 0
    """With nothing, to keep the others where they were; those before the log start included."""
    next_offset: int = 0
    """Of the target's log."""
    failure: str = ""
    """As `failure_of` says it; "" if there is none."""
    damaged: bool = False
    """The archive's bytes were not what was written."""


def failure_of(error: KbackupError | ValueError) -> str:
    """Why a partition was not restored to its end, and what to do: a report has one line for both."""
    hint = error.hint if isinstance(error, KbackupError) else ""
    return f"{error} ({hint})" if hint else str(error)


def build_report(
    plan: RestorePlan,
    *,
    ready: Mapping[str, ReadyTopic],
    results: Mapping[TopicPartition, PartitionResult],
    verified: Mapping[TopicPartition, Verified],
    outcomes: Mapping[str, ConfigOutcome],
    replicas: Mapping[str, int],
    notes: tuple[str, ...],
    acls: AclsOutcome | None,
    target_cluster_id: str,
    filling: Way | None,
    began_ms: int,
    first_began_ms: int,
    restore_seconds: float,
    verify_seconds: float,
    total_seconds: float,
    peak_buffered_bytes: int,
) -> RestoreReport:
    topics = tuple(
        _topic_report(
            plan,
            topic,
            ready[topic.target],
            results,
            verified,
            outcomes[topic.target],
            replicas.get(topic.target),
        )
        for topic in plan.topics
    )
    partitions = [partition for topic in topics for partition in topic.partitions]
    # A damaged claim or checkpoint costs no records; a damaged segment does, even if nothing tells which.
    lost = [f"{one.key}: {one.reason}" for one in plan.damaged if one.key.startswith("segments/")]
    data_bytes = sum(topic.bytes_restored for topic in topics)
    return RestoreReport(
        verdict=verdict_of(
            topics,
            damaged=bool(lost) or any(result.damaged for result in results.values()),
            refused=bool(acls and acls.refused),
        ),
        archive=plan.archive,
        backup_id=plan.backup_id,
        archive_id=plan.archive_id,
        source_cluster_id=plan.source_cluster_id,
        target_cluster_id=target_cluster_id,
        cut=plan.cut,
        topics=topics,
        not_there=plan.not_there,
        notes=notes,
        acls=acls,
        filling=filling,
        damaged=tuple(lost),
        partitions=len(partitions),
        records_restored=sum(topic.records_restored for topic in topics),
        bytes_restored=data_bytes,
        records_found=sum(partition.records_found for partition in partitions),
        records_cut_away=sum(partition.records_cut_away for partition in partitions),
        records_filtered=sum(partition.records_filtered for partition in partitions),
        records_aborted=sum(partition.records_aborted for partition in partitions),
        records_undecided=sum(partition.records_undecided for partition in partitions),
        records_missing=sum(partition.records_missing for partition in partitions),
        began_ms=began_ms,
        first_began_ms=first_began_ms,
        restore_seconds=restore_seconds,
        verify_seconds=verify_seconds,
        total_seconds=total_seconds,
        bytes_per_second=data_bytes / restore_seconds if restore_seconds > 0 else 0.0,
        peak_buffered_bytes=peak_buffered_bytes,
    )


def _topic_report(
    plan: RestorePlan,
    topic: TopicPlan,
    ready: ReadyTopic,
    results: Mapping[TopicPartition, PartitionResult],
    verified: Mapping[TopicPartition, Verified],
    outcome: ConfigOutcome,
    replicas: int | None,
) -> TopicReport:
    return TopicReport(
        source=topic.source,
        target=topic.target,
        topic_id=topic.topic_id,
        target_topic_id=ready.topic_id,
        created=ready.created,
        appended=ready.appends,
        recovery_point_ms=topic.recovery_point_ms,
        replicas=replicas,
        target_partitions=topic.target_partitions,
        partitions=tuple(
            _partition_report(plan, partition, results[tp], verified.get(tp))
            for partition in topic.partitions
            for tp in (TopicPartition(topic.target, partition.partition),)
        ),
        config_applied=outcome.applied,
        config_held=outcome.held,
        config_held_because=outcome.reasons,
        config_deletes=outcome.deletes,
        config_refused=outcome.refused,
        config_command=config_command(plan.target, topic.target, outcome.pending),
    )


def _partition_report(
    plan: RestorePlan, partition: PartitionPlan, result: PartitionResult, verified: Verified | None
) -> PartitionReport:
    tally, first_offset = result.tally, result.expected.first_offset
    return PartitionReport(
        partition=partition.partition,
        records_restored=result.records,
        bytes_restored=result.data_bytes,
        records_found=result.found_records,
        left_out=partition.left_out,
        as_of=partition.as_of,
        asked_offsets=partition.asked_offsets,
        records_cut_away=tally.cut_away,
        records_filtered=tally.filtered,
        records_aborted=tally.aborted,
        records_undecided=tally.undecided,
        records_restored_aborted=tally.restored_aborted,
        records_restored_undecided=tally.restored_undecided,
        records_of_unknown_outcome=tally.unknown_outcome,
        records_missing=_missing(partition, result),
        records_restamped=tally.restamped,
        records_converted=tally.converted,
        control_batches=tally.control_batches,
        fast_batches=tally.fast_batches,
        slow_batches=tally.slow_batches,
        target_first_offset=first_offset,
        target_next_offset=result.next_offset,
        offsets_filled=result.offsets_filled,
        offset_map=tuple(islice(result.offset_map.runs(target_first_offset=first_offset), MAPPED_RUNS_LISTED)),
        offset_map_runs=len(result.offset_map),
        transactions=tuple(
            ListedTransaction(
                producer_id=key.producer_id,
                producer_epoch=key.producer_epoch,
                outcome=key.visibility,
                first_offset=row.first_offset,
                next_offset=row.next_offset,
                records=row.records,
                restored=key.visibility.kept or plan.cut.visibility is RecordsOf.UNCOMMITTED,
            )
            for key, row in tally.transactions.items()
        ),
        missing=tuple(tally.missing_parts),
        not_in_archive=partition.not_in_archive,
        failure=result.failure,
        verified=verified,
    )


def _missing(partition: PartitionPlan, result: PartitionResult) -> int:
    tally = result.tally
    rewritten = tally.missing + tally.restored - result.records
    if not result.failure:
        return rewritten
    settled = result.records + tally.aborted + tally.undecided + tally.outside + tally.control_batches
    settled += tally.cut_away + tally.filtered
    return max(rewritten, partition.records - settled)

"""From what a restore has acknowledged, whole or half-way, to its offset map (docs/offset-map.md)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbackupd.kafka.types import TopicPartition
from kbackupd.model.offset_map import OffsetMapDocument, OffsetsMode, PartitionMap, TopicMap
from kbackupd.restore.plan import PartitionPlan, RestorePlan, TopicPlan
from kbackupd.restore.results import PartitionResult
from kbackupd.restore.topics import ReadyTopic


@dataclass(slots=True, kw_only=True)
class RestoreRecord:
    """What an execution leaves to whoever started it, also when it is cancelled or fails."""

    plan: RestorePlan | None = None
    target_cluster_id: str = ""
    ready: Mapping[str, ReadyTopic] = field(default_factory=dict)
    results: Mapping[TopicPartition, PartitionResult] = field(default_factory=dict)
    """Live while it runs."""
    complete: bool = False

    def begin(
        self,
        plan: RestorePlan,
        target_cluster_id: str,
        ready: Mapping[str, ReadyTopic],
        results: Mapping[TopicPartition, PartitionResult],
    ) -> None:
        """Topics are there and the first record is about to be produced."""
        self.plan, self.target_cluster_id, self.ready, self.results = plan, target_cluster_id, ready, results


def offset_map_of(record: RestoreRecord, *, made_ms: int) -> OffsetMapDocument | None:
    """The map of what was acknowledged so far; None: not one record was sent yet.

    What was sent and not acknowledged when the restore ended may be in the target, and is not in the map.
    """
    plan = record.plan
    if plan is None:
        return None
    return OffsetMapDocument(
        archive=plan.archive,
        backup_id=plan.backup_id,
        archive_id=plan.archive_id,
        source_cluster_id=plan.source_cluster_id,
        target_cluster_id=record.target_cluster_id,
        made_ms=made_ms,
        topics=tuple(_topic_map(topic, record) for topic in plan.topics),
    )


def _topic_map(topic: TopicPlan, record: RestoreRecord) -> TopicMap:
    ready = record.ready[topic.target]
    return TopicMap(
        source=topic.source,
        topic_id=topic.topic_id,
        target=topic.target,
        target_topic_id=ready.topic_id,
        partitions=tuple(
            _partition_map(
                partition,
                record.results.get(TopicPartition(topic.target, partition.partition)),
                ready.log_ends[partition.partition],
                restored=record.complete,
            )
            for partition in topic.partitions
        ),
    )


def _partition_map(
    partition: PartitionPlan, result: PartitionResult | None, target_first_offset: int, *, restored: bool
) -> PartitionMap:
    columns = _Columns()
    if result is not None:
        columns.take(result, target_first_offset)
    complete = restored and result is not None and not result.failure
    kept = partition.preserved
    first = partition.offsets.first_offset if kept is None else kept.log_start
    reached = partition.offsets.next_offset if complete else columns.next_source_offset(first)
    return PartitionMap(
        source_partition=partition.partition,
        target_partition=partition.partition,
        source_first_offset=first,
        source_next_offset=reached,
        target_first_offset=target_first_offset if kept is None else first,
        target_next_offset=target_first_offset + (result.records if result else 0) if kept is None else reached,
        complete=complete,
        source_offsets=columns.source_offsets,
        target_offsets=columns.target_offsets,
        counts=columns.counts,
        mode=OffsetsMode.COMPACT if kept is None else OffsetsMode.PRESERVE,
    )


class _Columns:
    """Runs as 24 bytes each: a topic of small transactions has millions (hazard 35)."""

    def __init__(self) -> None:
        self.source_offsets = array("q")
        self.target_offsets = array("q")
        self.counts = array("q")

    def take(self, result: PartitionResult, target_first_offset: int) -> None:
        """The runs of the records that were acknowledged: a prefix, for a partition's batches are taken in order."""
        left = result.records
        for run in result.offset_map.runs(target_first_offset=target_first_offset):
            if not left:
                break
            kept = min(run.count, left)
            left -= kept
            self.source_offsets.append(run.source_offset)
            self.target_offsets.append(run.target_offset)
            self.counts.append(kept)

    def next_source_offset(self, first_offset: int) -> int:
        return self.source_offsets[-1] + self.counts[-1] if self.counts else first_offset

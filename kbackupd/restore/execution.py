"""What the steps of one execution of a restore share: what they work with, its results, and questions to the target.

The questions raise KafkaUnavailableError and KafkaDeniedError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.archive.archive import Archive
from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.results import PartitionResult
from kbackupd.restore.resume import Landed


@dataclass(slots=True)
class Execution:
    """What the steps of one execution share."""

    plan: RestorePlan
    settings: RestoreSettings
    archive: Archive
    connection: KafkaConnection
    progress: RestoreProgress
    reading: MemoryBudget
    unacknowledged: MemoryBudget
    results: dict[TopicPartition, PartitionResult] = field(default_factory=dict)
    landed: Mapping[TopicPartition, Landed] = field(default_factory=dict)
    """What an earlier run restored; empty in a first one."""

    async def leaders(self) -> Mapping[TopicPartition, int]:
        """Of each partition of the target topics; one without a leader is left out."""
        metadata = await cluster_metadata(self.connection, [topic.target for topic in self.plan.topics])
        return {
            TopicPartition(topic.name, partition.partition): partition.leader_id
            for topic in metadata.topics
            for partition in topic.partitions
            if partition.leader_id >= 0
        }

    async def replicas(self) -> Mapping[str, int]:
        """Of each target topic, how many its partition with the fewest has."""
        metadata = await cluster_metadata(self.connection, [topic.target for topic in self.plan.topics])
        return {
            topic.name: min(len(partition.replicas) for partition in topic.partitions)
            for topic in metadata.topics
            if topic.partitions
        }

    async def log_ends(self, node_id: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """High watermarks, by their leader `node_id`; what it does not tell is left out."""
        answers = await list_offsets(self.connection, node_id, dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1)))
        return {tp: one.offset for tp, one in answers.items() if one.error_code == KafkaErrorCode.NONE}

    def now(self) -> float:
        return self.connection.clock.monotonic()

"""What the steps of one execution of a restore share: what they work with, its results, and questions to the target.

The questions raise KafkaUnavailableError and KafkaDeniedError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.archive.archive import Archive
from kbackupd.archive.shared_reads import SharedReads
from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicPartition
from kbackupd.model.errors import KafkaDeniedError, UnreachableError
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.newest_batches import newest_batches
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.results import PartitionResult
from kbackupd.restore.resume import Landed, NewestBatch
from kbackupd.restore.send_queue import LogEnd
from kbackupd.restore.topics import ReadyTopic


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
    shared_reads: SharedReads
    results: dict[TopicPartition, PartitionResult] = field(default_factory=dict)
    ready: Mapping[str, ReadyTopic] = field(default_factory=dict)
    """By target name, once topics are prepared."""
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
        """Of each target topic, how many its partition with the fewest has; none where the target does not say."""
        try:
            metadata = await cluster_metadata(self.connection, [topic.target for topic in self.plan.topics])
        except UnreachableError:
            return {}  # all is restored by then: the report must come, and configuration be tried
        return {
            topic.name: min(len(partition.replicas) for partition in topic.partitions)
            for topic in metadata.topics
            if topic.partitions
        }

    async def log_ends(self, node_id: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, LogEnd]:
        """High watermarks and the batches that end there, by their leader `node_id`; what it does not tell is left out.

        Raises:
            KbackupError: it could not be asked, or of no log was delivered what it ends with.
        """
        first = await list_offsets(self.connection, node_id, dict.fromkeys(partitions, (EARLIEST_TIMESTAMP, -1)))
        last = await list_offsets(self.connection, node_id, dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1)))
        told = [tp for tp in partitions if not first[tp].error_code and not last[tp].error_code]
        held = {
            tp: (self.ready[tp.topic].id_of(tp.partition), last[tp].offset)
            for tp in told
            if first[tp].offset < last[tp].offset
        }
        newest: Mapping[TopicPartition, NewestBatch] = {}
        try:
            newest = await newest_batches(self.connection, node_id, held, needs_all=False) if held else {}
        except KafkaDeniedError:
            # Without verification a restore needs no permission to read: then where a log ends must do.
            if self.settings.options.verify:
                raise
            held = {}
        return {tp: LogEnd(last[tp].offset, newest.get(tp)) for tp in told if tp in newest or tp not in held}

    def now(self) -> float:
        return self.connection.clock.monotonic()

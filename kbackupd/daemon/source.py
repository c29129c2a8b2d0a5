"""The real cluster behind capture's seams: one connection for questions, a lane of it for every fetch session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kbackupd.capture.source import Session
from kbackupd.kafka.admin import describe_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.groups import GroupQuestions
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import epoch_end_offsets, list_offsets
from kbackupd.kafka.types import ClusterMetadata, EpochEnd, OffsetAnswer, TopicConfigs, TopicPartition
from kbackupd.model.clock import Clock

QUESTION_SECONDS = 15.0


class KafkaSource:
    def __init__(self, connection: KafkaConnection, *, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata:
        return await cluster_metadata(self._connection, topics, timeout_seconds=QUESTION_SECONDS)

    async def list_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, OffsetAnswer]:
        return await list_offsets(self._connection, node_id, asked, timeout_seconds=QUESTION_SECONDS)

    async def epoch_end_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, EpochEnd]:
        return await epoch_end_offsets(self._connection, node_id, asked, timeout_seconds=QUESTION_SECONDS)

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]:
        return await describe_topic_configs(self._connection, topics, timeout_seconds=QUESTION_SECONDS)

    def session(self, node_id: int) -> Session:
        return FetchSession(self._connection, node_id, clock=self._clock)


class KafkaQuestions(GroupQuestions):
    """The real cluster behind snapshots, on a lane of its own: however long an answer is, nothing else waits for it."""

    def __init__(self, connection: KafkaConnection) -> None:
        super().__init__(connection, timeout_seconds=QUESTION_SECONDS)
        self._cluster = connection

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata:
        return await cluster_metadata(self._cluster, topics, timeout_seconds=QUESTION_SECONDS, lane=self.lane)

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]:
        return await describe_topic_configs(self._cluster, topics, timeout_seconds=QUESTION_SECONDS, lane=self.lane)

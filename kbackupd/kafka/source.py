"""A cluster as the capture sees it: one connection, and everything that is asked of it while following."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kbackupd.kafka.admin import describe_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import epoch_end_offsets, list_offsets
from kbackupd.kafka.types import ClusterMetadata, EpochEnd, OffsetAnswer, TopicConfigs, TopicPartition


class KafkaSource:
    """The functions of this package, bound to one started connection. Every method raises KafkaUnavailableError or
    KafkaDeniedError, and has the connection's deadline.

    Args:
        rack: our rack, for brokers that know a nearer replica; "" for none.
    """

    def __init__(self, connection: KafkaConnection, *, rack: str = "") -> None:
        self._connection = connection
        self._rack = rack

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata:
        """See `metadata.cluster_metadata`."""
        return await cluster_metadata(self._connection, topics)

    async def list_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, OffsetAnswer]:
        """See `offsets.list_offsets`."""
        return await list_offsets(self._connection, node_id, asked)

    async def epoch_end_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, EpochEnd]:
        """See `offsets.epoch_end_offsets`."""
        return await epoch_end_offsets(self._connection, node_id, asked)

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]:
        """What was set on the topics themselves; see `admin.describe_topic_configs`."""
        return await describe_topic_configs(self._connection, topics)

    def session(self, node_id: int) -> FetchSession:
        """A new fetch session with a TCP connection of its own."""
        return FetchSession(self._connection, node_id, rack=self._rack, clock=self._connection.clock)

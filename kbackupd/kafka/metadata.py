"""Who leads what: Metadata v12, with topic ids and leader epochs."""

from __future__ import annotations

from collections.abc import Sequence

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import ClusterMetadata
from kbackupd.kafka.wire import MetadataRequest


async def cluster_metadata(
    connection: KafkaConnection,
    topics: Sequence[str] | None = None,
    *,
    operations: bool = False,
    timeout_seconds: float | None = None,
    lane: int = 0,
) -> ClusterMetadata:
    """The cluster as one of its brokers sees it now, with `topics` (None: all this principal may describe).

    A topic that was named and may not be described, or does not exist, is in the answer with its error code (29, 3);
    Kafka leaves topics that may not be described out of "all" without a word. With `operations` each topic says what
    this principal may do with it. The connection learns the brokers.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    request = MetadataRequest(topics=topics, operations=operations)
    metadata = await connection.send_any(request, timeout_seconds=timeout_seconds, lane=lane)
    connection.learn(metadata.brokers)
    return metadata

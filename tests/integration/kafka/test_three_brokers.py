"""Leaders that move: three brokers, one of them killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbackupd.kafka.admin import create_topic
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode, PartitionMetadata
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import PartitionId
from kbackupd.testbed.kafka import KafkaCluster
from tests.integration.kafka.conftest import Topics, connection_to
from tests.integration.kafka.sessions import poll


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster(3, heap="256m") as cluster:
        yield cluster


async def _leader(connection: KafkaConnection, topic: str) -> PartitionMetadata:
    return (await cluster_metadata(connection, [topic])).topics[0].partitions[0]


async def test_when_a_leader_dies_its_successor_serves_the_same_log_and_fences_the_old_epoch(
    cluster: KafkaCluster,
) -> None:
    async with connection_to(*cluster.bootstrap.split(",")) as connection:
        topic = await create_topic(connection, "moving", partitions=1, replication_factor=3)
        Topics(connection, cluster.nodes[0], lambda: "unused").fill(topic, 20)
        id_ = PartitionId(topic.topic_id, 0)
        before = await _leader(connection, "moving")
        target = FetchTarget(offset=0, max_bytes=1 << 20, current_leader_epoch=before.leader_epoch)
        at_old = FetchSession(connection, before.leader_id, clock=SystemClock())
        at_old.want(id_, target)
        (original,) = (await poll(at_old)).partitions

        dead = cluster.nodes[before.leader_id - 1]
        await dead.akill()
        clock = SystemClock()
        deadline = clock.monotonic() + 60
        after = before
        while after.leader_id in (before.leader_id, -1):
            assert clock.monotonic() < deadline, "no new leader was elected"
            after = await _leader(connection, "moving")
        at_new = FetchSession(connection, after.leader_id, clock=clock)
        at_new.want(id_, target)
        (fenced,) = (await poll(at_new)).partitions
        at_new.want(id_, FetchTarget(offset=0, max_bytes=1 << 20, current_leader_epoch=after.leader_epoch))
        (copy,) = (await poll(at_new)).partitions
        producer = await RawProducer.open(connection)
        await dead.astart()

    assert after.leader_epoch > before.leader_epoch
    assert sorted(before.replicas) == [1, 2, 3]
    assert fenced.error_code == KafkaErrorCode.FENCED_LEADER_EPOCH
    assert copy.records == original.records
    assert original.records
    assert producer.producer_id >= 0, "any broker left can be asked"

"""Leaders that move: three brokers, one of them killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kbackupd.kafka.admin import create_topic
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode, PartitionAnswer, PartitionMetadata
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


async def _answer(
    connection: KafkaConnection,
    node_id: int,
    id_: PartitionId,
    target: FetchTarget,
    *,
    until: Callable[[PartitionAnswer], bool],
) -> PartitionAnswer:
    """The first answer that is what is waited for; each from a session of its own, which leaves out nothing."""
    deadline = SystemClock().monotonic() + 60
    while True:
        session = FetchSession(connection, node_id, clock=SystemClock())
        session.want(id_, target)
        (part,) = (await poll(session)).partitions
        await session.close()
        if until(part):
            return part
        assert SystemClock().monotonic() < deadline, f"broker {node_id} never gave the answer waited for, but {part}"


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
        current = FetchTarget(offset=0, max_bytes=1 << 20, current_leader_epoch=after.leader_epoch)
        # The one who told of the election may know of it before the elected, who then answers that it does not lead.
        # And an elected leader shows nothing above a high watermark that the dead one may not have told it yet.
        # That may even lie in the middle, where the records came in several batches.
        end = original.high_watermark
        copy = await _answer(connection, after.leader_id, id_, current, until=lambda part: part.high_watermark >= end)
        fenced = await _answer(connection, after.leader_id, id_, target, until=lambda part: part.error_code != 0)
        producer = await RawProducer.open(connection)
        await dead.astart()

    assert after.leader_epoch > before.leader_epoch
    assert sorted(before.replicas) == [1, 2, 3]
    assert fenced.error_code == KafkaErrorCode.FENCED_LEADER_EPOCH
    assert copy.records == original.records
    assert original.records
    assert producer.producer_id >= 0, "any broker left can be asked"

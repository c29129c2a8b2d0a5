"""Partitions unlike the others: batches larger than any request (hazard 23), and partitions without a leader (41)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kbackupd.model.positions import PartitionId
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.topics import create_topic, partition_leaders
from kbackupd.testbed.truth import Truth
from kbackupd.testbed.workload import Draft, produce
from tests.integration.capture.backup import Backup, fill, flush, follows, gaps, problems, read, states, topic_rows
from tests.integration.conditions import reaches
from tests.integration.verbatim import broker_batches

Names = Callable[[], str]


@pytest.mark.parametrize("segment_max_bytes", ["1MiB", "32MiB"])
async def test_batches_larger_than_the_fetch_size_are_captured_between_small_ones(
    segment_max_bytes: str, backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(
        backup.kafka.bootstrap, unique_topic(), partitions=2, config={"max.message.bytes": str(12 << 20)}
    )
    noise = random.Random(23)
    for partition in (0, 1):
        backup.fill(topic, partition, batches=1)
        large = [Draft(b"large", noise.randbytes(size << 20), (), partition) for size in (11, 3)]
        for draft in large:
            produce(backup.kafka.bootstrap, Truth(), topic, [draft])
        backup.fill(topic, partition, batches=1)
    daemon = backup.daemon(topic, segment_max_bytes=segment_max_bytes)
    daemon.start()
    await follows(daemon, topic, 2)
    produce(backup.kafka.bootstrap, Truth(), topic, [Draft(b"live", noise.randbytes(11 << 20), (), 0)])
    backup.fill(topic, batches=1)
    await backup.drained(daemon, {topic: 2})


@pytest.fixture
def second_node(fragile_kafka: KafkaServer) -> Iterator[KafkaServer]:
    """A second broker of the fragile cluster, which cannot be a controller; it is gone after the test."""
    (port,) = free_ports(1)
    node = KafkaServer(
        node_id=2,
        cluster_id=fragile_kafka.cluster_id,
        quorum={1: fragile_kafka.quorum[1], 2: (port, 0)},
        heap="256m",
        properties={
            "process.roles": "broker",
            "listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{fragile_kafka.quorum[1][1]}",
        },
    )
    with node:
        yield node


def create_on_both_nodes(bootstrap: str, topic: str) -> None:
    """Two partitions with one replica each: partition 0 on node 1, partition 1 on node 2."""
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    new = NewTopic(topic, num_partitions=2, replica_assignment=[[1], [2]])
    client.create_topics([new], operation_timeout=60)[topic].result(120)


def exposure(daemon: Daemon, topic: str) -> float:
    """Seconds, of the worst partition."""
    (row,) = topic_rows(daemon, topic)
    seconds = row["exposure_seconds"]
    assert isinstance(seconds, float)
    return seconds


async def test_a_partition_without_a_leader_is_retried_visibly_does_not_hold_up_its_neighbours_and_comes_back(
    backup: Backup, fragile_kafka: KafkaServer, second_node: KafkaServer, unique_topic: Names
) -> None:
    backup.kafka = fragile_kafka
    topic = unique_topic()
    create_on_both_nodes(fragile_kafka.bootstrap, topic)
    await reaches(lambda: partition_leaders(fragile_kafka.bootstrap, topic) == {0: 1, 1: 2}, "leaders")
    fill(fragile_kafka, topic, 0, 1)
    daemon = backup.daemon(topic)
    daemon.start()
    await follows(daemon, topic, 2)
    await flush(daemon)

    second_node.kill()
    await reaches(lambda: partition_leaders(fragile_kafka.bootstrap, topic)[1] == -1, "no leader")
    await reaches(
        lambda: states(daemon, topic) == {"following": 1, "retrying": 1} and "broker 2" not in problems(daemon),
        "known to have no leader",
    )
    fill(fragile_kafka, topic, 0)
    report = await flush(daemon)
    assert {one.partition: one.durable_offset for one in report.partitions} == {0: 240, 1: 120}
    exposed = exposure(daemon, topic)
    await reaches(lambda: exposure(daemon, topic) > exposed + 1.0, "exposure grows meanwhile")

    # One that starts without a leader says so too, and waits for it.
    daemon.kill()
    daemon.start()
    await reaches(lambda: states(daemon, topic).get("following") == 1, "the neighbour followed")

    second_node.start()
    fill(fragile_kafka, topic, 1)
    await follows(daemon, topic, 2)
    await flush(daemon)
    assert daemon.stop() == 0
    async with backup.archive() as archive:
        topic_id = archive.newest()[topic].topic_id
        for number, node in enumerate((fragile_kafka, second_node)):
            id = PartitionId(topic_id, number)
            assert gaps(archive, id) == []
            assert await read(archive, id) == broker_batches(node, topic, number)
    await backup.validated()

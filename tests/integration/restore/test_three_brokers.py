"""Leaders that move while a restore is under way, and brokers that are away before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kbackupd.restore.preflight import PreflightError
from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.report import Verdict
from kbackupd.testbed.kafka import KafkaCluster
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.conditions import reaches
from tests.integration.restore.mirror import restore
from tests.unit.restore.planned import archive_everything, settings_for


@pytest.fixture(scope="module")
def three_brokers() -> Iterator[KafkaCluster]:
    properties = {"default.replication.factor": "3", "min.insync.replicas": "2"}
    with KafkaCluster(3, properties=properties, heap="256m") as servers:
        yield servers


@pytest.fixture
def cluster(three_brokers: KafkaCluster) -> KafkaCluster:
    """All three are up, whatever the test before did to them."""
    three_brokers.start()
    return three_brokers


async def test_a_broker_that_dies_in_the_middle_doubles_and_loses_nothing(cluster: KafkaCluster) -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=6)
    for partition in range(6):
        for number in range(60):
            values = [b"%d-%d-%d-" % (partition, number, n) + bytes(1_000) for n in range(10)]
            built.log(orders, partition).append(values)
    await archive_everything(built)
    progress = RestoreProgress(began_at=0.0)
    settings = settings_for(cluster.bootstrap, {"orders": "restored"}, rate_limit_bytes_per_second=1 << 20)

    async def kill_when_under_way() -> None:
        await reaches(lambda: progress.acknowledged_records > 300, what="records are acknowledged")
        assert progress.acknowledged_records < 3_000
        await cluster.nodes[2].akill()

    async with asyncio.TaskGroup() as group:
        group.create_task(kill_when_under_way())
        restoring = group.create_task(restore(built, settings, progress=progress))

    assert restoring.result().verdict is Verdict.COMPLETE
    found = read_topic(cluster.nodes[0].bootstrap, "restored")
    for partition in range(6):
        expected = [b"%d-%d-%d-" % (partition, number, n) for number in range(60) for n in range(10)]
        assert [
            record.value[: len(expected[i])] for i, record in enumerate(found[partition]) if record.value
        ] == expected


async def test_what_a_broker_that_is_away_would_do_to_a_restore_is_told_before_the_first_write(
    cluster: KafkaCluster,
) -> None:
    built = await ArchiveBuilder.create()
    for name in ("alone", "all", "enough"):
        built.log(built.topic(name), 0).append([b"x"])
    await archive_everything(built)
    new = [
        NewTopic("alone", num_partitions=1, replica_assignment=[[3]]),
        NewTopic("all", num_partitions=1, replication_factor=3, config={"min.insync.replicas": "3"}),
        NewTopic("enough", num_partitions=1, replication_factor=3),
    ]
    admin = AdminClient({"bootstrap.servers": cluster.nodes[0].bootstrap, "log_level": 0})
    for made in admin.create_topics(new, operation_timeout=60).values():
        made.result(120)
    await cluster.nodes[2].akill()

    def is_missed() -> bool:
        """Whichever of them is asked: a broker hears from the controller when it gets around to it."""
        told = [
            AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0}).list_topics(timeout=60).topics
            for node in cluster.nodes[:2]
        ]
        return all(
            there["alone"].partitions[0].leader == -1 and len(there["all"].partitions[0].isrs) == 2 for there in told
        )

    await reaches(is_missed, "both others know that it is away")

    with pytest.raises(PreflightError) as refused:
        await restore(built, settings_for(cluster.bootstrap, {}))

    assert {problem.what: problem.remedy for problem in refused.value.problems} == {
        "topic alone has no leader for partitions 0": "bring the target's brokers back first",
        "topic all: partition 0 has 2 of 3 replicas in sync, and min.insync.replicas is 3: no record would be"
        " acknowledged": "bring the target's brokers back first, or lower min.insync.replicas of the topic",
    }
    for name in ("all", "enough"):
        assert read_topic(cluster.nodes[0].bootstrap, name) == {0: []}

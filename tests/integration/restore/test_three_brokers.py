"""Leaders that move while a restore is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.report import Verdict
from kbackupd.testbed.kafka import KafkaCluster
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.conditions import reaches
from tests.integration.restore.mirror import restore
from tests.unit.restore.planned import archive_everything, settings_for


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    properties = {"default.replication.factor": "3", "min.insync.replicas": "2"}
    with KafkaCluster(3, properties=properties, heap="256m") as servers:
        yield servers


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

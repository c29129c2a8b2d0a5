"""Groups of several coordinators, one of which dies (hazards 15 and 31)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from kbackupd.testbed.kafka import KafkaCluster
from tests.integration.conditions import reaches
from tests.integration.groups.story import Story, held

GROUPS = 60


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    properties = {
        "default.replication.factor": "3",
        "min.insync.replicas": "2",
        "leader.imbalance.check.interval.seconds": "1",  # a broker that was away for a moment leads again
    }
    with KafkaCluster(3, properties=properties, heap="256m") as servers:
        yield servers


def test_positions_reach_every_coordinator_also_where_one_has_just_died(cluster: KafkaCluster, tmp_path: Path) -> None:
    story = Story(tmp_path, cluster.bootstrap, "restored")
    names = [f"group-{n}" for n in range(GROUPS)]
    asyncio.run(story.archive({name: {0: 14 + n % 10} for n, name in enumerate(names)}))
    story.restore()
    assert len(story.planned("group")["partitions"]) == GROUPS
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})

    def all_coordinate() -> bool:
        described = admin.describe_consumer_groups(names)
        return {one.result(60).coordinator.id for one in described.values()} == {1, 2, 3}

    asyncio.run(reaches(all_coordinate, "groups of every broker"))
    cluster.nodes[2].kill()

    report, _ = story.executed()

    assert (report["applied"], report["failed"]) == (GROUPS, [])
    survivor = cluster.nodes[0]
    for n, name in enumerate(names):
        assert [offset for offset, _ in held(survivor, name).values()] == [10 + n % 10]

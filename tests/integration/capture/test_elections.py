"""Real elections (hazards 21, 41): a leader that dies, and one elected although it lacks what the dead one had."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kbackupd.model.positions import PartitionId
from kbackupd.testbed.kafka import KafkaCluster
from kbackupd.testbed.topics import partition_leaders
from tests.integration.capture.backup import Backup, fill, flush, follows, gaps, read, states
from tests.integration.conditions import reaches
from tests.integration.verbatim import broker_batches

Names = Callable[[], str]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster(3, heap="256m") as cluster:
        yield cluster


@pytest.mark.timeout(900)
async def test_after_an_unclean_election_the_lost_tail_stays_on_the_old_branch_and_the_new_log_is_captured_whole(
    backup: Backup, cluster: KafkaCluster, unique_topic: Names
) -> None:
    first, second, third = cluster.nodes
    topic = unique_topic()
    client = AdminClient({"bootstrap.servers": third.bootstrap, "log_level": 0})
    new = NewTopic(
        topic,
        num_partitions=1,
        replica_assignment=[[first.node_id, second.node_id]],
        config={"unclean.leader.election.enable": "true", "min.insync.replicas": "1"},
    )
    client.create_topics([new], operation_timeout=60)[topic].result(120)
    await reaches(lambda: partition_leaders(third.bootstrap, topic) == {0: 1}, "the first leads")
    backup.kafka = third
    fill(third, topic, batches=2)
    await reaches(lambda: broker_batches(second, topic, 0) == broker_batches(first, topic, 0), "replicated")
    daemon = backup.daemon(topic)
    daemon.start()

    await second.akill()
    fill(third, topic, batches=3)  # what only the first has
    await flush(daemon)
    old_log = broker_batches(first, topic, 0)
    await first.akill()
    await reaches(lambda: states(daemon, topic) == {"retrying": 1}, "without a leader")
    await second.astart()
    await reaches(lambda: partition_leaders(third.bootstrap, topic) == {0: 2}, "the second leads, uncleanly")
    fill(third, topic, batches=6)
    await follows(daemon, topic, 1)
    await flush(daemon)
    assert daemon.stop() == 0
    await first.astart()

    new_log = broker_batches(second, topic, 0)
    assert [a == b for a, b in zip(old_log, new_log, strict=False)] == [True] * 2 + [False] * 3
    async with backup.archive() as archive:
        id = PartitionId(archive.newest()[topic].topic_id, 0)
        assert archive.history(id).branches == (0, 1)
        assert [(span.branch, span.first_offset) for span in archive.history(id).lineage] == [(0, 0), (1, 80)]
        assert await read(archive, id) == new_log
        assert await read(archive, id, branch=0) == old_log
        assert gaps(archive, id) == []
    await backup.validated()

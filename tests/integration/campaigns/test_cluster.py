"""The cluster that campaigns are run on does what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.wire import MetadataRequest
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.settings import SecuritySettings
from kbackupd.testbed.kafka_proxy import METADATA, PRODUCE
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.proxy import LoseAnswer
from kbackupd.testbed.truth import Truth, compare_records, read_topic
from kbackupd.testbed.workload import Draft, RecordMaker, produce

Names = Callable[[], str]


def connection_outside(cluster: ProxiedCluster) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=cluster.outside.split(","),
        security=SecuritySettings(),
        client_id="campaign",
        clock=SystemClock(),
        request_timeout_seconds=60.0,
        connect_timeout_seconds=60.0,
    )


async def test_who_comes_from_outside_meets_the_faults_of_each_proxy_and_who_is_inside_does_not(
    cluster: ProxiedCluster, unique_topic: Names
) -> None:
    topic = await cluster.create_topic(unique_topic(), [[2], [3]])
    anything = MetadataRequest(topics=())
    async with connection_outside(cluster) as connection:
        metadata = await cluster_metadata(connection)
        ports = {broker.node_id: broker.port for broker in metadata.brokers}
        assert ports == {number: cluster.proxy(number).port for number in (1, 2, 3)}
        cluster.proxy(2).block()
        with pytest.raises(KafkaUnavailableError):
            await connection.send(2, anything)
        rule = cluster.proxy(3).strike(LoseAnswer(), api_keys=(METADATA,), times=1)
        with pytest.raises(KafkaUnavailableError):
            await connection.send(3, anything)
        assert rule.struck == [METADATA]
        cluster.proxy(2).heal()
        for number in (1, 2, 3):
            await connection.send(number, anything)
    truth = Truth()
    cluster.proxy(2).block()
    maker = RecordMaker("inside")
    produce(cluster.inside, truth, topic, (maker.draft(partition) for partition in (0, 1)))
    read = read_topic(cluster.inside, topic)
    assert [compare_records(truth.records(topic, partition), read[partition]) for partition in (0, 1)] == [[], []]


async def test_the_truth_has_the_stamps_that_were_sent_where_a_lost_answer_made_the_broker_tell_the_newest_for_all(
    cluster: ProxiedCluster, unique_topic: Names
) -> None:
    topic, truth = await cluster.create_topic(unique_topic(), [[1]]), Truth()
    lost = cluster.proxy(1).strike(LoseAnswer(), api_keys=(PRODUCE,), times=1)
    now_ms = time.time_ns() // 1_000_000
    produce(cluster.outside, truth, topic, [Draft(b"k", b"%d" % n, (), 0, now_ms - n) for n in range(10)])
    assert lost.struck == [PRODUCE]
    read = read_topic(cluster.inside, topic)[0]
    assert [record.timestamp_ms for record in read] == [now_ms - n for n in range(10)]
    assert compare_records(truth.records(topic, 0, seen=read), read) == []


async def test_leaders_move_where_they_are_told_to_topics_are_made_without_a_killed_node_and_it_comes_back_in_sync(
    cluster: ProxiedCluster, unique_topic: Names
) -> None:
    topic = await cluster.create_topic(unique_topic(), [[1, 2, 3], [2, 3, 1]])
    await cluster.move_leader(topic, 0, 3)
    assert (await cluster.leader(topic, 0), await cluster.leader(topic, 1)) == (3, 2)
    controller = await cluster.controller()
    await cluster.kill(controller)
    assert controller not in cluster.running
    successor = await cluster.controller()
    assert successor != controller
    await cluster.left_by(controller, topic)
    assert await cluster.create_topic(later := unique_topic(), [cluster.running]) == later
    await cluster.heal()
    assert cluster.running == [1, 2, 3]
    assert sorted((await cluster.partition(topic, 0)).isrs) == [1, 2, 3]

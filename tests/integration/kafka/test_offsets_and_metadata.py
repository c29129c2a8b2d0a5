"""Metadata, offsets and epoch ends as a real broker tells them."""

from __future__ import annotations

from kbackupd.kafka.admin import delete_records
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import epoch_end_offsets, list_offsets
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    NO_TOPIC_ID,
    KafkaErrorCode,
    TopicPartition,
)
from kbackupd.testbed.kafka import KafkaServer
from tests.integration.kafka.conftest import Topics
from tests.integration.kafka.sessions import NODE


async def test_metadata_names_cluster_topic_ids_leaders_and_epochs(
    connection: KafkaConnection, kafka: KafkaServer, topics: Topics
) -> None:
    made = [await topics.create(partitions=3), await topics.create(partitions=1)]
    metadata = await cluster_metadata(connection)

    assert metadata.cluster_id == kafka.cluster_id
    assert [(broker.node_id, broker.host, broker.port) for broker in metadata.brokers] == [(1, "127.0.0.1", kafka.port)]
    found = {topic.name: topic for topic in metadata.topics}
    for topic in made:
        assert found[topic.name] == topic
    assert [part.partition for part in made[0].partitions] == [0, 1, 2]
    assert {(part.leader_id, part.leader_epoch, part.replicas, part.isr) for part in made[0].partitions} == {
        (1, 0, (1,), (1,))
    }
    assert made[0].topic_id != made[1].topic_id


async def test_a_named_topic_that_does_not_exist_is_in_the_answer_with_its_error(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    metadata = await cluster_metadata(connection, [topic.name, "never-made"])

    found = {topic.name: topic for topic in metadata.topics}
    assert found["never-made"].error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert found["never-made"].topic_id == NO_TOPIC_ID
    assert found[topic.name].error_code == KafkaErrorCode.NONE


async def test_naming_no_topics_gives_brokers_only(connection: KafkaConnection, topics: Topics) -> None:
    await topics.create()
    metadata = await cluster_metadata(connection, [])

    assert metadata.topics == ()
    assert metadata.brokers


async def test_log_start_and_end_after_deleting_records(connection: KafkaConnection, topics: Topics) -> None:
    topic = await topics.create(partitions=2)
    topics.fill(topic, 30, partition=0)
    cut, untouched, missing = (TopicPartition(topic.name, partition) for partition in (0, 1, 9))
    deleted = await delete_records(connection, {cut: 12, missing: 3})
    earliest = await list_offsets(connection, NODE, dict.fromkeys((cut, untouched, missing), (EARLIEST_TIMESTAMP, -1)))
    latest = await list_offsets(connection, NODE, dict.fromkeys((cut, untouched), (LATEST_TIMESTAMP, 0)))

    assert (deleted[cut].error_code, deleted[cut].log_start_offset) == (0, 12)
    assert deleted[missing].error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (earliest[cut].offset, earliest[untouched].offset) == (12, 0)
    assert earliest[missing].error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (latest[cut].offset, latest[untouched].offset) == (30, 0)


async def test_listing_offsets_with_a_wrong_epoch_is_refused(connection: KafkaConnection, topics: Topics) -> None:
    topic = await topics.create()
    tp = TopicPartition(topic.name, 0)
    answers = await list_offsets(connection, NODE, {tp: (LATEST_TIMESTAMP, 7)})

    assert answers[tp].error_code == KafkaErrorCode.UNKNOWN_LEADER_EPOCH


async def test_offsets_of_thousands_of_partitions_come_in_bounded_requests(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=1)
    asked = {TopicPartition(topic.name, partition): (EARLIEST_TIMESTAMP, -1) for partition in range(4_500)}
    answers = await list_offsets(connection, NODE, asked)

    assert set(answers) == set(asked)
    assert [tp.partition for tp, answer in answers.items() if answer.error_code == 0] == [0]


async def test_the_end_of_a_past_epoch_is_where_the_next_leader_began(
    connection: KafkaConnection, kafka: KafkaServer, topics: Topics
) -> None:
    topic = await topics.create()
    topics.fill(topic, 7)
    await kafka.arestart()
    topics.fill(topic, 4)
    now = (await cluster_metadata(connection, [topic.name])).topics[0].partitions[0].leader_epoch
    tp = TopicPartition(topic.name, 0)
    past = (await epoch_end_offsets(connection, NODE, {tp: (now, 0)}))[tp]
    present = (await epoch_end_offsets(connection, NODE, {tp: (now, now)}))[tp]
    future = (await epoch_end_offsets(connection, NODE, {tp: (now, now + 3)}))[tp]
    outdated = (await epoch_end_offsets(connection, NODE, {tp: (0, 0)}))[tp]

    assert now > 0
    assert (past.leader_epoch, past.end_offset) == (0, 7)
    assert (present.leader_epoch, present.end_offset) == (now, 11)
    assert (future.leader_epoch, future.end_offset) == (-1, -1)
    assert outdated.error_code == KafkaErrorCode.FENCED_LEADER_EPOCH

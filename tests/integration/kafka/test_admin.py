"""Topics and their configuration, described and changed on a real broker."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.kafka.admin import (
    alter_topic_configs,
    create_partitions,
    create_topic,
    delete_topic,
    describe_topic_configs,
    effective_topic_configs,
)
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import KafkaErrorCode, TopicPartition
from kbackupd.model.errors import KafkaDeniedError
from tests.integration.kafka.conftest import Topics


async def test_a_topic_is_created_with_its_configuration_and_only_that_is_told_as_its_own(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=3, cleanup_policy="compact", retention_ms="-1")
    plain = await topics.create()
    own = await describe_topic_configs(connection, [topic.name, plain.name, "never-made"])

    assert len(topic.partitions) == 3
    assert own[topic.name].values == {"cleanup.policy": "compact", "retention.ms": "-1"}
    assert own[plain.name].values == {}
    assert own["never-made"].error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_values_in_force_include_the_brokers_defaults(connection: KafkaConnection, topics: Topics) -> None:
    topic = await topics.create(max_message_bytes="54321")
    chosen = await effective_topic_configs(connection, [topic.name], ["message.timestamp.type", "max.message.bytes"])
    everything = await effective_topic_configs(connection, [topic.name])

    assert chosen[topic.name].values == {"message.timestamp.type": "CreateTime", "max.message.bytes": "54321"}
    assert everything[topic.name].values["retention.ms"] == "604800000"


async def test_altering_sets_some_keys_resets_others_and_leaves_the_rest(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(cleanup_policy="compact", retention_ms="1000", segment_bytes="1048576")
    before = (await describe_topic_configs(connection, [topic.name]))[topic.name]
    await alter_topic_configs(connection, {topic.name: {"retention.ms": "5000", "cleanup.policy": None}})
    own = before
    async with asyncio.timeout(60):
        while own.values == before.values:  # the broker follows the controller within moments
            own = (await describe_topic_configs(connection, [topic.name]))[topic.name]

    assert own.values == {"retention.ms": "5000", "segment.bytes": "1048576"}


async def test_a_configuration_kafka_does_not_take_is_refused_with_its_own_words(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    with pytest.raises(KafkaDeniedError, match=r"configuring topic .*retention\.ms") as refused:
        await alter_topic_configs(connection, {topic.name: {"retention.ms": "for ever"}})
    with pytest.raises(KafkaDeniedError, match=r"creating topic .*no\.such\.key") as missing:
        await create_topic(connection, f"{topic.name}-2", configs={"no.such.key": "1"})

    assert refused.value.code == KafkaErrorCode.INVALID_CONFIG
    assert missing.value.code == KafkaErrorCode.INVALID_CONFIG


async def test_creating_a_topic_that_exists_is_refused(connection: KafkaConnection, topics: Topics) -> None:
    topic = await topics.create()
    with pytest.raises(KafkaDeniedError, match="TOPIC_ALREADY_EXISTS") as refused:
        await create_topic(connection, topic.name)

    assert refused.value.code == KafkaErrorCode.TOPIC_ALREADY_EXISTS


async def test_a_deleted_topic_is_gone_on_return_and_deleting_it_again_is_refused(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    await delete_topic(connection, topic.name, topic_id=topic.topic_id)
    (left,) = (await cluster_metadata(connection, [topic.name])).topics
    with pytest.raises(KafkaDeniedError, match="no such topic"):
        await delete_topic(connection, topic.name)

    assert left.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_deleting_by_id_spares_a_topic_made_anew_under_the_same_name(
    connection: KafkaConnection, topics: Topics
) -> None:
    old = await topics.create()
    await delete_topic(connection, old.name)
    new = await create_topic(connection, old.name)
    with pytest.raises(KafkaDeniedError, match="no such topic"):
        await delete_topic(connection, old.name, topic_id=old.topic_id)
    (still,) = (await cluster_metadata(connection, [new.name])).topics

    assert still.topic_id == new.topic_id


async def test_added_partitions_are_served_on_return(connection: KafkaConnection, topics: Topics) -> None:
    topic = await topics.create(partitions=2)
    grown = await create_partitions(connection, topic.name, 5)
    topics.fill(grown, 1, partition=4)

    assert grown.topic_id == topic.topic_id
    assert [TopicPartition(grown.name, part.partition).partition for part in grown.partitions] == [0, 1, 2, 3, 4]

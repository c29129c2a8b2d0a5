"""Reading back notices every difference between what was produced and what lies in the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from kbackupd.kafka.admin import delete_records
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import SecuritySettings
from kbackupd.restore.content_digest import ContentDigest
from kbackupd.restore.verify import Expected, Verified, verify_target
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Truth, raw_log, split_batches
from kbackupd.testbed.workload import RecordMaker, produce

Names = Callable[[], str]


def fill(kafka: KafkaServer, topic: str, count: int = 50) -> None:
    maker = RecordMaker(topic)
    produce(kafka.bootstrap, Truth(), topic, (maker.draft(0) for _ in range(count)))


def digest_of(raw: bytes) -> ContentDigest:
    digest = ContentDigest()
    for batch in split_batches(raw):
        digest.add(batch.data, batch.next_offset - batch.first_offset)
    return digest


async def verified(kafka: KafkaServer, topic: str, digest: ContentDigest) -> Verified:
    tp = TopicPartition(topic, 0)
    async with KafkaConnection(
        bootstrap_servers=(kafka.bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    ) as connection:
        metadata = (await cluster_metadata(connection, [topic])).topics[0]

        async def leaders() -> Mapping[TopicPartition, int]:
            return {tp: metadata.partitions[0].leader_id}

        expected = Expected(id=PartitionId(metadata.topic_id, 0), first_offset=0, digest=digest)
        return (await verify_target(connection, {tp: expected}, leaders=leaders, read=lambda _: None))[tp]


@pytest.fixture
def topic(kafka: KafkaServer, unique_topic: Names) -> str:
    name = create_topic(kafka.bootstrap, unique_topic())
    fill(kafka, name)
    return name


async def test_what_is_there_as_it_was_produced_has_no_problem(kafka: KafkaServer, topic: str) -> None:
    found = await verified(kafka, topic, digest_of(raw_log(kafka, topic, 0)))

    assert (found.problem, found.records, found.log_end_offset) == ("", 50, 50)


async def test_other_content_is_noticed(kafka: KafkaServer, topic: str) -> None:
    changed = bytearray(raw_log(kafka, topic, 0))
    changed[-3] ^= 1

    assert "other content" in (await verified(kafka, topic, digest_of(bytes(changed)))).problem


async def test_records_of_somebody_else_behind_ours_are_noticed(kafka: KafkaServer, topic: str) -> None:
    digest = digest_of(raw_log(kafka, topic, 0))
    fill(kafka, topic, 3)

    assert "ends at 53 instead of 50" in (await verified(kafka, topic, digest)).problem


async def test_records_that_are_gone_again_are_noticed(kafka: KafkaServer, topic: str) -> None:
    digest = digest_of(raw_log(kafka, topic, 0))
    async with KafkaConnection(
        bootstrap_servers=(kafka.bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    ) as connection:
        await delete_records(connection, {TopicPartition(topic, 0): -1})

    assert "could not be read back" in (await verified(kafka, topic, digest)).problem


async def test_an_empty_partition_must_be_empty(kafka: KafkaServer, topic: str, unique_topic: Names) -> None:
    empty = create_topic(kafka.bootstrap, unique_topic())

    assert (await verified(kafka, empty, ContentDigest())).problem == ""
    assert "ends at 50 instead of 0" in (await verified(kafka, topic, ContentDigest())).problem


async def test_a_log_that_ends_too_early_is_noticed_after_a_while(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbackupd.restore.verify._MAX_WAIT_MS", 10)
    digest = digest_of(raw_log(kafka, topic, 0) * 2)

    assert "ends at offset 50 instead of 100" in (await verified(kafka, topic, digest)).problem

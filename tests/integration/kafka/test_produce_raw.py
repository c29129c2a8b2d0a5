"""Stored batches go back into Kafka as they are, header aside, and never twice."""

from __future__ import annotations

import asyncio
import struct

from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as ConfluentPartition
from crc32c import crc32c

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import KafkaErrorCode, TopicMetadata, TopicPartition
from kbackupd.testbed.kafka import KafkaServer
from tests.integration.kafka.conftest import Topics
from tests.integration.kafka.sessions import NODE, Follower, from_start, session_on, want_all, whole_batches

_RECORDS_BEGIN = 61
_CODEC_BITS = 0b111


def _rewritten(batch: bytes, producer: RawProducer, sequence: int) -> bytes:
    """The stored batch under our own producer's name: base offset 0 (the broker insists), leader epoch −1, codec bits
    only, CRC anew."""
    rewritten = bytearray(batch)
    (attributes,) = struct.unpack_from(">h", rewritten, 21)
    struct.pack_into(">q", rewritten, 0, 0)
    struct.pack_into(">i", rewritten, 12, -1)
    struct.pack_into(">h", rewritten, 21, attributes & _CODEC_BITS)
    struct.pack_into(">qhi", rewritten, 43, producer.producer_id, producer.producer_epoch, sequence)
    struct.pack_into(">I", rewritten, 17, crc32c(bytes(rewritten[21:])))
    return bytes(rewritten)


def _count(batch: bytes) -> int:
    (count,) = struct.unpack_from(">i", batch, 57)
    return int(count)


async def _batches(connection: KafkaConnection, topic: TopicMetadata, end: int) -> list[bytes]:
    session = session_on(connection)
    want_all(session, from_start(topic))
    follower = Follower(session)
    (id_,) = from_start(topic)
    await follower.until(lambda: follower.offset(id_) == end)
    return [batch for _, batch in whole_batches(follower.logs[id_])]


def _read(kafka: KafkaServer, topic: str, count: int) -> list[tuple[object, ...]]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([ConfluentPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=120)
    consumer.close()
    return [(m.offset(), m.key(), m.value(), m.timestamp()) for m in messages]


async def test_fetched_batches_produced_again_read_the_same_and_stay_compressed(
    connection: KafkaConnection, kafka: KafkaServer, topics: Topics
) -> None:
    source, target = await topics.create(retention_ms="-1"), await topics.create(retention_ms="-1")
    writer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": "zstd", "linger.ms": 5})
    for number in range(500):
        writer.produce(
            source.name, key=f"k{number}", value=b"v" * 300, partition=0, timestamp=1_700_000_000_000 + number
        )
        if number % 100 == 99:
            assert writer.flush(120) == 0
    batches = await _batches(connection, source, 500)
    producer = await RawProducer.open(connection)
    sequence, offsets = 0, []
    for batch in batches:
        answers = await producer.produce(
            NODE, {TopicPartition(target.name, 0): _rewritten(batch, producer, sequence)}, timeout_ms=30_000
        )
        answer = answers[TopicPartition(target.name, 0)]
        assert answer.error_code == KafkaErrorCode.NONE, answer
        offsets.append(answer.base_offset)
        sequence += _count(batch)
    written = await _batches(connection, target, 500)

    assert len(batches) > 1
    assert [batch[_RECORDS_BEGIN:] for batch in written] == [batch[_RECORDS_BEGIN:] for batch in batches]
    assert offsets == [struct.unpack_from(">q", batch)[0] for batch in batches]
    assert _read(kafka, target.name, 500) == _read(kafka, source.name, 500)


async def test_a_repeated_batch_is_dropped_and_answered_with_where_it_is(
    connection: KafkaConnection, topics: Topics
) -> None:
    source, target = await topics.create(), await topics.create()
    topics.fill(source, 10)
    (first, *_) = await _batches(connection, source, 10)
    producer = await RawProducer.open(connection)
    tp = TopicPartition(target.name, 0)
    batch = _rewritten(first, producer, 0)
    once = (await producer.produce(NODE, {tp: batch}, timeout_ms=30_000))[tp]
    resumed = RawProducer(connection, producer_id=producer.producer_id, producer_epoch=producer.producer_epoch)
    again = (await resumed.produce(NODE, {tp: batch}, timeout_ms=30_000))[tp]

    assert (once.error_code, once.base_offset) == (0, 0)
    assert (again.error_code, again.base_offset) == (0, 0)
    assert len(await _batches(connection, target, _count(first))) == 1


async def test_one_request_carries_several_partitions_and_each_has_its_own_answer(
    connection: KafkaConnection, topics: Topics
) -> None:
    source, target = await topics.create(), await topics.create(partitions=3)
    topics.fill(source, 1)
    (batch,) = await _batches(connection, source, 1)
    producer = await RawProducer.open(connection)
    good = {TopicPartition(target.name, partition): _rewritten(batch, producer, 0) for partition in range(3)}
    torn, missing = TopicPartition(target.name, 1), TopicPartition("never-made", 0)
    damaged = good[torn][:-1] + bytes([good[torn][-1] ^ 1])
    answers = await producer.produce(NODE, {**good, torn: damaged, missing: batch}, timeout_ms=30_000)

    codes = {tp.partition: answers[tp].error_code for tp in good}
    assert codes == {0: 0, 1: KafkaErrorCode.CORRUPT_MESSAGE, 2: 0}
    assert answers[missing].error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_five_requests_in_flight_arrive_in_order(connection: KafkaConnection, topics: Topics) -> None:
    source, target = await topics.create(), await topics.create()
    topics.fill(source, 1)
    (batch,) = await _batches(connection, source, 1)
    producer = await RawProducer.open(connection)
    tp = TopicPartition(target.name, 0)
    async with asyncio.TaskGroup() as group:
        flying = [
            group.create_task(producer.produce(NODE, {tp: _rewritten(batch, producer, number)}, timeout_ms=30_000))
            for number in range(5)
        ]

    assert [task.result()[tp].base_offset for task in flying] == [0, 1, 2, 3, 4]

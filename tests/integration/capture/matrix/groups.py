"""Where an independent client's consumer group goes on that committed given positions."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError
from confluent_kafka import TopicPartition as ConfluentPartition

from kbackupd.testbed.process import Deadline

_DEADLINE_SECONDS = 120.0


def where_a_group_goes_on(
    bootstrap: str, *commits: Mapping[tuple[str, int], int]
) -> list[dict[tuple[str, int], int | None]]:
    """For each of `commits`, which one group makes one after the other, by topic and partition: the offset of the first
    record it gets then; None: it is at the end. A position out of range fails."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"matrix-{uuid.uuid4()}",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "fetch.message.max.bytes": 16 << 20,
            "receive.message.max.bytes": 200 << 20,
        }
    )
    try:
        return [_goes_on(consumer, positions) for positions in commits]
    finally:
        consumer.close()


def _goes_on(consumer: Consumer, positions: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int | None]:
    rows = [ConfluentPartition(topic, number, offset) for (topic, number), offset in positions.items()]
    consumer.commit(offsets=rows, asynchronous=False)
    consumer.assign([ConfluentPartition(topic, number) for topic, number in positions])
    found: dict[tuple[str, int], int | None] = {}
    deadline = Deadline(_DEADLINE_SECONDS)
    while len(found) < len(positions):
        assert not deadline.passed, f"nothing was heard of {positions.keys() - found.keys()}"
        message = consumer.poll(1.0)
        if message is None:
            continue
        place = (str(message.topic()), int(message.partition() or 0))
        error = message.error()
        assert error is None or error.code() == KafkaError._PARTITION_EOF, f"{place}: {error}"
        if place not in found:
            found[place] = message.offset() if error is None else None
    consumer.unassign()
    return found


def first_and_next_offset(bootstrap: str, topic: str, partition: int) -> tuple[int, int]:
    """As a broker tells them."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"matrix-{uuid.uuid4()}"})
    try:
        first, following = consumer.get_watermark_offsets(ConfluentPartition(topic, partition), timeout=60)
        return first, following
    finally:
        consumer.close()

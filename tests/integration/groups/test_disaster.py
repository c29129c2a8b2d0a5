"""The whole story: consumers stop in a disaster, the topics come back in another cluster, and the consumers go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup, flush, follows
from tests.integration.capture.test_snapshots import captured
from tests.integration.groups.story import verb

Names = Callable[[], str]
Processed = dict[int, list[bytes]]
"""Partition → values in the order they were processed."""

PARTITIONS = 3


def produce_transactions(bootstrap: str, topic: str, count: int) -> Processed:
    """Transactions over all partitions, every third aborted; what was committed."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(60)
    committed: Processed = {partition: [] for partition in range(PARTITIONS)}
    for number in range(count):
        producer.begin_transaction()
        values = [
            (partition, b"%d-%d-%d" % (number, partition, n)) for partition in range(PARTITIONS) for n in range(4)
        ]
        for partition, value in values:
            producer.produce(topic, value, partition=partition)
        if number % 3 == 1:
            producer.flush(60)
            producer.abort_transaction(60)
            continue
        producer.commit_transaction(60)
        for partition, value in values:
            committed[partition].append(value)
    return committed


def process(bootstrap: str, group: str, topic: str, *, stop_after: dict[int, int] | None = None) -> Processed:
    """A consumer of the group: what it reads, up to a count per partition or to the end; each is committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    processed: Processed = {partition: [] for partition in range(PARTITIONS)}
    left = {p for p in range(PARTITIONS) if stop_after is None or stop_after[p]}
    next_offsets: dict[int, int] = {}
    deadline = time.monotonic() + 120
    try:
        consumer.subscribe([topic])
        while left:
            assert time.monotonic() < deadline
            message = consumer.poll(1.0)
            if message is None:
                continue
            partition = message.partition()
            assert partition is not None
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(partition)
                continue
            if partition not in left:
                continue
            processed[partition].append(message.value() or b"")
            next_offsets[partition] = (message.offset() or 0) + 1
            if stop_after is not None and len(processed[partition]) == stop_after[partition]:
                left.discard(partition)
        rows = [TopicPartition(topic, partition, offset) for partition, offset in next_offsets.items()]
        consumer.commit(offsets=rows, asynchronous=False)
    finally:
        consumer.close()
    return processed


def test_after_a_restore_each_record_is_processed_exactly_as_if_nothing_had_happened(
    kafka: KafkaServer, backup: Backup, unique_topic: Names, tmp_path: Path
) -> None:
    backup.keep_on(tmp_path / "archives")
    (tmp_path / "archives").mkdir()
    topic = create_topic(kafka.bootstrap, unique_topic(), partitions=PARTITIONS)
    committed = produce_transactions(kafka.bootstrap, topic, 20)
    fast, slow = f"{topic}-fast", f"{topic}-slow"
    before = {
        fast: process(kafka.bootstrap, fast, topic, stop_after={0: 7, 1: 12, 2: len(committed[2])}),
        slow: process(kafka.bootstrap, slow, topic, stop_after={0: 1, 1: 4, 2: 0}),
    }
    positions = {group: held_offsets(kafka.bootstrap, group, topic) for group in (fast, slow)}
    asyncio.run(backed_up(backup, topic, positions))

    with KafkaServer() as anew:
        config = tmp_path / "restore.yaml"
        config.write_text(
            "restore:\n"
            f"  source: {{path: 'file://{tmp_path / 'archives'}', backup_id: main}}\n"
            f"  target: {{bootstrap_servers: ['{anew.bootstrap}']}}\n"
            f"  options: {{topic_mapping: [{{source: {topic}, target: restored}}], retention_after: hold}}\n"
        )
        offset_map, plan = str(tmp_path / "map.json.zst"), str(tmp_path / "plan.json")
        for arguments in (
            ("restore", "--config", str(config), "--offset-map", offset_map),
            (
                "offset-reset", "plan", "--config", str(config), "--strategy", "group", "--offset-map", offset_map,
                "--group", f"{topic}-*", "--output", plan,
            ),
            ("offset-reset", "execute", "--config", str(config), "--plan", plan),
        ):  # fmt: skip
            code, out, err = verb(*arguments)
            assert code == 0, (arguments, out, err)
        after = {group: process(anew.bootstrap, group, "restored") for group in (fast, slow)}

    for group in (fast, slow):
        for partition in range(PARTITIONS):
            assert before[group][partition] + after[group][partition] == committed[partition], (group, partition)


async def backed_up(backup: Backup, topic: str, positions: dict[str, dict[int, int]]) -> None:
    """Back the topic up to its end, until a snapshot of the groups has these positions."""
    daemon = backup.daemon(topic, snapshot_interval="1s")
    daemon.start()
    await follows(daemon, topic, PARTITIONS)
    for group, offsets in positions.items():
        await captured(backup, group, {(topic, partition): offset for partition, offset in offsets.items()})
    await flush(daemon)
    assert daemon.stop() == 0


def held_offsets(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        rows = consumer.committed([TopicPartition(topic, partition) for partition in range(PARTITIONS)], timeout=60)
        return {row.partition: row.offset for row in rows if row.offset >= 0}
    finally:
        consumer.close()

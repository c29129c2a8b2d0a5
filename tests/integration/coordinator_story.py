"""What makes coordinators write into their topics, by independent clients, and what Kafka's own tool reads there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from kbackupd.format.batch import iter_batches
from kbackupd.format.codecs import decompress_payload
from kbackupd.format.header import HEADER_BYTES
from kbackupd.format.records import decode_record, iter_records
from kbackupd.model.coordinators import TransactionState
from kbackupd.testbed.java import kafka_tool
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.process import Deadline
from kbackupd.testbed.truth import raw_log

PATIENCE_SECONDS = 120.0
QUIET = {"log_level": 0}


def commit(
    kafka: KafkaServer, group: str, topic: str, offsets: dict[int, int], *, metadata: str = "", leader_epoch: int = -1
) -> None:
    """Positions by partition, as a client without a membership commits them."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, **QUIET})
    epoch = {} if leader_epoch < 0 else {"leader_epoch": leader_epoch}
    rows = [TopicPartition(topic, number, offset, metadata, **epoch) for number, offset in offsets.items()]
    try:
        answered = consumer.commit(offsets=rows, asynchronous=False)
        assert all(row.error is None for row in answered)
    finally:
        consumer.close()


def member(kafka: KafkaServer, group: str, topic: str, **settings: str) -> None:
    """A member joins, is given partitions, commits and leaves."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **settings,
            **QUIET,
        }
    )
    try:
        consumer.subscribe([topic])
        deadline = Deadline(PATIENCE_SECONDS)
        while not consumer.assignment():
            assert not deadline.passed, f"{group} was given no partition"
            consumer.poll(0.1)
        consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    finally:
        consumer.close()


def delete_group(kafka: KafkaServer, group: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, **QUIET})
    admin.delete_consumer_groups([group], request_timeout=30)[group].result(PATIENCE_SECONDS)


def transactional(kafka: KafkaServer, transactional_id: str, *, timeout_ms: int = 60_000) -> Producer:
    """A producer that is initialised under that id."""
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            **QUIET,
        }
    )
    producer.init_transactions(PATIENCE_SECONDS)
    return producer


def begun(producer: Producer, topic: str, partitions: Sequence[int]) -> None:
    """A transaction with a record, acknowledged, in each partition."""
    producer.begin_transaction()
    for number in partitions:
        producer.produce(topic, b"v", b"k", partition=number)
    assert producer.flush(PATIENCE_SECONDS) == 0


def send_offsets(kafka: KafkaServer, producer: Producer, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Positions of `group` as part of the transaction."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, **QUIET})
    try:
        rows = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
        producer.send_offsets_to_transaction(rows, consumer.consumer_group_metadata(), PATIENCE_SECONDS)
    finally:
        consumer.close()


def java_transactions(kafka: KafkaServer, transactional_id: str, topic: str, *, records: int) -> None:
    """Committed transactions of Kafka's own client, which ends each with the next epoch (KIP-890)."""
    kafka_tool(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", topic, "--num-records", str(records), "--record-size", "10", "--throughput", "100"),
        *("--bootstrap-server", kafka.bootstrap),
        *("--transactional-id", transactional_id, "--transaction-duration-ms", "100"),
    )


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = Deadline(PATIENCE_SECONDS)
    while not condition():
        assert not deadline.passed, f"not in time: {what}"
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class LoggedRecord:
    """A record as the broker has it in its file, and what Kafka's own tool says of it."""

    offset: int
    key: bytes
    value: bytes | None
    says_key: Any
    says_value: Any


def coordinator_log(kafka: KafkaServer, topic: str, partition: int, decoder: str) -> list[LoggedRecord]:
    """The records, without markers, of a coordinator's log that the broker has written so far.

    Args:
        decoder: the option of DumpLogSegments that names the kind.
    """
    found = []
    for path in sorted(kafka.log_dir(topic, partition).glob("*.log")):
        said = _dumped(path, decoder)
        for header, batch in iter_batches(_whole_batches(path.read_bytes())):
            if header.is_control:
                continue
            for record in iter_records(decompress_payload(header.codec, batch[HEADER_BYTES:]), header.record_count):
                offset = header.base_offset + record.offset_delta
                key, value, _ = decode_record(record.body)
                assert key is not None
                if offset in said:  # else it came after the dump
                    found.append(LoggedRecord(offset, key, value, *said[offset]))
    return found


def missing_offsets(kafka: KafkaServer, topic: str, partition: int) -> int:
    """How many offsets below the last one have neither record nor marker any more."""
    offsets = set()
    for header, batch in iter_batches(_whole_batches(raw_log(kafka, topic, partition))):
        payload = decompress_payload(header.codec, batch[HEADER_BYTES:])
        offsets |= {header.base_offset + one.offset_delta for one in iter_records(payload, header.record_count)}
    return max(offsets) + 1 - len(offsets) if offsets else 0


def _whole_batches(data: bytes) -> bytes:
    """Behind the last batch a live log file may be preallocated or half written."""
    end = 0
    while end + 12 <= len(data) and (size := int.from_bytes(data[end + 8 : end + 12], "big")):
        if end + 12 + size > len(data):
            break
        end += 12 + size
    return data[:end]


_LINE = re.compile(r"\| offset: (\d+) .*? key: (.*) payload: (.*)$")


def _dumped(path: Path, decoder: str) -> dict[int, tuple[Any, Any]]:
    """Offset → what DumpLogSegments says of key and value: JSON where it speaks it, else its text."""
    tool = "org.apache.kafka.tools.DumpLogSegments"
    said: dict[int, tuple[Any, Any]] = {}
    for line in kafka_tool(tool, "--files", str(path), "--deep-iteration", decoder).splitlines():
        if found := _LINE.search(line):
            said[int(found[1])] = (_spoken(found[2]), _spoken(found[3]))
    return said


def _spoken(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


OFFSETS_DECODER = "--offsets-decoder"
TRANSACTIONS_DECODER = "--transaction-log-decoder"

ONE_COORDINATOR = {"offsets.topic.num.partitions": "1", "transaction.state.log.num.partitions": "1"}
"""Broker properties with which each of the two topics is one log."""


def tell(kafka: KafkaServer, topic: str, *, modern: bool) -> None:
    """Commits and transactions of all kinds on three partitions of `topic`; returns when all of it is settled.

    Args:
        modern: the broker knows what came with Kafka 4: the consumer protocol and the end of transactions by epochs.
    """
    commit(kafka, "billing", topic, {0: 5, 1: 6}, metadata="note", leader_epoch=0)
    member(kafka, "classic", topic)
    if modern:
        member(kafka, "modern", topic, **{"group.protocol": "consumer"})
    delete_group(kafka, "classic")
    payments = transactional(kafka, "payments")
    begun(payments, topic, [0, 1, 2])
    send_offsets(kafka, payments, "billing", topic, {2: 9})
    payments.commit_transaction(PATIENCE_SECONDS)
    begun(payments, topic, [0])
    send_offsets(kafka, payments, "billing", topic, {2: 10})
    payments.abort_transaction(PATIENCE_SECONDS)
    begun(payments, topic, [1])  # and left open
    slow = transactional(kafka, "slow", timeout_ms=1000)
    begun(slow, topic, [2])
    fenced = transactional(kafka, "fenced")
    begun(fenced, topic, [0])
    transactional(kafka, "fenced")
    if modern:
        java_transactions(kafka, "java", topic, records=30)
    until(lambda: _aborted(kafka, "slow"), "the coordinator aborts what ran out of time")


def _aborted(kafka: KafkaServer, transactional_id: str) -> bool:
    log = coordinator_log(kafka, "__transaction_state", 0, TRANSACTIONS_DECODER)
    return any(
        one.says_key == {"type": "0", "data": {"transactionalId": transactional_id}}
        and one.says_value["data"]["transactionStatus"] == TransactionState.COMPLETE_ABORT
        for one in log
    )

"""The benchmark's topics: records like an event stream's, produced by an independent client (librdkafka)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Producer

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.workload import Codec

TOPICS: dict[str, Codec] = {"uncompressed": "none", "lz4": "lz4", "zstd": "zstd", "gzip": "gzip", "snappy": "snappy"}
"""By the name of each, how its producer compresses."""
PARTITIONS = 4
VALUE_BYTES = 500
POOL_RECORDS = 40_000
"""So many different values, 20 MB: a repeat lies beyond the reach of any compressor's window used here."""
_FLUSH_SECONDS = 300.0
_STATES = ("created", "authorised", "captured", "refunded", "cancelled", "shipped", "delivered", "returned")
_CITIES = ("Berlin", "Lisbon", "Nairobi", "Osaka", "Recife", "Toronto", "Warsaw", "Wellington", "Zagreb", "Antwerp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTopic:
    """A topic full of records, and what it weighs."""

    name: str
    codec: Codec
    records: int
    raw_bytes: int
    """Of the values alone, before any compression and framing."""
    broker_bytes: int
    """Of the record batches in the broker's log files."""


def fill_topic(
    kafka: KafkaServer,
    name: str,
    *,
    codec: Codec,
    raw_bytes: int,
    partitions: int = PARTITIONS,
    batch_records: int | None = None,
) -> LoadedTopic:
    """Create `name` and produce `raw_bytes` of values to it, evenly over its partitions; on return all are stored.

    Args:
        batch_records: no batch holds more; None: as many as fit 1 MB. A batch costs the broker a request: one record in
            each is produced at some thousands a second.
    """
    create_topic(kafka.bootstrap, name, partitions=partitions)
    records = raw_bytes // VALUE_BYTES
    add_records(kafka, name, codec=codec, records=records, partitions=partitions, batch_records=batch_records)
    return loaded_topic(kafka, name, codec=codec, records=records, partitions=partitions)


def add_records(
    kafka: KafkaServer,
    name: str,
    *,
    codec: Codec,
    records: int,
    partitions: int,
    batch_records: int | None = None,
) -> None:
    """Produce so many more, evenly over the partitions; on return all are stored."""
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "compression.type": codec,
            "linger.ms": 100,
            "batch.num.messages": 100_000 if batch_records is None else batch_records,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 200_000,
            "enable.idempotence": True,
            "log_level": 0,
        }
    )
    for number, value in enumerate(itertools.islice(itertools.cycle(list(_values())), records)):
        while True:
            try:
                producer.produce(name, value, partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1_000 == 0:
            producer.poll(0)
    if left := producer.flush(_FLUSH_SECONDS):
        raise TimeoutError(f"{left} records of {name} were not acknowledged within {_FLUSH_SECONDS:g} s")


def loaded_topic(kafka: KafkaServer, name: str, *, codec: Codec, records: int, partitions: int) -> LoadedTopic:
    """What a topic that holds `records` of these weighs."""
    stored = sum(
        file.stat().st_size for number in range(partitions) for file in kafka.log_dir(name, number).glob("*.log")
    )
    return LoadedTopic(name=name, codec=codec, records=records, raw_bytes=records * VALUE_BYTES, broker_bytes=stored)


def _values() -> Iterator[bytes]:
    """JSON of exactly `VALUE_BYTES`: names repeat, ids, amounts and a signature do not; zstd makes it 3-4x smaller."""
    chance = random.Random(1)
    for number in range(POOL_RECORDS):
        text = (
            f'{{"event_id":"{chance.randbytes(16).hex()}","sequence":{number},'
            f'"occurred_at":"2026-03-24T{chance.randrange(24):02}:{chance.randrange(60):02}:'
            f'{chance.random() * 60:09.6f}Z",'
            f'"customer":{{"id":{chance.randrange(10**7)},"city":"{chance.choice(_CITIES)}","loyalty":"standard"}},'
            f'"order":{{"state":"{chance.choice(_STATES)}","currency":"EUR","amount_cents":{chance.randrange(10**6)},'
            f'"items":[{{"sku":"SKU-{chance.randrange(10**5):05}","quantity":{chance.randrange(1, 9)}}},'
            f'{{"sku":"SKU-{chance.randrange(10**5):05}","quantity":{chance.randrange(1, 9)}}}]}},'
            f'"trace":"{chance.randbytes(56).hex()}","note":"'
        )
        yield (text + "no further remarks were made by the customer " * 6)[: VALUE_BYTES - 2].encode() + b'"}'

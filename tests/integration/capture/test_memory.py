"""Hazard 51, invariant I9: a store that stops answering costs RPO, not memory; afterwards everything arrives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
from confluent_kafka import Producer

from kbackupd.model.settings import BackupSettings
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.odd_daemon import odd_command
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.usage import peak_rss_bytes
from kbackupd.testbed.workload import Codec
from tests.integration.conditions import reaches
from tests.integration.verbatim import assert_verbatim, overrides

MIB = 1 << 20
VALUE_BYTES = 10_000
PARTITIONS = 4


@pytest.mark.timeout(900)
async def test_hazard_51_the_process_stays_within_memory_limit_while_the_store_hangs_and_600_mib_arrive(
    kafka: KafkaServer,
    s3_server: S3Server,
    s3_bucket: str,
    s3_prefix: str,
    unique_topic: Callable[[], str],
    short_path: Path,
) -> None:
    noise, prose, packed = unique_topic(), unique_topic(), unique_topic()
    sizes = dict.fromkeys((noise, prose, packed), PARTITIONS)
    for topic in sizes:
        create_topic(kafka.bootstrap, topic, partitions=PARTITIONS)
    daemon = Daemon(
        short_path,
        bootstrap=kafka.bootstrap,
        s3=s3_server,
        bucket=s3_bucket,
        prefix=s3_prefix,
        overrides=overrides(list(sizes), segment_max_bytes="32MiB"),
        # Left alone it gives each upload 20 seconds and as many more as it has half MiBs.
        program=odd_command("--try-seconds", "5"),
    )
    try:
        daemon.start()
        pid = daemon.pid
        assert pid is not None
        s3_server.freeze()
        produce(kafka, noise, 250 * MIB, incompressible(), codec="none")
        produce(kafka, prose, 150 * MIB, compressible(), codec="none")
        produce(kafka, packed, 200 * MIB, incompressible(), codec="zstd")
        await reaches(lambda: reserved_share(daemon) > 0.8, "as much fetched as the budget allows")
        # An upload is given up and begun again: its first body must not stay behind.
        await reaches(lambda: retried_puts(daemon) >= 4, "every upload tried again")
        assert peak_rss_bytes(pid) <= BackupSettings().memory_limit_bytes
        s3_server.thaw()
        daemon.ctl("flush")
        assert peak_rss_bytes(pid) <= BackupSettings().memory_limit_bytes
        assert daemon.stop() == 0
    finally:
        s3_server.thaw()
        daemon.kill()
    await assert_verbatim(s3_server.storage(s3_bucket, s3_prefix), kafka, sizes)


def incompressible() -> Iterator[bytes]:
    chance = random.Random(51)
    return cycle([chance.randbytes(VALUE_BYTES) for _ in range(200)])


def compressible() -> Iterator[bytes]:
    chance = random.Random(51)
    return cycle([chance.randbytes(VALUE_BYTES // 4).hex().ljust(VALUE_BYTES).encode() for _ in range(200)])


def produce(kafka: KafkaServer, topic: str, size_bytes: int, values: Iterator[bytes], *, codec: Codec) -> None:
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "compression.type": codec,
            "linger.ms": 20,
            "enable.idempotence": True,
            "log_level": 0,
        }
    )
    for number, value in enumerate(islice(values, size_bytes // VALUE_BYTES)):
        while True:
            try:
                producer.produce(topic, value, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(300.0) == 0


def reserved_share(daemon: Daemon) -> float:
    status = daemon.status()
    if status is None:
        return 0.0
    memory = status["memory"]
    assert isinstance(memory, dict)
    reserved, budget = memory["reserved_bytes"], memory["budget_bytes"]
    assert isinstance(reserved, int)
    assert isinstance(budget, int)
    return reserved / budget


def retried_puts(daemon: Daemon) -> float:
    _, text = daemon.get("/metrics")
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.decode().splitlines()
        if line.startswith("kbackupd_store_retries_total{") and 'operation="put"' in line
    )

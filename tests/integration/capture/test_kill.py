"""Hazards 2, 4, 57: SIGKILL at random moments under live load; afterwards the archive is exactly what was produced."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Truth, compare_records, read_topic
from kbackupd.testbed.workload import LiveLoad, PlainStream, TransactionalStream
from tests.integration.verbatim import assert_verbatim, overrides


async def kill_rounds(
    rounds: int, *, seed: int, kafka: KafkaServer, s3: S3Server, bucket: str, prefix: str, topics: list[str], tmp: Path
) -> dict[str, float]:
    """Run the daemon under load, killing it `rounds` times; check the archive; figures for people."""
    chance = random.Random(seed)
    plain, compressed, first, second = topics
    sizes = {plain: 3, compressed: 2, first: 2, second: 1}
    truth = Truth()
    for topic, partitions in sizes.items():
        create_topic(kafka.bootstrap, topic, partitions=partitions)
        truth.know_topic(topic, partitions)
    resumed: list[float] = []
    load = LiveLoad(
        kafka.bootstrap,
        truth,
        [
            PlainStream(topic=plain, records_per_second=400),
            PlainStream(topic=compressed, codec="zstd", records_per_second=400),
            TransactionalStream(topics=(first, second), records_per_second=200, records_per_transaction=15),
        ],
        seed=seed,
    )
    daemon = Daemon(
        tmp,
        bootstrap=kafka.bootstrap,
        s3=s3,
        bucket=bucket,
        prefix=prefix,
        overrides=overrides(topics, segment_max_bytes="1MiB"),
    )
    try:
        with load:
            for number in range(rounds):
                started = time.monotonic()
                # Every third life is killed before it is ready: claims, recovery and first checkpoint get their share.
                if number % 3 == 0:
                    daemon.launch()
                else:
                    await asyncio.to_thread(daemon.start)
                    resumed.append(time.monotonic() - started)
                await asyncio.sleep(chance.uniform(0.0, 1.2))  # the random moment is what this test is about
                daemon.require_running()
                daemon.kill()
        daemon.start()
        daemon.ctl("flush")
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    batches = await assert_verbatim(s3.storage(bucket, prefix), kafka, sizes)
    for topic, partitions in sizes.items():
        read = read_topic(kafka.bootstrap, topic)
        for partition in range(partitions):
            assert compare_records(truth.records(topic, partition, seen=read[partition]), read[partition]) == []
    checked = daemon.cli("validate", "--config", str(daemon.config), "--deep", "--format", "json")
    assert checked.exit_code == 0, checked.stdout + checked.stderr
    return {
        "rounds": rounds,
        "records": truth.record_count,
        "batches": batches,
        "slowest_resume_seconds": max(resumed),
    }


@pytest.mark.timeout(900)
async def test_hazard_57_the_archive_is_exact_after_25_kills_at_random_moments(
    kafka: KafkaServer,
    s3_server: S3Server,
    s3_bucket: str,
    s3_prefix: str,
    unique_topic: Callable[[], str],
    short_path: Path,
) -> None:
    topics = [unique_topic() for _ in range(4)]
    await kill_rounds(
        25, seed=57, kafka=kafka, s3=s3_server, bucket=s3_bucket, prefix=s3_prefix, topics=topics, tmp=short_path
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_soak_200_kills(
    kafka: KafkaServer,
    s3_server: S3Server,
    s3_bucket: str,
    s3_prefix: str,
    unique_topic: Callable[[], str],
    short_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    topics = [unique_topic() for _ in range(4)]
    figures = await kill_rounds(
        200, seed=200, kafka=kafka, s3=s3_server, bucket=s3_bucket, prefix=s3_prefix, topics=topics, tmp=short_path
    )
    record_property("figures", figures)

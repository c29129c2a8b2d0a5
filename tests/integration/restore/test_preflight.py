"""What a real target would do to a restore half-way, told before its first write; and what its defaults do not (36)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from kbackupd.kafka.admin import describe_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import RefusedError
from kbackupd.model.settings import SecuritySettings
from kbackupd.restore.preflight import PreflightError
from kbackupd.restore.report import Verdict
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic, partition_leaders
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.mirror import restore
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]

HOSTILE = {
    "log.message.timestamp.type": "LogAppendTime",
    "log.message.timestamp.before.max.ms": "1000",
    "log.message.timestamp.after.max.ms": "1000",
    "message.max.bytes": "20000",
    "log.retention.ms": "1000",
    "log.retention.check.interval.ms": "500",
    "log.cleanup.policy": "compact,delete",
    "compression.type": "gzip",
    "socket.request.max.bytes": "400000",
}
YEAR_MS = 365 * 24 * 3600 * 1000


@pytest.fixture(scope="module")
def hostile() -> Iterator[KafkaServer]:
    """A broker whose defaults restamp, refuse, expire, compact and recompress, and which takes small requests only."""
    with KafkaServer(properties=HOSTILE, heap="384m") as server:
        yield server


async def archived(*batches: list[bytes], timestamp_ms: int | None = None) -> ArchiveBuilder:
    built = await ArchiveBuilder.create()
    log = built.log(built.topic("orders"), 0)
    for batch in batches:
        log.append(batch, timestamp_ms=timestamp_ms)
    await archive_everything(built)
    return built


def put(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(120) == 0


def values(bootstrap: str, topic: str) -> list[bytes | None]:
    return [record.value for record in read_topic(bootstrap, topic)[0]]


async def overrides(kafka: KafkaServer, topic: str) -> dict[str, str]:
    async with KafkaConnection(
        bootstrap_servers=(kafka.bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    ) as connection:
        return dict((await describe_topic_configs(connection, [topic]))[topic].values)


async def configured(kafka: KafkaServer, topic: str, wanted: dict[str, str]) -> None:
    """Return when the topic's overrides are as wanted: the broker follows the controller within moments."""
    deadline = time.monotonic() + 60
    while (found := await overrides(kafka, topic)) != wanted:
        assert time.monotonic() < deadline, found


async def test_brokers_whose_defaults_would_ruin_a_restore_take_it_whole(
    hostile: KafkaServer, unique_topic: Names
) -> None:
    ahead_ms = time.time_ns() // 1_000_000 + YEAR_MS
    built, target = await archived([b"a" * 9_000, b"b" * 9_000, b"c" * 9_000], timestamp_ms=ahead_ms), unique_topic()
    old, second = await archived([b"d"] * 3, timestamp_ms=ahead_ms - 2 * YEAR_MS), unique_topic()

    reports = [
        await restore(built, settings_for(hostile.bootstrap, {"orders": target})),
        await restore(old, settings_for(hostile.bootstrap, {"orders": second})),
    ]

    assert [report.verdict for report in reports] == [Verdict.COMPLETE, Verdict.COMPLETE]
    assert [record.timestamp_ms for record in read_topic(hostile.bootstrap, target)[0]] == [
        ahead_ms + n for n in range(3)
    ]
    assert values(hostile.bootstrap, second) == [b"d"] * 3
    assert "retention.ms" in reports[1].topics[0].config_held
    assert [report.topics[0].replicas for report in reports] == [1, 1]


async def test_a_batch_above_the_request_limit_is_refused_before_the_broker_hangs_up(
    hostile: KafkaServer, unique_topic: Names
) -> None:
    built, target = await archived([b"x" * 450_000]), unique_topic()

    with pytest.raises(PreflightError, match=r"socket\.request\.max\.bytes"):
        await restore(built, settings_for(hostile.bootstrap, {"orders": target}))

    assert partition_leaders(hostile.bootstrap, target) == {}


async def test_a_topic_that_would_get_too_few_replicas_is_not_created(unique_topic: Names) -> None:
    built, target = await archived([b"x"]), unique_topic()
    with KafkaServer(properties={"min.insync.replicas": "2"}, heap="256m") as alone:
        with pytest.raises(PreflightError, match="would be created with a replication factor of 1") as refused:
            await restore(built, settings_for(alone.bootstrap, {"orders": target}))

        assert partition_leaders(alone.bootstrap, target) == {}

    assert "default.replication.factor" in refused.value.hint


async def test_an_existing_topic_that_would_never_acknowledge_is_refused_untouched(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    built, target = await archived([b"x"]), unique_topic()
    own = {"min.insync.replicas": "2"}
    create_topic(kafka.bootstrap, target, config=own)

    with pytest.raises(PreflightError, match=r"replication factor of 1, and min\.insync\.replicas is 2"):
        await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert await overrides(kafka, target) == own


async def test_records_follow_those_that_are_there_and_the_topic_keeps_its_own_configuration(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    built, target = await archived([b"lost-1", b"lost-2"], [b"lost-3"]), unique_topic()
    own = {"segment.bytes": "2000000", "max.message.bytes": "3000000", "retention.ms": "-1"}
    create_topic(kafka.bootstrap, target, config=own)
    put(kafka.bootstrap, target, b"there-1", b"there-2")
    settings = settings_for(kafka.bootstrap, {"orders": target}, append=True)

    report = await restore(built, settings)

    [topic] = report.topics
    assert (report.verdict, topic.appended, topic.partitions[0].target_first_offset) == (Verdict.COMPLETE, True, 2)
    assert values(kafka.bootstrap, target) == [b"there-1", b"there-2", b"lost-1", b"lost-2", b"lost-3"]
    await configured(kafka, target, own)
    with pytest.raises(RefusedError, match="it would be appended twice"):
        await restore(built, settings)
    assert len(values(kafka.bootstrap, target)) == 5

"""What a restore refuses, what it survives, and what it says where something is missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import pytest
from confluent_kafka import Producer

from kbackupd.kafka.admin import delete_records, describe_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import ProduceAnswer, TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.events import GapCause
from kbackupd.model.positions import OffsetRange
from kbackupd.model.settings import RetentionAfter, SecuritySettings
from kbackupd.restore.configs import SAFE
from kbackupd.restore.preflight import PreflightError
from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.report import RestoreReport, Verdict
from kbackupd.restore.restore import RestoreMemory
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic, partition_leaders
from kbackupd.testbed.truth import raw_log, read_topic, split_batches
from tests.archive_builder import ArchiveBuilder
from tests.integration.conditions import reaches
from tests.integration.restore.mirror import restore
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]


def connect(kafka: KafkaServer) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=(kafka.bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    )


async def overrides(kafka: KafkaServer, topic: str) -> dict[str, str]:
    async with connect(kafka) as connection:
        return dict((await describe_topic_configs(connection, [topic]))[topic].values)


async def configured(kafka: KafkaServer, topic: str, holds: Callable[[dict[str, str]], bool]) -> None:
    """Return when the topic's overrides are as wanted: the broker follows the controller within moments."""
    deadline = time.monotonic() + 60
    while not holds(found := await overrides(kafka, topic)):
        assert time.monotonic() < deadline, found


def put(kafka: KafkaServer, topic: str, count: int = 1) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(count):
        producer.produce(topic, b"foreign %d" % number, partition=0)
    assert producer.flush(120) == 0


async def built_orders(
    *, partitions: int = 2, batches: int = 3, configs: dict[str, str] | None = None
) -> ArchiveBuilder:
    """Topic "orders" with a few batches of three records in each partition."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=partitions, configs=configs)
    for partition in range(partitions):
        for number in range(batches):
            built.log(orders, partition).append([b"%d-%d-%d" % (partition, number, n) for n in range(3)])
    await archive_everything(built)
    return built


def values(kafka: KafkaServer, topic: str) -> dict[int, list[bytes | None]]:
    return {
        number: [record.value for record in records] for number, records in read_topic(kafka.bootstrap, topic).items()
    }


async def test_every_problem_of_the_target_is_told_at_once_and_nothing_is_written(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    built = await built_orders()
    other = built.topic("others", partitions=1)
    built.topic("fine")
    built.log(other, 0).append([b"x"])
    await archive_everything(built)
    full, wide, absent = unique_topic(), unique_topic(), unique_topic()
    create_topic(kafka.bootstrap, full, partitions=2)
    create_topic(kafka.bootstrap, wide, partitions=4)
    put(kafka, full)

    with pytest.raises(PreflightError) as refused:
        await restore(built, settings_for(kafka.bootstrap, {"orders": full, "others": wide, "fine": absent}))

    assert refused.value.exit_code == 5
    assert [f"topic {full} is not empty" in problem.what for problem in refused.value.problems].count(True) == 1
    assert [f"topic {wide} has 4 partitions, the archive 1" in p.what for p in refused.value.problems].count(True) == 1
    assert "topic_mapping" in refused.value.hint
    assert partition_leaders(kafka.bootstrap, absent) == {}
    assert values(kafka, full)[0] == [b"foreign 0"]


async def test_a_finished_restore_run_again_is_refused(kafka: KafkaServer, unique_topic: Names) -> None:
    built, target = await built_orders(), unique_topic()
    assert (await restore(built, settings_for(kafka.bootstrap, {"orders": target}))).verdict is Verdict.COMPLETE
    before = values(kafka, target)

    with pytest.raises(PreflightError):
        await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert values(kafka, target) == before


async def test_an_emptied_topic_is_restored_into_behind_its_log_start(kafka: KafkaServer, unique_topic: Names) -> None:
    built, target = await built_orders(partitions=1), unique_topic()
    create_topic(kafka.bootstrap, target, config={"segment.bytes": "2000000"})
    put(kafka, target, 4)
    async with connect(kafka) as connection:
        await delete_records(connection, {TopicPartition(target, 0): -1})

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    [partition] = report.topics[0].partitions
    assert report.verdict is Verdict.COMPLETE
    assert (partition.target_first_offset, partition.target_next_offset) == (4, 13)
    assert [run.target_offset for run in partition.offset_map] == [4]
    assert len(values(kafka, target)[0]) == 9
    assert (await overrides(kafka, target))["segment.bytes"] == "2000000"


async def test_recorded_configuration_is_applied_last_where_it_deletes_nothing(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    recorded = {"retention.ms": "999999999999", "segment.bytes": "3000000", "compression.type": "zstd"}
    built, target = await built_orders(configs=recorded), unique_topic()

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert report.verdict is Verdict.COMPLETE
    await configured(kafka, target, lambda found: found == recorded)
    assert report.topics[0].config_command == ""


async def test_retention_that_would_empty_the_topic_is_held_back_and_the_report_has_the_command(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    recorded = {"retention.ms": "1000", "segment.bytes": "3000000"}
    built, target = await built_orders(configs=recorded), unique_topic()

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert report.verdict is Verdict.COMPLETE
    assert report.topics[0].config_held == {"retention.ms": "1000"}
    assert "retention.ms=1000" in report.topics[0].config_command
    await configured(kafka, target, lambda found: found == {"retention.ms": "-1", "segment.bytes": "3000000"})


async def test_a_key_the_target_does_not_know_costs_only_itself(kafka: KafkaServer, unique_topic: Names) -> None:
    recorded = {"message.format.version": "2.8", "segment.bytes": "3000000"}
    built, target = await built_orders(configs=recorded), unique_topic()

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert set(report.topics[0].config_refused) == {"message.format.version"}
    assert report.verdict is Verdict.INCOMPLETE
    await configured(kafka, target, lambda found: found.get("segment.bytes") == "3000000")


async def test_hold_leaves_the_topic_without_retention(kafka: KafkaServer, unique_topic: Names) -> None:
    built, target = await built_orders(configs={"retention.ms": "999999999999"}), unique_topic()

    report = await restore(
        built, settings_for(kafka.bootstrap, {"orders": target}, retention_after=RetentionAfter.HOLD)
    )

    assert report.verdict is Verdict.COMPLETE
    assert (await overrides(kafka, target))["retention.ms"] == "-1"
    assert "retention.ms=999999999999" in report.topics[0].config_command


async def test_gaps_the_archive_declares_are_listed_and_leave_exit_code_6(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    built, target = await ArchiveBuilder.create(), unique_topic()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"a", b"b"])
    life.capture(orders, 0)
    log.append([b"lost"] * 3)
    life.gap(orders, 0, 5, GapCause.LOG_START_MOVED)
    log.append([b"c"])
    life.capture(orders, 0)
    await life.flush()

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert (report.verdict, report.exit_code) == (Verdict.DECLARED_GAPS, 6)
    [lacking] = report.topics[0].partitions[0].not_in_archive
    assert lacking.offsets == OffsetRange(2, 5)
    assert values(kafka, target) == {0: [b"a", b"b", b"c"]}


async def test_damage_costs_the_run_it_hit_and_no_other_record(kafka: KafkaServer, unique_topic: Names) -> None:
    built, target = await ArchiveBuilder.create(), unique_topic()
    orders = built.topic("orders", partitions=2)
    life = await built.start()
    sealed = []
    for number in range(3):
        for partition in range(2):
            built.log(orders, partition).append([b"%d" % number] * 2)
            life.capture(orders, partition)
        sealed.append(await life.flush())
    run = next(run for run in sealed[1].footer.runs if run.id.partition == 0)
    data = bytearray(built.data(sealed[1].ref.key))
    data[run.position + run.stored_bytes // 2] ^= 0xFF
    built.tamper(sealed[1].ref.key, bytes(data))

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}))

    assert (report.verdict, report.exit_code) == (Verdict.DAMAGED, 3)
    [missing] = report.topics[0].partitions[0].missing
    assert (missing.offsets, missing.records) == (OffsetRange(2, 4), 2)
    assert sealed[1].ref.key in missing.reason
    assert values(kafka, target) == {0: [b"0", b"0", b"2", b"2"], 1: [b"0", b"0", b"1", b"1", b"2", b"2"]}


async def test_a_target_that_restarts_in_the_middle_gets_every_record_once(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    built, target = await ArchiveBuilder.create(), unique_topic()
    orders = built.topic("orders", partitions=3)
    for partition in range(3):
        for number in range(100):
            built.log(orders, partition).append([b"%d-%d-" % (number, n) + bytes(2_000) for n in range(10)])
    await archive_everything(built)
    progress = RestoreProgress(began_at=0.0)
    settings = settings_for(kafka.bootstrap, {"orders": target}, rate_limit_bytes_per_second=2 << 20)

    async def restart_when_under_way() -> None:
        await reaches(lambda: progress.acknowledged_records > 300, what="records are acknowledged")
        assert progress.acknowledged_records < 2_000
        await kafka.akill()
        await kafka.astart()

    async with asyncio.TaskGroup() as group:
        group.create_task(restart_when_under_way())
        restoring = group.create_task(restore(built, settings, progress=progress))

    report: RestoreReport = restoring.result()
    assert report.verdict is Verdict.COMPLETE
    assert report.records_restored == 3_000
    for partition in range(3):
        log = built.log(orders, partition)
        found = [batch.data[61:] for batch in split_batches(raw_log(kafka, target, partition))]
        assert found == [batch[61:] for batch in log.batches]


async def test_a_broker_killed_after_it_took_batches_without_a_word_gets_none_of_them_twice(
    kafka: KafkaServer, unique_topic: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Records older than a day: a broker that comes back takes their producer for gone and forgets its sequences.
    built, target = await ArchiveBuilder.create(), unique_topic()
    orders = built.topic("orders", partitions=2)
    for partition in range(2):
        for number in range(60):
            built.log(orders, partition).append([b"%d-%d-" % (number, n) + bytes(2_000) for n in range(10)])
    await archive_everything(built)
    produce, back, unanswered = RawProducer.produce, asyncio.Event(), 0

    async def mute(
        self: RawProducer, node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        nonlocal unanswered
        answers = await produce(self, node_id, batches, timeout_ms=timeout_ms)
        if back.is_set() or min(answer.base_offset for answer in answers.values()) < 100:
            return answers
        unanswered += 1
        await back.wait()
        raise KafkaUnavailableError("the connection was reset")

    async def restart_when_muted() -> None:
        await reaches(lambda: unanswered >= 6, what="batches are taken and not answered")
        await kafka.akill()
        await kafka.astart()
        back.set()

    monkeypatch.setattr(RawProducer, "produce", mute)
    async with asyncio.TaskGroup() as group:
        group.create_task(restart_when_muted())
        restoring = group.create_task(restore(built, settings_for(kafka.bootstrap, {"orders": target})))

    assert restoring.result().verdict is Verdict.COMPLETE
    for partition in range(2):
        found = [batch.data[61:] for batch in split_batches(raw_log(kafka, target, partition))]
        assert found == [batch[61:] for batch in built.log(orders, partition).batches]


async def test_what_is_held_in_memory_stays_within_its_bounds(kafka: KafkaServer, unique_topic: Names) -> None:
    built = await built_orders(partitions=4, batches=400)
    memory = RestoreMemory(reading_bytes=64 << 10, shared_bytes=20_000, unacknowledged_bytes=2_000)

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": unique_topic()}), memory=memory)

    assert report.verdict is Verdict.COMPLETE
    assert report.peak_buffered_bytes <= (64 << 10) + 20_000 + 2_000


async def test_a_topic_being_restored_is_protected_until_the_end(kafka: KafkaServer, unique_topic: Names) -> None:
    built, target = await built_orders(configs={"cleanup.policy": "compact", "retention.ms": "1"}), unique_topic()
    progress = RestoreProgress(began_at=0.0)
    settings = settings_for(kafka.bootstrap, {"orders": target}, rate_limit_bytes_per_second=100)

    task = asyncio.create_task(restore(built, settings, progress=progress))
    await reaches(lambda: progress.acknowledged_records > 0, what="records are acknowledged")
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])

    assert (await overrides(kafka, target)).items() >= SAFE.items()
    async with connect(kafka) as connection:
        metadata = await cluster_metadata(connection, [target])
    assert len(metadata.topics[0].partitions) == 2

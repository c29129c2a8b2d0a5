"""Back-up and restore against the oldest Kafka we say we need, and against the last one before 4.0."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbackupd.kafka.admin import create_topic as create_served_topic
from kbackupd.kafka.admin import describe_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.transactions import EmptyTransactions, MarkerWriter
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import KeepOffsets, SecuritySettings
from kbackupd.restore.configs import SAFE
from kbackupd.restore.markers import marker_for
from kbackupd.restore.planning import make_plan
from kbackupd.restore.preflight import examine_target
from kbackupd.restore.preserve import Way
from kbackupd.restore.report import Verdict
from kbackupd.restore.topics import prepare_topics
from kbackupd.store.open import open_store
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Isolation, Outcome, Truth, read_topic
from kbackupd.testbed.workload import RecordMaker, produce, produce_transaction
from tests.archive_builder import ArchiveBuilder
from tests.integration.capture.backup import Backup, flush
from tests.integration.kafka.conftest import connection_to
from tests.integration.restore.mirror import restore, restore_archive
from tests.unit.restore.planned import archive_everything, settings_for

ISOLATIONS: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")


@pytest.fixture(scope="module", params=["3.1.2", "3.9.1"])
def older_kafka(request: pytest.FixtureRequest) -> Iterator[KafkaServer]:
    with KafkaServer(heap="384m", version=request.param) as server:
        yield server


@pytest.fixture
def older_backup(
    older_kafka: KafkaServer, s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path
) -> Iterator[Backup]:
    made = Backup(older_kafka, s3_server, s3_bucket, s3_prefix.replace(".", "-"), short_path)
    yield made
    made.close()


async def overrides(connection: KafkaConnection, *topics: str) -> list[dict[str, str]]:
    described = await describe_topic_configs(connection, topics)
    return [dict(described[topic].values) for topic in topics]


async def test_what_a_daemon_backed_up_comes_back_into_absent_empty_and_left_behind_topics(
    older_backup: Backup,
) -> None:
    bootstrap, truth = older_backup.kafka.bootstrap, Truth()
    source = create_topic(bootstrap, "source", partitions=2, config={"segment.bytes": "1000000"})
    maker = RecordMaker("older")
    daemon = older_backup.daemon(source)
    daemon.start()
    produce(bootstrap, truth, source, (maker.draft(number) for number in (0, 1) for _ in range(50)), codec="zstd")
    for outcome in (Outcome.COMMITTED, Outcome.ABORTED):
        drafts = ((source, maker.draft(0)) for _ in range(20))
        produce_transaction(bootstrap, truth, drafts, outcome=outcome)
    await flush(daemon)
    assert daemon.stop() == 0
    await older_backup.verbatim({source: 2})

    create_topic(bootstrap, "empty", partitions=2, config={"retention.ms": "987654321", "flush.messages": "7"})
    store = await open_store(older_backup.storage)
    async with KafkaConnection(
        bootstrap_servers=(bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    ) as connection:
        try:
            settings = settings_for(bootstrap, {source: "left-behind"})
            async with older_backup.archive() as archive:
                plan = make_plan(archive, settings)
                await prepare_topics(connection, plan, await examine_target(connection, plan))
            [left] = await overrides(connection, "left-behind")
            assert left.items() >= {"retention.ms": SAFE["retention.ms"], "cleanup.policy": "delete"}.items()

            for target in ("absent", "empty", "left-behind"):
                report = await restore_archive(store, settings_for(bootstrap, {source: target}))

                assert report.verdict is Verdict.COMPLETE
                assert report.records_restored == 120
                assert values(bootstrap, target) == values(bootstrap, source)
        finally:
            await store.close()
        recorded = {"segment.bytes": "1000000"}
        own = {**recorded, "retention.ms": "987654321", "flush.messages": "7"}
        # The broker follows the controller within moments.
        deadline = connection.clock.monotonic() + 60
        while (found := await overrides(connection, "absent", "empty", "left-behind")) != [recorded, own, recorded]:
            assert connection.clock.monotonic() < deadline, found
        tellers = (await cluster_metadata(connection, ["absent"], operations=True)).topics
        assert all(topic.operations for topic in tellers)


async def test_offsets_are_kept_there_as_well(older_kafka: KafkaServer) -> None:
    built = await ArchiveBuilder.create()
    log = built.log(built.topic("kept", first_offset=7), 0)
    for number in range(5):
        log.append([b"one", b"two"], producer_id=7, transactional=True)
        log.end_transaction(7, committed=number % 2 == 0)
    await archive_everything(built)

    report = await restore(built, settings_for(older_kafka.bootstrap, {"kept": "kept"}, offsets=KeepOffsets.PRESERVE))

    assert (report.verdict, report.filling) == (Verdict.COMPLETE, Way.MARKERS)
    for isolation in ISOLATIONS:
        found = read_topic(older_kafka.bootstrap, "kept", isolation=isolation)[0]
        assert [record.offset for record in found] == [7, 8, 13, 14, 19, 20]


async def test_of_two_attempts_at_one_offset_they_take_one_and_an_empty_transaction_takes_one_offset(
    older_kafka: KafkaServer,
) -> None:
    tp = TopicPartition("attempts", 0)
    async with connection_to(older_kafka.bootstrap) as connection:
        await create_served_topic(connection, "attempts")
        writer, transactions = MarkerWriter(connection), EmptyTransactions(connection, "kbackupd-restore-older")
        codes = []
        for offset, attempts in ((0, (3, 5, 4)), (1, (9, 2))):
            for attempt in attempts:
                marker = marker_for(tp, offset, run=1, attempt=attempt)
                answers = await writer.write(older_kafka.node_id, [marker], timeout_seconds=30)
                codes.append(answers[marker.producer_id, tp])
        await transactions.open()
        ends = []
        for number in range(20):
            await transactions.end_one([tp])
            async with asyncio.timeout(60):
                while (end := await log_end(connection, tp)) < 3 + number:
                    pass
            ends.append(end)

    refused = {KafkaErrorCode.INVALID_PRODUCER_EPOCH, KafkaErrorCode.TRANSACTION_COORDINATOR_FENCED}
    assert [code if code not in refused else "refused" for code in codes] == [0, "refused", "refused", 0, "refused"]
    assert ends == list(range(3, 23))


async def log_end(connection: KafkaConnection, tp: TopicPartition) -> int:
    return (await list_offsets(connection, 1, {tp: (LATEST_TIMESTAMP, -1)}))[tp].offset


def values(bootstrap: str, topic: str) -> dict[int, list[tuple[bytes | None, bytes | None, int]]]:
    return {
        number: [(record.key, record.value, record.timestamp_ms) for record in records]
        for number, records in read_topic(bootstrap, topic).items()
    }

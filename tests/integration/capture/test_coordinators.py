"""What real coordinators wrote, by our decoders and by Kafka's own; and what a captured log says of any instant."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from kbackupd.archive.archive import Archive
from kbackupd.archive.group_history import GroupsOfPartition, coordinator_topic_at, groups_in_log
from kbackupd.archive.group_reports import GroupsReport
from kbackupd.archive.groups import groups_at
from kbackupd.archive.transaction_fold import Decision, LoggedTransaction
from kbackupd.archive.transaction_history import TransactionsOfPartition, transactions_of
from kbackupd.archive.transaction_owners import TransactionOwners
from kbackupd.format.batch import marker_type
from kbackupd.format.committed_offsets import coordinator_partition
from kbackupd.format.keys import parse_snapshot_key
from kbackupd.model.clock import SystemClock
from kbackupd.model.coordinators import CONSUMER_OFFSETS, TRANSACTION_STATE
from kbackupd.model.positions import PartitionId
from kbackupd.store.open import open_store
from kbackupd.testbed.java import kafka_tool
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup, flush
from tests.integration.conditions import reaches
from tests.integration.coordinator_story import (
    ONE_COORDINATOR,
    PATIENCE_SECONDS,
    QUIET,
    begun,
    commit,
    delete_group,
    java_transactions,
    member,
    missing_offsets,
    send_offsets,
    transactional,
)

Names = Callable[[], str]
INSTANTS = 30
COMMITTERS, WRITERS = 6, 3
CLOCK = SystemClock()


@asynccontextmanager
async def opened(backup: Backup) -> AsyncIterator[Archive]:
    store = await open_store(backup.storage)
    try:
        yield await Archive.open(store, "main")
    finally:
        await store.close()


async def groups(archive: Archive, at_ms: int | None, prefix: str) -> list[GroupsOfPartition]:
    topic = coordinator_topic_at(archive, CONSUMER_OFFSETS, at_ms)
    assert topic is not None
    return [one async for one in groups_in_log(archive, topic, at_ms, wanted=lambda group: group.startswith(prefix))]


async def transactions(archive: Archive, at_ms: int | None, prefix: str) -> list[TransactionsOfPartition]:
    topic = coordinator_topic_at(archive, TRANSACTION_STATE, at_ms)
    assert topic is not None
    wanted = lambda one: one.transactional_id.startswith(prefix)  # noqa: E731
    return [await transactions_of(archive, id, at_ms, wanted=wanted) for id in topic.partition_ids]


def by_admin(kafka: KafkaServer, group: str) -> dict[tuple[str, int], tuple[int, str]]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, **QUIET})
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(PATIENCE_SECONDS)
    return {(row.topic, row.partition): (row.offset, row.metadata or "") for row in answer.topic_partitions}


def by_kafkas_own_tool(kafka: KafkaServer, transactional_id: str) -> tuple[str, int, int, set[tuple[str, int]]]:
    """State, producer id, producer epoch and partitions, by DescribeTransactions."""
    said = kafka_tool(
        "org.apache.kafka.tools.TransactionsCommand",
        *("--bootstrap-server", kafka.bootstrap, "describe", "--transactional-id", transactional_id),
    )
    header, row = (line.split("\t") for line in said.splitlines() if "\t" in line)
    told = {name.strip(): value.strip() for name, value in zip(header, row, strict=True)}
    names = filter(None, told["TopicPartitions"].split(","))
    partitions = {(name.rpartition("-")[0], int(name.rpartition("-")[2])) for name in names}
    return told["TransactionState"], int(told["ProducerId"]), int(told["ProducerEpoch"]), partitions


@pytest.fixture
def names(unique_topic: Names) -> str:
    """Prefix of this test's topic, groups and transactional ids."""
    return unique_topic()


async def test_a_captured_log_tells_what_brokers_answer_of_groups_and_transactions(backup: Backup, names: str) -> None:
    kafka, topic = backup.kafka, names
    create_topic(kafka.bootstrap, topic, partitions=3)
    daemon = backup.daemon(topic, internal_topics=True)
    daemon.start()
    simple, classic, modern, gone = (f"{names}-{kind}" for kind in ("simple", "classic", "modern", "gone"))
    await asyncio.to_thread(commit, kafka, simple, topic, {0: 5, 1: 6}, metadata="note", leader_epoch=0)
    await asyncio.to_thread(commit, kafka, simple, topic, {0: 7})
    await asyncio.to_thread(member, kafka, classic, topic)
    await asyncio.to_thread(member, kafka, modern, topic, **{"group.protocol": "consumer"})
    await asyncio.to_thread(commit, kafka, gone, topic, {0: 5})
    await asyncio.to_thread(delete_group, kafka, gone)
    ended, open_, java = (f"{names}-{kind}" for kind in ("ended", "open", "java"))
    first = await asyncio.to_thread(transactional, kafka, ended)
    await asyncio.to_thread(begun, first, topic, [0, 1])
    await asyncio.to_thread(send_offsets, kafka, first, simple, topic, {1: 60})
    await asyncio.to_thread(first.commit_transaction, PATIENCE_SECONDS)
    await asyncio.to_thread(begun, first, topic, [2])
    await asyncio.to_thread(send_offsets, kafka, first, simple, topic, {1: 61, 2: 62})
    await asyncio.to_thread(first.abort_transaction, PATIENCE_SECONDS)
    second = await asyncio.to_thread(transactional, kafka, open_, timeout_ms=900_000)
    await asyncio.to_thread(begun, second, topic, [1, 2])
    await asyncio.to_thread(send_offsets, kafka, second, simple, topic, {2: 63})
    await asyncio.to_thread(java_transactions, kafka, java, topic, records=30)
    # What brokers say is compared with what they wrote, while the last transaction is still open.
    expected = {group: await asyncio.to_thread(by_admin, kafka, group) for group in (simple, classic, modern)}
    states = {name: await asyncio.to_thread(by_kafkas_own_tool, kafka, name) for name in (ended, open_, java)}
    await flush(daemon)
    assert daemon.stop() == 0
    await asyncio.to_thread(second.abort_transaction, PATIENCE_SECONDS)

    async with opened(backup) as archive:
        parts = await groups(archive, None, names)
        told: dict[str, dict[tuple[str, int], tuple[int, str]]] = defaultdict(dict)
        for part in parts:
            assert (part.lost, part.unreadable) == ((), 0)
            for one in part.positions:
                assert part.id.partition == coordinator_partition(one.key.group, len(parts))
                assert one.certain
                # The client sends its text with the zero that ends it in C, and hides that again when it is asked.
                metadata = one.position.metadata.removesuffix("\0")
                told[one.key.group][one.key.topic, one.key.partition] = (one.position.offset, metadata)
        assert told == expected
        assert told[simple][topic, 0][0] == 7
        assert told[simple][topic, 1][0] == 60
        pending = [one for part in parts for one in part.pending]
        assert [(one.key.group, one.key.partition, one.position.offset) for one in pending] == [(simple, 2, 63)]
        assert {type_ for part in parts for type_ in part.groups.get(modern, {})} == {"consumer"}
        assert all(value is None for part in parts for value in part.groups.get(gone, {}).values())

        found = [one for part in await transactions(archive, None, names) for one in part.transactions]
    of: dict[str, list[LoggedTransaction]] = defaultdict(list)
    for transaction in found:
        of[transaction.transactional_id].append(transaction)
    assert [one.decision for one in of[ended]] == [Decision.COMMITTED, Decision.ABORTED]
    offsets = {(CONSUMER_OFFSETS, coordinator_partition(simple, len(parts)))}
    assert of[ended][0].partitions == {(topic, 0), (topic, 1)} | offsets
    assert of[ended][1].partitions == {(topic, 2)} | offsets
    (still,) = of[open_]
    assert states[open_] == ("Ongoing", still.producer_id, still.producer_epoch, set(still.partitions))
    assert (still.decision, pending[0].producer_id) == (Decision.OPEN, still.producer_id)
    assert states[ended][:3] == ("CompleteAbort", of[ended][1].producer_id, of[ended][1].marker_epoch)
    assert states[java][:3] == ("CompleteCommit", of[java][-1].producer_id, of[java][-1].marker_epoch)
    assert [one.producer_epoch for one in of[java]] == list(range(len(of[java])))
    assert len(of[java]) > 1


def alter(kafka: KafkaServer, topic: str, **configs: str) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in configs.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, **QUIET})
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_SECONDS)


async def test_a_log_that_the_broker_compacted_before_capture_tells_the_same_positions(
    s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path, names: str
) -> None:
    """Hazard 8: offsets, markers and whole transactions are missing, and the first batches begin behind their base."""
    with KafkaServer(properties=ONE_COORDINATOR, heap="384m") as kafka:
        backup = Backup(kafka, s3_server, s3_bucket, s3_prefix, short_path)
        create_topic(kafka.bootstrap, names, partitions=3)
        stop = threading.Event()
        model = Model()
        load = threading.Thread(
            target=keep_in_transactions, args=(kafka, model, f"{names}-tx", names, stop), daemon=True
        )
        load.start()
        await reaches(lambda: len(model.ended[f"{names}-tx"]) >= 10, "transactions")
        stop.set()
        await asyncio.to_thread(load.join, PATIENCE_SECONDS)
        for number in range(1, 30):
            await asyncio.to_thread(commit, kafka, f"{names}-group", names, {0: number, 1: number})
        await asyncio.to_thread(commit, kafka, f"{names}-gone", names, {0: 1})
        await asyncio.to_thread(delete_group, kafka, f"{names}-gone")
        await asyncio.to_thread(
            alter,
            kafka,
            CONSUMER_OFFSETS,
            segment_ms="1000",
            min_cleanable_dirty_ratio="0.01",
            delete_retention_ms="1000",
        )

        def compacted() -> bool:
            commit(kafka, f"{names}-last", names, {0: 1})  # a segment is rolled by what comes after it
            return missing_offsets(kafka, CONSUMER_OFFSETS, 0) >= 60

        await reaches(compacted, "the broker compacts its log of positions")
        daemon = backup.daemon(names, internal_topics=True)
        try:
            daemon.start()
            await flush(daemon)
            assert daemon.stop() == 0
        finally:
            backup.close()
        groups_there = (f"{names}-tx", f"{names}-group", f"{names}-last")
        expected = {group: await asyncio.to_thread(by_admin, kafka, group) for group in groups_there}
    async with opened(backup) as archive:
        (part,) = await groups(archive, None, names)
    told: dict[str, dict[tuple[str, int], tuple[int, str]]] = defaultdict(dict)
    for one in part.positions:
        told[one.key.group][one.key.topic, one.key.partition] = (
            one.position.offset,
            one.position.metadata.rstrip("\0"),
        )
    assert told == expected
    assert part.certain
    assert all(one.certain for one in part.positions)


@dataclass(slots=True)
class Committed:
    """A commit of the model: asked at, acknowledged at (milliseconds of the same clock as the daemon's)."""

    offset: int
    asked_ms: int
    acknowledged_ms: int


@dataclass(slots=True)
class Ended:
    """A transaction of the model: when its end was asked for and acknowledged."""

    commit: bool
    asked_ms: int
    acknowledged_ms: int


@dataclass(slots=True)
class Model:
    """What the load was told, by independent clients. Each thread fills in its own keys."""

    commits: dict[tuple[str, int], list[Committed]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, list[Ended]] = field(default_factory=lambda: defaultdict(list))


def keep_committing(kafka: KafkaServer, model: Model, group: str, topic: str, stop: threading.Event) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, **QUIET})
    offset = 0
    while not stop.is_set():
        offset += 1
        asked_ms = CLOCK.now_ms()
        consumer.commit(offsets=[TopicPartition(topic, offset % 3, offset)], asynchronous=False)
        model.commits[group, offset % 3].append(Committed(offset, asked_ms, CLOCK.now_ms()))
        time.sleep(random.random() * 0.05)
    consumer.close()


def keep_in_transactions(kafka: KafkaServer, model: Model, name: str, topic: str, stop: threading.Event) -> None:
    """Consume-transform-produce: each transaction has records in several partitions, and its group's position."""
    producer = transactional(kafka, name)
    dice, number = random.Random(name), 0
    while not stop.is_set():
        number += 1
        begun(producer, topic, [number % 3, (number + 1) % 3])
        send_offsets(kafka, producer, name, topic, {0: number})
        ended = dice.random() < 0.7
        asked_ms = CLOCK.now_ms()
        (producer.commit_transaction if ended else producer.abort_transaction)(PATIENCE_SECONDS)
        now_ms = CLOCK.now_ms()
        model.ended[name].append(Ended(ended, asked_ms, now_ms))
        if ended:
            model.commits[name, 0].append(Committed(number, asked_ms, now_ms))


Load = Callable[[KafkaServer, Model, str, str, threading.Event], None]


@pytest.fixture
def load(backup: Backup, names: str) -> Iterator[tuple[Model, threading.Event, list[threading.Thread]]]:
    model, stop = Model(), threading.Event()
    work: list[tuple[Load, str]] = [(keep_committing, f"{names}-group-{number}") for number in range(COMMITTERS)]
    work += [(keep_in_transactions, f"{names}-tx-{number}") for number in range(WRITERS)]
    threads = [
        threading.Thread(target=one, args=(backup.kafka, model, name, names, stop), daemon=True) for one, name in work
    ]
    yield model, stop, threads
    stop.set()
    for thread in threads:
        if thread.is_alive():
            thread.join(PATIENCE_SECONDS)


def enough(model: Model, threads: list[threading.Thread]) -> bool:
    assert all(thread.is_alive() for thread in threads)
    committed = [len(rows) for (group, _), rows in list(model.commits.items()) if "-group-" in group]
    ended = [len(rows) for rows in list(model.ended.values())]
    return len(committed) == 3 * COMMITTERS and min(committed) >= 20 and len(ended) == WRITERS and min(ended) >= 10


def groups_taken(backup: Backup, *, since_ms: int) -> int:
    """Snapshots of groups, as their keys say."""
    taken = [at for key in backup.objects("groups/") if (at := parse_snapshot_key(key)) is not None]
    return sum(at.kind == "groups" and at.taken_ms > since_ms for at in taken)


def possible(commits: list[Committed], sent_ms: int, answered_ms: int) -> set[int]:
    """Offsets that may be the newest at a moment within [sent_ms, answered_ms]; −1 for none."""
    acknowledged = [one.offset for one in commits if one.acknowledged_ms < sent_ms]
    oldest = max(acknowledged, default=-1)
    return {oldest} | {one.offset for one in commits if one.offset > oldest and one.asked_ms <= answered_ms}


async def test_positions_and_decisions_of_any_instant_are_those_that_clients_were_told(
    backup: Backup, names: str, load: tuple[Model, threading.Event, list[threading.Thread]], short_path: Path
) -> None:
    """What was acknowledged before a cut's interval is in, what was asked for after it is not (hazards 15 and 38)."""
    model, stop, threads = load
    create_topic(backup.kafka.bootstrap, names, partitions=3)
    # Brokers make the two topics when they are first used: here before capture begins.
    await asyncio.to_thread(commit, backup.kafka, f"{names}-first", names, {0: 0})
    await asyncio.to_thread(transactional, backup.kafka, f"{names}-first")
    daemon = backup.daemon(names, internal_topics=True, snapshot_interval="2s")
    daemon.start()
    for thread in threads:
        thread.start()
    began_ms = CLOCK.now_ms()
    await reaches(lambda: enough(model, threads), "every client committed, and ended transactions, many times")
    enough_ms = CLOCK.now_ms()
    # The one may be of before the logs were told of, the other behind what is heard of them last.
    await reaches(lambda: groups_taken(backup, since_ms=enough_ms) >= 2, "groups were looked at meanwhile")
    stop.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE_SECONDS)
        assert not thread.is_alive()
    ended_ms = CLOCK.now_ms()
    await flush(daemon)
    assert daemon.stop() == 0

    dice = random.Random(1)
    tried = 0
    async with opened(backup) as archive:
        for _ in range(INSTANTS):
            at_ms = dice.randrange(began_ms, ended_ms)
            parts = await groups(archive, at_ms, names)
            told = {(one.key.group, one.key.partition): one.position.offset for part in parts for one in part.positions}
            for (group, partition), commits in model.commits.items():
                part = parts[coordinator_partition(group, len(parts))]
                assert part.cut is not None
                assert part.certain, part.lost
                assert part.cut.answered_ms <= at_ms
                # A transaction's position counts from its marker on, which comes after the answer to the client.
                late_ms = 0 if "-group-" in group else _MARKERS_WITHIN_MS
                allowed = possible(commits, part.cut.sent_ms - late_ms, part.cut.answered_ms)
                assert told.get((group, partition), -1) in allowed, (group, partition, at_ms, part.cut)
                tried += 1
            for logged in await transactions(archive, at_ms, names):
                assert logged.cut is not None
                by_id: dict[str, list[LoggedTransaction]] = defaultdict(list)
                for one in logged.transactions:
                    by_id[one.transactional_id].append(one)
                for name, found in by_id.items():
                    assert len(found) == len(model.ended[name])
                    for one, ended in zip(found, model.ended[name], strict=True):
                        decision = one.decision_at(logged.cut.next_offset)
                        outcome = Decision.COMMITTED if ended.commit else Decision.ABORTED
                        assert one.decision is outcome
                        if ended.acknowledged_ms < logged.cut.sent_ms:
                            assert decision is outcome
                        elif ended.asked_ms > logged.cut.answered_ms:
                            assert decision is Decision.OPEN
                        else:
                            assert decision in (outcome, Decision.OPEN)
                        tried += 1
        assert tried > 100
        await markers_have_their_owners(archive, names, model)
    store = await open_store(backup.storage)
    try:
        report = await groups_at(store, "main", None, f"{names}-group-*")
        bases = set()
        for instant in (None, *(dice.randrange(began_ms, ended_ms) for _ in range(10))):
            whole = await groups_at(store, "main", instant, f"{names}-*")
            short = await groups_at(store, "main", instant, f"{names}-*", whole_log_bytes=0)
            assert positions_of(short) == positions_of(whole)
            assert short.log is not None
            bases |= {one.base for one in short.log.partitions}
        # At least for the last instant there was a snapshot to begin with; groups made after it are shown all the same.
        assert bases - {""}
    finally:
        await store.close()
    assert (report.source, report.complete) == ("log", True)
    assert {(one.group_id, row.partition): row.offset for one in report.groups for row in one.positions} == {
        key: commits[-1].offset for key, commits in model.commits.items() if "-group-" in key[0]
    }


def positions_of(report: GroupsReport) -> dict[tuple[str, str, int], tuple[int, str]]:
    return {
        (group.group_id, one.topic, one.partition): (one.offset, one.metadata.removesuffix("\0"))
        for group in report.groups
        if group.source == "log"
        for one in group.positions
    }


async def markers_have_their_owners(archive: Archive, topic: str, model: Model) -> None:
    """librdkafka keeps producer id and epoch over all transactions; the number of each says which partitions it has."""
    found = [one for part in await transactions(archive, None, topic) for one in part.transactions]
    owners = TransactionOwners(found)
    checked = 0
    for name in model.ended:
        mine = [one for one in found if one.transactional_id == name]
        assert len({(one.producer_id, one.producer_epoch) for one in mine}) == 1
        for partition in range(3):
            covering = [one for number, one in enumerate(mine, start=1) if partition in (number % 3, (number + 1) % 3)]
            assert all((topic, partition) in one.partitions for one in covering)
            markers = []
            async for batch in archive.read(PartitionId(archive.newest()[topic].topic_id, partition)):
                committed = marker_type(batch.header, batch.data)
                if committed is not None and batch.header.producer_id == mine[0].producer_id:
                    markers.append((batch.header, committed))
            assert len(markers) == len(covering)
            for (header, committed), expected in zip(markers, covering, strict=True):
                (off_by_ms, owner), *_ = owners.about(
                    header.producer_id,
                    header.producer_epoch,
                    (topic, partition),
                    committed=committed,
                    timestamp_ms=header.max_timestamp,
                )
                # One broker, one clock.
                assert (owner, off_by_ms) == (expected, 0)
                checked += 1
    assert checked >= 10 * WRITERS


_MARKERS_WITHIN_MS = 5_000
"""A coordinator answers EndTxn when the decision is in its log; the markers follow."""

"""What stands around the records at an instant: groups, configuration, partitions, and which topics there are.

From a real daemon's archive in a real bucket, by `kbackupd restore` as an operator runs it (hazards 5, 15 and 32).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from kbackupd.archive.archive import Archive
from kbackupd.archive.cut import Cut, cut_at
from kbackupd.archive.group_history import coordinator_topic_at
from kbackupd.archive.groups import groups_at
from kbackupd.format.committed_offsets import coordinator_partition
from kbackupd.model.clock import SystemClock
from kbackupd.model.coordinators import CONSUMER_OFFSETS
from kbackupd.model.scope import RestoreScope
from kbackupd.restore.as_of import read_instant
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import Json, Section
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import add_partitions, create_topic
from tests.integration.capture.backup import Backup, flush, follows
from tests.integration.capture.test_coordinators import Committed, alter, possible
from tests.integration.capture.test_snapshots import last_groups, positions
from tests.integration.conditions import PATIENCE_SECONDS, reaches
from tests.integration.coordinator_story import commit, delete_group, send_offsets, transactional
from tests.integration.groups.story import held
from tests.integration.restore.live_load import LiveLoad, back_up_under, instants_between, writing
from tests.integration.restore.mirror import restore_archive
from tests.integration.restore.test_outcomes import values
from tests.unit.restore.planned import settings_for

Names = Callable[[], str]
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
INSTANTS = 8
APPLICATIONS, TRANSACTIONS = 3, 15
PARTITIONS, COMMITS = 4, 40
"""Each group commits at least so often."""
CLOCK = SystemClock()


def produce(kafka: KafkaServer, topic: str, count: int, *partitions: int) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    for partition in partitions:
        for _ in range(count):
            producer.produce(topic, b"plain", partition=partition)
    assert producer.flush(PATIENCE_SECONDS) == 0


def in_transaction(kafka: KafkaServer, topic: str, count: int, *partitions: int) -> None:
    producer = transactional(kafka, f"{topic}-tx")
    producer.begin_transaction()
    for partition in partitions:
        for _ in range(count):
            producer.produce(topic, b"committed", partition=partition)
    producer.commit_transaction(PATIENCE_SECONDS)


def log_ends(kafka: KafkaServer, topic: str, *partitions: int) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "log-ends", "log_level": 0})
    try:
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=PATIENCE_SECONDS)[1]
            for number in partitions
        }
    finally:
        consumer.close()


def overrides_of(kafka: KafkaServer, topic: str) -> dict[str, str]:
    """What an independent client is told of the topic's own configuration."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    found = admin.describe_configs([resource])[resource].result(PATIENCE_SECONDS)
    return {name: str(entry.value) for name, entry in found.items() if entry.source == 1}


def positions_in(kafka: KafkaServer, group: str, topic: str) -> dict[int, int]:
    return {number: offset for (name, number), (offset, _) in held(kafka, group).items() if name == topic}


async def archived(backup: Backup, condition: Callable[[Archive], bool], what: str) -> None:
    """Return when the archive says so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    store = await open_store(backup.storage)
    try:
        while not condition(await Archive.open(store, "main")):
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.2)
    finally:
        await store.close()


def heard_of(topic: str, ends: Mapping[int, int]) -> Callable[[Archive], bool]:
    """The leaders' last word is that the partitions go as far as that."""

    def condition(archive: Archive) -> bool:
        found = archive.newest().get(topic)
        if found is None or found.partitions < len(ends):
            return False
        cuts = {id.partition: cut_at(archive.evidence(id), None) for id in found.partition_ids}
        return {number: cut.next_offset for number, cut in cuts.items() if cut is not None} == ends

    return condition


async def stands(backup: Backup, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Return when the archive's last word on the group says so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := positions(await last_groups(backup), group)) != {(topic, n): o for n, o in offsets.items()}:
        assert time.monotonic() < deadline, f"{group} is {found}, not {offsets}"
        await asyncio.sleep(0.2)


def options_at(at_ms: int, topic: str, target: str, **more: Json) -> Section:
    return {
        "as_of": at_ms,
        "topics": {"include": [f"{topic}*"]},
        "topic_mapping": [{"source": f"{topic}*", "target": f"{target}*"}],
        "consumer_groups": {"restore": True, "include": [f"{topic}-*"]},
        **more,
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("offsets", ["compact", "preserve"])
async def test_groups_topics_partitions_and_configuration_are_those_of_the_instant(
    backup: Backup, unique_topic: Names, offsets: str
) -> None:
    kafka, topic, target = backup.kafka, unique_topic(), unique_topic()
    late, steady, newcomer, gone = (f"{topic}-{name}" for name in ("late", "steady", "newcomer", "gone"))
    create_topic(kafka.bootstrap, topic, partitions=2, config={"retention.ms": str(DAY_MS)})
    produce(kafka, topic, 10, 0, 1)
    in_transaction(kafka, topic, 3, 0, 1)
    await reaches(lambda: log_ends(kafka, topic, 0, 1) == {0: 14, 1: 14}, "the markers are at offset 13")
    produce(kafka, topic, 6, 0, 1)
    commit(kafka, steady, topic, {0: 5, 1: 20})
    commit(kafka, gone, topic, {0: 14, 1: 16})
    daemon = backup.daemon(
        f"{topic}*", internal_topics=True, odd=("--topic-configs-seconds", "1"), snapshot_interval="1s"
    )
    daemon.start()
    await follows(daemon, topic, 2)
    await archived(backup, heard_of(topic, {0: 20, 1: 20}), "everything was heard of")
    await stands(backup, steady, topic, {0: 5, 1: 20})
    await stands(backup, gone, topic, {0: 14, 1: 16})

    at_ms = CLOCK.now_ms()

    await reaches(lambda: CLOCK.now_ms() > at_ms, "the instant is past")
    alter(kafka, topic, retention_ms=str(HOUR_MS))
    add_partitions(kafka.bootstrap, topic, total=3)
    create_topic(kafka.bootstrap, late)
    in_transaction(kafka, topic, 4, 0, 1, 2)
    produce(kafka, topic, 5, 0, 1, 2)
    produce(kafka, late, 5, 0)
    commit(kafka, steady, topic, {0: 30, 1: 30, 2: 3})
    commit(kafka, newcomer, topic, {0: 1})
    delete_group(kafka, gone)
    await archived(backup, heard_of(topic, {0: 30, 1: 30, 2: 10}), "what came later was heard of")
    await archived(backup, heard_of(late, {0: 5}), "the later topic was heard of")
    await stands(backup, steady, topic, {0: 30, 1: 30, 2: 3})
    await archived(
        backup,
        lambda archive: archive.newest()[topic].configs.get("retention.ms") == str(HOUR_MS),
        "the later configuration was heard of",
    )
    await flush(daemon)
    assert daemon.stop() == 0

    done = daemon.restore(kafka.bootstrap, options=options_at(at_ms, topic, target, offsets=offsets))

    report = done.json()
    assert report["verdict"] == "complete"
    assert report["not_there"] == [late]
    assert [one["target"] for one in report["topics"]] == [target]  # type: ignore[union-attr,index,call-overload]
    assert values(kafka, target) == {number: [b"plain"] * 10 + [b"committed"] * 3 + [b"plain"] * 6 for number in (0, 1)}
    await reaches(lambda: overrides_of(kafka, target).get("retention.ms") == str(DAY_MS), "the broker hears of it")

    def at(offset: int) -> int:
        """Offsets are kept, or move by the marker at 13."""
        return offset - 1 if offsets == "compact" and offset > 13 else offset

    assert await asyncio.to_thread(positions_in, kafka, steady, target) == {0: 5, 1: at(20)}
    assert await asyncio.to_thread(positions_in, kafka, gone, target) == {0: at(14), 1: at(16)}
    assert await asyncio.to_thread(positions_in, kafka, newcomer, target) == {}


@dataclass(slots=True)
class Load(LiveLoad):
    """Each thread writes into one partition, and has its group commit each log end that it was told."""

    committed: dict[int, list[Committed]] = field(default_factory=lambda: defaultdict(list))

    def group(self, partition: int) -> str:
        return f"{self.topic}-group-{partition}"

    def keep_on(self, kafka: KafkaServer, partition: int) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": self.group(partition), "log_level": 0})
        dice, log_end = random.Random(partition), 0
        while not self.stop.is_set():
            count = dice.randrange(1, 4)
            for _ in range(count):
                producer.produce(self.topic, b"v", partition=partition)
            assert producer.flush(PATIENCE_SECONDS) == 0
            log_end += count
            asked_ms = CLOCK.now_ms()
            consumer.commit(offsets=[TopicPartition(self.topic, partition, log_end)], asynchronous=False)
            self.committed[partition].append(Committed(log_end, asked_ms, CLOCK.now_ms()))
        consumer.close()

    def fewest(self) -> int:
        return min(map(len, list(self.committed.values()))) if len(self.committed) == PARTITIONS else 0


@pytest.fixture
def load(kafka: KafkaServer, unique_topic: Names) -> Iterator[Load]:
    made = Load(unique_topic())
    yield from writing(made, *(partial(made.keep_on, kafka, partition) for partition in range(PARTITIONS)))


@pytest.mark.timeout(1800)
async def test_hazard_32_at_random_instants_no_group_stands_beyond_what_is_restored_or_where_it_did_not_stand_then(
    backup: Backup, load: Load
) -> None:
    """The leaders of positions and of records are heard at different moments: a position may be ahead of its log."""
    kafka, topic = backup.kafka, load.topic
    create_topic(kafka.bootstrap, topic, partitions=PARTITIONS)
    await asyncio.to_thread(commit, kafka, f"{topic}-first", topic, {0: 0})  # makes __consumer_offsets, if nobody did
    daemon = backup.daemon(topic, internal_topics=True)
    daemon.start()
    await follows(daemon, topic, PARTITIONS)
    marks = await back_up_under(load, daemon, times=COMMITS)
    # Nobody writes into it any more: one look is enough for all instants.
    store = await open_store(backup.storage)
    try:
        archive = await Archive.open(store, "main", wanted=lambda name: name == CONSUMER_OFFSETS)
    finally:
        await store.close()

    moved = 0
    for number, at_ms in enumerate(instants_between(marks, INSTANTS)):
        target = f"{topic}-at-{number}"
        options: Section = {
            "as_of": at_ms,
            "consumer_groups": {"restore": True, "include": [f"{topic}-group-*"]},
        }
        done = await asyncio.to_thread(daemon.restore, kafka.bootstrap, {topic: target}, options=options)
        report = json.loads(done.require(0, 6).stdout)
        assert report["verdict"] == "complete"
        restored = await asyncio.to_thread(values, kafka, target)
        found = []
        for partition, commits in load.committed.items():
            cut = group_cut(archive, load.group(partition), at_ms)
            stood = (await asyncio.to_thread(positions_in, kafka, load.group(partition), target)).get(partition, -1)
            there = len(restored[partition])
            assert stood <= there
            assert stood in {min(one, there) for one in possible(commits, cut.sent_ms, cut.answered_ms)}, (at_ms, cut)
            found.append(stood)
        problem = report["consumer_groups"]["problem"]
        assert (done.exit_code == 0) == (problem == "")
        assert problem == "" or (set(found) == {-1} and "no position is selected" in problem)
        moved += sum(one > 0 for one in found)
    assert moved > INSTANTS


def group_cut(archive: Archive, group: str, at_ms: int) -> Cut:
    """How far the log of the group's positions went at the instant."""
    topic = coordinator_topic_at(archive, CONSUMER_OFFSETS, at_ms)
    assert topic is not None
    id = topic.partition_ids[coordinator_partition(group, topic.partitions)]
    cut = cut_at(archive.evidence(id), at_ms)
    assert cut is not None
    return cut


@dataclass(slots=True)
class Applications(LiveLoad):
    """Each reads, writes and commits in one transaction: a record in several partitions, and its group's position."""

    committed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def keep_on(self, kafka: KafkaServer, name: str) -> None:
        producer, dice, number = transactional(kafka, name), random.Random(name), 0
        while not self.stop.is_set():
            number += 1
            producer.begin_transaction()
            for partition in dice.sample(range(PARTITIONS), 2):
                producer.produce(self.topic, f"{name}/{number}".encode(), partition=partition)
            assert producer.flush(PATIENCE_SECONDS) == 0
            send_offsets(kafka, producer, name, self.topic, {0: number})
            if dice.random() < 0.75:
                producer.commit_transaction(PATIENCE_SECONDS)
                self.committed[name].append(number)
            else:
                producer.abort_transaction(PATIENCE_SECONDS)

    def fewest(self) -> int:
        return min(map(len, list(self.committed.values()))) if len(self.committed) == APPLICATIONS else 0


@pytest.fixture
def applications(kafka: KafkaServer, unique_topic: Names) -> Iterator[Applications]:
    made = Applications(unique_topic())
    yield from writing(
        made, *(partial(made.keep_on, kafka, f"{made.topic}-app-{number}") for number in range(APPLICATIONS))
    )


@pytest.mark.timeout(1800)
async def test_hazard_38_at_random_instants_each_application_stands_behind_its_last_restored_transaction(
    backup: Backup, applications: Applications
) -> None:
    """Before it, a consumer that goes on would make output a second time; beyond it, never."""
    kafka, topic = backup.kafka, applications.topic
    create_topic(kafka.bootstrap, topic, partitions=PARTITIONS)
    await asyncio.to_thread(commit, kafka, f"{topic}-first", topic, {0: 0})  # makes the two topics, if nobody did
    await asyncio.to_thread(transactional, kafka, f"{topic}-first")
    daemon = backup.daemon(topic, internal_topics=True)
    daemon.start()
    await follows(daemon, topic, PARTITIONS)
    marks = await back_up_under(applications, daemon, times=TRANSACTIONS)

    stood = set()
    store = await open_store(backup.storage)
    try:
        archive = await Archive.open(store, "main")
        for number, at_ms in enumerate(instants_between(marks, 2 * INSTANTS)):
            target = f"{topic}-at-{number}"
            settings = settings_for(kafka.bootstrap, {topic: target}, scope=RestoreScope(as_of_ms=at_ms))
            await restore_archive(store, settings)
            instant = await read_instant(archive, settings.options)
            assert instant is not None
            restored = await asyncio.to_thread(values, kafka, target)
            found = [value.decode().rpartition("/") for rows in restored.values() for value in rows if value]
            report = await groups_at(
                store, "main", at_ms, f"{topic}-app-*", pinned=archive.pinned, decided=instant.positions
            )
            for name in applications.committed:
                there = {int(count) for application, _, count in found if application == name}
                assert there == {one for one in applications.committed[name] if one <= max(there, default=0)}
                assert positions(report, name).get((topic, 0), 0) == max(there, default=0), (name, at_ms)
                stood.add((name, max(there, default=0)))
    finally:
        await store.close()
    assert len(stood) > APPLICATIONS

"""Durable offsets in a consumer group of a real broker, as Kafka's own tools show them (hazard 56a)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Row
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType

from kbackupd.capture.group_commit import GroupCommitter, Positions
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.groups import GroupQuestions
from kbackupd.kafka.types import OffsetToCommit, TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.java import kafka_tool
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup, fill, flush, follows, notes, pause, problems
from tests.integration.capture.test_snapshots import Guarded, commit
from tests.integration.conditions import reaches

Names = Callable[[], str]
Shown = dict[tuple[str, int], tuple[int, int, int]]
"""(topic, partition) → (current offset, log end offset, lag)"""


def shown(kafka: KafkaServer, group: str) -> Shown:
    """What `kafka-consumer-groups.sh --describe` prints of a group; nothing while there is no such group."""
    found: Shown = {}
    for line in consumer_groups(kafka, "--describe", "--group", group).splitlines():
        words = line.split()
        if words[:1] == [group] and len(words) > 5 and words[3] != "-":
            found[words[1], int(words[2])] = (int(words[3]), int(words[4]), int(words[5]))
    return found


def consumer_groups(kafka: KafkaServer, *arguments: str) -> str:
    """Output of Kafka's own tool."""
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    return kafka_tool(tool, "--bootstrap-server", kafka.bootstrap, *arguments)


async def test_kafkas_own_tool_shows_how_far_the_backup_is_and_how_far_behind(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=3)
    backup.fill(topic, 0, 1, batches=2, records=10)
    daemon = backup.daemon(topic)
    group = f"kbackupd-{topic}"
    daemon.start()
    await flush(daemon)
    whole = {(topic, 0): (20, 20, 0), (topic, 1): (20, 20, 0), (topic, 2): (0, 0, 0)}
    await reaches(lambda: shown(backup.kafka, group) == whole, "the group at the end of every log")
    await pause(daemon, topic)
    backup.fill(topic, 1, batches=1, records=7)
    assert shown(backup.kafka, group)[topic, 1] == (20, 27, 7)
    assert daemon.stop() == 0

    # Somebody commits to the group what the archive does not have: the next life tells, and goes on from the archive.
    commit(backup.kafka, group, **{f"{topic}_1": 27})
    assert shown(backup.kafka, group)[topic, 1] == (27, 27, 0)
    daemon.start()
    await reaches(lambda: shown(backup.kafka, group)[topic, 1] == (20, 27, 7), "the group set back")
    (note,) = [text for subject, text in notes(daemon).items() if subject == f"consumer group {group}"]
    assert f"{topic}/1: 27 instead of 20" in note
    assert daemon.stop() == 0
    await backup.validated()


async def test_the_last_checkpoint_of_a_drain_is_committed_before_the_daemon_leaves(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic, flush_interval="60s", checkpoint_interval="60s")
    daemon.start()
    await follows(daemon, topic, 1)
    backup.fill(topic, batches=2, records=10)
    captured = b'kbackupd_captured_records_total{stream="user"} 20.0'
    await reaches(lambda: captured in daemon.get("/metrics")[1], "all of it captured, nothing of it durable")
    assert daemon.stop() == 0
    assert shown(backup.kafka, f"kbackupd-{topic}") == {(topic, 0): (20, 20, 0)}
    assert await backup.verbatim({topic: 1}) == 2


class Stillness:
    """What an idle cluster must not make more of, and the daemon's own time."""

    def __init__(self, backup: Backup, daemon: Daemon) -> None:
        self._backup = backup
        self._daemon = daemon

    def now_ms(self) -> int:
        status = self._daemon.status() or {}
        now = status["now_ms"]
        assert isinstance(now, int)
        return now

    def facts(self) -> tuple[object, ...]:
        _, metrics = self._daemon.get("/metrics")
        commits = [line for line in metrics.decode().splitlines() if line.startswith("kbackupd_group_commits_total")]
        stored = self._backup.objects()
        return (tuple(commits), *(tuple(sorted(key for key in stored if key.startswith(part))) for part in _PARTS))

    async def rests(self, *, seconds: float) -> tuple[object, ...]:
        """Return the facts once they have stood still for `seconds` of the daemon's clock."""
        deadline = time.monotonic() + 120
        facts, since = self.facts(), self.now_ms()
        while self.now_ms() - since < seconds * 1000:
            assert time.monotonic() < deadline, f"it does not come to rest: {facts}"
            await asyncio.sleep(0.1)
            if (anew := self.facts()) != facts:
                facts, since = anew, self.now_ms()
        return facts


_PARTS = ("segments/", "checkpoints/", "groups/")


async def test_an_idle_cluster_comes_to_rest_though_every_commit_is_a_record_of_it(
    backup: Backup, unique_topic: Names
) -> None:
    """Internal topics are captured, checkpoints are half a second apart, and nothing is stored for twenty of them."""
    with KafkaServer(heap="384m") as kafka:
        topic = create_topic(kafka.bootstrap, unique_topic(), partitions=2)
        fill(kafka, topic, 0, 1, batches=1, records=10)
        commit(kafka, "app", **{f"{topic}_0": 4})
        daemon = backup.daemon(
            topic,
            kafka=kafka,
            internal_topics=True,
            flush_interval="300ms",
            checkpoint_interval="500ms",
            snapshot_interval="1s",
        )
        daemon.start()
        group = f"kbackupd-{topic}"
        whole = {(topic, 0): (10, 10, 0), (topic, 1): (10, 10, 0)}
        await reaches(lambda: shown(kafka, group) == whole, "the group at the end of every log")
        still = Stillness(backup, daemon)
        rest = await still.rests(seconds=10)
        assert "groups/" in str(rest)
        # And it is no rest of death.
        fill(kafka, topic, 1, batches=1, records=5)
        await reaches(lambda: shown(kafka, group)[topic, 1] == (15, 15, 0), "the group after new records")
        assert await still.rests(seconds=3) != rest
        assert problems(daemon) == {}
        assert daemon.stop() == 0
    await backup.validated()


class Committing:
    """A committer without a daemon."""

    def __init__(self, connection: KafkaConnection, group: str, wanted: Positions) -> None:
        clock = SystemClock()
        self.problems = Problems(clock)
        self.committer = GroupCommitter(
            source=GroupQuestions(connection, timeout_seconds=15.0),
            group=group,
            recovered=wanted,
            interval_seconds=1.0,
            clock=clock,
            metrics=Metrics(clock, version="test"),
            problems=self.problems,
        )

    async def until_done(self, *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not await self.committer.commit():
            assert time.monotonic() < deadline, [*self.problems.current(), *self.problems.notes()]
            await asyncio.sleep(0.1)


@asynccontextmanager
async def connected(bootstrap: str, security: SecuritySettings | None = None) -> AsyncIterator[KafkaConnection]:
    async with KafkaConnection(
        bootstrap_servers=[bootstrap],
        security=security or SecuritySettings(),
        client_id="kbackupd-test",
        clock=SystemClock(),
    ) as connection:
        yield connection


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_group_that_live_consumers_use_is_reported_and_left_as_it_is(
    kafka: KafkaServer, unique_topic: Names, protocol: str
) -> None:
    topic = create_topic(kafka.bootstrap, unique_topic())
    fill(kafka, topic, batches=1, records=10)
    group = f"{topic}-app"
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([topic])
        await reaches(lambda: consumer.poll(0.5) is not None, "a record consumed")
        consumer.commit(asynchronous=False)
        before = shown(kafka, group)
        async with connected(kafka.bootstrap) as connection:
            ours = Committing(connection, group, {TopicPartition(topic, 0): OffsetToCommit(10, 0)})
            assert not await ours.committer.commit()
            (problem,) = ours.problems.current()
            assert "source.consumer_group" in problem.hint, problem
            assert shown(kafka, group) == before
            consumer.close()
            await ours.until_done()
            assert shown(kafka, group) == {(topic, 0): (10, 10, 0)}
            assert ours.problems.current() == ()
    finally:
        consumer.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    made = Guarded()
    with made.server:
        yield made


async def test_a_principal_that_may_not_commit_is_told_what_to_grant_and_commits_once_it_may(guarded: Guarded) -> None:
    kafka = guarded.server
    create_topic(kafka.bootstrap, "open")
    create_topic(kafka.bootstrap, "closed")
    guarded.allow(ResourceType.TOPIC, "open", AclOperation.READ)
    wanted = {TopicPartition("open", 0): OffsetToCommit(0, -1), TopicPartition("closed", 0): OffsetToCommit(0, -1)}
    async with connected(guarded.guarded, guarded.security) as connection:
        ours = Committing(connection, "kbackupd-main", wanted)
        assert not await ours.committer.commit()
        (note,) = ours.problems.notes()
        assert "GROUP_AUTHORIZATION_FAILED" in note.message
        assert ours.problems.current() == ()
        guarded.allow(ResourceType.GROUP, "kbackupd-main", AclOperation.READ)
        deadline = time.monotonic() + 60
        while await asyncio.to_thread(shown, kafka, "kbackupd-main") != {("open", 0): (0, 0, 0)}:
            assert time.monotonic() < deadline, "the topic that may be read"
            assert not await ours.committer.commit()
        guarded.allow(ResourceType.TOPIC, "closed", AclOperation.READ)
        await ours.until_done()
    assert shown(kafka, "kbackupd-main") == {("open", 0): (0, 0, 0), ("closed", 0): (0, 0, 0)}


@pytest.mark.parametrize("version", ["3.1.2", "3.9.1"])
async def test_the_oldest_brokers_we_support_take_a_commit_without_membership(version: str) -> None:
    with KafkaServer(heap="384m", version=version) as kafka:
        create_topic(kafka.bootstrap, "orders", partitions=2)
        fill(kafka, "orders", 0, batches=1, records=10)
        wanted = {
            TopicPartition("orders", 0): OffsetToCommit(10, 0),
            TopicPartition("orders", 1): OffsetToCommit(0, -1),
        }
        async with connected(kafka.bootstrap) as connection:
            await Committing(connection, "kbackupd-main", wanted).until_done()
        reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "kbackupd-main", "log_level": 0})
        try:
            rows = reader.committed([Row("orders", 0), Row("orders", 1)], timeout=60)
        finally:
            reader.close()
        assert [(row.partition, row.offset) for row in rows] == [(0, 10), (1, 0)]

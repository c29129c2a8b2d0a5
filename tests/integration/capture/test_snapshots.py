"""Group positions, configurations, ACLs and quotas of real brokers, as they were at an instant (hazards 15 and 31)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from kbackupd.archive.group_reports import GroupsReport
from kbackupd.archive.groups import groups_at
from kbackupd.archive.snapshots import archive_snapshot_at
from kbackupd.capture.cluster_survey import ClusterSurvey
from kbackupd.capture.group_survey import GroupSurvey
from kbackupd.daemon.source import KafkaQuestions
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import IncompleteError
from kbackupd.model.settings import SaslMechanism, SaslSettings, Secret, SecurityProtocol, SecuritySettings
from kbackupd.model.snapshots import Acl, GroupsContent, ReadOutcome
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import kbackupd_environment, run_kbackupd
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup
from tests.integration.conditions import PATIENCE_SECONDS

Names = Callable[[], str]


def commit(kafka: KafkaServer, group: str, **offsets: int) -> None:
    """Positions of `group`, by an independent client: topic_partition=offset."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, "log_level": 0})
    rows = [(name.rpartition("_"), offset) for name, offset in offsets.items()]
    try:
        consumer.commit(
            offsets=[TopicPartition(topic, int(partition), offset) for (topic, _, partition), offset in rows],
            asynchronous=False,
        )
    finally:
        consumer.close()


def set_retention(kafka: KafkaServer, topic: str, retention_ms: int) -> None:
    entry = ConfigEntry("retention.ms", str(retention_ms), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_SECONDS)


async def last_groups(backup: Backup) -> GroupsReport | None:
    store = await open_store(backup.storage)
    try:
        return await groups_at(store, "main", None)
    except IncompleteError:
        return None
    finally:
        await store.close()


def positions(report: GroupsReport | None, group_id: str) -> dict[tuple[str, int], int]:
    rows = [one for one in report.groups if one.group_id == group_id] if report else []
    return {(one.topic, one.partition): one.offset for row in rows for one in row.positions}


async def captured(backup: Backup, group: str, expected: dict[tuple[str, int], int]) -> int:
    """Wait until a snapshot says so, and return an instant at which it was so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while positions(report := await last_groups(backup), group) != expected or report is None:
        assert time.monotonic() < deadline, f"{group} is {positions(report, group)}, not {expected}"
        await asyncio.sleep(0.1)
    return report.taken_ms


async def configured(backup: Backup, topic: str, retention_ms: str) -> None:
    """Wait until the newest snapshot of the cluster knows this retention of the topic."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    found: object = None
    while found != retention_ms:
        assert time.monotonic() < deadline, f"retention.ms of {topic} is {found}"
        await asyncio.sleep(0.1)
        store = await open_store(backup.storage)
        try:
            snapshot = (await archive_snapshot_at(store, "main", CLUSTER_FORMAT, None)).snapshot
        finally:
            await store.close()
        topics = {one.name: one for one in snapshot.content.topics} if snapshot else {}
        found = topics[topic].configs.get("retention.ms") if topic in topics else None


async def test_positions_and_configurations_of_the_past_are_shown_as_they_were(
    backup: Backup, unique_topic: Names, short_path: Path
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2)
    old, new = f"{topic}-old", f"{topic}-new"
    commit(backup.kafka, old, **{f"{topic}_0": 5, f"{topic}_1": 6})
    set_retention(backup.kafka, topic, 100_000_000)
    daemon = backup.daemon(topic, snapshot_interval="1s")
    daemon.start()
    first_ms = await captured(backup, old, {(topic, 0): 5, (topic, 1): 6})
    await configured(backup, topic, "100000000")
    commit(backup.kafka, old, **{f"{topic}_0": 50})
    commit(backup.kafka, new, **{f"{topic}_0": 7})
    between_ms = SystemClock().now_ms()
    set_retention(backup.kafka, topic, 200_000_000)
    await captured(backup, old, {(topic, 0): 50, (topic, 1): 6})
    await captured(backup, new, {(topic, 0): 7})
    await configured(backup, topic, "200000000")
    assert daemon.stop() == 0

    def verb(name: str, *arguments: str) -> Any:
        where = ("--path", f"s3://{backup.bucket}/{backup.prefix}", "--backup-id", "main", "--format", "json")
        environment = kbackupd_environment(backup.s3)
        done = run_kbackupd(short_path, name, *where, *arguments, environment=environment, deadline_seconds=60)
        return json.loads(done.require(0).stdout)

    then = verb("groups", "--group", f"{topic}-*", "--at", str(first_ms))
    assert [group["group_id"] for group in then["groups"]] == [old]
    assert [row["offset"] for row in then["groups"][0]["positions"]] == [5, 6]
    assert then["groups"][0]["outcome"] == "ok"
    assert then["groups"][0]["sent_ms"] <= then["groups"][0]["answered_ms"] <= first_ms
    now = verb("groups", "--group", f"{topic}-*")
    assert {group["group_id"]: group["positions"][0]["offset"] for group in now["groups"]} == {old: 50, new: 7}

    def retention(described: Any) -> str:
        (found,) = [one for one in described["state"]["topics"] if one["name"] == topic]
        return str(found["configs"]["retention.ms"])

    assert retention(verb("describe", "--at", str(between_ms))) == "100000000"
    assert retention(verb("describe")) == "200000000"
    assert (await backup.validated()).checked.snapshots >= 4


class Guarded:
    """A broker with an authorizer: whoever comes by the plain listener may do everything, others what ACLs say."""

    _JAAS = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="broker" password="b" user_backup="right";'
    )

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self.guarded = f"127.0.0.1:{port}"
        self.server = KafkaServer(
            heap="384m",
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.guarded.plain.sasl.jaas.config": self._JAAS,
            },
        )
        plain, controller = self.server.quorum[self.server.node_id]
        plain_url = f"PLAINTEXT://127.0.0.1:{plain}"
        self.server.properties["listeners"] = (
            f"{plain_url},CONTROLLER://127.0.0.1:{controller},GUARDED://{self.guarded}"
        )
        self.server.properties["advertised.listeners"] = f"{plain_url},GUARDED://{self.guarded}"

    def allow(self, type_: ResourceType, name: str, operation: AclOperation) -> None:
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap, "log_level": 0})
        literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
        binding = AclBinding(type_, name, literal, "User:backup", "*", operation, allow)
        admin.create_acls([binding])[binding].result(PATIENCE_SECONDS)

    @property
    def security(self) -> SecuritySettings:
        """Of the principal that ACLs are asked about."""
        sasl = SaslSettings(mechanism=SaslMechanism.PLAIN, username="backup", password=Secret("right"))
        return SecuritySettings(protocol=SecurityProtocol.SASL_PLAINTEXT, sasl=sasl)

    @asynccontextmanager
    async def questions(self, *, as_backup: bool) -> AsyncIterator[KafkaQuestions]:
        async with KafkaConnection(
            bootstrap_servers=[self.guarded if as_backup else self.server.bootstrap],
            security=self.security if as_backup else SecuritySettings(),
            client_id="kbackupd-test",
            clock=SystemClock(),
        ) as connection:
            yield KafkaQuestions(connection)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    made = Guarded()
    with made.server:
        yield made


async def test_what_permissions_hide_is_told_as_hidden_and_kept_as_it_was(guarded: Guarded) -> None:
    kafka = guarded.server
    create_topic(kafka.bootstrap, "open")
    create_topic(kafka.bootstrap, "closed")
    set_retention(kafka, "closed", 100_000_000)
    commit(kafka, "seen", open_0=1, closed_0=2)
    commit(kafka, "unseen", open_0=3)
    guarded.allow(ResourceType.TOPIC, "open", AclOperation.READ)
    guarded.allow(ResourceType.GROUP, "seen", AclOperation.DESCRIBE)
    clock = SystemClock()

    async with guarded.questions(as_backup=False) as questions:
        groups = await GroupSurvey(questions, clock=clock).take(None)
        cluster = await ClusterSurvey(questions, clock=clock).take(None)
    assert groups.complete
    assert offsets(groups) == {"seen": {"open": 1, "closed": 2}, "unseen": {"open": 3}}
    assert Acl("TOPIC", "open", "LITERAL", "User:backup", "*", "READ", "ALLOW") in cluster.acls
    assert {one.name: dict(one.configs) for one in cluster.topics}["closed"] == {"retention.ms": "100000000"}

    async with guarded.questions(as_backup=True) as questions:
        anew = await GroupSurvey(questions, clock=clock).take(None)
        after = await GroupSurvey(questions, clock=clock).take(groups)
        cluster_after = await ClusterSurvey(questions, clock=clock).take(cluster)
    assert not anew.lists_all
    assert offsets(anew) == {"seen": {"open": 1}}
    assert offsets(after) == offsets(groups)
    outcomes = {one.group_id: one.part for one in after.groups}
    assert (outcomes["seen"].outcome, outcomes["seen"].cause) == (ReadOutcome.DENIED, "topics are hidden: closed")
    assert outcomes["unseen"].cause == "GROUP_AUTHORIZATION_FAILED (30)"
    assert cluster_after.acls == cluster.acls
    assert cluster_after.acls_part.cause == "CLUSTER_AUTHORIZATION_FAILED (31)"
    assert cluster_after.quotas_part.outcome is ReadOutcome.DENIED
    topics = {one.name: one for one in cluster_after.topics}
    assert (topics["closed"].part.outcome, topics["open"].part.outcome) == (ReadOutcome.DENIED, ReadOutcome.DENIED)
    assert dict(topics["closed"].configs) == {"retention.ms": "100000000"}


def offsets(content: GroupsContent) -> dict[str, dict[str, int]]:
    return {one.group_id: {row.topic: row.offset for row in one.positions} for one in content.groups}

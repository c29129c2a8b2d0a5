"""ACLs of a real cluster, captured by the daemon, set again with what is restored, and read back by another client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin._acl import AclOperation

from kbackupd.archive.snapshots import archive_snapshot_at
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.model.snapshots import Acl
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import Json, kbackupd_environment
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup, fill, flush
from tests.integration.capture.test_snapshots import commit
from tests.integration.conditions import reaches
from tests.integration.restore.picky_kafka import (
    CLUSTER,
    DENY,
    GROUP,
    PASSWORD,
    PREFIXED,
    RESTORER,
    TOPIC,
    PickyKafka,
    topic_state,
)
from tests.integration.restore.site import DENIED, INCOMPLETE, REFUSED, Site
from tests.integration.restore.test_command import start

Names = Callable[[], str]
READ, WRITE, DESCRIBE, ALTER = (
    AclOperation.READ,
    AclOperation.WRITE,
    AclOperation.DESCRIBE,
    AclOperation.ALTER,
)


def acl(kind: str, name: str, principal: str, operation: str, permission: str = "ALLOW") -> Acl:
    return Acl(kind, name, "LITERAL", f"User:{principal}", "*", operation, permission)


@dataclass(frozen=True, kw_only=True)
class Captured:
    """An archive that knows ACLs, of a cluster that has none any more: as good as a new one."""

    site: Site
    topic: str
    group: str

    def expected(self, target: str) -> set[Acl]:
        """Of the topic under its new name, and of its group."""
        return {
            acl("TOPIC", target, "app", "READ"),
            acl("TOPIC", target, "app", "WRITE"),
            acl("TOPIC", target, "mallory", "READ", "DENY"),
            acl("TOPIC", target, "etl", "DESCRIBE"),
            acl("GROUP", self.group, "app", "READ"),
        }


@pytest.fixture
async def captured(
    picky: PickyKafka, s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path, unique_topic: Names
) -> Captured:
    topic = create_topic(picky.bootstrap, f"eu-{unique_topic()}")
    group = f"billing-{topic}"
    picky.grant(TOPIC, topic, READ, WRITE, principal="User:app")
    picky.grant(TOPIC, topic, READ, principal="User:mallory", permission=DENY)
    picky.grant(TOPIC, "eu-", DESCRIBE, principal="User:etl", pattern=PREFIXED)
    picky.grant(GROUP, group, READ, principal="User:app")
    picky.grant(TOPIC, "*", READ, principal="User:guest", permission=DENY)
    picky.grant(GROUP, "*", DESCRIBE, principal="User:audit")
    picky.grant(TOPIC, "else", READ, principal="User:app")
    picky.grant(CLUSTER, "kafka-cluster", ALTER, principal="User:ops")
    fill(picky, topic, batches=3, records=40)
    commit(picky, group, **{f"{topic}_0": 60})
    backup = Backup(picky, s3_server, s3_bucket, s3_prefix, short_path)
    try:
        daemon = backup.daemon(topic, snapshot_interval="1s")
        daemon.start()
        await flush(daemon)
        granted = picky.acls
        await reaches(lambda: bool(backup.objects("cluster")), "the cluster is captured")
        assert daemon.stop() == 0
    finally:
        backup.close()
    store = await open_store(backup.storage)
    try:
        snapshot = (await archive_snapshot_at(store, "main", CLUSTER_FORMAT, None)).snapshot
    finally:
        await store.close()
    assert snapshot is not None
    assert set(snapshot.content.acls) == granted
    picky.revoke()
    site = Site(bootstrap=picky.bootstrap, s3=s3_server, bucket=s3_bucket, prefix=s3_prefix, directory=short_path)
    return Captured(site=site, topic=topic, group=group)


async def test_what_is_about_the_restored_topic_and_its_groups_is_set_and_nothing_wider(
    captured: Captured, picky: PickyKafka, unique_topic: Names
) -> None:
    first, second = unique_topic(), unique_topic()
    groups: Json = {"restore": True, "include": ["billing-*"]}

    planned = captured.site.restore({captured.topic: first}, "--dry-run", acls=True, consumer_groups=groups)
    assert f"DENY User:mallory READ on topic {first} from *" in planned.require(0).stdout
    assert picky.acls == set()

    done = captured.site.restore({captured.topic: first}, acls=True, consumer_groups=groups).require(0)

    assert picky.acls == captured.expected(first)
    assert "5 ACLs set, as they were at" in done.stdout
    assert "left out: DENY User:guest READ on topic * from *: it is about every topic of the cluster" in done.stdout
    assert "left out: ALLOW User:audit DESCRIBE on group * from *: it is about every group" in done.stdout
    assert "2 ACLs of the archive concern nothing that is restored" in done.stdout

    # Its groups' are there already: that is no error, and none is taken away.
    captured.site.restore({captured.topic: second}, acls=True, consumer_groups=groups).require(0)

    assert picky.acls == captured.expected(first) | captured.expected(second)


def test_a_target_without_an_authorizer_is_refused_before_any_write(
    captured: Captured, kafka: KafkaServer, unique_topic: Names
) -> None:
    site = replace(captured.site, bootstrap=kafka.bootstrap)

    problem = "acls are to be restored, and the target has no authorizer that could keep them"
    site.refuses(
        {captured.topic: unique_topic()}, REFUSED, {problem: "leave options.acls out"}, kafka.bootstrap, acls=True
    )


class TestAPrincipalThatMayNotSetThem:
    @pytest.fixture
    def target(self, picky: PickyKafka, unique_topic: Names, captured: Captured) -> str:
        name = unique_topic()
        picky.grant(TOPIC, name, AclOperation.ALL)
        return name

    def test_is_told_before_any_write(self, captured: Captured, picky: PickyKafka, target: str) -> None:
        picky.grant(CLUSTER, "kafka-cluster", DESCRIBE)
        somebody = captured.site.as_(RESTORER, PASSWORD, picky)
        before = picky.acls

        problem = "acls are to be restored, and this principal lacks Alter on the cluster"
        remedy = "grant Alter and Describe on the cluster, or leave options.acls out"
        somebody.refuses({captured.topic: target}, DENIED, {problem: remedy}, picky.bootstrap, acls=True)

        assert picky.acls == before

    async def test_is_incomplete_where_it_loses_the_right_half_way_and_sets_them_when_run_again(
        self, captured: Captured, picky: PickyKafka, target: str
    ) -> None:
        may_alter = acl("CLUSTER", "kafka-cluster", RESTORER, "ALTER")
        picky.grant(CLUSTER, "kafka-cluster", ALTER, DESCRIBE)
        somebody = captured.site.as_(RESTORER, PASSWORD, picky)
        config = somebody.written({captured.topic: target}, acls=True, rate_limit="2KiB")
        process = start("--config", str(config), environment=kbackupd_environment(captured.site.s3))

        def is_filled() -> bool:
            try:
                state = topic_state(picky.bootstrap, target)
            except KafkaException:  # it is being made, and has no leader yet
                return False
            return state is not None and state[0][0][1] > 0

        await reaches(is_filled, "records are restored")
        picky.revoke(may_alter)
        out, err = process.communicate(timeout=240)

        assert process.returncode == INCOMPLETE, err
        assert "refused: ALLOW User:app READ" in out
        assert "CLUSTER_AUTHORIZATION_FAILED" in out
        assert {one.principal for one in picky.acls} == {f"User:{RESTORER}"}

        picky.grant(CLUSTER, "kafka-cluster", ALTER)
        again = somebody.restore({captured.topic: target}, acls=True).require(0)

        assert "of these, earlier runs had restored 120 records" in again.stdout
        assert picky.acls >= {one for one in captured.expected(target) if one.resource_type == "TOPIC"}

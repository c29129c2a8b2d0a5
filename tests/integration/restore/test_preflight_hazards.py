"""What preflight finds in a real target, hazard by hazard, with an archive in a real bucket, by the command itself.

"Reachable, permitted, topic absent or empty, partition counts, max.message.bytes against the largest batch, timestamp
bounds, min.insync.replicas, LogAppendTime, retention and compaction hazards, quotas. All problems at once, each with a
remedy" (hazards 28, 36 and 37). Each is provoked: refused with its remedy and exit code, and nothing is written to the
target or to the archive; or lifted for the time of the restore, which is shown by what comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin._acl import AclOperation

from kbackupd.testbed.daemon import Json, Section
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.picky_kafka import (
    PASSWORD,
    REQUEST_BYTES,
    RESTORER,
    TOPIC,
    PickyKafka,
    has_configuration,
)
from tests.integration.restore.retention_policy import POLICED, SAYS
from tests.integration.restore.site import DENIED, REFUSED, Site
from tests.unit.restore.planned import archive_everything

Names = Callable[[], str]

DAY_MS = 24 * 3_600_000


@pytest.fixture(scope="module")
def stored(s3_server: S3Server, s3_bucket: str) -> str:
    """The prefix of an archive of three topics, the last record of each of today."""
    prefix = "preflight-hazards"

    async def built() -> ArchiveBuilder:
        made = await ArchiveBuilder.create()
        stamp = time.time_ns() // 1_000_000
        orders = made.topic("orders", partitions=2)
        for partition in range(2):
            for number in range(3):
                values = [b"%d-%d-%d" % (partition, number, n) for n in range(3)]
                made.log(orders, partition).append(values, timestamp_ms=stamp - (30 * DAY_MS if number == 0 else 0))
        made.log(made.topic("payments"), 0).append([b"one"])
        made.log(made.topic("large"), 0).append([bytes(REQUEST_BYTES)])
        await archive_everything(made)
        return made

    client = s3_server.client()
    for key, data in asyncio.run(built()).store.objects.items():
        assert client.request("PUT", f"/{s3_bucket}/{prefix}/{key}", body=data)[0] == 200
    return prefix


@pytest.fixture
def site(picky: PickyKafka, s3_server: S3Server, s3_bucket: str, stored: str, tmp_path: Path) -> Site:
    return Site(bootstrap=picky.bootstrap, s3=s3_server, bucket=s3_bucket, prefix=stored, directory=tmp_path)


def put(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(120) == 0


def values(bootstrap: str, topic: str) -> dict[int, list[bytes | None]]:
    return {number: [one.value for one in records] for number, records in read_topic(bootstrap, topic).items()}


class TestReachable:
    def test_a_target_where_nobody_listens(self, site: Site) -> None:
        [port] = free_ports(1)
        nobody = replace(site, bootstrap=f"127.0.0.1:{port}")

        nobody.refuses({"orders": "orders"}, DENIED, {f"127.0.0.1:{port}": "is a broker up there"}, truth="")

    def test_a_login_that_is_refused(self, site: Site, picky: PickyKafka, unique_topic: Names) -> None:
        stranger = site.as_(RESTORER, "wrong", picky)

        told = stranger.refuses({"orders": unique_topic()}, DENIED, {picky.guarded.bootstrap: "sasl"}, picky.bootstrap)

        assert "wrong" not in told


class TestPermitted:
    def test_what_the_principal_lacks_is_told_topic_by_topic(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        there, absent = create_topic(picky.bootstrap, unique_topic(), partitions=2), unique_topic()
        picky.grant(TOPIC, there, AclOperation.READ)
        picky.grant(TOPIC, absent, AclOperation.WRITE)
        problems = {
            f"topic {there}: this principal lacks Write, AlterConfigs, DescribeConfigs": (
                f"grant Write, AlterConfigs, DescribeConfigs on topic {there}"
            ),
            f"topic {absent}: this principal lacks Create, Read, AlterConfigs": (
                f"grant Create, Read, AlterConfigs on topic {absent}"
            ),
        }

        somebody = site.as_(RESTORER, PASSWORD, picky)
        somebody.refuses({"orders": there, "payments": absent}, DENIED, problems, picky.bootstrap)


class TestAbsentOrEmpty:
    def test_hazard_37_a_topic_with_somebodys_records(self, site: Site, picky: PickyKafka, unique_topic: Names) -> None:
        target = create_topic(picky.bootstrap, unique_topic(), partitions=2)
        put(picky.bootstrap, target, b"foreign")

        problems = {f"topic {target} is not empty: partition 0 [0, 1)": "append: true"}
        site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

    def test_hazard_28_a_restore_that_is_done(self, site: Site, picky: PickyKafka, unique_topic: Names) -> None:
        target = unique_topic()
        site.restore({"payments": target}).require(0)

        problems = {f"topic {target} is not empty": "topic_mapping"}
        site.refuses({"payments": target}, REFUSED, problems, picky.bootstrap)

    def test_a_name_that_another_topic_is_in_the_way_of(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        there = create_topic(picky.bootstrap, f"{unique_topic()}_copy")
        target = there.replace("_copy", ".copy")

        problems = {f"topic {target} cannot be created": "choose another name in topic_mapping"}
        told = site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

        assert f"collides with existing topic: {there}" in told


class TestPartitionCounts:
    def test_fewer_than_the_archive_has(self, site: Site, picky: PickyKafka, unique_topic: Names) -> None:
        target = create_topic(picky.bootstrap, unique_topic())

        remedy = f"delete {target}, if nobody needs its records, or restore"
        problems = {f"topic {target} has 1 partition, the archive 2": remedy}
        site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

    def test_more_are_refused_until_they_are_asked_for(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        target = create_topic(picky.bootstrap, unique_topic(), partitions=3)

        remedy = "partition_mapping: [{topic: orders, target_partitions: 3}]"
        problems = {f"topic {target} has 3 partitions, the archive 2": remedy}
        site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

        told: Json = [{"topic": "orders", "target_partitions": 3}]
        site.restore({"orders": target}, partition_mapping=told).require(0)


class TestSizes:
    def test_a_batch_above_what_a_request_may_have(self, site: Site, picky: PickyKafka, unique_topic: Names) -> None:
        target = unique_topic()

        problems = {
            f"topic {target}: its largest batch has 400": "raise socket.request.max.bytes of the target's brokers to",
        }
        site.refuses({"large": target}, REFUSED, problems, picky.bootstrap)


class TestReplicas:
    def test_an_existing_topic_whose_records_nobody_would_acknowledge(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        target = create_topic(picky.bootstrap, unique_topic(), partitions=2, config={"min.insync.replicas": "2"})

        problems = {
            f"topic {target}: partition 0 has a replication factor of 1, and min.insync.replicas is 2": (
                f"lower min.insync.replicas of {target}"
            )
        }
        site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

    def test_an_absent_topic_that_would_get_too_few(self, site: Site, picky: PickyKafka, unique_topic: Names) -> None:
        target = unique_topic()

        problems = {
            f"topic {target} would be created with a replication factor of 1, and min.insync.replicas is 2": (
                "raise default.replication.factor of the target's brokers to 2"
            )
        }
        with picky.min_insync_replicas(2):
            site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)


class TestPolicies:
    """Sizes, timestamp bounds, LogAppendTime, retention, compaction are lifted, where the target lets anybody do so."""

    def test_one_that_would_not_have_an_absent_topic_protected(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        target = f"{POLICED}{unique_topic()}"

        problems = {f"topic {target} cannot be created": "create.topic.policy"}
        told = site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

        assert SAYS in told

    def test_one_that_would_not_have_an_existing_topic_protected(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        own = {"retention.ms": str(DAY_MS)}
        target = create_topic(picky.bootstrap, f"{POLICED}{unique_topic()}", partitions=2, config=own)

        problems = {f"topic {target} cannot be made safe for a restore": "alter.config.policy"}
        told = site.refuses({"orders": target}, REFUSED, problems, picky.bootstrap)

        assert SAYS in told


class TestWhatIsLiftedForItsTime:
    """The other hazards of an empty topic are no reason to refuse: they end while records come in (hazard 36)."""

    OWN: ClassVar[dict[str, str]] = {
        "max.message.bytes": "60",
        "message.timestamp.before.max.ms": str(DAY_MS),
        "message.timestamp.after.max.ms": "1",
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "gzip",
        "cleanup.policy": "compact,delete",
        "retention.ms": str(DAY_MS),
        "segment.ms": "1000",
    }

    async def test_sizes_bounds_stamps_retention_and_compaction_of_an_empty_topic(
        self, site: Site, picky: PickyKafka, unique_topic: Names
    ) -> None:
        target = create_topic(picky.bootstrap, unique_topic(), partitions=2, config=self.OWN)

        done = site.restore({"orders": target})

        done.require(0)
        found = read_topic(picky.bootstrap, target)
        assert {number: [one.value for one in records] for number, records in found.items()} == {
            partition: [b"%d-%d-%d" % (partition, number, n) for number in range(3) for n in range(3)]
            for partition in range(2)
        }
        oldest, newer = found[0][0].timestamp_ms, found[0][3].timestamp_ms
        assert newer - oldest == 30 * DAY_MS, "they are stamped as they were"
        # What would delete waits; everything else is as somebody had set it.
        held = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        await has_configuration(picky.bootstrap, target, {**self.OWN, **held})
        assert "compaction would remove all but the newest record of each key" in done.stdout
        assert f"--entity-name {target} --add-config 'cleanup.policy=[compact,delete],retention.ms={DAY_MS}'" in (
            done.stdout
        )


class TestQuotas:
    """A quota refuses nothing; it is told before it makes the restore slow."""

    RATE = 1 << 20

    @pytest.mark.parametrize("entity", ["clients", "users"])
    def test_one_of_ours_is_told_before_the_restore_and_in_its_report(
        self, site: Site, picky: PickyKafka, unique_topic: Names, entity: str
    ) -> None:
        name = {"clients": "kbackupd-restore", "users": "ANONYMOUS"}[entity]
        note = (
            "a producer quota of the target allows user ANONYMOUS, client id kbackupd-restore 1.0 MiB/s on each broker"
        )
        target = unique_topic()

        with picky.producer_quota(self.RATE, entity, name):
            text = site.restore({"orders": target}).require(0)
            report = site.restore({"payments": unique_topic()}, "--format", "json").json()

        assert note in text.stdout
        assert note in text.stderr
        assert any(note in str(one) and "at that pace" in str(one) for one in notes_of(report))


def notes_of(report: Section) -> list[Json]:
    notes = report["notes"]
    assert isinstance(notes, list)
    return notes


def test_problems_of_every_kind_are_told_at_once(site: Site, picky: PickyKafka, unique_topic: Names) -> None:
    narrow = create_topic(picky.bootstrap, unique_topic())
    full = create_topic(picky.bootstrap, unique_topic(), config={"min.insync.replicas": "2"})
    put_unsafely(picky.bootstrap, full)
    large = f"{POLICED}{unique_topic()}"

    told = site.refuses(
        {"orders": narrow, "payments": full, "large": large},
        REFUSED,
        {
            f"topic {narrow} has 1 partition, the archive 2": "partition",
            f"topic {full} is not empty": "append: true",
            f"topic {full}: partition 0 has a replication factor of 1": "lower min.insync.replicas",
            f"topic {large}: its largest batch": "socket.request.max.bytes",
            f"topic {large} cannot be created": "create.topic.policy",
        },
        picky.bootstrap,
    )

    assert told.count("\n  topic ") == 5, "one line each"


def put_unsafely(bootstrap: str, topic: str) -> None:
    """A record that no second replica has."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, "acks": 1})
    producer.produce(topic, b"foreign", partition=0)
    assert producer.flush(120) == 0

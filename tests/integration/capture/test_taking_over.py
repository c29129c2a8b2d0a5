"""The start of a life: what it finds, what it refuses, and that it never takes "cannot read" for "absent"."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.describe import describe
from kbackupd.model.positions import PartitionId
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.proxy import Reset
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.s3_proxy import Answer, Fault, Rule, S3Proxy, Stall
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup, Batches, complaints, flush, read
from tests.integration.conditions import reaches

Names = Callable[[], str]
IMPATIENT = ("--patience-seconds", "10")
"""What the store is not kept from answering it must answer within that, on a busy machine too."""


def ranges(archive: Archive, id: PartitionId, epoch: int) -> list[tuple[int, int]]:
    """Asked and next offset of every run that a writer epoch stored of one partition."""
    return [
        (stored.run.asked_offset, stored.run.next_offset)
        for stored in archive.evidence(id).runs
        if stored.place.writer_epoch == epoch
    ]


async def test_with_every_checkpoint_deleted_a_life_goes_on_from_the_same_positions_and_the_contents_are_the_same(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2)
    backup.fill(topic, 0, 1)
    daemon = backup.daemon(topic)
    daemon.start()
    await flush(daemon)
    backup.fill(topic, 0)
    assert daemon.stop() == 0

    async def contents(archive: Archive) -> tuple[str, Batches, Batches]:
        topic_id = archive.newest()[topic].topic_id
        told = repr(describe(archive).topics)
        return told, await read(archive, PartitionId(topic_id, 0)), await read(archive, PartitionId(topic_id, 1))

    async with backup.archive() as archive:
        before = await contents(archive)
    assert len(backup.objects("checkpoints/")) >= 2
    for key in backup.objects("checkpoints/"):
        backup.delete(key)
    async with backup.archive() as archive:
        assert await contents(archive) == before

    daemon.start()
    backup.fill(topic, 0, 1)
    await flush(daemon)
    assert daemon.stop() == 0

    await backup.verbatim({topic: 2})
    async with backup.archive() as archive:
        topic_id = archive.newest()[topic].topic_id
        for number in range(2):
            id = PartitionId(topic_id, number)
            first_life, second_life = ranges(archive, id, 1), ranges(archive, id, 2)
            # Each run asks where the one before ended: nothing was captured twice.
            for (_, ended), (asked, _) in zip(first_life + second_life, first_life[1:] + second_life, strict=False):
                assert asked == ended
            assert second_life


async def test_another_cluster_is_refused_with_exit_code_5_and_nothing_is_written(
    backup: Backup, fragile_kafka: KafkaServer, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    ours = backup.daemon(topic)
    ours.start()
    assert ours.stop() == 0
    before = backup.objects()

    foreign = backup.daemon(topic, kafka=fragile_kafka)
    foreign.launch()
    assert foreign.wait() == 5

    (complaint,) = complaints(foreign)
    assert f"belongs to the Kafka cluster {backup.kafka.cluster_id}" in complaint
    assert fragile_kafka.cluster_id in complaint
    assert backup.objects() == before


async def test_objects_without_backup_json_are_refused_and_not_adopted(backup: Backup, unique_topic: Names) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic)
    daemon.start()
    assert daemon.stop() == 0
    backup.delete("backup.json")
    before = backup.objects()

    daemon.launch()
    assert daemon.wait() == 3

    (complaint,) = complaints(daemon)
    assert "backup.json is missing, but there are other objects" in complaint
    assert backup.objects() == before


async def test_wrong_credentials_are_exit_code_4_with_one_message_and_nothing_is_created(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    denied = backup.daemon(topic, secret_key="not-the-secret")
    denied.launch()
    assert denied.wait() == 4

    (complaint,) = complaints(denied)
    assert "backup.json" in complaint
    assert backup.s3.secret_key not in denied.log.read_text()
    assert backup.objects() == {}


UNREADABLE: dict[str, tuple[Fault, str]] = {
    "503": (Answer(status=503), "SlowDown"),
    "500": (Answer(status=500, code="InternalError"), "InternalError"),
    "403": (Answer(status=403, code="AccessDenied"), "AccessDenied"),
    "timeout": (Stall(), "no answer within"),
    "reset": (Reset(), ""),
}
"""What meets who asks for backup.json, and what is said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A daemon that has ended, for it could not read backup.json of an archive of its own."""

    backup: Backup
    daemon: Daemon
    rule: Rule


@pytest.fixture(scope="module")
def refused(kafka: KafkaServer, s3_server: S3Server, s3_bucket: str) -> Iterator[dict[str, Refused]]:
    """One for each kind of fault: all are patient at the same time."""
    topic = create_topic(kafka.bootstrap, f"unreadable-{os.getpid()}")
    made = {}
    with S3Proxy(s3_server.port) as proxy, tempfile.TemporaryDirectory(prefix="kb-") as directory, ExitStack() as ends:
        for number, (kind, (fault, _)) in enumerate(UNREADABLE.items()):
            prefix = f"unreadable-{os.getpid()}-{number}"
            backup = Backup(kafka, s3_server, s3_bucket, prefix, Path(directory) / str(number))
            ends.callback(backup.close)
            rule = proxy.strike(fault, method="GET", key_part=f"{prefix}/main/backup.json")
            daemon = backup.daemon(topic, endpoint=proxy.endpoint, odd=IMPATIENT)
            daemon.launch()
            made[kind] = Refused(backup=backup, daemon=daemon, rule=rule)
        yield made


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_store_that_cannot_be_read_at_the_start_is_never_an_empty_one(kind: str, refused: dict[str, Refused]) -> None:
    found, (_, said) = refused[kind], UNREADABLE[kind]
    assert found.daemon.wait() == 4

    (complaint,) = complaints(found.daemon)
    assert said in complaint
    assert found.rule.struck
    assert found.backup.objects() == {}


async def test_what_cannot_be_read_of_an_earlier_life_ends_the_start_and_the_next_one_goes_on_from_there(
    backup: Backup, proxy: S3Proxy, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic)
    daemon = backup.daemon(topic, endpoint=proxy.endpoint, odd=IMPATIENT, checkpoint_interval="1h")
    daemon.start()
    await flush(daemon)
    beginning = ("checkpoints/", "groups/", "cluster/")
    await reaches(lambda: all(backup.objects(part) for part in beginning), "nothing of its beginning is on its way")
    daemon.kill()  # the checkpoint of its beginning alone is there, so segments must be read
    before = set(backup.objects())

    for number, unreadable in enumerate(("list-type", "checkpoints/main/", "segments/main/"), start=1):
        rule = proxy.strike(Answer(status=503), method="GET", key_part=unreadable)
        daemon.launch()
        assert daemon.wait() == 4
        rule.lift()
        assert rule.struck
        assert len(complaints(daemon)) == number
    # At most they claimed epochs that nobody uses.
    assert {key for key in set(backup.objects()) - before if not key.startswith("writers/main/")} == set()

    daemon.start()
    backup.fill(topic)
    await backup.drained(daemon, {topic: 1})
    async with backup.archive() as archive:
        id = PartitionId(archive.newest()[topic].topic_id, 0)
        stored = [(run.run.asked_offset, run.run.next_offset) for run in archive.evidence(id).runs]
        assert [asked for asked, _ in stored[1:]] == [ended for _, ended in stored[:-1]]

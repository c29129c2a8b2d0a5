"""The log's start overtakes a paused backup (hazard 11): a gap with its cause, and capture goes on behind it."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.testbed.topics import create_topic
from kbackupd.validate.report import Code
from tests.integration.capture.backup import (
    Backup,
    codes,
    flush,
    follows,
    gaps,
    pause,
    read,
    resume,
    states,
)
from tests.integration.conditions import reaches
from tests.integration.verbatim import broker_batches

Names = Callable[[], str]


def log_start(bootstrap: str, topic: str) -> int:
    """Of partition 0, as its leader tells it."""
    client = Consumer({"bootstrap.servers": bootstrap, "group.id": "retention", "log_level": 0})
    try:
        offsets = client.get_watermark_offsets(TopicPartition(topic, 0), timeout=60, cached=False)
    finally:
        client.close()
    assert offsets is not None
    return int(offsets[0])


# A client is held in a name until its answer is here: a collected one cancels what it asked.


def delete_records(bootstrap: str, topic: str, before: int) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for answer in client.delete_records([TopicPartition(topic, 0, before)]).values():
        answer.result(60)


def set_retention(bootstrap: str, topic: str, retention_ms: int) -> None:
    resource = ConfigResource(
        ResourceType.TOPIC,
        topic,
        incremental_configs=[
            ConfigEntry("retention.ms", str(retention_ms), incremental_operation=AlterConfigOpType.SET)
        ],
    )
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    client.incremental_alter_configs([resource])[resource].result(60)


def retention(bootstrap: str, topic: str) -> str | None:
    """`retention.ms` as the broker has it."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    entries = client.describe_configs([resource])[resource].result(60)
    value = entries["retention.ms"].value
    assert value is None or isinstance(value, str)
    return value


async def test_a_pause_survives_sigkill_and_records_deleted_meanwhile_become_a_gap_with_its_cause(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2)
    other = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic, 0, 1)
    daemon = backup.daemon(topic, other)
    daemon.start()
    await flush(daemon)
    captured = broker_batches(backup.kafka, topic, 0)
    position = captured[-1][0] + 40

    await pause(daemon, topic)
    daemon.kill()
    daemon.start()
    assert states(daemon, topic) == {"paused": 2}
    backup.fill(topic, 0, 1, batches=4)
    backup.fill(other)
    await follows(daemon, other, 1)  # what is not paused goes on
    await flush(daemon)
    cut = broker_batches(backup.kafka, topic, 0)[len(captured) + 2][0]
    delete_records(backup.kafka.bootstrap, topic, cut)
    assert log_start(backup.kafka.bootstrap, topic) == cut

    await resume(daemon, topic)
    await follows(daemon, topic, 2)
    await flush(daemon)
    backup.fill(topic, 0, 1)
    await flush(daemon)
    assert daemon.stop() == 0

    left = [batch for batch in broker_batches(backup.kafka, topic, 0) if batch[0] >= cut]
    async with backup.archive() as archive:
        topic_id = archive.newest()[topic].topic_id
        overtaken, neighbour = PartitionId(topic_id, 0), PartitionId(topic_id, 1)
        assert gaps(archive, overtaken) == [(position, cut, GapCause.LOG_START_MOVED)]
        assert await read(archive, overtaken) == captured + left
        assert gaps(archive, neighbour) == []
        assert await read(archive, neighbour) == broker_batches(backup.kafka, topic, 1)
    report = await backup.validated()
    assert Code.CONTINUITY_GAP in codes(report)


async def test_retention_that_overtakes_a_paused_backup_leaves_a_gap_and_what_comes_after_is_captured(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic)
    daemon = backup.daemon(topic)
    daemon.start()
    await flush(daemon)
    captured = broker_batches(backup.kafka, topic, 0)
    position = captured[-1][0] + 40
    await pause(daemon, topic)
    backup.fill(topic, batches=2)
    end = position + 80

    set_retention(backup.kafka.bootstrap, topic, 1)
    await reaches(lambda: log_start(backup.kafka.bootstrap, topic) == end, "all records expired")
    set_retention(backup.kafka.bootstrap, topic, -1)
    # The controller has it; what is produced before the broker has it too would go the same way.
    await reaches(lambda: retention(backup.kafka.bootstrap, topic) == "-1", "records are kept again")
    await resume(daemon, topic)
    backup.fill(topic)
    await follows(daemon, topic, 1)
    await flush(daemon)
    assert daemon.stop() == 0

    async with backup.archive() as archive:
        id = PartitionId(archive.newest()[topic].topic_id, 0)
        assert gaps(archive, id) == [(position, end, GapCause.LOG_START_MOVED)]
        assert await read(archive, id) == captured + broker_batches(backup.kafka, topic, 0)
    await backup.validated()

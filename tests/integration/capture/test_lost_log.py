"""A broker loses or damages what it stored: hazard 21, and bytes that are corrupt at the source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import RunFlag
from kbackupd.store.open import open_store
from kbackupd.store.scoped import ScopedStore
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.validate.report import Code, Severity
from tests.integration.capture.backup import (
    Backup,
    Batches,
    fill,
    flush,
    follows,
    gaps,
    notes,
    pause,
    problems,
    read,
    resume,
    states,
    topic_rows,
)
from tests.integration.conditions import reaches
from tests.integration.verbatim import broker_batches

Names = Callable[[], str]


@pytest.fixture
def kafka(fragile_kafka: KafkaServer) -> KafkaServer:
    """Every archive of this file is of the broker that may be mistreated."""
    return fragile_kafka


@pytest.fixture(autouse=True)
def leave_it_running(kafka: KafkaServer) -> Iterator[None]:
    yield
    if not kafka.running:
        kafka.start()


def exposure(daemon: Daemon, topic: str) -> float:
    """Seconds, of the worst partition; infinite while it is not known."""
    (row,) = topic_rows(daemon, topic)
    seconds = row["exposure_seconds"]
    return seconds if isinstance(seconds, float) else math.inf


def lose_log(kafka: KafkaServer, topic: str) -> None:
    """The broker, stopped, finds nothing of partition 0 when it starts again but that it exists."""
    directory = kafka.log_dir(topic, 0)
    lost = [path for path in directory.iterdir() if path.name != "partition.metadata"]
    assert any(path.suffix == ".log" and path.stat().st_size for path in lost)
    for path in lost:
        path.unlink()


def flip_byte(log: Path, position: int) -> None:
    with log.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("meanwhile", ["down", "paused"])
async def test_a_log_lost_and_regrown_beyond_our_position_is_a_branch_and_none_of_the_new_log_is_missed(
    meanwhile: str, backup: Backup, kafka: KafkaServer, unique_topic: Names
) -> None:
    topic = create_topic(kafka.bootstrap, unique_topic())
    fill(kafka, topic, batches=3)
    daemon = backup.daemon(topic)
    daemon.start()
    await flush(daemon)
    old_log = broker_batches(kafka, topic, 0)
    if meanwhile == "down":
        daemon.kill()
    else:
        await pause(daemon, topic)

    kafka.stop()
    lose_log(kafka, topic)
    kafka.start()
    fill(kafka, topic, batches=6, records=60)
    if meanwhile == "down":
        daemon.start()
    else:
        await resume(daemon, topic)
    await follows(daemon, topic, 1)
    await flush(daemon)
    fill(kafka, topic, batches=1)
    await flush(daemon)
    assert daemon.stop() == 0

    new_log = broker_batches(kafka, topic, 0)
    assert new_log[-1][0] > old_log[-1][0]
    async with backup.archive() as archive:
        id = PartitionId(archive.newest()[topic].topic_id, 0)
        assert archive.history(id).branches == (0, 1)
        assert await read(archive, id) == new_log
        assert await read(archive, id, branch=0) == old_log
        assert gaps(archive, id) == []
    await backup.validated()


async def corrupt_runs(backup: Backup, topic: str) -> Batches:
    """(offset, bytes) of the runs kept as the broker served them."""
    store = await open_store(backup.storage)
    try:
        scoped = ScopedStore(store, "main")
        async with backup.archive() as archive:
            id = PartitionId(archive.newest()[topic].topic_id, 0)
            found = []
            for stored in archive.history(id).corrupt_runs:
                assert stored.run.flags & RunFlag.CORRUPT
                assert stored.run.stored_bytes == stored.run.raw_bytes
                data = await scoped.get_range(stored.ref.key, stored.run.position, stored.run.stored_bytes)
                found.append((stored.run.asked_offset, data))
            return found
    finally:
        await store.close()


async def test_a_batch_corrupt_at_the_source_is_kept_as_it_is_flagged_and_capture_goes_on_behind_it(
    backup: Backup, kafka: KafkaServer, unique_topic: Names
) -> None:
    topic = create_topic(kafka.bootstrap, unique_topic(), partitions=2)
    fill(kafka, topic, 0, 1, batches=5)
    healthy = broker_batches(kafka, topic, 0)
    kafka.stop()
    (log,) = kafka.log_dir(topic, 0).glob("*.log")
    flip_byte(log, sum(len(data) for _, data in healthy[:2]) + 90)
    kafka.start()
    damaged = broker_batches(kafka, topic, 0)
    assert [a != b for a, b in zip(healthy, damaged, strict=True)] == [False, False, True, False, False]

    daemon = backup.daemon(topic)
    daemon.start()
    await follows(daemon, topic, 2)
    fill(kafka, topic, 0, 1, batches=1)
    await flush(daemon)
    (note,) = notes(daemon).values()
    assert "fail their CRC at the source" in note
    assert problems(daemon) == {}
    assert daemon.stop() == 0

    bad, behind = damaged[2][0], damaged[3][0]
    async with backup.archive() as archive:
        topic_id = archive.newest()[topic].topic_id
        struck, neighbour = PartitionId(topic_id, 0), PartitionId(topic_id, 1)
        whole = broker_batches(kafka, topic, 0)
        assert gaps(archive, struck) == [(bad, behind, GapCause.CORRUPT_AT_SOURCE)]
        assert await read(archive, struck) == whole[:2] + whole[3:]
        assert gaps(archive, neighbour) == []
        assert await read(archive, neighbour) == broker_batches(kafka, topic, 1)
    assert await corrupt_runs(backup, topic) == [damaged[2]]
    report = await backup.validated()
    told = [one.severity for one in report.findings if one.code is Code.CONTENT_CORRUPT_AT_SOURCE]
    assert told == [Severity.INFORMATION]


async def test_a_partition_with_nothing_good_behind_its_corrupt_end_is_quarantined_and_its_neighbours_stay_up_to_date(
    backup: Backup, kafka: KafkaServer, unique_topic: Names
) -> None:
    sick, well = (create_topic(kafka.bootstrap, unique_topic()) for _ in range(2))
    fill(kafka, sick, batches=2)
    healthy = broker_batches(kafka, sick, 0)
    kafka.stop()
    (log,) = kafka.log_dir(sick, 0).glob("*.log")
    flip_byte(log, len(healthy[0][1]) + 90)
    kafka.start()

    # As many tries as ever, but soon: left alone, the eighth is half a minute after the first.
    daemon = backup.daemon(sick, well, odd=("--partition-pause-max-seconds", "1"))
    daemon.start()
    await follows(daemon, well, 1)
    await reaches(lambda: states(daemon, sick) == {"quarantined": 1}, "quarantined")
    assert "fails its CRC and no good batch follows yet" in problems(daemon)[f"{sick}/0"]
    fill(kafka, well, batches=2)
    await flush(daemon, well)
    await reaches(lambda: exposure(daemon, well) < 3.0, "up to date")

    fill(kafka, sick, batches=1)
    await follows(daemon, sick, 1)
    await flush(daemon)
    assert daemon.stop() == 0
    now = broker_batches(kafka, sick, 0)
    async with backup.archive() as archive:
        id = PartitionId(archive.newest()[sick].topic_id, 0)
        assert gaps(archive, id) == [(now[1][0], now[2][0], GapCause.CORRUPT_AT_SOURCE)]
        assert await read(archive, id) == [now[0], now[2]]
        other = PartitionId(archive.newest()[well].topic_id, 0)
        assert await read(archive, other) == broker_batches(kafka, well, 0)
    await backup.validated()

"""Topics that come, grow, go and come back: hazards 5, 6, 11, 12 and 20, at a daemon that runs or is down."""

from __future__ import annotations

import json
from collections.abc import Callable

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from kbackupd.archive.archive import Archive
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.topics import create_topic, delete_topic, partition_leaders
from tests.integration.capture.backup import Backup, Batches, flush, follows, gaps, problems, read
from tests.integration.conditions import reaches
from tests.integration.verbatim import broker_batches

Names = Callable[[], str]


async def add_partitions(bootstrap: str, topic: str, total: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_partitions([NewPartitions(topic, total)])[topic].result(120)
    await reaches(lambda: sorted(partition_leaders(bootstrap, topic)) == list(range(total)), "partitions added")


async def incarnations(archive: Archive, topic: str) -> list[PartitionId]:
    """Partition 0 of every incarnation of a name, the eldest first."""
    found = {held.topic_id: held for held in archive.topics if held.name == topic}
    newest = archive.newest()[topic]
    order = [newest]
    while (previous := order[0].previous) is not None:
        order.insert(0, found[previous])
    assert len(order) == len(found)
    return [PartitionId(held.topic_id, 0) for held in order]


async def test_topics_created_and_partitions_added_while_it_runs_are_captured_from_their_beginning(
    backup: Backup, unique_topic: Names
) -> None:
    old, new, empty = (unique_topic() for _ in range(3))
    create_topic(backup.kafka.bootstrap, old)
    backup.fill(old)
    daemon = backup.daemon(f"{old.rpartition('-')[0]}-*")
    daemon.start()

    create_topic(backup.kafka.bootstrap, new, partitions=2)
    create_topic(backup.kafka.bootstrap, empty, partitions=2)
    backup.fill(new, 0, 1)
    await add_partitions(backup.kafka.bootstrap, old, 3)
    backup.fill(old, 0, 2)
    await follows(daemon, old, 3)
    await follows(daemon, new, 2)
    await follows(daemon, empty, 2)
    await flush(daemon)
    assert daemon.stop() == 0

    await backup.verbatim({old: 3, new: 2, empty: 2})


async def test_starting_at_the_latest_leaves_out_only_what_was_there_before_the_archive_and_says_so(
    backup: Backup, unique_topic: Names
) -> None:
    old, new = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2), unique_topic()
    backup.fill(old, 0)
    daemon = backup.daemon(old.rsplit("-", 1)[0] + "-*", start="latest")
    daemon.start()
    await flush(daemon)
    before = len(broker_batches(backup.kafka, old, 0))
    create_topic(backup.kafka.bootstrap, new)
    backup.fill(new)
    await follows(daemon, new, 1)
    daemon.kill()
    await add_partitions(backup.kafka.bootstrap, old, 3)
    backup.fill(old, 0, 1, 2)
    daemon.start()
    await follows(daemon, old, 3)
    await flush(daemon)
    assert daemon.stop() == 0

    async with backup.archive() as archive:
        newest = archive.newest()
        for topic, partition, skipped in ((old, 0, before), (old, 1, 0), (old, 2, 0), (new, 0, 0)):
            id = PartitionId(newest[topic].topic_id, partition)
            log = broker_batches(backup.kafka, topic, partition)
            assert await read(archive, id) == log[skipped:]
            assert gaps(archive, id) == ([(0, log[skipped][0], GapCause.EXCLUDED)] if skipped else [])
    await backup.validated()


async def test_a_topic_deleted_and_created_again_while_it_runs_is_two_incarnations_and_both_are_read(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic, batches=2)
    daemon = backup.daemon(topic)
    daemon.start()
    await flush(daemon)
    old_log = broker_batches(backup.kafka, topic, 0)

    delete_topic(backup.kafka.bootstrap, topic)
    create_topic(backup.kafka.bootstrap, topic)
    backup.fill(topic, batches=5)
    await follows_anew(daemon, topic, old_incarnations=1)
    await flush(daemon)
    assert daemon.stop() == 0

    await both_are_read(backup, topic, old_log)


async def follows_anew(daemon: Daemon, topic: str, old_incarnations: int) -> None:
    def closed_and_followed() -> bool:
        rows = (daemon.status() or {}).get("topics", [])
        assert isinstance(rows, list)
        found = [row["states"] for row in rows if isinstance(row, dict) and row["name"] == topic]
        return sorted(map(str, found)) == sorted(map(str, [{"closed": 1}] * old_incarnations + [{"following": 1}]))

    await reaches(closed_and_followed, f"the old {topic} closed, the new one followed")


async def both_are_read(backup: Backup, topic: str, old_log: Batches) -> None:
    """The new incarnation is what the broker has, the old one what it had; nothing of one is in the other."""
    new_log = broker_batches(backup.kafka, topic, 0)
    assert len(new_log) > len(old_log) > 0
    async with backup.archive() as archive:
        old, new = await incarnations(archive, topic)
        assert await read(archive, old) == old_log
        assert await read(archive, new) == new_log
        assert gaps(archive, old) == gaps(archive, new) == []
        deleted = archive.topic(old.topic_id)
        assert deleted is not None
        assert deleted.deleted_ms is not None
        living = archive.topic(new.topic_id)
        assert living is not None
        assert living.deleted_ms is None
    await backup.validated()


async def test_a_topic_created_again_while_it_is_down_and_longer_than_the_old_position_is_read_from_its_beginning(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic, batches=2)
    daemon = backup.daemon(topic)
    daemon.start()
    await flush(daemon)
    old_log = broker_batches(backup.kafka, topic, 0)
    daemon.kill()

    delete_topic(backup.kafka.bootstrap, topic)
    create_topic(backup.kafka.bootstrap, topic)
    backup.fill(topic, batches=6)
    daemon.start()
    await follows_anew(daemon, topic, old_incarnations=1)
    await flush(daemon)
    assert daemon.stop() == 0
    await both_are_read(backup, topic, old_log)

    # The next life knows which of the two is alive.
    daemon.start()
    await follows(daemon, topic, 1)
    assert daemon.stop() == 0
    await both_are_read(backup, topic, old_log)


async def test_a_topic_included_by_name_that_is_missing_is_a_problem_until_it_is_there(
    backup: Backup, unique_topic: Names
) -> None:
    there, missing = create_topic(backup.kafka.bootstrap, unique_topic()), unique_topic()
    daemon = backup.daemon(there, missing)
    daemon.start()

    await reaches(lambda: f"topic {missing}" in problems(daemon), "told")
    assert "the cluster has no such topic" in problems(daemon)[f"topic {missing}"]
    code, body = daemon.get("/healthz")
    assert code == 503
    assert any(missing in reason for reason in json.loads(body)["reasons"])

    create_topic(backup.kafka.bootstrap, missing)
    backup.fill(missing)
    await follows(daemon, missing, 1)
    await reaches(lambda: problems(daemon) == {}, "no problem any more")
    await reaches(lambda: daemon.get("/healthz")[0] == 200, "healthy")
    await backup.drained(daemon, {there: 1, missing: 1})

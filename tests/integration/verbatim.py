"""The archive against the broker's own log files, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable

from kbackupd.archive.archive import Archive
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import StorageSettings
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import Json, Section
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.truth import raw_log, split_batches


def overrides(topics: Iterable[str], **backup: Json) -> dict[str, Section]:
    """Configuration sections for `testbed.daemon.Daemon`: these topics only, short intervals; `backup` on top.

    Tests share a broker, so each has a consumer group of its own, named after its topics.
    """
    include = list(topics)
    group = f"kbackupd-{'+'.join(include)}"[:200]
    return {
        "source": {"topics": {"include": list[Json](include)}, "internal_topics": False, "consumer_group": group},
        "backup": {
            "flush_interval": "300ms",
            "checkpoint_interval": "700ms",
            "discovery_interval": "500ms",
            **backup,
        },
        "observability": {"log_level": "debug"},
    }


async def archived_batches(archive: Archive, id: PartitionId, branch: int | None = None) -> list[tuple[int, bytes]]:
    """(base offset, bytes) of every batch, as the reading side delivers them."""
    found = []
    async for batch in archive.read(id, branch=branch):
        found.append((batch.header.base_offset, bytes(batch.data)))
    return found


def broker_batches(kafka: KafkaServer, topic: str, partition: int) -> list[tuple[int, bytes]]:
    return [(batch.first_offset, batch.data) for batch in split_batches(raw_log(kafka, topic, partition))]


async def assert_verbatim(storage: StorageSettings, kafka: KafkaServer, topics: dict[str, int]) -> int:
    """Every batch of every partition is in the archive once, as the broker has it; how many batches that were."""
    store = await open_store(storage)
    try:
        archive = await Archive.open(store, "main")
        assert list(archive.damaged) == []
        newest = archive.newest()
        count = 0
        for topic, partitions in topics.items():
            assert newest[topic].partitions == partitions
            for number in range(partitions):
                id = PartitionId(newest[topic].topic_id, number)
                wanted = broker_batches(kafka, topic, number)
                actual = await archived_batches(archive, id)
                history = archive.history(id)
                assert not history.holes, f"{topic}/{number}: holes {history.holes}"
                assert not history.gaps, f"{topic}/{number}: gaps {history.gaps}"
                assert [offset for offset, _ in actual] == [offset for offset, _ in wanted], f"{topic}/{number}"
                assert actual == wanted, f"{topic}/{number}: bytes differ"
                count += len(wanted)
        return count
    finally:
        await store.close()

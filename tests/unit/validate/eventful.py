"""A small archive in which everything happened: a life killed with uploads in flight, gaps, branches, transactions."""

from __future__ import annotations

from dataclasses import replace

from kbackupd.model.events import GapCause
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import ClusterContent, CommittedOffset, GroupsContent
from tests.archive_builder import ArchiveBuilder, Life
from tests.unit.format.samples import example_cluster, example_groups


async def eventful_archive() -> ArchiveBuilder:
    """Ends with a checkpoint that covers all of it, so that no object can disappear unnoticed.

    But for the last snapshot of each kind: no later object speaks of it.
    """
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2, configs={"retention.ms": "604800000"})
    table = built.topic("table", configs={"cleanup.policy": "compact"})
    built.topic("empty", partitions=2)
    await _first_life(built, orders, table)
    await _killed_life(built, orders, table)
    await _last_life(built, orders, table)
    return built


def _fill(built: ArchiveBuilder, topic: TopicId, partition: int, batches: int, *, codec: int = 0) -> None:
    for number in range(batches):
        built.log(topic, partition).append([b"value %d" % number * (number + 1), None, b""], codec=codec)


def _capture_all(life: Life, *topics: tuple[TopicId, int]) -> None:
    for topic, partition in topics:
        life.capture(topic, partition)


def groups(orders: TopicId, offset: int) -> GroupsContent:
    """A group that got to `offset` in orders/0, and one whose coordinator did not answer for a minute."""
    content = example_groups().content
    position = CommittedOffset(orders, "orders", 0, offset, 0, "")
    return replace(content, groups=tuple(replace(one, positions=(position,)) for one in content.groups[:2]))


def cluster(orders: TopicId, retention_ms: int) -> ClusterContent:
    content = example_cluster().content
    topic = replace(content.topics[0], topic_id=orders, configs={"retention.ms": str(retention_ms)})
    return replace(content, topics=(topic,))


async def _first_life(built: ArchiveBuilder, orders: TopicId, table: TopicId) -> None:
    life = await built.start()
    for topic in built.topics:
        life.see(topic)
    for codec in range(5):
        _fill(built, orders, 0, 2, codec=codec)
        _fill(built, orders, 1, 1, codec=codec)
        built.log(orders, 1).append([b"t"], transactional=True, producer_id=7, codec=codec)
    built.log(orders, 1).end_transaction(7, committed=True)
    _fill(built, table, 0, 4)
    _capture_all(life, (orders, 0), (orders, 1))
    await life.flush()
    await life.snapshot(groups(orders, 0), cluster(orders, 604_800_000))
    built.log(table, 0).compact([0, 6])
    _capture_all(life, (table, 0))
    await life.flush(codec="none")
    await life.checkpoint()
    built.log(orders, 0).log_start_offset = built.log(orders, 0).next_offset + 6
    _fill(built, orders, 0, 2)
    life.gap(orders, 0, built.log(orders, 0).next_offset, GapCause.LOG_START_MOVED)
    await life.flush()
    await life.checkpoint()


async def _killed_life(built: ArchiveBuilder, orders: TopicId, table: TopicId) -> None:
    """The second of three uploads never ends; the third does, and then the process is gone."""
    life = await built.start()
    await life.snapshot(groups(orders, 4), cluster(orders, 604_800_000))
    await life.snapshot(groups(orders, 6), cluster(orders, 60_000))
    _fill(built, orders, 0, 2)
    built.log(orders, 1).append([b"hanging"], transactional=True, producer_id=8)
    _capture_all(life, (orders, 0), (orders, 1))
    await life.flush()
    _fill(built, orders, 0, 2)
    _fill(built, table, 0, 1)
    _capture_all(life, (orders, 0), (table, 0))
    life.seal()
    _fill(built, orders, 0, 2)
    _capture_all(life, (orders, 0))
    await life.arrive(life.seal())


async def _last_life(built: ArchiveBuilder, orders: TopicId, table: TopicId) -> None:
    life = await built.start()
    await life.snapshot(groups(orders, 8), cluster(orders, 120_000))
    _capture_all(life, (orders, 0), (orders, 1), (table, 0))
    await life.flush()
    log = built.log(orders, 0)
    cut = log.next_offset - 3
    log.truncate(cut)
    life.truncated(orders, 0, cut)
    _fill(built, orders, 0, 3)
    log = built.log(orders, 1)
    _fill(built, orders, 1, 1)
    damaged = bytearray(log.batches[-1])
    damaged[-1] ^= 1
    life.capture_corrupt(orders, 1, bytes(damaged), next_offset=log.next_offset)
    log.end_transaction(8, committed=False)
    _capture_all(life, (orders, 0), (orders, 1))
    await life.flush()
    await life.checkpoint()
    life.deleted(table)
    again = built.topic("table", previous=table)
    _fill(built, again, 0, 1)
    _capture_all(life, (again, 0))
    await life.flush(codec="none")
    await life.checkpoint()

"""What a plan says of an archive, before anything is touched."""

from __future__ import annotations

import json

import msgspec
import pytest

from kbackupd.model.errors import UsageError
from kbackupd.model.events import GapCause
from kbackupd.model.positions import OffsetRange
from kbackupd.restore.plan import PinnedEpoch
from kbackupd.restore.visibility import Visibility
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.planned import archive_everything, plan_of, settings_for


async def test_a_plan_names_offsets_sizes_configuration_and_the_archive_it_rests_on() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2, configs={"retention.ms": "1000"}, first_offset=100)
    built.log(orders, 0).append([b"one", b"two"])
    await archive_everything(built)

    plan = await plan_of(built, settings_for("kafka:9092", {"orders": "orders-restored"}))

    [topic] = plan.topics
    assert (topic.source, topic.target, topic.configs) == ("orders", "orders-restored", {"retention.ms": "1000"})
    first, empty = topic.partitions
    assert (first.offsets, first.records, first.batches) == (OffsetRange(100, 102), 2, 1)
    assert first.download_bytes > 0
    assert (empty.offsets, empty.is_empty, empty.not_in_archive) == (OffsetRange(100, 100), True, ())
    assert plan.pinned == (PinnedEpoch(writer="main", writer_epoch=1, sequences=((0, 1),)),)
    assert json.loads(msgspec.json.encode(plan))["topics"][0]["partitions"][0]["offsets"] == {
        "first_offset": 100,
        "next_offset": 102,
    }


async def test_the_newest_incarnation_is_restored_and_the_earlier_ones_are_named() -> None:
    built = await ArchiveBuilder.create()
    first = built.topic("orders")
    built.log(first, 0).append([b"old"])
    second = built.topic("orders", previous=first)
    built.log(second, 0).append([b"new", b"new"])
    await archive_everything(built)

    [topic] = (await plan_of(built, settings_for("kafka:9092", {"orders": "orders"}))).topics

    assert (topic.topic_id, topic.earlier_incarnations) == (second, (first,))


async def test_gaps_and_holes_are_told_with_what_they_mean() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"deleted before it was captured"] * 3)
    life.see(orders)
    life.gap(orders, 0, 3, GapCause.LOG_START_MOVED)
    segments = []
    for value in (b"a", b"b", b"c"):
        log.append([value])
        life.capture(orders, 0)
        segments.append(await life.flush())
    built.tamper(segments[1].ref.key, None)

    [topic] = (await plan_of(built, settings_for("kafka:9092", {"orders": "orders"}))).topics

    gap, hole = topic.partitions[0].not_in_archive
    assert (gap.offsets, gap.cause) == (OffsetRange(0, 3), GapCause.LOG_START_MOVED)
    assert "retention" in gap.meaning
    assert (hole.offsets, hole.cause) == (OffsetRange(4, 5), None)
    assert "validate" in hole.meaning


async def test_transactions_without_a_marker_are_listed_with_what_happens_to_them() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log = built.log(orders, 0)
    log.append([b"a"], producer_id=7, transactional=True)
    log.append([b"b"], producer_id=8, transactional=True)
    log.end_transaction(8, committed=True)
    await archive_everything(built)

    [topic] = (await plan_of(built, settings_for("kafka:9092", {"orders": "orders"}))).topics

    [row] = topic.partitions[0].open_transactions
    assert (row.producer_id, row.first_offset, row.outcome, row.restored) == (7, 0, Visibility.UNDECIDED, False)


async def test_every_wrong_name_is_refused_at_once_with_what_there_is() -> None:
    built = await ArchiveBuilder.create()
    built.topic("orders")
    built.topic("__consumer_offsets", internal=True)
    await archive_everything(built)

    with pytest.raises(UsageError) as refused:
        await plan_of(built, settings_for("kafka:9092", {"order": "a", "__consumer_offsets": "b"}))

    assert "topic 'order' is not in the archive" in refused.value.message
    assert "internal" in refused.value.message
    assert refused.value.hint.endswith("holds orders")


async def test_internal_topics_are_never_restored_by_a_glob() -> None:
    built = await ArchiveBuilder.create()
    built.topic("orders")
    built.topic("__transaction_state", internal=True)
    await archive_everything(built)

    plan = await plan_of(built, settings_for("kafka:9092", {}))

    assert [topic.source for topic in plan.topics] == ["orders"]

"""Sequences of events at the source and in the daemon's lives that must not mislead a restore."""

from __future__ import annotations

import pytest

from kbackupd.model.events import GapCause, PartitionSeen
from kbackupd.model.positions import OffsetRange, PartitionId
from kbackupd.restore.planning import NEVER_SEEN
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.planned import archive_everything, plan_of, rewritten, settings_for

EVERYTHING = settings_for("kafka:9092", {})


async def values_of(built: ArchiveBuilder) -> list[str]:
    """What a restore of the only partition would produce."""
    [topic] = (await plan_of(built, EVERYTHING)).topics
    bodies, _ = await rewritten(built, topic, topic.partitions[0])
    return [body[-4:-1].decode() for body in bodies]


async def test_an_abort_lost_in_a_gap_is_not_overruled_in_silence_by_the_producers_next_commit() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"bad"], producer_id=5, transactional=True)
    life.capture(orders, 0)
    log.end_transaction(5, committed=False)
    life.gap(orders, 0, log.next_offset, GapCause.LOG_START_MOVED)
    log.append([b"yes"], producer_id=5, transactional=True)
    log.end_transaction(5, committed=True)
    life.capture(orders, 0)
    await life.flush()

    [topic] = (await plan_of(built, EVERYTHING)).topics
    _, tally = await rewritten(built, topic, topic.partitions[0])

    assert (tally.restored, tally.unknown_outcome) == (2, 1)
    assert [row.first_offset for row in tally.transactions.values()] == [0]


async def test_a_transaction_aborted_behind_the_end_of_a_capture_that_was_catching_up_is_left_out() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"yes"])
    log.append([b"bad"], producer_id=5, transactional=True)
    captured = log.next_offset
    log.end_transaction(5, committed=False)
    life.capture(orders, 0, until=captured)
    await life.flush()

    assert await values_of(built) == ["yes"]


async def test_a_commit_on_a_tail_that_the_log_lost_does_not_commit_what_was_aborted_on_what_grew_instead() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"yes"])
    life.capture(orders, 0)
    await life.flush()
    log.append([b"bad"], producer_id=5, transactional=True)
    cut = log.next_offset
    life.capture(orders, 0)
    life.seal()  # never arrives
    log.append([b"was"])
    log.end_transaction(5, committed=True)
    life.capture(orders, 0)
    await life.arrive(life.seal())

    log.truncate(cut)
    for value in (b"new", b"ner", b"nes"):
        log.append([value])
    log.end_transaction(5, committed=False)
    again = await built.start()
    again.capture(orders, 0)
    await again.flush()

    assert await values_of(built) == ["yes", "new", "ner", "nes"]


@pytest.mark.parametrize("victim", ["the newest segment", "all that spoke of a topic"])
async def test_a_deleted_segment_that_leaves_no_hole_is_damage_all_the_same(victim: str) -> None:
    built = await ArchiveBuilder.create()
    orders, users = built.topic("orders"), built.topic("users")
    life = await built.start()
    segments = []
    for topic in (orders, users, orders):
        built.log(topic, 0).append([b"one"])
        life.capture(topic, 0)
        segments.append(await life.flush())
    await life.checkpoint()
    gone = segments[2 if victim == "the newest segment" else 1]
    built.tamper(gone.ref.key, None)

    plan = await plan_of(built, EVERYTHING)

    assert not any(partition.not_in_archive for topic in plan.topics for partition in topic.partitions)
    [damaged] = plan.damaged
    assert gone.ref.key.startswith(damaged.key.removesuffix("*"))
    assert "was durable" in damaged.reason


async def test_a_segment_that_landed_while_the_listing_went_past_it_is_neither_lost_nor_left_out() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    segments = []
    for value in (b"one", b"two"):
        built.log(orders, 0).append([value])
        life.capture(orders, 0)
        segments.append(await life.flush())
    late = segments[0]
    data = built.data(late.ref.key)
    built.tamper(late.ref.key, None)
    list_from, listings = built.store.list_from, []

    def landing(prefix: str, *, start_after: str = "", limit: int | None = None):  # type: ignore[no-untyped-def]  # a generator
        listings.append(prefix)
        if len(listings) == 2:
            built.tamper(late.ref.key, data)
        return list_from(prefix, start_after=start_after, limit=limit)

    built.store.list_from = landing  # type: ignore[method-assign]  # an upload between two pages

    plan = await plan_of(built, EVERYTHING)

    assert plan.damaged == ()
    assert [partition.records for partition in plan.topics[0].partitions] == [2]


async def test_segments_that_were_in_flight_when_a_life_was_killed_are_no_damage() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"one"])
    life.capture(orders, 0)
    await life.flush()
    log.append([b"two"])
    life.capture(orders, 0)
    life.seal()  # never arrives
    log.append([b"six"])
    life.capture(orders, 0)
    await life.arrive(life.seal())

    plan = await plan_of(built, EVERYTHING)

    assert plan.damaged == ()
    [lacking] = plan.topics[0].partitions[0].not_in_archive
    assert (lacking.offsets, lacking.cause) == (OffsetRange(1, 2), None)


async def test_a_partition_that_nobody_ever_looked_into_is_not_taken_for_an_empty_one() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2)
    built.log(orders, 0).append([b"one"])
    life = await built.start()
    life.see(orders)
    leaderless = PartitionId(orders, 1)
    life._events = [one for one in life._events if not (isinstance(one, PartitionSeen) and one.id == leaderless)]
    life.capture(orders, 0)
    await life.flush()

    [topic] = (await plan_of(built, EVERYTHING)).topics

    seen, unseen = topic.partitions
    assert seen.not_in_archive == ()
    assert [(one.cause, one.meaning) for one in unseen.not_in_archive] == [(None, NEVER_SEEN)]


async def test_a_partition_that_was_looked_into_and_is_empty_lacks_nothing() -> None:
    built = await ArchiveBuilder.create()
    built.topic("orders")
    await archive_everything(built)

    [topic] = (await plan_of(built, EVERYTHING)).topics

    assert topic.partitions[0].not_in_archive == ()


@pytest.mark.parametrize(("before", "after"), [("main", "alpha"), ("alpha", "main")])
async def test_a_topic_re_created_before_the_writer_was_renamed_is_restored_as_it_was_last(
    before: str, after: str
) -> None:
    built = await ArchiveBuilder.create()
    first = built.topic("orders")
    built.log(first, 0).append([b"old"])
    life = await built.start(before)
    life.capture(first, 0)
    await life.flush()
    built.clock.advance(60)
    second = built.topic("orders")
    built.log(second, 0).append([b"new"])
    life = await built.start(after)
    life.capture(second, 0)
    await life.flush()

    assert await values_of(built) == ["new"]

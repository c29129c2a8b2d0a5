"""A restore to an instant brings back what was there, and of transactions all or nothing (hazards 10, 38, 39)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.format.records import decode_record
from kbackupd.model.errors import UsageError
from kbackupd.model.positions import OffsetRange
from kbackupd.model.scope import OffsetBounds, RecordsOf, RestoreScope, TimeWindow
from kbackupd.model.settings import KeepOffsets
from kbackupd.restore.as_of import refuse_future
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.resume import plan_digest
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.unit.restore.planned import plan_of, rewritten, settings_for
from tests.unit.restore.transactional_source import TransactionalSource

PRODUCERS = (7, 8)


async def plan_at(built: ArchiveBuilder, scope: RestoreScope) -> RestorePlan:
    return await plan_of(built, settings_for("kafka:9092", {}, scope=scope))


async def restored(built: ArchiveBuilder, plan: RestorePlan, topic: int = 0) -> dict[int, list[bytes]]:
    """Partition → the values that come back, in order."""
    values: dict[int, list[bytes]] = {}
    for partition in plan.topics[topic].partitions:
        bodies, _ = await rewritten(
            built, plan.topics[topic], partition, plan.cut_of(partition), records_of=plan.cut.visibility
        )
        values[partition.partition] = [decode_record(body)[1] or b"" for body in bodies]
    return values


async def values_at(source: TransactionalSource, at_ms: int) -> dict[int, list[bytes]]:
    return await restored(source.built, await plan_at(source.built, RestoreScope(as_of_ms=at_ms)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["plain", "write", "write", "end", "end", "end", "hear", "capture", "pause"]),
        st.integers(-1, 2),
        st.sampled_from(PRODUCERS),
        st.booleans(),
    ),
    min_size=15,
    max_size=70,
)


async def run(source: TransactionalSource, steps: list[tuple[str, int, int, bool]]) -> list[int]:
    """What happened, and the moments between."""
    for number in range(-1, source.partitions):
        source.hear(number, capture=True)
    moments = []
    for what, partition, producer, flag in steps:
        source.tick()
        match what:
            case "plain" if partition >= 0:
                source.write_plain(partition)
            case "write" if partition >= 0:
                source.write(producer, partition)
            case "end":
                source.go_on(producer, commit=flag or partition > 0)
            case "hear" | "capture":
                source.hear(partition, capture=what == "capture")
            case "pause":
                source.built.clock.advance((1, 3, 40, 100)[partition + 1])
        moments.append(source.now() + 2)
    await source.end()
    return moments


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, own_epochs=st.booleans(), data=st.data())
async def test_hazard_38_at_any_instant_the_restored_set_is_the_models_and_no_transaction_is_split(
    steps: list[tuple[str, int, int, bool]], own_epochs: bool, data: st.DataObject
) -> None:
    source = await TransactionalSource.create(3, own_epochs=own_epochs)
    moments = await run(source, steps)

    for at_ms in data.draw(st.lists(st.sampled_from(moments), min_size=3, max_size=3)):
        plan = await plan_at(source.built, RestoreScope(as_of_ms=at_ms))

        assert await restored(source.built, plan) == source.state(at_ms)
        assert not any(one.as_of.ambiguous for one in plan.topics[0].partitions if one.as_of is not None)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, data=st.data())
async def test_hazard_38_epochs_alone_decide_as_well_where_each_transaction_has_its_own(
    steps: list[tuple[str, int, int, bool]], data: st.DataObject
) -> None:
    source = await TransactionalSource.create(3, logged=False)
    moments = await run(source, steps)

    at_ms = data.draw(st.sampled_from(moments))

    assert await values_at(source, at_ms) == source.state(at_ms)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, data=st.data())
async def test_what_nobody_can_tell_is_dropped_and_listed_and_nothing_else_differs(
    steps: list[tuple[str, int, int, bool]], data: st.DataObject
) -> None:
    """No log of coordinators, and clients that use one epoch for all their transactions."""
    source = await TransactionalSource.create(3, logged=False, own_epochs=False)
    moments = await run(source, steps)

    at_ms = data.draw(st.sampled_from(moments))
    plan = await plan_at(source.built, RestoreScope(as_of_ms=at_ms))
    values, wanted = await restored(source.built, plan), source.state(at_ms)

    listed = {
        (partition.partition, one.producer_id, one.marker_offset)
        for partition in plan.topics[0].partitions
        if partition.as_of is not None
        for one in partition.as_of.ambiguous
    }
    left_open = {
        (partition.partition, row.producer_id)
        for partition in plan.topics[0].partitions
        for row in partition.open_transactions
    }
    for number, rows in wanted.items():
        assert set(values[number]) <= set(rows)
        for one in source.decided(at_ms):
            lacking = {value for _, value in one.data.get(number, ())} - set(values[number])
            if one.committed and lacking:
                marker = one.markers.get(number)
                assert (number, one.producer, marker) in listed or (
                    marker is None and (number, one.producer) in left_open
                )


async def test_a_transaction_decided_by_then_is_complete_beyond_the_cut_of_a_partition_heard_of_earlier() -> None:
    source = await TransactionalSource.create(2)
    for number in (-1, 0, 1):
        source.hear(number, capture=True)
    source.tick()
    source.write(7, 0)
    source.write(7, 1)
    source.write_plain(1)
    for _ in range(3):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)  # partition 1 was heard of before the transaction began
    at_ms = source.now()
    await source.end()

    values = await values_at(source, at_ms)

    assert [value.split(b"-")[0] for value in values[0]] == [b"tx"]
    assert [value.split(b"-")[0] for value in values[1]] == [b"tx"], "the plain record beyond the cut stays out"


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_decision_that_only_the_coordinators_log_tells_by_then_is_one(own_epochs: bool) -> None:
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    for _ in range(2):
        source.write(7, 0)
        source.write(7, 1)
        for number in (0, 1):
            source.tick()
            source.hear(number, capture=True)
        source.go_on(7, commit=True)
        source.tick()
        source.hear(-1, capture=True)
        at_ms = source.now()
        for _ in range(3):
            source.tick()
            source.go_on(7, commit=True)
    await source.end()

    values = await values_at(source, at_ms)

    assert values == source.state(at_ms)
    assert [len(rows) for rows in values.values()] == [2, 2]


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_commit_that_the_log_tells_counts_where_capture_ended_before_its_marker(own_epochs: bool) -> None:
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    for _ in range(2):
        source.write(7, 0)
        source.write(7, 1)
        source.tick()
        source.go_on(7, commit=True)
        if source.transactions[-1].number == 0:
            for _ in range(3):
                source.tick()
                source.go_on(7, commit=True)
    await source.end()
    at_ms = source.now()

    plan = await plan_at(source.built, RestoreScope(as_of_ms=at_ms))

    assert await restored(source.built, plan) == source.state(at_ms)
    assert [len(rows) for rows in source.state(at_ms).values()] == [2, 2]
    assert [partition.not_in_archive for partition in plan.topics[0].partitions] == [(), ()]


@pytest.mark.parametrize("later", [(0, 1), (0,)])
@pytest.mark.parametrize(("own_epochs", "logged"), [(True, True), (True, False), (False, True)])
async def test_evidence_of_a_later_transaction_settles_the_earlier_ones_of_its_producer(
    own_epochs: bool, logged: bool, later: tuple[int, ...]
) -> None:
    """Two transactions after the cut of partition 1; only the second one has a marker elsewhere."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs, logged=logged)
    for number in (-1, 0, 1):
        source.hear(number, capture=True)
    for partitions in ((1,), later):
        for partition in partitions:
            source.tick()
            source.write(7, partition)
        for _ in range(2 + len(partitions)):
            source.tick()
            source.go_on(7, commit=True)
    source.hear(0, capture=True)
    at_ms = source.now()
    await source.end()

    values = await values_at(source, at_ms)

    assert values == source.state(at_ms)
    assert [len(rows) for rows in values.values()] == [1, len(later)]


async def test_hazard_38_a_transaction_that_was_open_is_dropped_though_it_was_committed_a_moment_later() -> None:
    source = await TransactionalSource.create(2)
    source.write(7, 0)
    source.write(7, 1)
    source.tick()
    for number in (-1, 0, 1):
        source.hear(number, capture=True)
    at_ms = source.now()
    for _ in range(4):
        source.tick()
        source.go_on(7, commit=True)
    await source.end()

    assert await values_at(source, at_ms) == {0: [], 1: []}
    assert [len(values) for values in (await values_at(source, source.now())).values()] == [1, 1]


async def test_the_plan_is_the_same_whenever_it_is_made_again_from_the_same_segments() -> None:
    source = await TransactionalSource.create(2)
    source.write(7, 0)
    source.hear(0, capture=True)
    at_ms = source.now()
    await source.end()
    scope = RestoreScope(as_of_ms=at_ms)
    first = await plan_at(source.built, scope)
    pinned = (await Archive.open(source.built.store, BACKUP_ID)).pinned

    for _ in range(4):
        source.tick()
        source.go_on(7, commit=True)
    await source.end()

    later = await plan_of(source.built, settings_for("kafka:9092", {}, scope=scope), pinned=pinned)
    assert plan_digest(later) == plan_digest(first)


async def test_the_achieved_instant_is_an_interval_and_exact_where_later_samples_say_the_same() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    built.log(orders, 0).append([b"a"])
    life.capture(orders, 0)
    heard_ms = built.clock.now_ms()
    built.clock.advance(10)
    life.sample(orders, 0)
    repeated_ms = built.clock.now_ms()
    built.clock.advance(10)
    built.log(orders, 0).append([b"b"])
    built.clock.advance(10)
    life.capture(orders, 0)
    await life.flush()

    [topic] = (await plan_at(built, RestoreScope(as_of_ms=heard_ms + 5_000))).topics
    state = topic.partitions[0].as_of
    assert state is not None
    assert (state.next_offset, state.sent_ms, state.answered_ms) == (1, heard_ms - 5, heard_ms)
    assert (state.held_until_ms, state.exact) == (repeated_ms - 5, True)
    [topic] = (await plan_at(built, RestoreScope(as_of_ms=repeated_ms + 5_000))).topics
    assert topic.partitions[0].as_of is not None
    assert not topic.partitions[0].as_of.exact


async def test_what_the_source_had_deleted_by_then_stays_deleted_and_what_it_deleted_later_comes_back() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life, log = await built.start(), built.log(orders, 0)
    for value in (b"a", b"b", b"c"):
        log.append([value])
    life.capture(orders, 0)
    log.log_start_offset = 1
    built.clock.advance(10)
    life.sample(orders, 0)
    at_ms = built.clock.now_ms()
    log.log_start_offset = 3
    built.clock.advance(10)
    life.sample(orders, 0)
    await life.flush()

    plan = await plan_at(built, RestoreScope(as_of_ms=at_ms))

    assert await restored(built, plan) == {0: [b"b", b"c"]}
    assert plan.topics[0].partitions[0].offsets == OffsetRange(1, 3)


async def test_topics_partitions_and_configuration_are_those_of_the_instant() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", configs={"retention.ms": "1000"})
    gone = built.topic("gone")
    life = await built.start()
    life.see(orders)
    built.log(gone, 0).append([b"old"])
    life.capture(gone, 0)
    life.capture(orders, 0)
    at_ms = built.clock.now_ms()
    built.clock.advance(60)
    life.deleted(gone)
    built.topics[orders].configs["retention.ms"] = "2000"
    late = built.topic("late")
    life.see(orders)
    life.see(late)
    await life.flush()

    plan = await plan_at(built, RestoreScope(as_of_ms=at_ms))

    assert [topic.source for topic in plan.topics] == ["gone", "orders"]
    assert plan.topics[0].deleted_at_source_ms is not None
    assert await restored(built, plan) == {0: [b"old"]}
    assert plan.not_there == ("late",)
    later = await plan_at(built, RestoreScope(as_of_ms=built.clock.now_ms()))
    assert [topic.source for topic in later.topics] == ["late", "orders"]
    assert later.not_there == ("gone",)


async def test_an_instant_before_capture_and_one_to_come_are_refused() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    built.clock.advance(100)
    life = await built.start()
    life.capture(orders, 0)
    await life.flush()
    now_ms = built.clock.now_ms()

    with pytest.raises(UsageError, match="nothing had been captured by"):
        await plan_at(built, RestoreScope(as_of_ms=now_ms - 50_000))
    with pytest.raises(UsageError, match="is in the future"):
        refuse_future(settings_for("k:1", {}, scope=RestoreScope(as_of_ms=now_ms + 1)).options, now_ms)


async def test_a_topic_that_is_named_and_did_not_exist_then_is_refused() -> None:
    built = await ArchiveBuilder.create()
    life = await built.start()
    life.capture(built.topic("orders"), 0)
    at_ms = built.clock.now_ms()
    built.clock.advance(100)
    life.capture(built.topic("late"), 0)
    await life.flush()

    with pytest.raises(UsageError, match="topic 'late' did not exist at"):
        await plan_of(built, settings_for("k:1", {"late": "late"}, scope=RestoreScope(as_of_ms=at_ms)))


async def test_what_was_there_and_not_yet_captured_when_capture_ended_is_missing_and_not_forgotten() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life, log = await built.start(), built.log(orders, 0)
    log.append([b"a"])
    life.capture(orders, 0)
    log.append([b"b"])
    built.clock.advance(1)
    life.sample(orders, 0)
    await life.flush()

    [topic] = (await plan_at(built, RestoreScope(as_of_ms=built.clock.now_ms()))).topics

    assert [(one.offsets, one.cause) for one in topic.partitions[0].not_in_archive] == [(OffsetRange(1, 2), None)]


async def test_a_partition_of_which_no_leader_had_told_by_then_is_listed() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    life.see(orders)
    at_ms = built.clock.now_ms()
    built.clock.advance(10)
    built.log(orders, 0).append([b"a"])
    life.capture(orders, 0)
    await life.flush()

    plan = await plan_at(built, RestoreScope(as_of_ms=at_ms))

    assert await restored(built, plan) == {0: []}
    [lacking] = plan.topics[0].partitions[0].not_in_archive
    assert "no leader had told of it by then" in lacking.meaning


async def test_an_instant_before_a_log_was_cut_back_has_the_records_that_were_lost_then() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life, log = await built.start(), built.log(orders, 0)
    log.append([b"a"])
    log.append([b"lost"])
    life.capture(orders, 0)
    at_ms = built.clock.now_ms()
    built.clock.advance(60)
    log.truncate(1)
    life.follow_cut(orders, 0)
    log.append([b"instead"])
    life.capture(orders, 0)
    await life.flush()

    assert await restored(built, await plan_at(built, RestoreScope(as_of_ms=at_ms))) == {0: [b"a", b"lost"]}
    now = await plan_at(built, RestoreScope(as_of_ms=built.clock.now_ms()))
    assert await restored(built, now) == {0: [b"a", b"instead"]}


async def test_a_compacted_log_captured_after_it_had_grown_is_told_as_inexact() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life, log = await built.start(), built.log(orders, 0)
    for value in (b"a", b"b", b"c"):
        log.append([value])
    life.see(orders)
    life.sample(orders, 0)
    at_ms = built.clock.now_ms()
    built.clock.advance(10)
    log.append([b"d"])
    log.compact([0, 3])
    life.capture(orders, 0)
    await life.flush()

    [topic] = (await plan_at(built, RestoreScope(as_of_ms=at_ms))).topics
    assert topic.partitions[0].as_of is not None
    assert topic.partitions[0].as_of.compacted_since
    [topic] = (await plan_at(built, RestoreScope(as_of_ms=built.clock.now_ms()))).topics
    assert topic.partitions[0].as_of is not None
    assert not topic.partitions[0].as_of.compacted_since


async def test_uncommitted_records_are_all_that_were_below_the_cut_and_none_beyond_it() -> None:
    source = await TransactionalSource.create(2)
    source.write(7, 0)
    source.hear(0, capture=True)
    source.hear(1, capture=True)
    source.tick()
    source.write(7, 1)
    at_ms = source.now()
    await source.end()

    plan = await plan_at(source.built, RestoreScope(as_of_ms=at_ms, records_of=RecordsOf.UNCOMMITTED))

    assert {number: len(rows) for number, rows in (await restored(source.built, plan)).items()} == {0: 1, 1: 0}


async def test_hazard_39_windows_and_offsets_narrow_down_what_was_there_at_the_instant() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life, log = await built.start(), built.log(orders, 0)
    for stamp in (10, 20, 30):
        log.append([b"%d" % stamp], timestamp_ms=stamp)
    life.capture(orders, 0)
    at_ms = built.clock.now_ms()
    built.clock.advance(10)
    log.append([b"21"], timestamp_ms=21)
    life.capture(orders, 0)
    await life.flush()

    window = await plan_at(built, RestoreScope(as_of_ms=at_ms, window=TimeWindow(start_ms=20)))
    offsets = await plan_at(
        built, RestoreScope(as_of_ms=at_ms, offsets={("orders", 0): OffsetBounds(first_offset=1, next_offset=2)})
    )

    assert await restored(built, window) == {0: [b"20", b"30"]}
    assert await restored(built, offsets) == {0: [b"20"]}


async def test_kept_offsets_begin_and_end_where_the_log_did_at_the_instant() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life, log = await built.start(), built.log(orders, 0)
    for value in (b"a", b"b", b"c"):
        log.append([value])
    life.capture(orders, 0)
    log.log_start_offset = 1
    built.clock.advance(10)
    life.sample(orders, 0)
    at_ms = built.clock.now_ms()
    built.clock.advance(10)
    log.append([b"d"])
    life.capture(orders, 0)
    await life.flush()

    asked = settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms), offsets=KeepOffsets.PRESERVE)
    kept = (await plan_of(built, asked)).topics[0].partitions[0].preserved

    assert kept is not None
    assert (kept.log_start, kept.next_offset) == (1, 3)

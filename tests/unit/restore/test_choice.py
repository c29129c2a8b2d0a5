"""What a plan makes of a choice: what is read, what is not, and every name that is not there."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.format.codecs import GZIP, compress_payload
from kbackupd.format.records import decode_record
from kbackupd.format.stored_records import records_of
from kbackupd.model.errors import UsageError
from kbackupd.model.events import GapCause
from kbackupd.model.positions import OffsetRange, TopicId
from kbackupd.model.scope import OffsetBounds, RecordsOf, RestoreScope, TimeWindow
from kbackupd.model.settings import KeepOffsets
from kbackupd.restore.plan import PartitionPlan
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, SourceLog
from tests.unit.format.test_legacy import message
from tests.unit.restore.planned import archive_everything, plan_of, rewritten, settings_for


async def planned(built: ArchiveBuilder, scope: RestoreScope) -> PartitionPlan:
    """The plan of the first partition of the only topic."""
    [topic] = (await plan_of(built, settings_for("kafka:9092", {}, scope=scope))).topics
    return topic.partitions[0]


async def refused(built: ArchiveBuilder, scope: RestoreScope, mapping: Mapping[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as error:
        await plan_of(built, settings_for("kafka:9092", mapping or {}, scope=scope))
    return error.value.message


async def one_run_each(*stamps_ms: int) -> tuple[ArchiveBuilder, TopicId]:
    """A topic whose runs hold two records of one timestamp each."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    life.see(orders)
    for stamp in stamps_ms:
        built.log(orders, 0).append([b"%d" % stamp] * 2, timestamp_ms=stamp)
        life.capture(orders, 0)
        await life.flush()
    return built, orders


async def test_hazard_33_runs_are_skipped_by_their_largest_timestamp_and_never_by_order() -> None:
    built, _ = await one_run_each(100, 500, 50, 300)
    window = TimeWindow(start_ms=100, end_ms=200)

    plan = await planned(built, RestoreScope(window=window))

    # The run of 50 alone can hold nothing from 100 on; those of 500 and 300 might hold something older.
    assert (plan.runs, plan.runs_skipped, plan.batches, plan.records) == (3, 1, 3, 6)
    everything = await planned(built, RestoreScope())
    assert plan.download_bytes < everything.download_bytes


async def test_what_one_replica_compacted_away_is_found_in_another_ones_run_though_the_first_holds_nothing_new() -> (
    None
):
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, one, two = built.log(orders, 0), await built.start("one"), await built.start("two")
    batches = [log.append([b"%d" % number], timestamp_ms=stamp) for number, stamp in enumerate((500, 1, 1))]
    for life, left in ((one, batches[1:]), (two, [batches[0], batches[2]])):
        log.batches = left
        life.capture(orders, 0)
        await life.flush()
    scope = RestoreScope(window=TimeWindow(start_ms=100))

    plan = await plan_of(built, settings_for("kafka:9092", {}, scope=scope))
    [topic] = plan.topics
    bodies, _ = await rewritten(built, topic, topic.partitions[0], plan.cut_of(topic.partitions[0]))

    assert [decode_record(body)[1] for body in bodies] == [b"0"]


async def test_legacy_runs_are_read_whatever_their_headers_say_of_timestamps() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    inner = b"".join(message(n, None, b"%d" % n, magic=1, timestamp_ms=stamp) for n, stamp in enumerate((50, 150)))
    packed = compress_payload(GZIP, inner)
    built.log(orders, 0).add(message(1, None, packed, magic=1, attributes=GZIP, timestamp_ms=50))
    await archive_everything(built)
    scope = RestoreScope(window=TimeWindow(start_ms=100))

    plan = await plan_of(built, settings_for("kafka:9092", {}, scope=scope))
    [topic] = plan.topics
    bodies, tally = await rewritten(built, topic, topic.partitions[0], plan.cut_of(topic.partitions[0]))

    assert [decode_record(body)[1] for body in bodies] == [b"1"]
    assert tally.cut_away == 1


async def test_only_the_runs_that_hold_the_offsets_asked_for_are_read() -> None:
    built, _ = await one_run_each(1, 2, 3, 4)
    bounds = OffsetBounds(first_offset=3, next_offset=5)

    plan = await planned(built, RestoreScope(offsets={("orders", 0): bounds}))

    assert (plan.asked_offsets, plan.offsets, plan.offsets_wanted) == (bounds, OffsetRange(0, 8), 2)
    assert (plan.runs, plan.runs_skipped, plan.not_in_archive) == (2, 2, ())


async def test_gaps_count_as_far_as_they_were_asked_for_and_so_does_what_lies_beyond_the_archive() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", first_offset=10)
    log, life = built.log(orders, 0), await built.start()
    life.see(orders)
    log.append([b"lost"] * 10)
    life.gap(orders, 0, 20, GapCause.LOG_START_MOVED)
    log.append([b"kept"] * 10)
    life.capture(orders, 0)
    await life.flush()

    def scope(first: int | None, following: int | None) -> RestoreScope:
        return RestoreScope(offsets={("orders", 0): OffsetBounds(first_offset=first, next_offset=following)})

    assert (await planned(built, scope(20, None))).not_in_archive == ()
    [gap] = (await planned(built, scope(15, 25))).not_in_archive
    assert (gap.offsets, gap.cause) == (OffsetRange(15, 20), GapCause.LOG_START_MOVED)
    below, _, above = (await planned(built, scope(0, 40))).not_in_archive
    assert (below.offsets, above.offsets) == (OffsetRange(0, 10), OffsetRange(30, 40))
    assert below.meaning == "asked for, and beyond the archive, which holds [10, 30)"


async def test_partitions_that_are_left_out_exist_and_stay_empty() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=3)
    for number in range(3):
        built.log(orders, number).append([b"a"], producer_id=number, transactional=True)
    await archive_everything(built)
    scope = RestoreScope(partitions={"orders": frozenset({1})}, target_partitions={"orders": 5})

    [topic] = (await plan_of(built, settings_for("kafka:9092", {}, scope=scope))).topics

    assert topic.target_partitions == 5
    assert [partition.left_out for partition in topic.partitions] == [True, False, True]
    assert [partition.is_empty for partition in topic.partitions] == [True, False, True]
    assert [len(partition.open_transactions) for partition in topic.partitions] == [0, 1, 0]
    assert [partition.offsets_wanted for partition in topic.partitions] == [0, 1, 0]


async def test_uncommitted_says_that_open_transactions_are_restored() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    built.log(orders, 0).append([b"a"], producer_id=7, transactional=True)
    await archive_everything(built)

    [row] = (await planned(built, RestoreScope(records_of=RecordsOf.UNCOMMITTED))).open_transactions

    assert row.restored


async def test_hazard_20_another_incarnation_is_restored_by_its_id_and_the_others_are_named() -> None:
    built = await ArchiveBuilder.create()
    ids: list[TopicId] = []
    for number in range(3):
        ids.append(built.topic("orders", previous=ids[-1] if ids else None))
        built.log(ids[-1], 0).append([b"%d" % number])
    await archive_everything(built)
    scope = RestoreScope(incarnations={"orders": ids[1]})

    [topic] = (await plan_of(built, settings_for("kafka:9092", {}, scope=scope))).topics
    bodies, _ = await rewritten(built, topic, topic.partitions[0])

    assert (topic.topic_id, topic.earlier_incarnations, topic.newer_incarnations) == (ids[1], (ids[0],), (ids[2],))
    assert [decode_record(body)[1] for body in bodies] == [b"1"]
    told = await refused(built, RestoreScope(incarnations={"orders": TopicId("A" * 22)}))
    assert all(topic_id in told for topic_id in ids)
    assert f"{ids[2]} (the newest)" in told


async def test_hazard_21_another_branch_is_restored_by_its_number() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    life.see(orders)
    log.append([b"both"])
    log.append([b"lost"])
    life.capture(orders, 0)
    await life.flush()
    log.truncate(1)
    life.truncated(orders, 0, 1)
    log.append([b"grown"])
    life.capture(orders, 0)
    await life.flush()

    async def values(scope: RestoreScope) -> list[bytes | None]:
        [topic] = (await plan_of(built, settings_for("kafka:9092", {}, scope=scope))).topics
        bodies, _ = await rewritten(built, topic, topic.partitions[0])
        return [decode_record(body)[1] for body in bodies]

    assert await values(RestoreScope()) == [b"both", b"grown"]
    assert await values(RestoreScope(branches={("orders", 0): 0})) == [b"both", b"lost"]
    assert await refused(built, RestoreScope(branches={("orders", 0): 9})) == "orders-0 has no branch 9, but 0, 1"


async def test_everything_that_is_not_there_is_told_at_once() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2)
    built.log(orders, 0).append([b"a"])
    await archive_everything(built)

    told = await refused(
        built,
        RestoreScope(
            partitions={"order": frozenset({0}), "orders": frozenset({1, 7})},
            offsets={("orders", 1): OffsetBounds(first_offset=3), ("orders", 8): OffsetBounds(next_offset=3)},
            target_partitions={"orders": 1},
        ),
    )

    assert told.split("; ") == [
        "topic 'order' is not in the archive",
        "topic 'orders' has no partition 7, 8, but 2 of them from 0 on",
        "topic 'orders' has 2 partitions, and partition_mapping would leave it 1: it can only add some",
        "orders-1: nothing of the offsets [3, …) is in the archive, which holds [0, 0)",
    ]


async def test_a_pattern_renames_what_it_matches_and_the_first_mapping_counts() -> None:
    built = await ArchiveBuilder.create()
    for name in ("eu-orders", "eu-payments", "us-orders"):
        built.topic(name)
    await archive_everything(built)

    plan = await plan_of(built, settings_for("kafka:9092", {"eu-orders": "kept", "eu-*": "old-*-eu"}))

    assert {topic.source: topic.target for topic in plan.topics} == {
        "eu-orders": "kept",
        "eu-payments": "old-payments-eu",
    }


async def test_hazard_37_patterns_that_would_merge_topics_or_match_none_are_refused() -> None:
    built = await ArchiveBuilder.create()
    for name in ("eu-orders", "us-orders"):
        built.topic(name)
    await archive_everything(built)

    assert await refused(built, RestoreScope(), {"*": "all"}) == "'eu-orders' and 'us-orders' would both become 'all'"
    assert "no topic that is restored matches 'as-*'" in await refused(built, RestoreScope(), {"as-*": "*"})
    assert "longer than a topic's name" in await refused(built, RestoreScope(), {"*": "*" + "x" * 245})


async def test_what_others_need_is_planned_first() -> None:
    built = await ArchiveBuilder.create()
    for name in ("A", "_schemas", "orders"):
        built.topic(name)
    await archive_everything(built)

    plan = await plan_of(built, settings_for("kafka:9092", {}))

    assert [(topic.source, topic.goes_first) for topic in plan.topics] == [
        ("_schemas", True),
        ("A", False),
        ("orders", False),
    ]


@pytest.mark.parametrize(
    ("offsets", "append", "kept"),
    [
        (KeepOffsets.AUTO, False, ["_schemas"]),
        (KeepOffsets.AUTO, True, []),
        (KeepOffsets.COMPACT, False, []),
        (KeepOffsets.PRESERVE, False, ["_schemas", "orders"]),
    ],
)
async def test_what_others_need_keeps_its_offsets_unless_it_cannot_or_need_not(
    offsets: KeepOffsets, append: bool, kept: list[str]
) -> None:
    built = await ArchiveBuilder.create()
    for name in ("_schemas", "orders"):
        built.log(built.topic(name), 0).append([b"v"])
    await archive_everything(built)

    plan = await plan_of(built, settings_for("kafka:9092", {}, offsets=offsets, append=append))

    assert [topic.source for topic in plan.keeping_offsets] == kept


LIVES = st.lists(
    st.tuples(st.sampled_from(("append", "compact", "append", "restart")), st.integers(1, 4), st.integers(0, 4)),
    min_size=1,
    max_size=12,
)
BOUND = st.none() | st.integers(0, 5)


@settings(max_examples=120, deadline=None)
@given(
    steps=LIVES, start=BOUND, end=BOUND, first=st.none() | st.integers(0, 20), following=st.none() | st.integers(1, 30)
)
async def test_skipping_runs_never_changes_what_is_restored(
    steps: list[tuple[str, int, int]], start: int | None, end: int | None, first: int | None, following: int | None
) -> None:
    """Overlapping and compacted captures by several writers: read with runs skipped, and read whole."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log = built.log(orders, 0)
    lives = [await built.start("one"), await built.start("two")]
    for life in lives:
        life.see(orders)
    for number, (what, count, stamp) in enumerate(steps):
        life = lives[number % 2]
        if what == "append":
            log.append([b"%d" % number] * count, timestamp_ms=stamp)
        elif what == "compact":
            _compact(log, stamp)
        elif what == "restart":
            lives[number % 2] = life = await built.start(life.writer)
            life.see(orders)
        life.capture(orders, 0)
        await life.flush()
    scope = RestoreScope(
        window=TimeWindow(start_ms=start, end_ms=end),
        offsets={("orders", 0): OffsetBounds(first_offset=first, next_offset=following)},
    )
    archive = await Archive.open(built.store, BACKUP_ID)
    history = archive.history(archive.topics[0].partition_ids[0])
    if not scope.offsets_of("orders", 0).reach_into(history.first_offset, history.next_offset):
        assert "nothing of the offsets" in await refused(built, scope)
        return
    plan = await plan_of(built, settings_for("kafka:9092", {}, scope=scope))
    [topic] = plan.topics
    cut = plan.cut_of(topic.partitions[0])

    skipping, tally = await rewritten(built, topic, topic.partitions[0], cut)
    wanted = [
        record.body
        async for batch in archive.read(history.id)
        for record in records_of(batch.header, batch.data)
        if batch.first_offset <= record.offset < batch.next_offset
        if (start is None or start <= record.timestamp_ms) and (end is None or record.timestamp_ms < end)
        if (first is None or first <= record.offset) and (following is None or record.offset < following)
    ]

    assert skipping == wanted
    assert tally.restored == len(wanted)


def _compact(log: SourceLog, keep: int) -> None:
    """Every second batch goes, beginning with the first or the second."""
    offsets = [int.from_bytes(batch[:8], "big") for batch in log.batches[:-1]]
    log.compact([*offsets[keep % 2 :: 2], *(int.from_bytes(batch[:8], "big") for batch in log.batches[-1:])])

"""Roll-ups: an archive read through them is the archive its footers tell, whatever became of any of them (I3, I5)."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.archive.describe import ArchiveDescription, describe, describe_stored
from kbackupd.archive.rollup_build import RollupLimits, RollupReport, build_rollups
from kbackupd.archive.sums import read_sums
from kbackupd.format import keys
from kbackupd.format.rollup import RollupFooter, SealedRollup
from kbackupd.model.errors import StoreUnavailableError
from kbackupd.model.events import GapCause, Paused
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.store.metered import MeteredStore, Operation, Outcome
from kbackupd.store.scoped import ScopedStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life
from tests.independent_reader import container
from tests.independent_rollup_reader import rollup

SMALL = RollupLimits(segments=4, fan_in=3, unsettled=2, between=2)
"""So that a few dozen segments have three levels."""


async def rolled_up(built: ArchiveBuilder, limits: RollupLimits = SMALL) -> RollupReport:
    return await build_rollups(built.scoped, limits=limits)


def rollup_keys(built: ArchiveBuilder, level: int | None = None) -> list[str]:
    found = [(key, keys.parse_rollup_key(key)) for key in built.keys]
    return [key for key, at in found if at is not None and level in (None, at.level)]


async def assert_same(built: ArchiveBuilder, wanted: Callable[[str], bool] | None = None) -> Archive:
    """What an archive says, opened through its roll-ups and by its footers alone."""
    through = await Archive.open(built.store, BACKUP_ID, wanted=wanted)
    by_footers = await Archive.open(built.store, BACKUP_ID, wanted=wanted, through_rollups=False)
    assert through.topics == by_footers.topics
    assert through.newest() == by_footers.newest()
    assert through.pinned == by_footers.pinned
    assert through.lost == by_footers.lost
    assert through.damaged == by_footers.damaged
    assert through.partitions == by_footers.partitions
    for id in by_footers.partitions:
        if wanted is None or wanted(by_footers.name_of(id)):
            assert through.evidence(id) == by_footers.evidence(id)
            assert through.history(id) == by_footers.history(id)
    if wanted is None:
        told = describe(by_footers)
        assert undamaged(describe(through)) == told
        assert undamaged((await describe_stored(built.store, BACKUP_ID))[1]) == told
    return through


def undamaged(description: ArchiveDescription) -> ArchiveDescription:
    """Without what it says of roll-ups that were met and left out."""
    return replace(
        description,
        damaged=tuple(one for one in description.damaged if not one.object.startswith("rollups/")),
    )


class Chaos:
    """Lives of writers that do everything a daemon does, in any order, and are killed in between."""

    def __init__(self, built: ArchiveBuilder, seed: int) -> None:
        self.built = built
        self.rng = random.Random(seed)
        self.topics: list[TopicId] = [built.topic("orders", partitions=3), built.topic("table", partitions=2)]
        built.topic("empty", partitions=2)

    async def live(self, steps: int) -> None:
        life = await self.built.start(self.rng.choice(["main", "main", "other"]))
        for topic in list(self.built.topics):
            life.know(topic)
        flying = []
        for _ in range(steps):
            topic = self.rng.choice(self.topics)
            partition = self.rng.randrange(self.built.topics[topic].partitions)
            self._happen(life, topic, partition)
            if self.rng.random() < 0.7:
                flying.append(life.seal())
            while flying and self.rng.random() < 0.6:
                await life.arrive(flying.pop(self.rng.randrange(len(flying))))
        if self.rng.random() < 0.6:
            for sealed in flying:
                await life.arrive(sealed)
            await life.flush()
            await life.checkpoint()

    def _happen(self, life: Life, topic: TopicId, partition: int) -> None:
        log = self.built.log(topic, partition)
        life.know(topic)
        match self.rng.randrange(10):
            case 0:
                log.append([b"begun"], transactional=True, producer_id=self.rng.randrange(2))
            case 1:
                log.end_transaction(self.rng.randrange(2), committed=self.rng.random() < 0.5)
            case 2 if log.next_offset > log.log_start_offset + 2:
                cut = log.next_offset - 2
                log.truncate(cut)
                life.follow_cut(topic, partition)
            case 3 if life.position(topic, partition) == log.next_offset:
                log.next_offset += 3
                life.gap(topic, partition, log.next_offset, GapCause.LOG_START_MOVED)
                log.log_start_offset = log.next_offset
            case 4:
                life.deleted(topic)
                self.topics.remove(topic)
                name = self.built.topics[topic].name
                self.topics.append(self.built.topic(name, partitions=self.rng.randrange(1, 4), previous=topic))
                return
            case _:
                log.append([b"v%d" % self.rng.randrange(99)] * self.rng.randrange(1, 5))
        if life.position(topic, partition) >= log.log_start_offset:
            life.follow_cut(topic, partition)
            life.capture(topic, partition)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(5, 30))
def test_an_archive_read_through_rollups_is_the_archive_its_footers_tell(seed: int, lives: int, steps: int) -> None:
    async def play() -> None:
        built = await ArchiveBuilder.create()
        chaos = Chaos(built, seed)
        for _ in range(lives):
            await chaos.live(steps)
            if chaos.rng.random() < 0.7:
                await rolled_up(built)
        await assert_same(built)
        for name in ("orders", "table", "empty", "none"):
            await assert_same(built, name.__eq__)
        for key in rollup_keys(built):  # any subset of them missing or damaged
            if chaos.rng.random() < 0.3:
                data = bytearray(built.data(key))
                data[chaos.rng.randrange(len(data))] ^= chaos.rng.randrange(1, 256)
                built.tamper(key, bytes(data) if chaos.rng.random() < 0.5 else None)
        await assert_same(built)
        await assert_same(built, "orders".__eq__)
        for key in built.keys:  # and segments, too
            if keys.parse_segment_key(key) and chaos.rng.random() < 0.1:
                built.tamper(key, None)
        await assert_same(built)
        await rolled_up(built)
        await assert_same(built)

    asyncio.run(play())


class Counting:
    """How often the store was asked for what, and how many bytes came."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.received = 0

    def __call__(self, operation: Operation, seconds: float, size_bytes: int, outcome: Outcome) -> None:
        self.asked[operation] += 1
        self.received += size_bytes

    @property
    def reads(self) -> int:
        return self.asked["get"] + self.asked["get_range"] + self.asked["get_suffix"]


async def long_archive(segments: int, *, topics: int = 3) -> ArchiveBuilder:
    """Each segment holds a batch of one topic, in turn."""
    built = await ArchiveBuilder.create()
    ids = [built.topic(f"topic-{number}") for number in range(topics)]
    life = await built.start()
    for number in range(segments):
        built.log(ids[number % topics], 0).append([b"value"] * 3)
        life.capture(ids[number % topics], 0)
        await life.flush()
    await life.checkpoint()
    return built


async def test_rollups_grow_by_levels_and_leave_few_segments_uncovered() -> None:
    built = await long_archive(60)
    report = await rolled_up(built)
    # 58 segments are settled: 14 of four, of these 4 of three, of these one of three; and two uncovered.
    assert (len(rollup_keys(built, 1)), len(rollup_keys(built, 2)), len(rollup_keys(built, 3))) == (14, 4, 1)
    assert (report.segments, report.uncovered, report.rollups) == (56, 4, 4)
    assert [len(report.built), len(report.merged)] == [14, 5]
    await assert_same(built)


async def test_opening_for_one_topic_asks_for_a_handful_of_objects() -> None:
    built = await long_archive(200)
    await rolled_up(built)
    counted = Counting()
    store = MeteredStore(built.store, counted)
    archive = await Archive.open(store, BACKUP_ID, wanted="topic-1".__eq__)
    # backup.json, the claim, the newest checkpoint, 5 roll-ups twice at most, 4 segments.
    assert counted.reads <= 20
    assert len(archive.catalog.rollups) == 5
    everything = Counting()
    await Archive.open(MeteredStore(built.store, everything), BACKUP_ID, through_rollups=False)
    assert everything.reads > 200


async def test_building_holds_the_rollup_at_hand_and_no_footer_of_those_before_it() -> None:
    """A footer names every topic and block; an archive of years has thousands of roll-ups (I9)."""
    built = await long_archive(60)
    gc.collect()  # other tests' garbage must not go in between
    before = held_of(RollupFooter), held_of(SealedRollup)
    held: list[tuple[int, int]] = []

    def count(key: str, size_bytes: int) -> None:
        held.append((held_of(RollupFooter) - before[0], held_of(SealedRollup) - before[1]))

    await build_rollups(built.scoped, limits=SMALL, on_built=count)
    assert len(held) == 19
    assert set(held) == {(1, 1)}


def held_of(kind: type) -> int:
    """How many values of that kind are in memory."""
    return sum(type(one) is kind for one in gc.get_objects())


async def test_a_source_that_goes_away_before_it_is_merged_is_rolled_up_anew() -> None:
    """Somebody prunes, by hand even: its segments are there, and it is they that count (I3)."""
    built = await long_archive(14)
    gone: list[str] = []

    def lose(key: str, size_bytes: int) -> None:
        if not gone:
            gone.append(key)
            built.tamper(key, None)

    report = await build_rollups(built.scoped, limits=SMALL, on_built=lose)
    assert gone[0] in report.built
    assert gone[0].replace("-0000.kbr", "-0001.kbr") in report.built
    assert (len(report.merged), report.damaged) == (1, [])
    assert len((await assert_same(built)).catalog.rollups) == 1


async def test_building_again_finds_nothing_to_do() -> None:
    built = await long_archive(60)
    await rolled_up(built)
    before = built.keys
    counted = Counting()
    report = await build_rollups(ScopedStore(MeteredStore(built.store, counted), BACKUP_ID), limits=SMALL)
    assert (report.built, report.merged, report.uncovered) == ([], [], 4)
    assert built.keys == before
    # It opens the four roll-ups that count, and lists only the end of the life.
    assert counted.reads == 5


@pytest.mark.parametrize("segments", [0, 1, 2, 3, 5, 8, 13])
async def test_a_report_says_after_how_many_further_segments_there_is_more_to_do(segments: int) -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()

    async def store(count: int) -> None:
        for _ in range(count):
            built.log(topic, 0).append([b"value"])
            life.capture(topic, 0)
            await life.flush()

    await store(segments)
    due_in = (await rolled_up(built)).due_in["main"]
    await store(due_in - 1)
    early = await rolled_up(built)
    assert (early.built, early.due_in) == ([], {"main": 1})
    await store(1)
    assert (await rolled_up(built)).built


async def test_two_builders_at_once_leave_one_sound_set() -> None:
    built = await long_archive(60)
    reports = await asyncio.gather(*(rolled_up(built) for _ in range(3)))
    assert not any(report.raced for report in reports)
    assert len(rollup_keys(built)) == 19
    await assert_same(built)


async def test_builders_that_saw_different_segments_do_no_harm() -> None:
    built = await long_archive(30)
    late = next(key for key in built.keys if keys.parse_segment_key(key))
    data = built.data(late)
    built.tamper(late, None)
    await rolled_up(built)  # did not see the first segment
    built.tamper(late, data)
    assert late.endswith(".kbs")
    await rolled_up(built, RollupLimits(segments=5, fan_in=3, unsettled=2, between=1))
    archive = await assert_same(built)
    assert len(archive.catalog.direct) <= 5


async def test_a_segment_that_arrives_after_its_neighbours_were_rolled_up_stops_no_later_round() -> None:
    """Where footers are heavy it gets a roll-up of its own, between the ends of one that was made without it."""
    built = await long_archive(40)
    late = [key for key in built.keys if keys.parse_segment_key(key)][6]
    data = built.data(late)
    built.tamper(late, None)
    await rolled_up(built, RollupLimits(segments=10, fan_in=99, unsettled=2, between=2))
    built.tamper(late, data)
    for _ in range(2):
        report = await rolled_up(built, RollupLimits(segments=10, fan_in=2, unsettled=2, between=1))
        assert report.damaged == []
        await assert_same(built)


async def test_a_segment_that_arrives_after_its_neighbours_were_rolled_up_is_rolled_up_once() -> None:
    """It lies between the ends of a roll-up that does not cover it; each building made one more object of it."""
    built = await long_archive(40)
    late = [key for key in built.keys if keys.parse_segment_key(key)][6]
    data = built.data(late)
    built.tamper(late, None)
    await rolled_up(built, RollupLimits(segments=10, fan_in=99, unsettled=2, between=2))
    built.tamper(late, data)
    limits = RollupLimits(segments=10, fan_in=2, unsettled=2, between=1)
    assert len((await rolled_up(built, limits)).built) == 1
    before = built.keys
    again = await rolled_up(built, limits)
    assert (again.built, again.merged, again.uncovered) == ([], [], 9)
    assert built.keys == before


async def test_what_comes_later_goes_into_rollups_of_its_own() -> None:
    built = await long_archive(20)
    await rolled_up(built)
    first = set(rollup_keys(built))
    for _ in range(3):
        life = await built.start()
        topic = next(iter(built.topics))
        for _ in range(9):
            built.log(topic, 0).append([b"more"])
            life.capture(topic, 0)
            await life.flush()
        await rolled_up(built)
    assert first < set(rollup_keys(built))
    archive = await assert_same(built)
    assert len(archive.catalog.direct) < 8


async def test_a_damaged_rollup_is_read_around_and_replaced_under_a_new_name() -> None:
    """Hazard 58, for what can be rebuilt: it costs time, never knowledge (I3)."""
    built = await long_archive(60)
    await rolled_up(built)
    (top,) = rollup_keys(built, 3)
    data = bytearray(built.data(top))
    data[40] ^= 1  # in a block: its footer is sound
    built.tamper(top, bytes(data))
    archive = await assert_same(built)
    assert [one.key for one in archive.catalog.damaged_rollups] == [top]
    assert len(archive.catalog.direct) == 4  # those below stand in for it
    data[-100] ^= 1  # and now its footer is not
    built.tamper(top, bytes(data))
    report = await rolled_up(built)
    assert [one.key for one in report.damaged] == [top]
    assert report.merged == [top.replace("-0000.kbr", "-0001.kbr")]
    assert (await assert_same(built)).catalog.damaged_rollups == ()


async def test_a_damaged_source_of_a_merge_is_rolled_up_anew() -> None:
    built = await long_archive(14)
    await rolled_up(built, RollupLimits(segments=4, fan_in=4, unsettled=2, between=2))
    hit = rollup_keys(built, 1)[1]
    data = bytearray(built.data(hit))
    data[40] ^= 1
    built.tamper(hit, bytes(data))
    report = await rolled_up(built)
    assert [one.key for one in report.damaged] == [hit]
    assert report.built == [hit.replace("-0000.kbr", "-0001.kbr")]
    assert len(report.merged) == 1
    assert len((await assert_same(built)).catalog.rollups) == 1


async def test_a_rollup_whose_segments_are_not_all_there_is_not_believed() -> None:
    """A roll-up must not hide that what it tells of is gone (hazard 16)."""
    built = await long_archive(60)
    await rolled_up(built)
    segments = [key for key in built.keys if keys.parse_segment_key(key)]
    built.tamper(segments[7], None)
    built.tamper(segments[20], built.data(segments[20])[:-1])
    archive = await assert_same(built)
    assert [one.key for one in archive.damaged] == [segments[20]]
    assert len(archive.lost) == 1
    assert len(archive.catalog.direct) == 10  # two of four less one each, and the newest


async def test_a_rollup_that_cannot_be_fetched_is_an_error_not_an_absence() -> None:
    """Hazard 19."""
    built = await long_archive(20)
    await rolled_up(built)

    class Failing(MeteredStore):
        async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
            if "rollups/" in key:
                raise StoreUnavailableError("no answer")
            return await super().get_suffix(key, length)

    with pytest.raises(StoreUnavailableError):
        await Archive.open(Failing(built.store, Counting()), BACKUP_ID)


async def test_nothing_is_said_of_topics_that_were_not_asked_for() -> None:
    built = await long_archive(20)
    await rolled_up(built)
    archive = await Archive.open(built.store, BACKUP_ID, wanted="topic-1".__eq__)
    assert [topic.name for topic in archive.topics] == ["topic-0", "topic-1", "topic-2"]
    with pytest.raises(LookupError, match="without topic 'topic-2'"):
        archive.history(archive.newest()["topic-2"].partition_ids[0])


async def test_a_pinned_archive_is_read_through_rollups_of_what_it_holds() -> None:
    built = await long_archive(30)
    pinned = (await Archive.open(built.store, BACKUP_ID)).pinned
    life = await built.start()
    topic = next(iter(built.topics))
    for _ in range(9):
        built.log(topic, 0).append([b"later"])
        life.capture(topic, 0)
        await life.flush()
    await rolled_up(built)
    through = await Archive.open(built.store, BACKUP_ID, pinned=pinned)
    by_footers = await Archive.open(built.store, BACKUP_ID, pinned=pinned, through_rollups=False)
    assert through.pinned == pinned
    assert through.catalog.rollups
    assert [through.history(id) for id in through.partitions] == [
        by_footers.history(id) for id in by_footers.partitions
    ]


async def test_a_segment_nobody_can_read_is_left_out_and_its_neighbours_are_not() -> None:
    built = await long_archive(30)
    segments = [key for key in built.keys if keys.parse_segment_key(key)]
    data = bytearray(built.data(segments[5]))
    data[-60] ^= 1
    built.tamper(segments[5], bytes(data))
    report = await rolled_up(built)
    assert [one.key for one in report.damaged] == [segments[5]]
    archive = await assert_same(built)
    assert [one.key for one in archive.damaged] == [segments[5]]


async def test_a_rollup_takes_no_more_rows_than_it_may_hold() -> None:
    """And where footers are heavy, fewer of them are left to be read one by one."""
    built = await long_archive(40)
    report = await rolled_up(built, RollupLimits(segments=8, rows=6, fan_in=99, unsettled=2, between=2))
    assert report.uncovered <= 4
    sizes = [rollup.opened.footer.segments for rollup in (await assert_same(built)).catalog.rollups]
    assert max(sizes) <= 4


async def test_segments_that_speak_of_no_topic_are_rolled_up_and_described_like_others() -> None:
    """A pause, or the first word of a life, is one; where footers are heavy, or it is all a writer has, it is alone."""
    built = await ArchiveBuilder.create()
    other = await built.start("other")
    other.event(Paused(topics="*", paused=True, at_ms=built.clock.now_ms()))
    assert (await other.flush()).footer.topics == {}
    topic = built.topic("orders", partitions=1)
    life = await built.start()
    for _ in range(3):
        built.log(topic, 0).append([b"v"])
        life.know(topic)
        life.capture(topic, 0)
        await life.flush()
    await assert_same(built)
    report = await rolled_up(built, RollupLimits(segments=1, fan_in=3, unsettled=0, between=1))
    assert (report.uncovered, report.damaged) == (0, [])
    assert [key for key in rollup_keys(built) if "/other/" in key]
    await assert_same(built)


async def test_a_stranger_finds_in_a_rollup_what_the_footers_say() -> None:
    built = await long_archive(30)
    await rolled_up(built)
    rows: list[tuple[str, int, int, int]] = []
    for key in rollup_keys(built, 2):
        found = rollup(built.data(key), key)
        names = [name for _, name in found["footer"]["topics"]]
        rows += [
            (names[row["topic"]], row["partition"], row["asked_offset"], row["crc32c"])
            for row in found["tables"]["runs"]
        ]
        for sums in found["tables"]["partitions"]:
            mine = [one for one in found["tables"]["runs"] if one["topic"] == sums["topic"]]
            (stretch,) = [one for one in found["tables"]["stretches"] if one["topic"] == sums["topic"]]
            assert sums["runs"] == len(mine) == stretch["runs"]
            assert stretch["records"] == sum(one["records"] for one in mine)
            assert (stretch["asked_offset"], stretch["next_offset"]) == (
                mine[0]["asked_offset"],
                mine[-1]["next_offset"],
            )
    said: list[tuple[str, int, int, int]] = []
    for key in [key for key in built.keys if keys.parse_segment_key(key)][:24]:
        footer = container(built.data(key), key)["footer"]
        for number in range(len(footer["runs"]["topic"])):
            run = {column: values[number] for column, values in footer["runs"].items()}
            said.append((footer["topics"][run["topic"]][1], run["partition"], run["asked_offset"], run["crc32c"]))
    assert sorted(rows) == sorted(said)
    assert len(said) == 24


async def test_sums_tell_of_a_plain_partition_and_of_none_that_was_cut_or_overlaps() -> None:
    built = await ArchiveBuilder.create()
    plain, cut, twice = (built.topic(name) for name in ("plain", "cut", "twice"))
    life = await built.start()
    for number in range(12):
        for topic in (plain, cut, twice):
            built.log(topic, 0).append([b"value"] * 3)
            life.capture(topic, 0)
        if number == 5:
            built.log(cut, 0).truncate(15)
            life.follow_cut(cut, 0)
        await life.flush()
    built.log(twice, 0).append([b"value"])
    life.capture(twice, 0)
    life.seal()  # never lands
    built.log(twice, 0).append([b"value"])
    life.capture(twice, 0)
    await life.arrive(life.seal())
    again = await built.start()
    again.capture(twice, 0)
    await again.flush()
    await rolled_up(built)
    archive, told = await describe_stored(built.store, BACKUP_ID)
    sums = await read_sums(built.scoped, archive.catalog)
    one = sums.partition(PartitionId(plain, 0))
    assert one is not None
    assert (one.history.next_offset, len(one.history.slices)) == (36, 1)
    assert sums.partition(PartitionId(cut, 0)) is None
    assert sums.partition(PartitionId(twice, 0)) is None
    assert told == describe(await Archive.open(built.store, BACKUP_ID, through_rollups=False))

"""Reading a partition back: what comes out of segments is what the source served, each offset once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.archive.reader import LARGE_AT_ONCE, StoredBatch
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.model.errors import (
    ArchiveInvalidError,
    CorruptObjectError,
    ForeignArchiveError,
    ObjectMissingError,
    StoreUnavailableError,
)
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder


async def read(
    built: ArchiveBuilder,
    topic: TopicId,
    partition: int = 0,
    *,
    first_offset: int | None = None,
    next_offset: int | None = None,
    branch: int | None = None,
) -> list[StoredBatch]:
    archive = await Archive.open(built.store, BACKUP_ID)
    id = PartitionId(topic, partition)
    reading = archive.read(id, first_offset=first_offset, next_offset=next_offset, branch=branch)
    return [batch async for batch in reading]


def data(batches: list[StoredBatch]) -> list[bytes]:
    return [bytes(batch.data) for batch in batches]


def taken(batches: list[StoredBatch]) -> list[tuple[int, int]]:
    return [(batch.first_offset, batch.next_offset) for batch in batches]


async def test_what_was_captured_in_many_segments_is_read_back_byte_for_byte() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders", partitions=2)
    life = await built.start()
    for number in range(20):
        built.log(topic, number % 2).append([b"value %d" % number] * 10, codec=number % 5)
        life.capture(topic, 0)
        life.capture(topic, 1)
        await life.flush(codec="zstd" if number % 3 else "none")
    for partition in (0, 1):
        batches = await read(built, topic, partition)
        assert data(batches) == built.log(topic, partition).batches
        assert all(batch.whole for batch in batches)


async def test_a_range_cuts_inside_batches_and_delivers_them_whole() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    for _ in range(4):
        built.log(topic, 0).append([b"x"] * 10)
        life.capture(topic, 0)
        await life.flush()
    batches = await read(built, topic, first_offset=15, next_offset=22)
    assert taken(batches) == [(15, 20), (20, 22)]
    assert data(batches) == built.log(topic, 0).batches[1:3]
    assert not batches[0].whole
    assert await read(built, topic, first_offset=40, next_offset=50) == []
    assert taken(await read(built, topic, first_offset=7, next_offset=8)) == [(7, 8)]


async def test_records_below_the_log_start_come_with_their_batch_but_are_not_to_be_read() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    log = built.log(topic, 0)
    log.append([b"x"] * 10)
    log.log_start_offset = 4
    life = await built.start()
    life.capture(topic, 0)
    await life.flush()
    assert taken(await read(built, topic)) == [(4, 10)]


async def test_a_second_writer_that_captured_the_same_doubles_nothing() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    log = built.log(topic, 0)
    first, second = await built.start("first"), await built.start("second")
    for number in range(12):
        log.append([b"x"] * 5)
        life = (first, second)[number % 3 == 0]
        life.capture(topic, 0)
        await life.flush()
    assert data(await read(built, topic)) == log.batches


async def test_the_records_of_a_cut_off_tail_are_replaced_by_the_new_branch() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    log = built.log(topic, 0)
    life = await built.start()
    for _ in range(4):
        log.append([b"old"] * 5)
    old = list(log.batches)
    life.capture(topic, 0)
    log.truncate(10)
    life.truncated(topic, 0, 10)
    log.append([b"new"] * 7)
    life.capture(topic, 0)
    await life.flush()
    assert data(await read(built, topic)) == log.batches
    assert data(await read(built, topic, branch=0)) == old


async def test_a_branch_that_begins_inside_an_old_batch_cuts_it_there() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    log = built.log(topic, 0)
    life = await built.start()
    log.append([b"old"] * 10)
    life.capture(topic, 0)
    life.truncated(topic, 0, 6)
    regrown = built.regrown(topic, 0, first_offset=6)
    regrown.append([b"new"] * 10)
    life.capture(topic, 0)
    await life.flush()
    assert taken(await read(built, topic)) == [(0, 6), (6, 16)]


async def test_corrupt_runs_are_not_delivered_and_reading_goes_on_behind_their_gap() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    log = built.log(topic, 0)
    life = await built.start()
    for _ in range(3):
        log.append([b"x"] * 5)
    life.capture(topic, 0, until=5)
    life.capture_corrupt(topic, 0, b"\0" + log.batches[1][1:], next_offset=10)
    life.capture(topic, 0)
    await life.flush()
    assert taken(await read(built, topic)) == [(0, 5), (10, 15)]
    archive = await Archive.open(built.store, BACKUP_ID)
    history = archive.history(PartitionId(topic, 0))
    assert [gap.cause for gap in history.gaps] == [GapCause.CORRUPT_AT_SOURCE]
    assert len(history.corrupt_runs) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(1, 12), st.sets(st.integers(0, 11))),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 47),
    st.integers(0, 48),
)
def test_the_union_of_captures_of_a_compacted_log_holds_each_batch_once_as_captured_first(
    captures: list[tuple[int, int, set[int]]], low: int, high: int
) -> None:
    """Twelve batches of four records; every capture fetches a stretch, then compaction rewrites or removes batches."""

    async def check() -> None:
        built = await ArchiveBuilder.create()
        topic = built.topic("table")
        log = built.log(topic, 0)
        for number in range(12):
            log.append([b"batch %d" % number] * 4)
        expected: dict[int, bytes] = {}
        for number, (first, count, removed) in enumerate(captures):
            life = await built.start(f"writer-{number}")
            life.see(topic)
            life.gap(topic, 0, first * 4, GapCause.LOG_START_MOVED)
            life.capture(topic, 0, until=(first + count) * 4)
            sealed = await life.flush()
            for run in sealed.footer.runs:
                for batch in log.batches:
                    base = int.from_bytes(batch[:8], "big")
                    if run.asked_offset <= base < run.next_offset:
                        expected.setdefault(base, batch)
            log.compact([base for base in range(0, 48, 4) if base // 4 not in removed])
            built.clock.advance(1)
        batches = await read(built, topic)
        assert {batch.header.base_offset: bytes(batch.data) for batch in batches} == expected
        assert [batch.header.base_offset for batch in batches] == sorted(expected)
        window = await read(built, topic, first_offset=low, next_offset=high)
        offsets = {offset for batch in window for offset in range(batch.first_offset, batch.next_offset)}
        assert offsets == {o for base in expected for o in range(base, base + 4) if low <= o < high}
        assert sum(batch.next_offset - batch.first_offset for batch in window) == len(offsets)

    asyncio.run(check())


@pytest.mark.parametrize("step_seconds", [7_200, -7_200], ids=["the clock is right", "the clock was set back"])
async def test_hazard_55_of_two_captures_of_a_batch_the_one_before_its_compaction_counts_whatever_the_clock_said(
    step_seconds: int,
) -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("table")
    log = built.log(topic, 0)
    whole = log.append([b"%d" % number for number in range(4)])
    first = await built.start()
    first.see(topic)
    first.capture(topic, 0)
    await first.flush()
    records = [RawRecord(0, delta, delta, encode_body(b"k%d" % delta, b"%d" % delta)) for delta in (0, 3)]
    log.batches[0] = build_batch(records, base_offset=0, base_timestamp_ms=built.clock.now_ms())
    built.clock.step_wall(step_seconds * 1_000)
    second = await built.start("second")
    second.see(topic)
    second.capture(topic, 0)
    await second.flush()

    assert [bytes(batch.data) for batch in await read(built, topic)] == [whole]


async def test_a_flipped_byte_stops_reading_with_object_topic_and_offsets_and_not_before() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    sealed = []
    for _ in range(3):
        built.log(topic, 0).append([b"x"] * 5)
        life.capture(topic, 0)
        sealed.append(await life.flush())
    key = sealed[1].ref.key
    flipped = bytearray(built.data(key))
    flipped[sealed[1].footer.runs[0].position + 3] ^= 1
    built.tamper(key, bytes(flipped))
    archive = await Archive.open(built.store, BACKUP_ID)
    batches = archive.read(PartitionId(topic, 0))
    assert (await anext(batches)).first_offset == 0
    with pytest.raises(CorruptObjectError, match=r"orders/0 offsets \[5, 10\)") as caught:
        await anext(batches)
    assert caught.value.key == key


async def test_a_damaged_footer_is_named_and_its_offsets_are_a_hole() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    sealed = []
    for _ in range(3):
        built.log(topic, 0).append([b"x"] * 5)
        life.capture(topic, 0)
        sealed.append(await life.flush())
    key = sealed[1].ref.key
    built.tamper(key, built.data(key)[:-1] + b"\xff")
    archive = await Archive.open(built.store, BACKUP_ID)
    assert [one.key for one in archive.damaged] == [key]
    assert [(hole.first_offset, hole.next_offset) for hole in archive.history(PartitionId(topic, 0)).holes] == [(5, 10)]


async def test_a_pinned_archive_shows_what_was_there_when_it_was_pinned() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    built.log(topic, 0).append([b"x"] * 5)
    life.capture(topic, 0)
    await life.flush()
    pinned = (await Archive.open(built.store, BACKUP_ID)).pinned
    built.log(topic, 0).append([b"x"] * 5)
    life.capture(topic, 0)
    await life.flush()
    again = await Archive.open(built.store, BACKUP_ID, pinned=pinned)
    assert pinned == {("main", 1): ((0, 1),)}
    assert again.history(PartitionId(topic, 0)).next_offset == 5


async def test_incarnations_of_one_name_are_kept_apart_and_the_newest_is_known() -> None:
    built = await ArchiveBuilder.create()
    life = await built.start()
    old = built.topic("orders")
    built.log(old, 0).append([b"old"])
    life.capture(old, 0)
    await life.flush()
    life.deleted(old)
    new = built.topic("orders", partitions=3, previous=old, configs={"retention.ms": "1000"})
    life.see(new)
    await life.flush()
    archive = await Archive.open(built.store, BACKUP_ID)
    assert [topic.topic_id for topic in archive.topics] == [old, new]
    assert archive.newest()["orders"].topic_id == new
    assert archive.newest()["orders"].configs == {"retention.ms": "1000"}
    deleted = archive.topic(old)
    assert deleted is not None
    assert deleted.deleted_ms is not None
    assert [id.partition for id in archive.partitions] == [0, 0, 1, 2]


async def test_a_deletion_that_only_an_abandoned_segment_tells_does_not_count() -> None:
    """The life that went on without it knows the topic as open, and has nothing new to tell of it."""
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    first = await built.start()
    first.see(topic)
    await first.flush()
    first.deleted(topic)
    straggler = first.seal()
    second = await built.start()
    built.log(topic, 0).append([b"after"])
    second.capture(topic, 0)
    await second.flush()
    await first.arrive(straggler)
    (archived,) = (await Archive.open(built.store, BACKUP_ID)).topics
    assert archived.deleted_ms is None


async def test_of_two_writers_that_tell_whether_a_topic_is_there_the_later_is_right() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    first, second = await built.start("a"), await built.start("b")
    second.see(topic)
    await second.flush()
    built.clock.advance(60)
    first.see(topic)
    first.deleted(topic)
    await first.flush()
    (archived,) = (await Archive.open(built.store, BACKUP_ID)).topics
    assert archived.deleted_ms is not None
    built.clock.advance(60)
    second.see(topic)
    await second.flush()
    (archived,) = (await Archive.open(built.store, BACKUP_ID)).topics
    assert archived.deleted_ms is None


class Watched(MemoryStore):
    """Counts how many ranges are asked of it at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            return await super().get_range(key, first_byte, length)
        finally:
            self.now -= 1


async def watched_archive(codec: Literal["zstd", "none"]) -> tuple[Watched, Archive, PartitionId]:
    """Twelve runs of the same size, each in a segment of its own."""
    store = Watched()
    built = await ArchiveBuilder.create(store=store)
    topic = built.topic("orders")
    life = await built.start()
    for _ in range(12):
        built.log(topic, 0).append([b"x" * 1000] * 10)
        life.capture(topic, 0)
        await life.flush(codec=codec)
    return store, await Archive.open(store, BACKUP_ID), PartitionId(topic, 0)


async def test_reading_ahead_keeps_to_its_bound_in_bytes() -> None:
    store, archive, id = await watched_archive("none")
    run_bytes = archive.evidence(id).runs[0].run.stored_bytes
    for allowed in (1, 3):
        store.most = 0
        ahead = archive.read(id, read_ahead_bytes=allowed * run_bytes + 100)
        assert len([batch async for batch in ahead]) == 12
        assert store.most == allowed


async def test_ranges_too_large_to_be_held_decompressed_are_fetched_ahead_as_they_are_stored() -> None:
    store, archive, id = await watched_archive("zstd")
    run = archive.evidence(id).runs[0].run
    assert run.stored_bytes * 10 < run.raw_bytes
    for allowed, room in ((1, 0), (2, 2), (3, 3), (LARGE_AT_ONCE, LARGE_AT_ONCE + 3)):
        store.most = 0
        ahead = archive.read(id, read_ahead_bytes=run.raw_bytes + room * run.stored_bytes + 10)
        assert len([batch async for batch in ahead]) == 12
        assert store.most == allowed


async def test_what_is_decompressed_already_takes_room_from_what_is_fetched_as_it_is_stored() -> None:
    store, archive, id = await watched_archive("zstd")
    run = archive.evidence(id).runs[0].run
    ahead = archive.read(id, read_ahead_bytes=2 * (run.raw_bytes + run.stored_bytes) + 10)
    assert len([batch async for batch in ahead]) == 12
    assert store.most == 2


async def test_leaving_the_loop_early_ends_what_is_under_way() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    for _ in range(6):
        built.log(topic, 0).append([b"x"] * 10)
        life.capture(topic, 0)
        await life.flush()
    archive = await Archive.open(built.store, BACKUP_ID)
    before = len(asyncio.all_tasks())
    batches: AsyncIterator[StoredBatch] = archive.read(PartitionId(topic, 0))
    first = await anext(batches)
    await batches.aclose()  # type: ignore[attr-defined]  # an async generator, as every async for over it knows
    assert first.first_offset == 0
    assert len(asyncio.all_tasks()) == before


class Unreachable(MemoryStore):
    """Answers nothing about one kind of object."""

    fails_on = ""

    async def get(self, key: str) -> bytes:
        if self.fails_on and self.fails_on in key:
            raise StoreUnavailableError("503 SlowDown")
        return await super().get(key)

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        if self.fails_on and self.fails_on in key:
            raise StoreUnavailableError("503 SlowDown")
        return await super().get_suffix(key, length)


@pytest.mark.parametrize("kind", ["backup.json", "writers/", "segments/"])
async def test_what_cannot_be_read_is_an_error_and_never_absent(kind: str) -> None:
    store = Unreachable()
    built = await ArchiveBuilder.create(store=store)
    topic = built.topic("orders")
    life = await built.start()
    built.log(topic, 0).append([b"x"])
    life.capture(topic, 0)
    await life.flush()
    store.fails_on = kind
    with pytest.raises(StoreUnavailableError):
        await Archive.open(store, BACKUP_ID)


async def test_no_archive_a_headless_one_and_a_foreign_one_are_told_apart() -> None:
    built = await ArchiveBuilder.create()
    await built.start()
    with pytest.raises(ObjectMissingError):
        await Archive.open(built.store, "elsewhere")
    for key in built.keys:
        built.store.tamper(f"copied/{key}", built.data(key))
    with pytest.raises(ForeignArchiveError):
        await Archive.open(built.store, "copied")
    built.tamper("backup.json", None)
    with pytest.raises(ArchiveInvalidError):
        await Archive.open(built.store, BACKUP_ID)

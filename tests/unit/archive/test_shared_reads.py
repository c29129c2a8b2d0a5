"""Many partitions are read at a time: what lies side by side comes by one request, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import logging

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.shared_reads import RANGES_AHEAD, Extent, SharedReader, SharedReads
from kbackupd.model.errors import CorruptObjectError, StoreUnavailableError
from kbackupd.model.positions import PartitionId
from kbackupd.store.faults import FaultStore, Stall
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder

KEY = "segments/a"
ROOM = 1 << 20


class Site:
    """One object of 100 bytes, each of its own value, and who reads it."""

    def __init__(self, *, room_bytes: int = ROOM) -> None:
        self.inner = MemoryStore()
        self.store = FaultStore(self.inner)
        self.shared = SharedReads(self.store, room_bytes=room_bytes)

    async def begin(self) -> None:
        await self.inner.put_if_absent(KEY, [bytes(range(100))])

    @property
    def requests(self) -> int:
        return len(self.store.calls)

    def nothing_is_left(self) -> bool:
        return not self.shared._held_bytes and not self.shared._objects and not self.shared._tasks


def extent(first_byte: int, next_byte: int, key: str = KEY) -> Extent:
    return Extent(key, first_byte, next_byte - first_byte)


def value(one: Extent) -> bytes:
    return bytes(range(one.first_byte, one.first_byte + one.length))


async def begun_for_two(site: Site, first: Extent, second: Extent) -> tuple[asyncio.Task[bytes], SharedReader, Stall]:
    """Who began a request that brings both, the reader of the second, and what holds the answer up."""
    one, other = site.shared.reader(iter([first])), site.shared.reader(iter([second]))
    stall = site.store.stall("get_range")
    beginning = asyncio.create_task(one.read(first))
    await stall.reached.wait()
    return beginning, other, stall


@pytest.fixture
async def site() -> Site:
    made = Site()
    await made.begin()
    return made


async def test_what_three_readers_are_going_to_ask_for_comes_by_one_request(site: Site) -> None:
    ranges = [extent(0, 10), extent(10, 50), extent(60, 100)]
    readers = [site.shared.reader(iter([one])) for one in ranges]
    for one, reader in zip(ranges, readers, strict=True):
        assert await reader.read(one) == value(one)
    assert site.requests == 1
    assert site.shared.peak_bytes == 100
    assert site.nothing_is_left()


async def test_who_asks_while_the_request_is_under_way_waits_for_it(site: Site) -> None:
    first, second = extent(0, 10), extent(10, 20)
    one, other = site.shared.reader(iter([first])), site.shared.reader(iter([second]))
    stall = site.store.stall("get_range")
    reading = asyncio.gather(one.read(first), other.read(second))
    await stall.reached.wait()
    stall.release()
    assert list(await reading) == [value(first), value(second)]
    assert site.requests == 1


async def test_a_reader_alone_asks_range_by_range_what_lies_apart_and_together_what_does_not() -> None:
    site = Site()
    await site.inner.put_if_absent(KEY, [bytes(1 << 20)])
    near = [extent(0, 10), extent(10, 20)]
    far = extent((1 << 20) - 10, 1 << 20)
    reader = site.shared.reader(iter([*near, far]))
    for one in (*near, far):
        assert await reader.read(one) == bytes(10)
    assert site.requests == 2


async def test_only_so_many_ranges_of_a_reader_are_fetched_before_their_turn() -> None:
    site = Site()
    ahead = [extent(0, 10, f"segments/{number:03d}") for number in range(RANGES_AHEAD + 2)]
    for one in ahead:
        await site.inner.put_if_absent(one.key, [bytes(20)])
    slow = site.shared.reader(iter(ahead))
    quick = site.shared.reader(iter([extent(10, 20, one.key) for one in ahead]))
    for one in ahead:
        await quick.read(extent(10, 20, one.key))
    assert site.shared._held_bytes == RANGES_AHEAD * 10
    slow.close()
    assert site.nothing_is_left()


async def test_where_there_is_no_room_everybody_reads_for_itself_and_room_comes_back() -> None:
    site = Site(room_bytes=30)
    await site.begin()
    behind = site.shared.reader(iter([extent(0, 15), extent(40, 50)]))
    ahead = site.shared.reader(iter([extent(15, 30), extent(50, 60)]))
    assert await ahead.read(extent(15, 30)) == value(extent(15, 30))  # with the other's, which now takes 15 bytes
    assert await ahead.read(extent(50, 60)) == value(extent(50, 60))
    assert site.requests == 2
    assert await behind.read(extent(0, 15)) == value(extent(0, 15))
    assert site.requests == 2
    assert await behind.read(extent(40, 50)) == value(extent(40, 50))
    assert site.requests == 3
    assert site.shared.peak_bytes <= 30
    assert site.nothing_is_left()


async def test_cancelling_who_began_the_request_costs_the_others_nothing(site: Site) -> None:
    second = extent(10, 20)
    beginning, other, stall = await begun_for_two(site, extent(0, 10), second)
    waiting = asyncio.create_task(other.read(second))
    await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    stall.release()
    assert await waiting == value(second)
    assert site.requests == 1
    assert site.nothing_is_left()


async def test_a_request_that_nobody_wants_of_any_more_is_ended(site: Site) -> None:
    beginning, other, _ = await begun_for_two(site, extent(0, 10), extent(10, 20))
    (request,) = site.shared._tasks
    other.close()
    assert not request.cancelling()
    beginning.cancel()
    await asyncio.wait([beginning, request])
    assert request.cancelled()
    assert site.nothing_is_left()


async def test_leaving_the_context_ends_what_is_under_way(site: Site) -> None:
    first, second = extent(0, 10), extent(10, 20)
    stall = site.store.stall("get_range")
    async with site.shared as shared:
        shared.reader(iter([second]))
        reading = asyncio.create_task(shared.reader(iter([first])).read(first))
        await stall.reached.wait()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not site.shared._tasks


async def test_an_object_that_ends_too_soon_costs_only_those_whose_bytes_are_not_there(site: Site) -> None:
    there, beyond = extent(50, 90), extent(90, 130)
    one, other = site.shared.reader(iter([there])), site.shared.reader(iter([beyond]))
    assert await one.read(there) == value(there)
    with pytest.raises(CorruptObjectError, match="40 bytes from 90"):
        await other.read(beyond)
    assert site.nothing_is_left()


async def test_a_failure_that_nobody_asks_about_is_not_told_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = extent(0, 10), extent(10, 20)
    one, other = site.shared.reader(iter([first])), site.shared.reader(iter([second]))
    site.store.fail("get_range", times=2)
    with caplog.at_level(logging.ERROR, "asyncio"):
        with pytest.raises(StoreUnavailableError):
            await one.read(first)
        other.close()
    assert not caplog.records
    assert site.nothing_is_left()


async def test_the_same_range_can_be_asked_for_twice_and_by_two(site: Site) -> None:
    same = extent(0, 10)
    one, other = site.shared.reader(iter([same, same])), site.shared.reader(iter([same, extent(10, 20)]))
    for reader in (one, other, one):
        assert await reader.read(same) == value(same)
    assert await other.read(extent(10, 20)) == value(extent(10, 20))
    assert site.nothing_is_left()


async def test_who_asks_for_what_it_did_not_announce_is_told(site: Site) -> None:
    with pytest.raises(ValueError, match="not among what was to be read next"):
        await site.shared.reader(iter([])).read(extent(0, 10))


async def test_partitions_read_at_the_same_time_cost_one_request_a_segment() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders", partitions=8)
    life = await built.start()
    for number in range(5):
        for partition in range(8):
            built.log(topic, partition).append([b"%d of %d" % (number, partition)] * 10)
            life.capture(topic, partition)
        await life.flush()
    store = FaultStore(built.store)
    archive = await Archive.open(store, BACKUP_ID)
    store.calls.clear()

    async def read(partition: int, shared: SharedReads | None) -> list[bytes]:
        batches = archive.read(PartitionId(topic, partition), shared=shared)
        return [bytes(batch.data) async for batch in batches]

    async with archive.shared_reads(room_bytes=ROOM) as shared:
        together = await asyncio.gather(*(read(partition, shared) for partition in range(8)))
    assert len(store.calls) == 5
    assert together == await asyncio.gather(*(read(partition, None) for partition in range(8)))
    assert len(store.calls) == 5 + 5 * 8
    assert together[3] == [bytes(batch) for batch in built.log(topic, 3).batches]
    assert not shared._held_bytes

"""Whatever readers, the store and cancellations do: everybody gets its own bytes, or the error of its own request.

One partition's failure is not its neighbours' (P6), and an answer that ends too soon is nobody's bytes (hazard 54).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.shared_reads import RANGES_AHEAD, Extent, SharedReader, SharedReads
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KbackupError, StoreUnavailableError
from kbackupd.store.faults import FaultStore
from kbackupd.store.memory import MemoryStore
from tests.virtual_time import run

KEYS = ("a", "b")
OBJECT_BYTES = 600 << 10
READERS = 6
CONTENT = {key: random.Random(key).randbytes(OBJECT_BYTES) for key in KEYS}


@dataclass(slots=True, eq=False)
class _Asked:
    """One GET that the store has not answered yet."""

    extent: Extent
    answered: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _HeldStore(MemoryStore):
    """Answers when the script says so, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[_Asked] = []
        self.failed: list[tuple[Extent, str]] = []
        self.at_once = False

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        asked = _Asked(Extent(key, first_byte, length))
        self.pending.append(asked)
        if self.at_once:
            asked.answered.set_result(None)
        try:
            await asked.answered
            return await super().get_range(key, first_byte, length)
        except KbackupError as error:
            self.failed.append((asked.extent, type(error).__name__))
            raise
        finally:
            self.pending.remove(asked)

    def answer_all(self) -> None:
        """What was asked, and whatever will be."""
        self.at_once = True
        for one in self.pending:
            if not one.answered.done():
                one.answered.set_result(None)


@dataclass(slots=True, eq=False)
class _Read:
    reader: SharedReader
    extent: Extent
    begun: bool = False
    task: asyncio.Task[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> bytes:
        self.begun = True
        return await self.reader.read(self.extent)


class _Reading:
    """Readers at work, moved along by one step at a time, whatever is drawn."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.store = _HeldStore()
        for key, data in CONTENT.items():
            self.store.tamper(key, data)
        self.room_bytes = chance.choice([0, 1, 20_000, 200_000, 2 << 20])
        self.shared = SharedReads(self.store, room_bytes=self.room_bytes)
        self.readers: dict[SharedReader, list[Extent]] = {}
        self.reads: list[_Read] = []
        self.complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(repr(context)))

    def step(self) -> None:
        kind = self.chance.randrange(20)
        if kind < 2 and len(self.readers) < READERS:
            self._open()
        elif kind < 10 and self.readers:
            self._read()
        elif kind < 16 and (waiting := [one for one in self.store.pending if not one.answered.done()]):
            answered = self.chance.choice(waiting).answered
            if kind < 15:
                answered.set_result(None)
            else:
                answered.set_exception(StoreUnavailableError("503"))
        elif kind == 16:
            self._damage()
        elif kind == 17 and self.reads:
            self._cancel(self.chance.choice(self.reads))
        elif kind == 18 and self.readers:
            self._close(self.chance.choice(list(self.readers)))

    def _open(self) -> None:
        coming = [self._extent() for _ in range(self.chance.choice([1, 5, 50]))]
        if self.chance.random() < 0.7:
            coming.sort()
        self.readers[self.shared.reader(iter(tuple(coming)))] = coming

    def _extent(self) -> Extent:
        # On a grid: so that many are neighbours, some the same, and some overlap.
        first_byte, length = self.chance.randrange(0, 500_000, 7_000), self.chance.choice([1, 3_000, 7_000, 9_000])
        return Extent(self.chance.choice(KEYS), first_byte, length)

    def _read(self) -> None:
        reader = self.chance.choice(list(self.readers))
        coming = self.readers[reader]
        if not coming:
            self._close(reader)
            return
        at = 0 if self.chance.random() < 0.8 else self.chance.randrange(min(len(coming), RANGES_AHEAD))
        extent = coming.pop(at)
        self.reads.append(_Read(reader, extent))

    def _cancel(self, read: _Read) -> None:
        read.task.cancel()
        if read.reader in self.readers and (not read.begun or self.chance.random() < 0.5):
            self._close(read.reader)

    def _damage(self) -> None:
        key = self.chance.choice(KEYS)
        self.store.tamper(
            key, self.chance.choice([None, CONTENT[key], CONTENT[key][: self.chance.randrange(OBJECT_BYTES)]])
        )

    def _close(self, reader: SharedReader) -> None:
        del self.readers[reader]
        for read in self.reads:
            if read.reader is reader and (not read.begun or self.chance.random() < 0.5):
                read.task.cancel()
        reader.close()

    def check(self) -> None:
        alone = sum(read.extent.length for read in self.reads if not read.task.done())
        assert sum(one.extent.length for one in self.store.pending) <= alone + self.room_bytes
        assert self.shared.peak_bytes <= self.room_bytes
        for read in [read for read in self.reads if read.task.done()]:
            self.reads.remove(read)
            if not read.task.cancelled():
                self._check_outcome(read)

    def _check_outcome(self, read: _Read) -> None:
        key, first_byte, length = read.extent
        error = read.task.exception()
        if error is None:
            assert read.task.result() == CONTENT[key][first_byte : first_byte + length]
        else:
            assert (read.extent, type(error).__name__) in self.store.failed

    async def end(self) -> None:
        self.store.answer_all()
        for reader in list(self.readers):
            if self.chance.random() < 0.5:
                self._close(reader)
        await asyncio.wait([read.task for read in self.reads]) if self.reads else None
        self.check()
        for reader in list(self.readers):
            self._close(reader)


@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 300))
def test_everybody_gets_its_own_bytes_or_the_error_of_its_own_request(seed: int, steps: int) -> None:
    run(_at_random(random.Random(seed), steps), clock=ManualClock())


async def _at_random(chance: random.Random, steps: int) -> None:
    reading = _Reading(chance)
    async with reading.shared:
        for _ in range(steps):
            reading.step()
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            reading.check()
        await reading.end()
    await asyncio.sleep(0)
    assert not reading.store.pending
    assert reading.complaints == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert reading.shared._held_bytes == 0
    assert reading.shared._objects == {}


async def test_a_request_that_failed_for_several_readers_fails_for_none_of_them() -> None:
    store, (one, other) = _with_two_neighbours()
    store.fail("get_range")
    async with SharedReads(store, room_bytes=1 << 20) as shared:
        first, second = shared.reader(iter([one])), shared.reader(iter([other]))
        got = await asyncio.gather(first.read(one), second.read(other))
        assert tuple(got) == (_bytes(one), _bytes(other))


async def test_who_asks_later_does_not_get_the_error_of_a_request_made_before() -> None:
    store, (one, other) = _with_two_neighbours()
    store.fail("get_range", times=2)
    async with SharedReads(store, room_bytes=1 << 20) as shared:
        first, second = shared.reader(iter([one])), shared.reader(iter([other]))
        with pytest.raises(StoreUnavailableError):
            await first.read(one)
        assert await second.read(other) == _bytes(other)


async def test_what_lies_between_ranges_takes_room_while_it_is_fetched_with_them() -> None:
    far_apart = [Extent("a", first_byte, 60_000) for first_byte in range(0, 500_000, 100_000)]
    store = _HeldStore()
    for number in range(10):
        store.tamper(str(number), CONTENT["a"])
    async with SharedReads(store, room_bytes=1 << 20) as shared:
        readers = [shared.reader(iter([one._replace(key=str(number)) for number in range(10)])) for one in far_apart]
        reads = [asyncio.create_task(readers[0].read(far_apart[0]._replace(key=str(number)))) for number in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        together = [asked.extent.length for asked in store.pending if asked.extent.length > 60_000]
        assert together
        assert sum(together) <= 1 << 20
        store.answer_all()
        assert await asyncio.gather(*reads) == [CONTENT["a"][:60_000]] * 10


async def test_what_was_dropped_takes_room_while_it_is_fetched_for_another() -> None:
    store = _HeldStore()
    for number in range(10):
        store.tamper(str(number), CONTENT["a"])
    async with SharedReads(store, room_bytes=1 << 20) as shared:
        reads = []
        for number in range(10):
            small, large = Extent(str(number), 0, 10), Extent(str(number), 10, 500_000)
            waiting, leaving = shared.reader(iter([small])), shared.reader(iter([large]))
            reads.append(asyncio.create_task(waiting.read(small)))
            await asyncio.sleep(0)
            leaving.close()
        await asyncio.sleep(0)
        assert sum(asked.extent.length for asked in store.pending) <= 1 << 20
        store.answer_all()
        assert await asyncio.gather(*reads) == [CONTENT["a"][:10]] * 10


def _with_two_neighbours() -> tuple[FaultStore, tuple[Extent, Extent]]:
    held = MemoryStore()
    held.tamper("a", CONTENT["a"])
    return FaultStore(held), (Extent("a", 8, 1_000), Extent("a", 1_008, 500))


def _bytes(extent: Extent) -> bytes:
    return CONTENT[extent.key][extent.first_byte : extent.first_byte + extent.length]

"""Partitions read together, of an archive with damage of every kind, give what each of them gives when read alone."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.archive.shared_reads import SharedReads
from kbackupd.model.clock import ManualClock
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.restore.source import Chunk, read_partition
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.virtual_time import run

PARTITIONS = 5
Delivered = list[tuple[object, ...]]


class _UnhurriedStore(MemoryStore):
    """Answers when it likes."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        return await super().get_range(key, first_byte, length)


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 32))
def test_what_is_read_together_is_what_is_read_alone_whatever_is_damaged(seed: int) -> None:
    run(_read_both_ways(random.Random(seed)), clock=ManualClock())


async def _read_both_ways(chance: random.Random) -> None:
    built, topic = await _archive(chance)
    archive = await Archive.open(built.store, BACKUP_ID)
    _damage(built, chance)  # only now: what is known to be damaged is not even asked for
    ids = [PartitionId(topic, number) for number in range(PARTITIONS)]
    alone = [await _delivered(archive, id, chance, None) for id in ids]
    shared = archive.shared_reads(room_bytes=chance.choice([0, 2_000, 20_000, 1 << 20]))
    async with shared:
        readers = [asyncio.create_task(_delivered(archive, id, chance, shared)) for id in ids]
        leaving = asyncio.create_task(_delivered(archive, chance.choice(ids), chance, shared))
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        leaving.cancel()
        assert await asyncio.gather(*readers) == alone
        await asyncio.wait([leaving])
    assert shared._held_bytes == 0
    assert shared._objects == {}


async def _archive(chance: random.Random) -> tuple[ArchiveBuilder, TopicId]:
    """Of two writers who captured much of it both, once before and once after a compaction."""
    built = await ArchiveBuilder.create(store=_UnhurriedStore(random.Random(chance.random())))
    topic = built.topic("orders", partitions=PARTITIONS)
    lives = [await built.start("main"), await built.start("other")]
    for _ in range(12):
        for number in range(PARTITIONS):
            for _ in range(chance.randrange(4)):
                built.log(topic, number).append([chance.randbytes(chance.choice([1, 200, 5_000]))] * 3)
        order = list(range(PARTITIONS))
        chance.shuffle(order)
        for life in lives:
            for number in order:
                if chance.random() < 0.8:
                    life.capture(topic, number)
            if chance.random() < 0.8:
                await life.flush(codec=chance.choice(["zstd", "none"]))
        if chance.random() < 0.2:
            number = chance.randrange(PARTITIONS)
            log = built.log(topic, number)
            log.compact([base for base in range(log.next_offset) if chance.random() < 0.9])
    for life in lives:
        await life.flush()
    return built, topic


def _damage(built: ArchiveBuilder, chance: random.Random) -> None:
    for key in [key for key in built.keys if key.endswith(".kbs")]:
        data = bytearray(built.data(key))
        match chance.randrange(12):
            case 0:
                built.tamper(key, None)
            case 1:
                built.tamper(key, bytes(data[: chance.randrange(len(data))]))
            case 2 | 3:
                data[chance.randrange(len(data))] ^= 1
                built.tamper(key, bytes(data))
            case _:
                pass


async def _delivered(archive: Archive, id: PartitionId, chance: random.Random, shared: SharedReads | None) -> Delivered:
    history = archive.history(id)
    found: Delivered = []
    reading = read_partition(archive, history, read_ahead_bytes=chance.choice([0, 20_000, 1 << 20]), shared=shared)
    async with aclosing(reading) as pieces:
        async for piece in pieces:
            if isinstance(piece, Chunk):
                found += [(one.first_offset, one.next_offset, bytes(one.data)) for one in piece.batches]
            else:
                found.append((piece.offsets, piece.records, piece.reason))
    return found

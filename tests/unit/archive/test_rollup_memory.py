"""What a merge of roll-ups holds at once does not grow with what is merged, but for the bytes of its result (I9)."""

from __future__ import annotations

import tracemalloc
import weakref
from array import array

import pytest

from kbackupd.archive import rollup_merge, rollup_rows, rollup_source
from kbackupd.archive.rollup_merge import merge
from kbackupd.archive.rollup_rows import TableWriter
from kbackupd.archive.rollup_source import OpenedRollup, open_stored
from kbackupd.format import keys
from kbackupd.format.rollup import RollupBody, RollupHead
from kbackupd.format.tables import COLUMNS, RUNS, SEGMENTS, STRETCHES, BlockRef, Columns, decode_block
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity
from kbackupd.store.memory import MemoryStore

IDENTITY = Identity(backup_id="main", archive_id="9f3b", cluster_id="c")
TOPIC = TopicId("b8tRS7h4TJ2Vt43Dp85v2A")
BLOCK_ROWS = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a request for each, so that a few thousand rows are many of them."""
    monkeypatch.setattr(rollup_rows, "BLOCK_ROWS", BLOCK_ROWS)
    monkeypatch.setattr(rollup_merge, "MERGE_READ_BYTES", 1)


async def source(store: MemoryStore, number: int, table: str, columns: Columns) -> OpenedRollup:
    """A roll-up of one segment with these rows; opened without the bytes that come along with a footer."""
    body = RollupBody()
    for name, rows in ((table, columns), (SEGMENTS, [array("q", [1]) for _ in COLUMNS[SEGMENTS]])):
        writer = TableWriter(body, name)
        writer.extend(rows)
        writer.close()
    head = RollupHead(
        level=1,
        generation=0,
        coverage=((1, number, number + 1),),
        sources=(),
        topics=((TOPIC, "orders"),),
        events=(),
        mentions=(),
        earlier=(),
        previous=((0, None),),
    )
    key = keys.rollup_key(keys.RollupKey("main", 1, 1, number, 1, number, 0))
    sealed = body.seal(key, IDENTITY, head)
    await store.put_if_absent(key, sealed.parts)
    opened = await open_stored(store, key, IDENTITY)
    return OpenedRollup(at=opened.at, ref=opened.ref, footer=opened.footer, size_bytes=opened.size_bytes)


def rows_of(table: str, count: int, **columns: list[int]) -> Columns:
    return [array("q", columns.get(name, [0] * count)) for name in COLUMNS[table]]


async def test_a_merge_holds_one_block_of_each_source_and_the_next_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    rows = rows_of(RUNS, 20 * BLOCK_ROWS, partition=[row // 7 for row in range(20 * BLOCK_ROWS)])
    sources = [await source(store, number, RUNS, rows) for number in range(4)]
    met: list[weakref.ref[array[int]]] = []
    most = 0

    def decoded(key: str, block: BlockRef, stored: bytes | memoryview) -> Columns:
        nonlocal most
        columns = decode_block(key, block, stored)
        met.append(weakref.ref(columns[-1]))
        most = max(most, sum(last() is not None for last in met))
        return columns

    monkeypatch.setattr(rollup_source, "decode_block", decoded)
    merged = await merge(store, sources)
    assert sum(block.rows for block in merged.footer.blocks_of(RUNS)) == 4 * 20 * BLOCK_ROWS
    assert most <= len(sources) + 1


async def test_stretches_of_one_partition_that_do_not_add_up_are_not_gathered() -> None:
    """Batches of old formats have no leader epochs; each run of them stays a stretch of its own, on every level."""
    store = MemoryStore()
    count = 15 * BLOCK_ROWS
    sources = []
    for number in range(4):
        begins = [10**15 + number * count + row for row in range(count)]
        rows = rows_of(STRETCHES, count, asked_offset=begins, next_offset=[offset + 1 for offset in begins])
        sources.append(await source(store, number, STRETCHES, rows))
    tracemalloc.start()
    try:
        merged = await merge(store, sources)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(block.rows for block in merged.footer.blocks_of(STRETCHES)) == 4 * count
    # Held as Python numbers, all of them are 2.3 MB. A thousand may wait to become blocks.
    assert most - held < 900_000

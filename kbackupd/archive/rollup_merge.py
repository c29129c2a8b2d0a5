"""Several roll-ups of one level into one of the next: a merge of sorted rows that holds one block of each at a time.

Memory: of each source its footer, the bytes of one request and a block or two; and the bytes of the roll-up that is
being made, which whoever chose the sources has bounded. Rows become Python numbers a thousand at a time, where they
must be added up.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise

from kbackupd.archive.rollup_rows import (
    ROWS_AT_ONCE,
    Coalescing,
    Mentions,
    Row,
    TableWriter,
    coverage_of,
    groups_of,
    rollup_key,
)
from kbackupd.archive.rollup_source import OpenedRollup, read_blocks
from kbackupd.format.rollup import Mention, RollupBody, RollupHead, SealedRollup
from kbackupd.format.tables import BY_TOPIC, COLUMNS, PARTITIONS, STRETCHES, BlockRef, Columns
from kbackupd.model.positions import TopicId
from kbackupd.store.protocol import ObjectStore

MERGE_READ_BYTES = 512 << 10
"""Per source, by one request."""


@dataclass(frozen=True, slots=True)
class _Input:
    rollup: OpenedRollup
    topics: list[int]
    """Its index of a topic → the merged one."""
    base: int
    """What its first segment's row becomes."""


async def merge(store: ObjectStore, sources: Sequence[OpenedRollup], *, generation: int = 0) -> SealedRollup:
    """Merge roll-ups of one writer and level, in the order of what they cover, none reaching into another's range.

    Raises:
        CorruptObjectError: a source is damaged.
        KbackupError: a source could not be read.
    """
    assert all(one.at.last < other.at.first for one, other in pairwise(sources))
    names: dict[TopicId, str] = {}
    for rollup in sources:
        names.update(rollup.footer.head.topics)
    order = {topic_id: row for row, topic_id in enumerate(sorted(names))}
    inputs: list[_Input] = []
    base = 0
    for rollup in sources:
        inputs.append(_Input(rollup, [order[topic_id] for topic_id, _ in rollup.footer.head.topics], base))
        base += rollup.footer.segments
    body = RollupBody()
    for table in COLUMNS:
        writer = TableWriter(body, table)
        if table == PARTITIONS:
            await _merge_sums(store, inputs, writer)
        elif table == STRETCHES:
            await _merge_stretches(store, inputs, writer)
        elif table in BY_TOPIC:
            async for columns, first, following, _ in _groups(store, inputs, table):
                writer.extend(columns, first, following)
        else:
            for one in inputs:
                async for _, columns in read_blocks(
                    store, one.rollup, one.rollup.footer.blocks_of(table), read_bytes=MERGE_READ_BYTES
                ):
                    writer.extend(_moved(one, table, columns))
        writer.close()
    coverage = coverage_of(part for one in sources for part in one.coverage)
    head = RollupHead(
        level=sources[0].at.level + 1,
        generation=generation,
        coverage=coverage,
        sources=tuple(one.ref for one in sources),
        topics=tuple((topic_id, names[topic_id]) for topic_id in order),
        events=tuple((one.base + row, event) for one in inputs for row, event in one.rollup.footer.head.events),
        mentions=_mentions(inputs),
        earlier=tuple((one.base + row, rows) for one in inputs for row, rows in one.rollup.footer.head.earlier),
        previous=tuple((one.base + row, ref) for one in inputs for row, ref in one.rollup.footer.head.previous),
    )
    key = rollup_key(sources[0].at.writer, head.level, coverage, generation)
    return body.seal(key, sources[0].footer.identity, head)


def _mentions(inputs: Sequence[_Input]) -> tuple[Mention, ...]:
    mentions = Mentions()
    for one in inputs:
        for said in one.rollup.footer.head.mentions:
            mentions.add(Mention(one.base + said.segment, one.topics[said.topic], said.partitions, said.internal))
    return tuple(mentions.kept)


def _moved(one: _Input, table: str, columns: Columns) -> Columns:
    """The block with topics and segments as the merged roll-up counts them."""
    names = COLUMNS[table]
    moved = list(columns)
    if table in BY_TOPIC:
        moved[0] = array("q", map(one.topics.__getitem__, columns[0]))
    if "segment" in names and one.base:
        at = names.index("segment")
        # -1, in `partitions`, is no segment.
        moved[at] = array("q", [row + one.base if row >= 0 else row for row in columns[at]])
    return moved


class _Cursor:
    """One source's rows of one table, partition by partition."""

    def __init__(self, one: _Input, table: str, blocks: AsyncIterator[tuple[BlockRef, Columns]]) -> None:
        self._input = one
        self._table = table
        self._blocks = blocks
        self._groups: list[tuple[tuple[int, int], int, int]] = []
        self.columns: Columns = []
        self.group: tuple[tuple[int, int], int, int] = ((0, 0), 0, 0)

    async def advance(self) -> bool:
        """To the next group of rows of one partition within one block; False at the end."""
        if not self._groups:
            found = await anext(self._blocks, None)
            if found is None:
                return False
            self.columns = _moved(self._input, self._table, found[1])
            self._groups = list(groups_of(self.columns))
            self._groups.reverse()
        self.group = self._groups.pop()
        return True


async def _groups(
    store: ObjectStore, inputs: Sequence[_Input], table: str
) -> AsyncGenerator[tuple[Columns, int, int, tuple[int, int]], None]:
    """Rows of one partition after the other, of each the sources' in their order: columns, first, following, place."""
    cursors = []
    heap: list[tuple[tuple[int, int], int]] = []
    for number, one in enumerate(inputs):
        blocks = read_blocks(store, one.rollup, one.rollup.footer.blocks_of(table), read_bytes=MERGE_READ_BYTES)
        cursor = _Cursor(one, table, blocks)
        cursors.append(cursor)
        if await cursor.advance():
            heap.append((cursor.group[0], number))
    heapq.heapify(heap)
    while heap:
        place, number = heap[0]
        cursor = cursors[number]
        _, first, following = cursor.group
        yield cursor.columns, first, following, place
        if await cursor.advance():
            heapq.heapreplace(heap, (cursor.group[0], number))
        else:
            heapq.heappop(heap)


def _rows(columns: Columns, first: int, following: int) -> Iterator[Row]:
    return zip(*(column[first:following] for column in columns), strict=True)


async def _by_partition(store: ObjectStore, inputs: Sequence[_Input], table: str) -> AsyncGenerator[list[Row], None]:
    held: list[Row] = []
    at: tuple[int, int] | None = None
    async for columns, first, following, place in _groups(store, inputs, table):
        if place != at and held:
            yield held
            held = []
        at = place
        held += _rows(columns, first, following)
    if held:
        yield held


async def _merge_sums(store: ObjectStore, inputs: Sequence[_Input], writer: TableWriter) -> None:
    waiting: list[Row] = []
    async with aclosing(_by_partition(store, inputs, PARTITIONS)) as partitions:
        async for rows in partitions:
            counts = [sum(column) for column in zip(*(row[2:6] for row in rows), strict=True)]
            newest = max(rows, key=lambda row: row[6])
            waiting.append((*rows[0][:2], *counts, *newest[6:]))
            if len(waiting) >= ROWS_AT_ONCE:
                writer.append_all(waiting)
                waiting = []
    writer.append_all(waiting)


async def _merge_stretches(store: ObjectStore, inputs: Sequence[_Input], writer: TableWriter) -> None:
    # Not partition by partition: where they do not add up, one may have as many as it has runs.
    made = Coalescing()
    waiting: list[Row] = []
    async with aclosing(_groups(store, inputs, STRETCHES)) as groups:
        async for columns, first, following, _ in groups:
            waiting += made.then(_rows(columns, first, following))
            if len(waiting) >= ROWS_AT_ONCE:
                writer.append_all(waiting)
                waiting = []
    writer.append_all([*waiting, *made.rest()])

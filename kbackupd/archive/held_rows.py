"""What a roll-up says of some topics, held in memory as it is stored, and decoded for one partition at a time.

A run takes some 10 to 30 bytes so; as a value it takes 800. Every block was read and judged when it came: what is
decoded later cannot prove damaged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kbackupd.archive.evidence import Said
from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.rollup_footers import said_rows
from kbackupd.archive.rollup_rows import OF_SEGMENTS
from kbackupd.archive.rollup_source import UsableRollup, read_stored_blocks
from kbackupd.archive.segments import WantedTopic
from kbackupd.format.tables import BlockRef, Columns, decode_block
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import ObjectRef
from kbackupd.store.protocol import ObjectStore

Place = tuple[int, int]
"""(topic's number, partition)."""

_SEGMENTS_NAMED = 4_000
"""Whose names are at hand: 0.4 KB each."""


class HeldRows:
    """One roll-up's rows of the topics that somebody wants; of each table the block used last is at hand, decoded.

    So who asks for partitions in their order decodes every block once. Threads may ask at the same time.
    """

    def __init__(
        self,
        rollup: UsableRollup,
        topics: Mapping[TopicId, int],
        blocks: Iterable[tuple[BlockRef, bytes | memoryview]],
    ) -> None:
        """As `read` makes it."""
        self._rollup = rollup
        self._topics = topics
        self._segments: dict[int, tuple[SegmentPlace, ObjectRef]] = {}
        by_table: dict[str, list[tuple[BlockRef, bytes | memoryview]]] = {}
        for block, stored in blocks:
            by_table.setdefault(block.table, []).append((block, stored))
        key = rollup.opened.ref.key
        self._tables = {table: _HeldTable(key, held) for table, held in by_table.items()}

    @classmethod
    async def read(cls, store: ObjectStore, rollup: UsableRollup, wanted: WantedTopic | None) -> HeldRows:
        """The rows of the topics `wanted` (None: all).

        Raises:
            CorruptObjectError: a block is damaged.
            KbackupError: the roll-up could not be read.
        """
        opened = rollup.opened
        topics = {
            topic_id: number
            for number, (topic_id, name) in enumerate(opened.footer.head.topics)
            if wanted is None or wanted(name)
        }
        numbers = sorted(topics.values())
        blocks = [block for block in opened.footer.blocks if block.table in OF_SEGMENTS and block.touches(numbers)]
        held: list[tuple[BlockRef, bytes | memoryview]] = []
        async for block, stored, _ in read_stored_blocks(store, opened, blocks):
            # A view keeps all that it is of: of a request's answer that may be more. Where the block lies does not tell
            # which of the two it is of: a request for earlier ones brings some of those again that came along.
            held.append((block, stored if stored.obj is opened.tail else bytes(stored)))
        return cls(rollup, topics, held)

    def tables(self, id: PartitionId, tables: Iterable[str]) -> dict[str, Columns]:
        """The partition's rows, of those of `tables` that have any."""
        topic = self._topics.get(id.topic_id)
        found: dict[str, Columns] = {}
        if topic is not None:
            place = (topic, id.partition)
            for table in tables:
                held = self._tables.get(table)
                if held is not None and (columns := held.rows(place)) is not None:
                    found[table] = columns
        return found

    def said(self, id: PartitionId, tables: Iterable[str] = OF_SEGMENTS) -> Iterator[Said]:
        """What the segments say of the partition, in no order: as their footers do, as far as `tables` repeat these."""
        found = self.tables(id, tables)
        if found:
            for row, said in said_rows(self._rollup.opened.footer.head.topics, found).items():
                place, ref = self._segment(row)
                yield Said(place, ref, said)

    def _segment(self, row: int) -> tuple[SegmentPlace, ObjectRef]:
        """Most segments have runs of many partitions: what names them is made once, as long as it is not too much."""
        held = self._segments.get(row)
        if held is None:
            if len(self._segments) >= _SEGMENTS_NAMED:
                self._segments = {}
            held = self._segments[row] = self.place(row), self._rollup.ref(row)
        return held

    def place(self, row: int) -> SegmentPlace:
        """Of that row of `segments`."""
        columns = self._rollup.segments
        return SegmentPlace(self._rollup.writer, columns[0][row], columns[1][row])

    def partitions(self, tables: Iterable[str]) -> set[PartitionId]:
        """Those that have rows in any of `tables`."""
        ids = {number: topic_id for topic_id, number in self._topics.items()}
        held = [self._tables[table] for table in tables if table in self._tables]
        places = {place for table in held for columns in table for place in zip(*columns[:2], strict=True)}
        return {PartitionId(ids[topic], partition) for topic, partition in places if topic in ids}


class _HeldTable:
    """One table's blocks, in the order of their rows."""

    def __init__(self, key: str, blocks: Sequence[tuple[BlockRef, bytes | memoryview]]) -> None:
        self._key = key
        self._blocks = blocks
        self._firsts = [(block.first_topic, block.first_partition) for block, _ in blocks]
        self._lasts = [(block.last_topic, block.last_partition) for block, _ in blocks]
        self._at_hand: tuple[int, Columns] = (-1, [])

    def __iter__(self) -> Iterator[Columns]:
        return map(self._decoded, range(len(self._blocks)))

    def rows(self, place: Place) -> Columns | None:
        """A partition's, in their order; None if there are none."""
        number, found = bisect_left(self._lasts, place), None
        while number < len(self._firsts) and self._firsts[number] <= place:
            columns = self._decoded(number)
            first, following = _range(columns, place)
            if first < following:
                cut = [column[first:following] for column in columns]
                if found is None:
                    found = cut
                else:
                    for held, values in zip(found, cut, strict=True):
                        held.extend(values)
            number += 1
        return found

    def _decoded(self, number: int) -> Columns:
        # One look at what another thread may replace.
        at, columns = self._at_hand
        if at != number:
            columns = decode_block(self._key, *self._blocks[number])
            self._at_hand = (number, columns)
        return columns


def _range(columns: Columns, place: Place) -> tuple[int, int]:
    """Where the partition's rows stand in a block."""
    topics, partitions = columns[:2]
    topic, partition = place
    first, following = bisect_left(topics, topic), bisect_left(topics, topic + 1)
    first = bisect_left(partitions, partition, first, following)
    return first, bisect_left(partitions, partition + 1, first, following)

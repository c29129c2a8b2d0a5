"""Roll-ups as they lie in a store: opened by their end, their blocks read by range, each checked before it is believed.

Keeps I5: a roll-up that cannot be fetched is an error. One that is damaged is a CorruptObjectError, and whoever asked
goes on without it.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.segments import SealedPlace
from kbackupd.format import keys
from kbackupd.format.container import TAIL_READ_BYTES, NeedMore
from kbackupd.format.rollup import Coverage, RollupFooter, open_rollup
from kbackupd.format.run_table import CODECS
from kbackupd.format.tables import (
    BY_TOPIC,
    COLUMNS,
    GAPS,
    IN_FLIGHT,
    PARTITIONS,
    RUNS,
    SEGMENTS,
    BlockRef,
    Columns,
    decode_block,
    empty_columns,
)
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.events import GapCause
from kbackupd.model.segment import RUN_FLAGS, Identity, ObjectRef
from kbackupd.store.protocol import ObjectStore

READ_BYTES = 4 << 20
"""Of neighbouring blocks, by one request."""
BRIDGED_BYTES = 64 << 10
"""Read along rather than asked for apart, where it lies between two blocks."""

Place = tuple[int, int]
"""(writer epoch, sequence)."""

_DIGEST = struct.Struct(">4q")
_DIGEST_AT = COLUMNS[SEGMENTS].index("digest_0")
_INDICES: Mapping[str, tuple[tuple[str, int], ...]] = {
    RUNS: (("flags", len(RUN_FLAGS)), ("codec", len(CODECS))),
    GAPS: (("cause", len(GapCause)),),
}
"""Table → its columns that point at values of the specification, and how many of these there are."""
_BODY_DIGEST_AT = COLUMNS[SEGMENTS].index("body_sha256_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRollup:
    at: keys.RollupKey
    ref: ObjectRef
    footer: RollupFooter
    size_bytes: int
    tail: bytes = b""
    """Of the blocks' bytes as many as came with the footer: those that all readers need."""

    @property
    def coverage(self) -> Coverage:
        return self.footer.head.coverage


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableRollup:
    """A roll-up and the list of the segments it covers: it can stand for them where a listing shows every one."""

    opened: OpenedRollup
    segments: Columns
    in_flight: Mapping[int, tuple[int, ...]]
    """Row of `segments` → what was in flight when it was sealed; left out where nothing was."""

    @property
    def writer(self) -> str:
        return self.opened.at.writer

    @property
    def stored_bytes(self) -> int:
        """Of the segments it covers."""
        return sum(self.segments[COLUMNS[SEGMENTS].index("size")])

    def places(self) -> Iterator[SegmentPlace]:
        return (SegmentPlace(self.writer, epoch, seq) for epoch, seq, _, _ in places_of(self.segments))

    def sealed(self) -> Iterator[SealedPlace]:
        earlier = dict(self.opened.footer.head.earlier)
        for row, (epoch, seq, _, _) in enumerate(places_of(self.segments)):
            yield SealedPlace(self.writer, epoch, seq, self.in_flight.get(row, ()), earlier.get(row, ()))

    def ref(self, row: int) -> ObjectRef:
        columns = self.segments
        key = keys.segment_key(self.writer, columns[0][row], columns[1][row], columns[2][row])
        return ObjectRef(key, self._hex(row, _DIGEST_AT))

    def body_sha256(self, row: int) -> str:
        return self._hex(row, _BODY_DIGEST_AT)

    def _hex(self, row: int, at: int) -> str:
        return _DIGEST.pack(*(column[row] for column in self.segments[at : at + 4])).hex()


async def open_stored(store: ObjectStore, key: str, identity: Identity | None) -> OpenedRollup:
    """The roll-up `key` by one or two suffix reads.

    Raises:
        CorruptObjectError, UnsupportedFormatError: it cannot be trusted, or not be understood.
        ObjectMissingError: it is gone.
    """
    at = keys.parse_rollup_key(key)
    assert at is not None, key
    length = TAIL_READ_BYTES
    while True:
        tail, size = await store.get_suffix(key, length)
        opened = open_rollup(key, tail, size, identity)
        if not isinstance(opened, NeedMore):
            footer, ref = opened
            held = footer.body_bytes - (size - len(tail))
            return OpenedRollup(
                at=at, ref=ref, footer=footer, size_bytes=size, tail=bytes(tail[:held]) if held > 0 else b""
            )
        length = opened.bytes


async def read_blocks(
    store: ObjectStore, rollup: OpenedRollup, blocks: Iterable[BlockRef], *, read_bytes: int = READ_BYTES
) -> AsyncIterator[tuple[BlockRef, Columns]]:
    """The blocks in the order of their bytes; one request's worth of them is held at a time.

    Raises:
        CorruptObjectError: one is not as the index says; those before have been delivered.
        ObjectMissingError: the roll-up went away.
    """
    async for block, _, columns in read_stored_blocks(store, rollup, blocks, read_bytes=read_bytes):
        yield block, columns


async def read_stored_blocks(
    store: ObjectStore, rollup: OpenedRollup, blocks: Iterable[BlockRef], *, read_bytes: int = READ_BYTES
) -> AsyncIterator[tuple[BlockRef, memoryview, Columns]]:
    """The same, and each block as it is stored: of the bytes that came with the footer, or of its request's.

    Raises: as `read_blocks`.
    """
    key, footer = rollup.ref.key, rollup.footer
    held_from = footer.body_bytes - len(rollup.tail)
    tail = memoryview(rollup.tail)
    for together in _together(sorted(blocks, key=lambda block: block.position), read_bytes):
        first, following = together[0].position, together[-1].end
        if first >= held_from:
            view = tail[first - held_from : following - held_from]
        else:
            view = memoryview(await store.get_range(key, first, following - first))
        for block in together:
            stored = view[block.position - first : block.end - first]
            columns = decode_block(key, block, stored)
            _check_rows(key, block, columns, footer)
            yield block, stored, columns


def _together(blocks: Sequence[BlockRef], read_bytes: int) -> list[list[BlockRef]]:
    groups: list[list[BlockRef]] = []
    for block in blocks:
        last = groups[-1] if groups else None
        if (
            last is not None
            and block.position - last[-1].end <= BRIDGED_BYTES
            and block.end - last[0].position <= read_bytes
        ):
            last.append(block)
        else:
            groups.append([block])
    return groups


def _check_rows(key: str, block: BlockRef, columns: Columns, footer: RollupFooter) -> None:
    """Every index points at something that is there, and sorted rows lie where the index says of the block.

    So who has read a block once can find a partition in it, and make values of its rows, whenever that is.
    """
    names = COLUMNS[block.table]
    if block.table in BY_TOPIC:
        places = list(zip(columns[0], columns[1], strict=True))
        said = (block.first_topic, block.first_partition), (block.last_topic, block.last_partition)
        if (places[0], places[-1]) != said or places[0][0] < 0 or places[-1][0] >= len(footer.head.topics):
            raise CorruptObjectError(key, f"block of {block.table} at byte {block.position}: topics out of order")
        if places != sorted(places):
            raise CorruptObjectError(key, f"block of {block.table} at byte {block.position}: rows out of order")
    if "segment" in names:
        rows = columns[names.index("segment")]
        if min(rows) < (-1 if block.table == PARTITIONS else 0) or max(rows) >= footer.segments:
            raise CorruptObjectError(key, f"block of {block.table} at byte {block.position}: no such segment")
    for name, values in _INDICES.get(block.table, ()):
        column = columns[names.index(name)]
        if min(column) < 0 or max(column) >= values:
            raise CorruptObjectError(key, f"block of {block.table} at byte {block.position}: no such {name}")


async def read_tables(
    store: ObjectStore, rollup: OpenedRollup, tables: Iterable[str], topics: Sequence[int] | None = None
) -> dict[str, Columns]:
    """Whole tables or, of those sorted by topic, the rows of some topics: ascending indices into the roll-up's own.

    Raises:
        CorruptObjectError: anything read is not as written.
    """
    found = {table: empty_columns(table) for table in tables}
    blocks = [
        block
        for block in rollup.footer.blocks
        if block.table in found and (topics is None or block.table not in BY_TOPIC or block.touches(topics))
    ]
    async for block, columns in read_blocks(store, rollup, blocks):
        held = found[block.table]
        if topics is None or block.table not in BY_TOPIC:
            ranges = [(0, block.rows)]
        else:
            ranges = [
                (first, following)
                for topic in topics
                if (first := bisect_left(columns[0], topic)) < (following := bisect_left(columns[0], topic + 1))
            ]
        for first, following in ranges:
            for column, values in zip(held, columns, strict=True):
                column.extend(values[first:following])
    return found


def places_of(segments: Columns) -> Iterable[tuple[int, int, int, int]]:
    """(writer epoch, sequence, sealed_ms, size) of each row of `segments`."""
    names = COLUMNS[SEGMENTS]
    take = itemgetter(*(names.index(name) for name in ("writer_epoch", "seq", "sealed_ms", "size")))
    return zip(*take(segments), strict=True)


async def with_segments(store: ObjectStore, opened: OpenedRollup) -> UsableRollup:
    """The roll-up and its list of segments; whether these are there is not asked.

    Raises:
        CorruptObjectError: the list is damaged.
    """
    tables = await read_tables(store, opened, (SEGMENTS, IN_FLIGHT))
    flying: dict[int, tuple[int, ...]] = {}
    for row, seq in zip(*tables[IN_FLIGHT], strict=True):
        flying[row] = (*flying.get(row, ()), seq)
    return UsableRollup(opened=opened, segments=tables[SEGMENTS], in_flight=flying)

"""What single batches near the cuts of an instant say: when a marker was written, under which epoch data was.

Owns that little is read, and that together which lies together: each run once, many at a time. What cannot be read is
not there, and what it would have told apart is not told apart.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import groupby

from kbackupd.archive.archive import Archive
from kbackupd.archive.history import PartitionHistory
from kbackupd.format.header import BatchHeader
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.model.positions import PartitionId
from kbackupd.restore.around_cut import AroundCut, begun_before, left_open_by, segment_of
from kbackupd.restore.decided import Decisions
from kbackupd.restore.told import Facts, LeftOpen, Marker

_READ_AHEAD_BYTES = 1 << 20
_READS_AT_ONCE = 32
"""With a run each: a few hundred MiB at the very most, where every run were of the largest batches."""


async def read_facts(archive: Archive, around: Callable[[PartitionId], AroundCut], decisions: Decisions) -> Facts:
    """Each run once for all that is asked of it, many at a time: an object store answers late and to all at once."""
    marker_ms: dict[tuple[PartitionId, int], int] = {}
    data_epochs: dict[tuple[PartitionId, int], int] = {}
    at_once = asyncio.Semaphore(_READS_AT_ONCE)
    partitions_at_once = asyncio.Semaphore(_READS_AT_ONCE)

    async def times(history: PartitionHistory, offsets: list[int]) -> None:
        async with at_once:
            async for header in _headers(archive, history, offsets[0], offsets[-1] + 1):
                if header.is_control:
                    marker_ms[history.id, header.base_offset] = header.max_timestamp

    async def epochs(history: PartitionHistory, first_offset: int, ended: Mapping[int, int]) -> None:
        newest: dict[int, int] = {}
        async with at_once:
            async for header in _headers(archive, history, first_offset, max(ended) + 1):
                if header.is_transactional and not header.is_control:
                    newest[header.producer_id] = header.producer_epoch
                elif (producer_id := ended.get(header.base_offset)) in newest:
                    data_epochs[history.id, header.base_offset] = newest[producer_id]

    async def of_partition(id: PartitionId, offsets: set[int], markers: Sequence[Marker]) -> None:
        # Its history is held as long as its reads are, and those of ten thousand others are not made yet.
        async with partitions_at_once, asyncio.TaskGroup() as reading:
            one = await asyncio.to_thread(around, id)
            unknown: dict[int, dict[int, int]] = {}
            for marker in markers:
                begun = begun_before(one, marker)
                if begun is not None:
                    data_epochs[id, marker.offset] = begun.producer_epoch
                else:
                    unknown.setdefault(segment_of(one.history, marker.offset), {})[marker.offset] = marker.producer_id
            for together in _by_run(one.history, sorted(offsets)):
                reading.create_task(times(one.history, together))
            for first_offset, ended in unknown.items():
                reading.create_task(epochs(one.history, first_offset, ended))

    asked: dict[PartitionId, tuple[set[int], set[Marker]]] = {}
    for marker in decisions.asks_time():
        asked.setdefault(marker.id, (set(), set()))[0].add(marker.offset)
    for marker in decisions.asks_epoch():
        asked.setdefault(marker.id, (set(), set()))[1].add(marker)
    async with asyncio.TaskGroup() as group:
        for id, (offsets, of_epoch) in asked.items():
            group.create_task(of_partition(id, offsets, sorted(of_epoch)))
    return Facts(marker_ms=marker_ms, data_epochs=data_epochs)


def _by_run(history: PartitionHistory, offsets: Sequence[int]) -> Iterator[list[int]]:
    """The ascending offsets, those that are read from one place together."""
    firsts = [one.first_offset for one in history.slices]
    for _, together in groupby(offsets, key=lambda offset: bisect_right(firsts, offset)):
        yield list(together)


async def _headers(
    archive: Archive, history: PartitionHistory, first_offset: int, next_offset: int
) -> AsyncGenerator[BatchHeader, None]:
    """What cannot be read is not there: whoever would have been told apart by it is not."""
    reading = archive.read(
        history.id,
        first_offset=first_offset,
        next_offset=next_offset,
        history=history,
        read_ahead_bytes=_READ_AHEAD_BYTES,
    )
    try:
        async with aclosing(reading):
            async for batch in reading:
                yield batch.header
    except (CorruptObjectError, ObjectMissingError):
        return


async def begun_in_lost_tails(
    archive: Archive,
    cut_back: Sequence[PartitionId],
    around: Callable[[PartitionId], AroundCut],
    *,
    besides: Sequence[LeftOpen],
) -> list[LeftOpen]:
    """Of logs that were cut back since: what was begun by the instant and has no marker in the tail that was lost.

    A footer tells what was open at the end of the log that went on; of a tail that was lost within the same segment
    only its batches tell.

    Args:
        besides: what footers tell.
    """
    at_once = asyncio.Semaphore(_READS_AT_ONCE)
    known = {(row.id, row.producer_id) for row in besides}

    async def tail(id: PartitionId) -> list[LeftOpen]:
        async with at_once:
            there = await asyncio.to_thread(around, id)
            history, begun = there.history, dict[int, int]()
            first_offset = max(min(there.cut.stable_offset, there.cut.next_offset), history.first_offset)
            async for header in _headers(archive, history, first_offset, history.next_offset):
                if header.is_control:
                    begun.pop(header.producer_id, None)
                elif header.is_transactional and header.base_offset < there.begun_below:
                    begun.setdefault(header.producer_id, header.producer_epoch)
        return [
            left_open_by(history, producer_id, epoch)
            for producer_id, epoch in begun.items()
            if (id, producer_id) not in known
        ]

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(tail(id)) for id in cut_back]
    return [row for task in reading for row in task.result()]

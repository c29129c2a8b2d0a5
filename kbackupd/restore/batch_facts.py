"""What single batches near the cuts of an instant say: when a marker was written, under which epoch data was.

Owns that little is read, and that together which lies together: each run once, many at a time. What cannot be read is
not there, and what it would have told apart is not told apart.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import groupby

from kbackupd.archive.archive import Archive
from kbackupd.archive.history import PartitionHistory
from kbackupd.format.header import BatchHeader
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.model.positions import PartitionId
from kbackupd.restore.around_cut import AroundCut, begun_before, last_marker, segment_of
from kbackupd.restore.decided import Decisions
from kbackupd.restore.told import Facts, LeftOpen

_READ_AHEAD_BYTES = 1 << 20
_READS_AT_ONCE = 32
"""With a run each: a few hundred MiB at the very most, where every run were of the largest batches."""


async def read_facts(archive: Archive, there: Mapping[PartitionId, AroundCut], decisions: Decisions) -> Facts:
    """Each run once for all that is asked of it, many at a time: an object store answers late and to all at once."""
    marker_ms: dict[tuple[PartitionId, int], int] = {}
    data_epochs: dict[tuple[PartitionId, int], int] = {}
    at_once = asyncio.Semaphore(_READS_AT_ONCE)

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

    asked: dict[PartitionId, set[int]] = {}
    for marker in decisions.asks_time():
        asked.setdefault(marker.id, set()).add(marker.offset)
    unknown: dict[tuple[PartitionId, int], dict[int, int]] = {}
    for marker in decisions.asks_epoch():
        one = there[marker.id]
        begun = begun_before(one, marker)
        if begun is not None:
            data_epochs[marker.id, marker.offset] = begun.producer_epoch
            continue
        unknown.setdefault((marker.id, segment_of(one.history, marker.offset)), {})[marker.offset] = marker.producer_id
    async with asyncio.TaskGroup() as group:
        for id, offsets in asked.items():
            history = there[id].history
            for together in _by_run(history, sorted(offsets)):
                group.create_task(times(history, together))
        for (id, first_offset), ended in unknown.items():
            group.create_task(epochs(there[id].history, first_offset, ended))
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


async def begun_in_lost_tails(archive: Archive, there: Sequence[AroundCut]) -> list[LeftOpen]:
    """Of logs that were cut back since: what was begun by the instant and has no marker in the tail that was lost.

    A footer tells what was open at the end of the log that went on; of a tail that was lost within the same segment
    only its batches tell.
    """
    at_once = asyncio.Semaphore(_READS_AT_ONCE)

    async def tail(one: AroundCut) -> list[LeftOpen]:
        history, begun = one.history, dict[int, int]()
        first_offset = max(min(one.cut.stable_offset, one.cut.next_offset), history.first_offset)
        async with at_once:
            async for header in _headers(archive, history, first_offset, history.next_offset):
                if header.is_control:
                    begun.pop(header.producer_id, None)
                elif header.is_transactional and header.base_offset < one.begun_below:
                    begun.setdefault(header.producer_id, header.producer_epoch)
        return [
            LeftOpen(history.id, producer_id, epoch, history.next_offset, last_marker(history, producer_id))
            for producer_id, epoch in begun.items()
        ]

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(tail(one)) for one in there if one.was_cut_back]
    return [row for task in reading for row in task.result()]

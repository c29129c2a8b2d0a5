"""From a partition's history to its record batches: ranges read ahead, checked, decompressed, each offset once.

Owns the read-ahead and its bound in bytes. Every stored byte passes its CRC-32C before anybody sees it; what fails is a
CorruptObjectError that names object, topic, partition and offsets.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kbackupd.archive.history import PartitionHistory, Slice, StoredRun
from kbackupd.archive.shared_reads import Extent, SharedReader, SharedReads
from kbackupd.format.batch import iter_batches
from kbackupd.format.header import BatchHeader, MalformedBatchError
from kbackupd.format.run import describe_run
from kbackupd.format.segment import run_bytes
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.segment import CODEC_NONE, Run
from kbackupd.store.protocol import ObjectStore

READ_AHEAD_BYTES = 64 << 20
LARGE_AT_ONCE = 4
"""Under way at most where not all may be held decompressed: one alone would wait for the store each time."""
COALESCE_BYTES = 8 << 20
"""Adjacent runs are read by one request up to this size."""
INLINE_BYTES = 64 << 10
"""So little is decompressed in less time than a thread takes to be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A whole record batch as the broker sent it, and which of its offsets it is to be read for.

    `[first_offset, next_offset)` lies within the batch. It is less than the batch where the partition's coverage, the
    caller's range, a branch or a batch delivered before ends inside it: records outside are to be dropped. No two
    batches of one reading overlap in it, and each batch is delivered at most once.
    """

    header: BatchHeader
    data: memoryview
    """Header and payload, byte for byte; valid as long as it is held."""
    run: Run
    key: str
    """Of the segment it was read from."""
    first_offset: int
    next_offset: int

    @property
    def whole(self) -> bool:
        """Nothing is to be cut off. A compressed legacy message does not say where it begins: not certain there."""
        return self.first_offset <= self.header.base_offset and self.next_offset == self.header.next_offset


async def read_history(
    store: ObjectStore,
    history: PartitionHistory,
    *,
    topic: str,
    first_offset: int | None = None,
    next_offset: int | None = None,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
    shared: SharedReads | None = None,
) -> AsyncGenerator[StoredBatch, None]:
    """The batches of `history` within the range, in offset order; see `Archive.read`."""
    begin = history.first_offset if first_offset is None else max(first_offset, history.first_offset)
    end = history.next_offset if next_offset is None else min(next_offset, history.next_offset)
    wanted = [one for one in history.slices if one.first_offset < end and one.next_offset > begin]
    groups = _groups(wanted)
    # A copy: the deque is emptied while these are still being told.
    coming = (extent for group in list(groups) if (extent := group.extent) is not None)
    reader = None if shared is None else shared.reader(coming)
    # Not a TaskGroup: this generator suspends at its yields, and a group's cancellation scope must not span those. The
    # `finally` does what the group would: nothing under way outlives the loop over this generator.
    under_way: deque[_UnderWay] = deque()
    reserved_bytes = 0
    done = begin
    previous_end = begin
    try:
        while True:
            while groups:
                group = groups[0]
                unpacks = not under_way or reserved_bytes + group.cost_bytes <= read_ahead_bytes
                if not unpacks and not _fits_as_stored(under_way, group, read_ahead_bytes):
                    break
                groups.popleft()
                reserved_bytes += group.cost_bytes
                task = asyncio.create_task(_fetch(store, reader, group, topic, unpacks=unpacks))
                under_way.append(_UnderWay(group, task, unpacks))
            if not under_way:
                return
            group, task, unpacked = under_way[0]
            runs = await task
            if not unpacked:
                runs = await _unpacked(group, runs, topic)
            under_way.popleft()
            taken = 0
            for one in group.slices:
                limits = {(s.ref.key, s.run.position): history.limit_of(s) for s in one.sources}
                sources = list(zip(one.sources, runs[taken : taken + len(one.sources)], strict=True))
                taken += len(one.sources)
                # After a gap or hole nothing before the slice may be delivered: it is not covered.
                if one.first_offset > previous_end:
                    done = max(done, one.first_offset)
                previous_end = one.next_offset
                for stored, header, data in _merged(sources, topic):
                    limit = min(end, limits[stored.ref.key, stored.run.position])
                    # A compressed legacy message bears the offset of its last record: it begins where we are.
                    begins = done if header.is_legacy else header.base_offset
                    if begins >= min(one.next_offset, end):
                        break
                    take_first, take_next = max(begins, done), min(header.next_offset, limit)
                    if take_first >= take_next:
                        continue
                    yield StoredBatch(
                        header=header,
                        data=data,
                        run=stored.run,
                        key=stored.ref.key,
                        first_offset=take_first,
                        next_offset=take_next,
                    )
                    done = take_next
            reserved_bytes -= group.cost_bytes
    finally:
        for each in under_way:
            each.task.cancel()
        if reader is not None:
            reader.close()
        await asyncio.gather(*(each.task for each in under_way), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Group:
    """Slices whose bytes are read together: one request for adjacent runs, or one for each source of a merged slice."""

    slices: list[Slice]

    @property
    def runs(self) -> list[StoredRun]:
        return [stored for one in self.slices for stored in one.sources]

    @property
    def extent(self) -> Extent | None:
        """What one request gets it by; None where it takes several."""
        runs = self.runs
        if len(self.slices) == 1 and len(runs) > 1:
            return None
        first = runs[0]
        return Extent(first.ref.key, first.run.position, self.stored_bytes)

    @property
    def stored_bytes(self) -> int:
        return sum(stored.run.stored_bytes for stored in self.runs)

    @property
    def unpacked_bytes(self) -> int:
        """What decompressing takes; what was stored as it was takes no more."""
        return sum(stored.run.raw_bytes for stored in self.runs if stored.run.codec != CODEC_NONE)

    @property
    def cost_bytes(self) -> int:
        return self.stored_bytes + self.unpacked_bytes


def _fits_as_stored(under_way: Collection[_UnderWay], group: _Group, read_ahead_bytes: int) -> bool:
    """Whether there is room for `group` as well if it is decompressed only when its turn comes.

    What was delivered last is not counted: whoever holds a batch of it keeps all of it.
    """
    if len(under_way) >= LARGE_AT_ONCE:
        return False
    groups = [*(each.group for each in under_way), group]
    stored = sum(one.stored_bytes for one in groups)
    unpacked = sum(each.group.unpacked_bytes for each in under_way if each.unpacks)
    return stored + max(unpacked, *(one.unpacked_bytes for one in groups)) <= read_ahead_bytes


class _UnderWay(NamedTuple):
    group: _Group
    task: asyncio.Task[list[memoryview]]
    unpacks: bool
    """The task decompresses as well; else that is done when its turn comes."""


def _groups(slices: Sequence[Slice]) -> deque[_Group]:
    groups: deque[_Group] = deque()
    for one in slices:
        last = groups[-1].slices[-1] if groups else None
        if (
            last is not None
            and len(last.sources) == len(one.sources) == 1
            and last.key == one.key
            and last.run.position + last.run.stored_bytes == one.run.position
            and sum(s.run.stored_bytes for s in groups[-1].slices) + one.run.stored_bytes <= COALESCE_BYTES
        ):
            groups[-1].slices.append(one)
        else:
            groups.append(_Group([one]))
    return groups


async def _fetch(
    store: ObjectStore, reader: SharedReader | None, group: _Group, topic: str, *, unpacks: bool
) -> list[memoryview]:
    """The bytes of the group's runs, in the order of `group.runs`; stored ones unless it `unpacks`."""
    runs = group.runs
    pieces: list[memoryview] = []
    if (extent := group.extent) is not None:
        together = memoryview(await (store.get_range(*extent) if reader is None else reader.read(extent)))
        for stored in runs:
            at = stored.run.position - extent.first_byte
            pieces.append(together[at : at + stored.run.stored_bytes])
    else:
        for stored in runs:
            data = await store.get_range(stored.ref.key, stored.run.position, stored.run.stored_bytes)
            pieces.append(memoryview(data))
    return await _unpacked(group, pieces, topic) if unpacks else pieces


async def _unpacked(group: _Group, pieces: list[memoryview], topic: str) -> list[memoryview]:
    if max(group.unpacked_bytes, group.stored_bytes) <= INLINE_BYTES:
        return _unpack(group.runs, pieces, topic)
    return await asyncio.to_thread(_unpack, group.runs, pieces, topic)


def _unpack(runs: Sequence[StoredRun], pieces: Sequence[memoryview], topic: str) -> list[memoryview]:
    raw: list[memoryview] = []
    for stored, piece in zip(runs, pieces, strict=True):
        try:
            raw.append(memoryview(run_bytes(stored.run, piece)))
        except CorruptObjectError as error:
            reason = error.reason.removeprefix(f"{describe_run(stored.run)}: ")
            raise _run_error(stored, topic, reason) from error
    return raw


def _merged(
    sources: Sequence[tuple[StoredRun, memoryview]], topic: str
) -> Iterator[tuple[StoredRun, BatchHeader, memoryview]]:
    """The batches of several captures in offset order; of those with one base offset the one with the most records.

    A compaction only takes records out of a batch, so that one holds what any of them does. Which was captured first
    says less: clocks step, and two writers have two.
    """
    if len(sources) == 1:
        yield from _batches(*sources[0], topic)
        return
    # Stable: of equal base offsets the earlier source comes first.
    captures = [_batches(*source, topic) for source in sources]
    in_order = heapq.merge(*captures, key=lambda item: item[1].base_offset)
    for _, alike in itertools.groupby(in_order, key=lambda item: item[1].base_offset):
        yield max(alike, key=lambda item: item[1].record_count)


def _batches(stored: StoredRun, raw: memoryview, topic: str) -> Iterator[tuple[StoredRun, BatchHeader, memoryview]]:
    try:
        for header, data in iter_batches(raw):
            yield stored, header, data
    except MalformedBatchError as error:
        raise _run_error(stored, topic, str(error)) from error


def _run_error(stored: StoredRun, topic: str, reason: str) -> CorruptObjectError:
    run = stored.run
    return CorruptObjectError(
        stored.ref.key,
        f"{topic}/{run.id.partition} offsets [{run.first_offset}, {run.next_offset}): {reason}",
        hint="kbackupd validate --deep says what else is damaged; put the object back from a copy of the archive",
    )

"""What a starting daemon must know of its earlier lives, at a cost that does not grow with the archive's age.

The newest readable checkpoint, then the footers of the segments it does not cover (docs/format.md, Checkpoints). With
every checkpoint gone, the footers alone give the same state (invariant I3). Anything that cannot be read for certain is
an error, never "absent" (I5); what is certainly damaged is left out, its offsets are captured again and it is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from kbackupd.archive.catalog import bounded
from kbackupd.archive.identity import newest_number
from kbackupd.archive.writer_state import WriterState
from kbackupd.format import keys
from kbackupd.format.checkpoint import decode_checkpoint
from kbackupd.format.container import TAIL_READ_BYTES, NeedMore
from kbackupd.format.segment import open_footer
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.model.segment import Checkpoint, EarlierEpoch, Footer, Identity, ObjectRef
from kbackupd.store.protocol import ObjectStore

_READ_AHEAD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    state: WriterState
    earlier: tuple[EarlierEpoch, ...]
    """What this life's first footers declare about the lives before."""
    footers_read: int
    damaged: tuple[str, ...]
    """Keys of objects of this writer that are there and cannot be trusted."""


async def recover(store: ObjectStore, *, writer: str, writer_epoch: int, identity: Identity) -> Recovery:
    """Rebuild the writer's state as of its last durable segment.

    Args:
        writer_epoch: the epoch just claimed; only earlier ones are read.

    Raises:
        KbackupError: the store could not be read for certain.
    """
    damaged: list[str] = []
    checkpoint = await newest_checkpoint(store, writer=writer, before=writer_epoch, identity=identity, damaged=damaged)
    state = WriterState.from_checkpoint(checkpoint) if checkpoint else WriterState(writer)
    last: dict[int, ObjectRef] = {}
    if state.chain_head and (at := keys.parse_segment_key(state.chain_head.key)):
        last[at.writer_epoch] = state.chain_head
    read = 0
    first_epoch = checkpoint.writer_epoch if checkpoint else 1
    settled = await _declared(store, writer, identity, range(first_epoch + 1, writer_epoch))
    async for chunk in _uncovered_keys(store, state, writer, settled, epochs=range(first_epoch, writer_epoch)):
        footers = await bounded(chunk, lambda key: read_footer(store, key, identity))
        for key, opened in zip(chunk, footers, strict=True):
            if opened is None:
                damaged.append(key)
                continue
            footer, ref = opened
            state.apply(footer, ref)
            last[footer.writer_epoch] = ref
            read += 1
    return Recovery(
        state=state,
        earlier=state.earlier_epochs(writer_epoch, last),
        footers_read=read,
        damaged=tuple(damaged),
    )


async def newest_checkpoint(
    store: ObjectStore, *, writer: str, before: int, identity: Identity, damaged: list[str]
) -> Checkpoint | None:
    """The newest checkpoint of an epoch below `before` that can be read; keys of unreadable ones go to `damaged`."""
    for epoch in range(before - 1, 0, -1):
        prefix = keys.checkpoints_prefix(writer, epoch)
        newest = await newest_number(store, prefix, partial(keys.checkpoint_key, writer, epoch), first=0)
        for number in range(newest if newest is not None else -1, -1, -1):
            key = keys.checkpoint_key(writer, epoch, number)
            try:
                return decode_checkpoint(key, await store.get(key), identity)
            except ObjectMissingError:
                continue
            except CorruptObjectError:
                damaged.append(key)
    return None


async def _declared(
    store: ObjectStore, writer: str, identity: Identity, epochs: range
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Writer epoch → its durable sequences, as the first footers of later `epochs` declare them.

    What is there and not among them was abandoned: it came after the next life had recovered and gone on, perhaps on
    another branch. That life's positions must come out again, whether a checkpoint remembers them or not.
    """
    declared: dict[int, tuple[tuple[int, int], ...]] = {}
    for first in range(epochs.start, epochs.stop, _READ_AHEAD):
        some = range(first, min(first + _READ_AHEAD, epochs.stop))
        for footer in await bounded(some, lambda epoch: _first_footer(store, writer, epoch, identity)):
            for row in footer.earlier if footer else ():
                declared[row.writer_epoch] = row.durable
    return declared


async def _first_footer(store: ObjectStore, writer: str, epoch: int, identity: Identity) -> Footer | None:
    """Of the lowest readable sequence of the epoch; None if there is none."""
    async for info in store.list_from(keys.segments_prefix(writer, epoch)):
        if keys.parse_segment_key(info.key) is None:
            continue
        opened = await read_footer(store, info.key, identity)
        if opened is not None:
            return opened[0]
    return None


async def _uncovered_keys(
    store: ObjectStore,
    state: WriterState,
    writer: str,
    settled: Mapping[int, tuple[tuple[int, int], ...]],
    *,
    epochs: range,
) -> AsyncIterator[list[str]]:
    """Keys of segments the state does not cover and no later life abandoned, in order, `_READ_AHEAD` at a time."""
    chunk: list[str] = []
    # Epochs before the checkpoint's were settled by the life that wrote it: what shows up there later is abandoned.
    for epoch in epochs:
        covered = tuple(state.coverage.get(epoch, ()))
        after = ""
        if covered and covered[0][0] == 0:
            after = keys.segment_seq_prefix(writer, epoch, covered[0][1])
        async for info in store.list_from(keys.segments_prefix(writer, epoch), start_after=after):
            at = keys.parse_segment_key(info.key)
            if at is None or _within(covered, at.seq):
                continue
            if epoch not in settled or _within(settled[epoch], at.seq):
                chunk.append(info.key)
            if len(chunk) == _READ_AHEAD:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _within(ranges: Iterable[tuple[int, int]], seq: int) -> bool:
    return any(first <= seq < next_seq for first, next_seq in ranges)


async def read_footer(store: ObjectStore, key: str, expect: Identity | None) -> tuple[Footer, ObjectRef] | None:
    """A segment's footer by one or two suffix GETs; None if the object is certainly damaged."""
    length = TAIL_READ_BYTES
    try:
        for _ in range(2):
            tail, size = await store.get_suffix(key, length)
            opened = await asyncio.to_thread(open_footer, key, tail, size, expect)
            if not isinstance(opened, NeedMore):
                return opened
            length = opened.bytes
    except CorruptObjectError:
        return None
    return None

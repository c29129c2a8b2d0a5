"""Reading one partition out of the archive, in chunks, past whatever is damaged.

Owns the rule that damage costs the records it hit and no others: the run that cannot be read is told as a range, and
reading goes on behind it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from kbackupd.archive.archive import StoredBatch
from kbackupd.archive.history import PartitionHistory, Slice
from kbackupd.archive.shared_reads import SharedReads
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.model.positions import OffsetRange, PartitionId

CHUNK_BYTES = 1 << 20
"""What is rewritten at a time, off the event loop."""


class BatchSource(Protocol):
    """What this module needs of an archive."""

    def read(
        self,
        id: PartitionId,
        *,
        first_offset: int | None = None,
        next_offset: int | None = None,
        history: PartitionHistory | None = None,
        read_ahead_bytes: int = ...,
        shared: SharedReads | None = ...,
    ) -> AsyncIterator[StoredBatch]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive batches, together about CHUNK_BYTES."""

    batches: tuple[StoredBatch, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Offsets whose bytes are not what was written, or not there any more."""

    offsets: OffsetRange
    records: int
    """By the index of the run; it may count more than `offsets` hold."""
    reason: str


async def read_partition(
    archive: BatchSource, history: PartitionHistory, *, read_ahead_bytes: int, shared: SharedReads | None = None
) -> AsyncGenerator[Chunk | Unreadable, None]:
    """Everything the archive holds on `history`, in offset order.

    Raises:
        KbackupError: the store could not say (I5); damage is not raised but delivered.
    """
    position = history.first_offset
    while position < history.next_offset:
        try:
            reading = _chunks(archive, history, position, history.next_offset, read_ahead_bytes, shared)
            async with aclosing(reading) as chunks:
                async for chunk in chunks:
                    yield chunk
                    position = chunk.batches[-1].next_offset
            return
        except (CorruptObjectError, ObjectMissingError):
            pass
        # Ranges are fetched together, so the failure may belong to a later run than the first one not delivered:
        # that one is tried alone, and only if it fails by itself it is given up.
        one = _slice_at(history, position)
        if one is None:
            return
        first = max(position, one.first_offset)
        try:
            async with aclosing(_chunks(archive, history, first, one.next_offset, 0, None)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    first = chunk.batches[-1].next_offset
        except (CorruptObjectError, ObjectMissingError) as error:
            lost = OffsetRange(first, max(one.next_offset, first))
            yield Unreadable(offsets=lost, records=one.run.records, reason=str(error))
        position = max(one.next_offset, position)


async def _chunks(
    archive: BatchSource,
    history: PartitionHistory,
    first_offset: int,
    next_offset: int,
    read_ahead_bytes: int,
    shared: SharedReads | None,
) -> AsyncGenerator[Chunk, None]:
    gathered: list[StoredBatch] = []
    size = 0
    batches = archive.read(
        history.id,
        first_offset=first_offset,
        next_offset=next_offset,
        history=history,
        read_ahead_bytes=read_ahead_bytes,
        shared=shared,
    )
    failure: CorruptObjectError | ObjectMissingError | None = None
    try:
        async for batch in batches:
            gathered.append(batch)
            size += len(batch.data)
            if size >= CHUNK_BYTES:
                yield Chunk(batches=tuple(gathered), size_bytes=size)
                gathered, size = [], 0
    except (CorruptObjectError, ObjectMissingError) as error:
        failure = error
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()  # ends the requests under way
    if gathered:
        yield Chunk(batches=tuple(gathered), size_bytes=size)
    if failure is not None:
        raise failure


def _slice_at(history: PartitionHistory, position: int) -> Slice | None:
    return next((one for one in history.slices if one.next_offset > position), None)

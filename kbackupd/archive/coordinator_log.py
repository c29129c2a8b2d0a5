"""One partition of a coordinator's topic, read as its coordinator would replay it: records, markers, and what is lost.

Owns the order (offsets, each once) and honesty about what is missing: a range that is not in the archive, or cannot be
read by this version, is told in its place, so that whoever folds the log knows which of its findings it shakes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from kbackupd.archive.archive import Archive, StoredBatch
from kbackupd.archive.coordinator_items import (
    NO_PRODUCER_ID,
    CoordinatorBatch,
    CoordinatorMarker,
    CoordinatorRecord,
    LogItem,
    LostRange,
)
from kbackupd.archive.history import PartitionHistory
from kbackupd.format.batch import MalformedBatchError, marker_type
from kbackupd.format.codecs import PayloadError, UnknownCodecError
from kbackupd.format.records import MalformedRecordError, decode_record
from kbackupd.format.stored_records import records_of
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.model.events import GAP_MEANING

READ_AHEAD_BYTES = 16 << 20
"""Of one partition; a caller reads one after the other, or a few at a time."""


async def read_coordinator_log(
    archive: Archive,
    history: PartitionHistory,
    *,
    next_offset: int,
    first_offset: int = 0,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
) -> AsyncGenerator[LogItem, None]:
    """What `history` holds of `[first_offset, next_offset)`, in offset order; what lies beyond its end is lost.

    Damage ends the reading with a lost range up to `next_offset`; it is never raised. Memory is bounded as of
    `Archive.read`.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    missing = _missing(history, max(first_offset, history.first_offset), next_offset)
    at = first_offset
    reading = archive.read(
        history.id,
        first_offset=first_offset,
        next_offset=next_offset,
        history=history,
        read_ahead_bytes=read_ahead_bytes,
    )
    try:
        async with aclosing(reading):
            async for batch in reading:
                while missing and missing[-1].first_offset <= batch.first_offset:
                    yield missing.pop()
                at = batch.next_offset
                found = _read(batch)
                if found is not None:
                    yield found
    except (CorruptObjectError, ObjectMissingError) as damage:
        yield LostRange(first_offset=at, next_offset=next_offset, reason=str(damage))
        return
    while missing:
        yield missing.pop()


def _missing(history: PartitionHistory, first_offset: int, next_offset: int) -> list[LostRange]:
    """Gaps and holes of the range, and what capture never reached; the first one last."""
    found = [(gap.first_offset, gap.next_offset, GAP_MEANING[gap.cause]) for gap in history.gaps]
    found += [(hole.first_offset, hole.next_offset, "missing, and nothing explains it") for hole in history.holes]
    found.append((history.next_offset, next_offset, "not captured"))
    clipped = ((max(low, first_offset), min(high, next_offset), reason) for low, high, reason in found)
    return [
        LostRange(first_offset=low, next_offset=high, reason=reason)
        for low, high, reason in sorted(clipped, reverse=True)
        if low < high
    ]


def _read(batch: StoredBatch) -> LogItem | None:
    header = batch.header
    if header.is_control:
        committed = marker_type(header, batch.data)
        if committed is None:
            return None
        return CoordinatorMarker(header.base_offset, header.producer_id, header.producer_epoch, committed)
    try:
        records = tuple(_records(batch))
    except (UnknownCodecError, PayloadError, MalformedRecordError, MalformedBatchError) as problem:
        return LostRange(first_offset=batch.first_offset, next_offset=batch.next_offset, reason=str(problem))
    return CoordinatorBatch(
        first_offset=batch.first_offset,
        next_offset=batch.next_offset,
        producer_id=header.producer_id if header.is_transactional else NO_PRODUCER_ID,
        producer_epoch=header.producer_epoch,
        captured_ms=batch.run.captured_ms,
        compacted=batch.run.flags.holes,
        records=records,
    )


def _records(batch: StoredBatch) -> Iterable[CoordinatorRecord]:
    for record in records_of(batch.header, batch.data):
        if not batch.first_offset <= record.offset < batch.next_offset:
            continue
        key, value, _ = decode_record(record.body)
        if key is None:
            raise MalformedRecordError(f"offset {record.offset}: a record without a key")
        yield CoordinatorRecord(record.offset, record.timestamp_ms, key, value)

"""One partition as a Kafka log file: the stored batches, one after the other, byte for byte (invariant I1).

Kafka's own DumpLogSegments reads it, provided that the file's name is its first offset in digits.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from kbackupd.archive.archive import Archive
from kbackupd.archive.history import GapSpan, PartitionHistory
from kbackupd.archive.new_file import NewFile
from kbackupd.model.errors import UsageError
from kbackupd.model.positions import OffsetRange

WRITE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpReport:
    """What was written, and what of the range is not in the archive."""

    output: Path
    topic: str
    topic_id: str
    partition: int
    branch: int
    first_offset: int
    """Base offset of the first batch, -1 if there is none; batches are written whole, so it may lie below the range."""
    next_offset: int
    batches: int
    bytes: int
    gaps: tuple[GapSpan, ...]
    holes: tuple[OffsetRange, ...]


def log_file_name(first_offset: int) -> str:
    """How Kafka names a log file: DumpLogSegments takes the first offset from it."""
    return f"{first_offset:020d}.log"


async def dump(
    archive: Archive,
    history: PartitionHistory,
    output: Path,
    *,
    first_offset: int | None = None,
    next_offset: int | None = None,
) -> DumpReport:
    """Write the batches of `history` that hold offsets of the range to `output`, which must not exist.

    A directory as `output` gets a file under Kafka's own name. On return the file is whole and durable (fsynced, also
    its name); on failure or cancellation there is no file under that name, and the unfinished one is removed.

    Raises:
        RefusedError: the file exists.
        UsageError: no batch holds an offset of the range that was asked for, and nothing of it is a hole; or there can
            be no such file, or its directory is not ours to write to.
        UnwritableError: the disk is full, read-only or broken.
        CorruptObjectError: stored bytes are damaged.
    """
    begin = history.first_offset if first_offset is None else max(first_offset, history.first_offset)
    end = history.next_offset if next_offset is None else min(next_offset, history.next_offset)
    ranged = first_offset is not None or next_offset is not None
    holes = tuple(hole for hole in history.holes if hole.first_offset < end and hole.next_offset > begin)
    if ranged and begin >= end:
        raise nothing_there(archive, history, first_offset, next_offset)
    file = await asyncio.to_thread(NewFile.create, output, log_file_name(begin))
    first, reached, count, written = -1, -1, 0, 0
    waiting: list[memoryview] = []
    held = 0
    try:
        async for batch in archive.read(history.id, first_offset=begin, next_offset=end, history=history):
            first = batch.header.base_offset if first < 0 else first
            reached = batch.header.next_offset
            count += 1
            waiting.append(batch.data)
            held += len(batch.data)
            if held >= WRITE_BYTES:
                await asyncio.to_thread(file.write, waiting)
                written, held, waiting = written + held, 0, []
        if ranged and not count and not holes:
            raise nothing_there(archive, history, first_offset, next_offset)
        await asyncio.to_thread(file.write, waiting)
        written += held
        await asyncio.to_thread(file.publish)
    finally:
        file.discard()
    return DumpReport(
        output=file.target,
        topic=archive.name_of(history.id),
        topic_id=history.id.topic_id,
        partition=history.id.partition,
        branch=history.branch,
        first_offset=first,
        next_offset=reached,
        batches=count,
        bytes=written,
        gaps=tuple(gap for gap in history.gaps if gap.first_offset < end and gap.next_offset > begin),
        holes=holes,
    )


def nothing_there(
    archive: Archive, history: PartitionHistory, first_offset: int | None, next_offset: int | None
) -> UsageError:
    """An empty file would look like a dump of something."""
    name = f"{archive.name_of(history.id)}/{history.id.partition}"
    wanted = f" from offset {first_offset}" if first_offset is not None else ""
    wanted += f" below offset {next_offset}" if next_offset is not None else ""
    first = min((one.first_offset for one in history.slices), default=None)
    held = f"batches between {first} and {history.slices[-1].next_offset}" if first is not None else "no batch at all"
    causes = ", ".join(sorted({gap.cause.value for gap in history.gaps}))
    return UsageError(
        f"the archive has no record batch of {name}{wanted}: nothing was written",
        hint=f"it has {held}" + (f"; gaps: {causes}" if causes else ""),
    )

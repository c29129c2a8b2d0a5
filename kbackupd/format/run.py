"""One run: gathered from fetched batches, stored, read back, and checked against what the footer says of it.

Nothing here changes a byte of a batch (invariant I1): a run's stored form is the chunks themselves, or one zstd frame
around them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import zstandard
from crc32c import crc32c

from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.format.codecs import LZ4, PayloadError, UnknownCodecError, decompress_payload
from kbackupd.format.frames import zstd_frame
from kbackupd.format.header import HEADER_BYTES, LENGTH_OVERHEAD, BatchHeader
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.path import RecordBatches
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import CODEC_NONE, CODEC_ZSTD, Run, RunFlag


@dataclass(slots=True, kw_only=True)
class RunDraft:
    """Consecutive batches of one partition, gathered until sealing; it holds the fetched bytes themselves."""

    id: PartitionId
    system: bool
    asked_offset: int
    first_offset: int
    next_offset: int
    branch: int
    replica: int
    captured_ms: int
    batches: int
    records: int
    flags: RunFlag
    base_timestamp_ms: int
    max_timestamp_ms: int
    largest_batch_bytes: int
    leader_epochs: tuple[tuple[int, int], ...]
    chunks: list[bytes | memoryview]
    compressed_bytes: int
    """Of `raw_bytes`, those in batches that their producer compressed."""
    raw_bytes: int

    @classmethod
    def of(cls, batches: RecordBatches) -> RunDraft:
        scan = batches.scan
        return cls(
            id=batches.id,
            system=batches.system,
            asked_offset=batches.asked_offset,
            first_offset=scan.first_offset,
            next_offset=scan.next_offset,
            branch=batches.branch,
            replica=batches.replica,
            captured_ms=batches.captured_ms,
            batches=scan.batches,
            records=scan.records,
            flags=scan.flags,
            base_timestamp_ms=scan.base_timestamp_ms,
            max_timestamp_ms=scan.max_timestamp_ms,
            largest_batch_bytes=scan.largest_batch_bytes,
            leader_epochs=scan.leader_epochs,
            chunks=[batches.chunk],
            compressed_bytes=scan.compressed_bytes,
            raw_bytes=len(batches.chunk),
        )

    def accepts(self, batches: RecordBatches) -> bool:
        """Whether `batches` go on where this run ends, so that both together are one valid piece of a log."""
        return (
            batches.id == self.id
            and batches.asked_offset == self.next_offset
            # A broker may answer with a batch that begins before the asked offset: behind the batch that already
            # covers its beginning, the log would run backwards.
            and batches.scan.first_offset >= self.next_offset
            and batches.branch == self.branch
            and batches.replica == self.replica
            and not self.flags.corrupt
            and not batches.scan.flags.corrupt
        )

    def append(self, batches: RecordBatches) -> None:
        """Take `batches`, which `accepts` said yes to."""
        scan = batches.scan
        self.next_offset = scan.next_offset
        self.captured_ms = batches.captured_ms
        if scan.flags != self.flags:
            self.flags |= scan.flags
        if scan.batches:
            self.base_timestamp_ms = (
                min(self.base_timestamp_ms, scan.base_timestamp_ms) if self.batches else scan.base_timestamp_ms
            )
            self.max_timestamp_ms = max(self.max_timestamp_ms, scan.max_timestamp_ms)
        self.batches += scan.batches
        self.records += scan.records
        self.largest_batch_bytes = max(self.largest_batch_bytes, scan.largest_batch_bytes)
        known = self.leader_epochs[-1][0] if self.leader_epochs else -1
        self.leader_epochs += tuple(pair for pair in scan.leader_epochs if pair[0] > known)
        self.chunks.append(batches.chunk)
        self.compressed_bytes += scan.compressed_bytes
        self.raw_bytes += len(batches.chunk)


class StoredForm(NamedTuple):
    """A run's bytes as they will lie in the segment."""

    parts: Sequence[bytes | memoryview]
    stored_bytes: int
    codec: str


def store_run(draft: RunDraft, compressor: zstandard.ZstdCompressor | None) -> StoredForm:
    """As it is (without a copy) if its producers compressed at least half of it, or if zstd makes it no smaller."""
    as_it_is = StoredForm(draft.chunks, draft.raw_bytes, CODEC_NONE)
    if compressor is None or draft.compressed_bytes * 2 >= draft.raw_bytes:
        return as_it_is
    if len(draft.chunks) == 1:
        parts = [zstd_frame(compressor, draft.chunks[0])]
    else:
        stream = compressor.compressobj(size=draft.raw_bytes)
        parts = [part for chunk in draft.chunks if (part := stream.compress(chunk))]
        parts.append(stream.flush())
    stored_bytes = sum(map(len, parts))
    return StoredForm(parts, stored_bytes, CODEC_ZSTD) if stored_bytes < draft.raw_bytes else as_it_is


def describe_run(run: Run) -> str:
    """Where a run is, for people: partition, offsets and byte position."""
    return f"run {run.id.topic_id}/{run.id.partition} {run.covers} at byte {run.position}"


def run_bytes(run: Run, stored: bytes | memoryview, *, key: str = "segment") -> bytes | memoryview:
    """The run's batches from its stored bytes, checksum checked; never more than `raw_bytes`.

    Where nothing was compressed they are `stored` itself.

    Raises:
        CorruptObjectError: length, checksum or compression do not fit; `key` names the object in it.
    """
    if len(stored) != run.stored_bytes:
        raise CorruptObjectError(key, f"{describe_run(run)}: {len(stored)} bytes instead of {run.stored_bytes}")
    if crc32c(stored) != run.crc32c:
        raise CorruptObjectError(key, f"{describe_run(run)}: CRC-32C of the stored bytes does not fit")
    if run.codec == CODEC_NONE:
        return stored
    try:
        if zstandard.frame_content_size(stored) != run.raw_bytes:
            raise CorruptObjectError(key, f"{describe_run(run)}: zstd frame is not of {run.raw_bytes} bytes")
        return zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as problem:
        raise CorruptObjectError(key, f"{describe_run(run)}: does not decompress: {problem}") from problem


class BatchFinding(NamedTuple):
    """Something about one batch of a run; `damage` is False where nothing is wrong but this version cannot look."""

    first_offset: int
    next_offset: int
    reason: str
    damage: bool


def run_findings(run: Run, raw: bytes | memoryview) -> Iterator[BatchFinding]:
    """Read every batch of a run: headers as the footer counts them, every CRC, every payload decompressed.

    A corrupt-at-source run is exempt: it holds what the broker served, and proves nothing.
    """
    if run.flags.corrupt:
        return
    scan = scan_batches(raw, asked_offset=run.asked_offset)
    if scan.good_bytes != len(raw):
        reason = "CRC or header damaged" if scan.corrupt_bytes else "batch cut off"
        yield BatchFinding(scan.next_offset, run.next_offset, f"{reason} at byte {scan.good_bytes} of the run", True)
        return
    counted = (
        ("first_offset", run.first_offset, scan.first_offset),
        ("next_offset", run.next_offset, scan.next_offset),
        ("batches", run.batches, scan.batches),
        ("records", run.records, scan.records),
        ("flags", int(run.flags), int(scan.flags)),
        ("base_timestamp", run.base_timestamp_ms, scan.base_timestamp_ms),
        ("max_timestamp", run.max_timestamp_ms, scan.max_timestamp_ms),
        ("largest_batch", run.largest_batch_bytes, scan.largest_batch_bytes),
        ("leader_epochs", run.leader_epochs, scan.leader_epochs),
    )
    for name, said, found in counted:
        if said != found:
            reason = f"{name} is {said} in the footer, {found} in the batches"
            yield BatchFinding(run.first_offset, run.next_offset, reason, True)
    yield from _payload_findings(raw)


def _payload_findings(raw: bytes | memoryview) -> Iterator[BatchFinding]:
    for header, batch in iter_batches(raw):
        # Old producers gave lz4 frames in magic 0 a wrong header checksum (KAFKA-3160): unreadable, but no damage.
        if not header.codec or (header.magic == 0 and header.codec == LZ4):
            continue
        try:
            decompress_payload(header.codec, _wrapped(header, batch) if header.is_legacy else batch[HEADER_BYTES:])
        except UnknownCodecError as problem:
            yield BatchFinding(header.base_offset, header.next_offset, str(problem), False)
        except PayloadError as problem:
            yield BatchFinding(header.base_offset, header.next_offset, str(problem), True)


def _wrapped(header: BatchHeader, message: memoryview) -> memoryview:
    """The value of a compressed legacy message: the message set inside."""
    # Behind offset, size, CRC, magic and attributes: the timestamp (magic 1 only), then key and value with lengths.
    position = LENGTH_OVERHEAD + 6 + 8 * header.magic
    try:
        (key_bytes,) = struct.unpack_from(">i", message, position)
        (value_bytes,) = struct.unpack_from(">i", message, position + 4 + max(key_bytes, 0))
    except struct.error as problem:
        raise PayloadError(f"legacy message ends inside its key: {problem}") from problem
    begins = position + 8 + max(key_bytes, 0)
    if value_bytes < 0 or begins + value_bytes != len(message):
        raise PayloadError("legacy wrapper message without a whole value")
    return message[begins:]

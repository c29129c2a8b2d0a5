"""Kafka's record batches by their headers: parse, walk, and the one pass that checks fetched bytes.

`scan_batches` is the hot path: every byte of the backup goes through it once. It reads 61 bytes a batch, checks the
CRC-32C over the fetched bytes where they lie, and never looks at a record (invariant I1: what is stored is what came).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from crc32c import crc32c

from kbackupd.format.header import (
    CONTROL,
    HEADER_BYTES,
    LENGTH_OVERHEAD,
    LOG_APPEND_TIME,
    MAX_OFFSET,
    MIN_LEGACY_BYTES,
    TRANSACTIONAL,
    BatchHeader,
    MalformedBatchError,
    crc_holds,
    parse_header,
)
from kbackupd.format.markers import TransactionScan, marker_type
from kbackupd.model.path import BatchScan
from kbackupd.model.segment import RUN_FLAGS, RunFlag

__all__ = [
    "HEADER_BYTES",
    "BatchHeader",
    "BatchesEnd",
    "MalformedBatchError",
    "crc_holds",
    "iter_batches",
    "marker_type",
    "parse_header",
    "scan_batches",
    "skim_batches",
]

_LEGACY_MAGIC = int(RunFlag.LEGACY_MAGIC)
_SCANNED = struct.Struct(">qiibIhiqq14xi")
"""A header without producer id, epoch and sequence, which only transactional batches are asked for."""


def iter_batches(buf: bytes | bytearray | memoryview) -> Iterator[tuple[BatchHeader, memoryview]]:
    """Every batch of `buf`, header and whole bytes, without a copy; CRCs are not checked (`crc_holds` does).

    Raises:
        MalformedBatchError: what follows is not a whole batch; all before it has been yielded.
    """
    view = memoryview(buf)
    position, total = 0, len(view)
    while position < total:
        header = parse_header(view, position)
        yield header, view[position : position + header.size_bytes]
        position += header.size_bytes


def scan_batches(records: bytes | memoryview, *, asked_offset: int) -> BatchScan:
    """One pass over fetched bytes: what their headers say, up to the first batch that is incomplete or corrupt.

    Never raises for whatever bytes. Nothing is dropped for lying below `asked_offset` (a fetch may begin inside a
    batch), but `next_offset` never falls below it.
    """
    view = memoryview(records)
    total = len(view)
    position = count_batches = count_records = compressed_bytes = largest = 0
    flags = attributes_seen = 0
    expected = first_offset = asked_offset
    last_epoch = -1
    base_timestamp_ms = max_timestamp_ms = -1
    epochs: list[tuple[int, int]] = []
    transactions: TransactionScan | None = None
    partial_needs = corrupt = 0
    unpack = _SCANNED.unpack_from
    last_header = total - HEADER_BYTES
    while position < total:
        if position > last_header or view[position + 16] != 2:
            found = _scan_odd(view, position)
            if isinstance(found, int):
                partial_needs, corrupt = max(found, 0), int(found < 0)
                break
            base, length, epoch, magic, crc, attributes, delta, base_ms, max_ms, _, _, _, count = found
            size = length + 12
            following = position + size
            holds = zlib.crc32(view[position + 16 : following]) == crc
            flags |= _LEGACY_MAGIC
        else:
            base, length, epoch, magic, crc, attributes, delta, base_ms, max_ms, count = unpack(view, position)
            size = length + 12
            following = position + size
            if size < 61 or delta < 0 or count < 0 or not 0 <= base <= MAX_OFFSET - delta:
                corrupt = 1
                break
            if following > total:
                partial_needs = size
                break
            holds = crc32c(view[position + 21 : following]) == crc
        # A base offset is outside the CRC: one that goes back is the only sign that it is damaged.
        if not holds or (base < expected and count_batches):
            corrupt = 1
            break
        if not count_batches:
            first_offset, base_timestamp_ms, max_timestamp_ms = base, base_ms, max_ms
        if (base > expected and (magic == 2 or not attributes & 7)) or (
            count != delta + 1 and not (attributes & 0x20 and count == 1)
        ):
            flags |= 1
        expected = base + delta + 1
        count_batches += 1
        count_records += count
        if attributes:
            attributes_seen |= attributes
            if attributes & 7:
                compressed_bytes += size
            if attributes & 0x10:
                if transactions is None:
                    transactions = TransactionScan()
                transactions.see(view[position:following])
        if epoch > last_epoch:
            last_epoch = epoch
            epochs.append((epoch, base))
        if base_ms < base_timestamp_ms:
            base_timestamp_ms = base_ms
        if max_ms > max_timestamp_ms:
            max_timestamp_ms = max_ms
        if size > largest:
            largest = size
        position = following
    left = total - position
    return BatchScan(
        first_offset=first_offset,
        next_offset=max(expected, asked_offset),
        batches=count_batches,
        records=count_records,
        flags=_run_flags(flags, attributes_seen),
        base_timestamp_ms=base_timestamp_ms,
        max_timestamp_ms=max_timestamp_ms,
        largest_batch_bytes=largest,
        leader_epochs=tuple(epochs),
        markers=tuple(transactions.markers) if transactions else (),
        begun=tuple(transactions.begun) if transactions else (),
        good_bytes=position,
        compressed_bytes=compressed_bytes,
        partial_bytes=0 if corrupt else left,
        partial_needs_bytes=partial_needs,
        corrupt_bytes=left if corrupt else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchesEnd:
    """Where fetched bytes end, as their headers say."""

    next_offset: int
    leader_epoch: int
    batches: int


def skim_batches(records: bytes, *, batches_max: int) -> BatchesEnd | None:
    """Where the whole batches of `records` end; no CRC is checked, so nothing may be believed but what to ask next.

    Returns:
        None if that takes more than `batches_max` headers, or if there is anything but whole batches of magic 2 in
        order, and perhaps the beginning of one more.
    """
    position, total = 0, len(records)
    batches = 0
    next_offset = leader_epoch = -1
    unpack = _SCANNED.unpack_from
    while batches < batches_max:
        if total - position < HEADER_BYTES:
            break
        base, length, epoch, magic, _, _, delta, _, _, _ = unpack(records, position)
        if (
            magic != 2
            or length < HEADER_BYTES - LENGTH_OVERHEAD
            or delta < 0
            or not next_offset <= base <= MAX_OFFSET - delta
        ):
            return None
        if position + LENGTH_OVERHEAD + length > total:
            break
        position += LENGTH_OVERHEAD + length
        next_offset, leader_epoch = base + delta + 1, epoch
        batches += 1
    else:
        if position < total:
            return None
    return BatchesEnd(next_offset=next_offset, leader_epoch=leader_epoch, batches=batches) if position else None


def _run_flags(flags: int, attributes: int) -> RunFlag:
    if attributes & LOG_APPEND_TIME:
        flags |= RunFlag.LOG_APPEND_TIME
    if attributes & TRANSACTIONAL:
        flags |= RunFlag.TRANSACTIONAL
    if attributes & CONTROL:
        flags |= RunFlag.CONTROL
    return RUN_FLAGS[flags]


def _scan_odd(view: memoryview, position: int) -> BatchHeader | int:
    """What begins at `position` where no whole magic 2 header does: a legacy message, else how the bytes end.

    Returns:
        A whole legacy message's header; or, for an incomplete batch, its whole length (0 if unknown); or -1 for
        a senseless one.
    """
    remaining = len(view) - position
    if remaining < LENGTH_OVERHEAD:
        return 0
    base, length = struct.unpack_from(">qi", view, position)
    if base < 0 or length < MIN_LEGACY_BYTES - LENGTH_OVERHEAD:
        return -1
    size: int = length + LENGTH_OVERHEAD
    if remaining < 17:
        return size
    magic = view[position + 16]
    if magic == 2:
        return size if size >= HEADER_BYTES else -1
    if magic > 2:
        return -1
    if size > remaining:
        return size
    try:
        return parse_header(view, position)
    except MalformedBatchError:
        return -1

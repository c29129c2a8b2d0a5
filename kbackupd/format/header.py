"""One record batch's header: Kafka's magic 2, and the messages of magic 0 and 1 dressed up like it.

Source: KIP-98, `DefaultRecordBatch` and `AbstractLegacyRecordBatch` of Apache Kafka.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from crc32c import crc32c

HEADER_BYTES = 61
"""Of a magic 2 batch, up to its first record."""
LENGTH_OVERHEAD = 12
"""Bytes before what `batch_length` counts: base offset and the length itself."""
CRC_COVERS_FROM = 21
"""First byte of a magic 2 batch that its CRC-32C covers: not base offset, length, leader epoch, magic."""
MIN_LEGACY_BYTES = 26
"""Of a magic 0 message: offset, size, crc, magic, attributes and the lengths of key and value."""

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40

HEADER = struct.Struct(">qiibIhiqqqhii")
_LEGACY = struct.Struct(">qiIbb")
MAX_OFFSET = (1 << 63) - 2


class MalformedBatchError(ValueError):
    """The bytes at `position` are not a record batch."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"batch at byte {position}: {reason}")
        self.position = position
        self.reason = reason


class BatchHeader(NamedTuple):
    """Every field of a batch's header, by Kafka's names; a magic 0 or 1 message is dressed up as a batch of one."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    """Of the first record, not the minimum; with a delete horizon that horizon, to which deltas are relative."""
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def next_offset(self) -> int:
        """Never by the record count: compaction leaves holes inside."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def size_bytes(self) -> int:
        return LENGTH_OVERHEAD + self.batch_length

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def is_legacy(self) -> bool:
        return self.magic < 2

    @property
    def is_control(self) -> bool:
        return self.attributes & CONTROL != 0

    @property
    def is_transactional(self) -> bool:
        return self.attributes & TRANSACTIONAL != 0

    @property
    def is_log_append_time(self) -> bool:
        return self.attributes & LOG_APPEND_TIME != 0

    @property
    def has_delete_horizon(self) -> bool:
        return self.attributes & DELETE_HORIZON != 0

    @property
    def has_holes(self) -> bool:
        """Records were compacted away inside this batch."""
        return not self.is_legacy and self.record_count != self.last_offset_delta + 1


def parse_header(buf: bytes | bytearray | memoryview, position: int) -> BatchHeader:
    """The header of the whole batch (or legacy message) that begins at `position`; its CRC is not checked.

    Raises:
        MalformedBatchError: no whole batch begins there, or its header is senseless.
    """
    remaining = len(buf) - position
    if remaining < CRC_COVERS_FROM:
        raise MalformedBatchError(position, f"only {remaining} bytes are left")
    magic = buf[position + 16]
    if magic < 2:
        header = _parse_legacy(buf, position)
    elif magic == 2:
        if remaining < HEADER_BYTES:
            raise MalformedBatchError(position, f"only {remaining} bytes are left")
        header = BatchHeader._make(HEADER.unpack_from(buf, position))
        if header.size_bytes < HEADER_BYTES or header.last_offset_delta < 0 or header.record_count < 0:
            raise MalformedBatchError(position, "senseless length, last offset delta or record count")
    else:
        raise MalformedBatchError(position, f"unknown magic {magic}")
    if not 0 <= header.base_offset <= MAX_OFFSET - header.last_offset_delta:
        raise MalformedBatchError(position, f"senseless base offset {header.base_offset}")
    if header.size_bytes > remaining:
        raise MalformedBatchError(position, f"says {header.size_bytes} bytes, {remaining} are left")
    return header


def _parse_legacy(buf: bytes | bytearray | memoryview, position: int) -> BatchHeader:
    """A magic 0 or 1 message as a batch of one; bits 0-2 (codec) and 3 (LogAppendTime) mean what they mean in magic 2.

    A compressed one is a wrapper whose offset is that of the last message inside; how many are inside it does not say.
    """
    offset, length, crc, magic, attributes = _LEGACY.unpack_from(buf, position)
    if length < MIN_LEGACY_BYTES - LENGTH_OVERHEAD + 8 * magic:
        raise MalformedBatchError(position, "senseless message size")
    timestamp = -1
    if magic == 1:
        if len(buf) - position < MIN_LEGACY_BYTES:
            raise MalformedBatchError(position, "only part of a message is left")
        (timestamp,) = struct.unpack_from(">q", buf, position + 18)
    bits = attributes & (CODEC_MASK | LOG_APPEND_TIME if magic else CODEC_MASK)
    return BatchHeader(offset, length, -1, magic, crc, bits, 0, timestamp, timestamp, -1, -1, -1, 1)


def crc_holds(header: BatchHeader, batch: memoryview) -> bool:
    """Whether the batch's own checksum fits its bytes: CRC-32C from magic 2 on, IEEE CRC-32 in older messages."""
    if header.magic < 2:
        return zlib.crc32(batch[16:]) == header.crc
    return bool(crc32c(batch[CRC_COVERS_FROM:]) == header.crc)

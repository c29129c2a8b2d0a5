"""Records as they stand in a broker's log files, for names no client library decodes; shares nothing with `format/`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from kbackupd.testbed.truth import RawBatch

_RECORDS_BEGIN = 61
_CODEC_BITS, _ZSTD = 0b111, 4


class PlainRecord(NamedTuple):
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes | None, bytes | None], ...]


def plain_records(batches: Sequence[RawBatch]) -> list[PlainRecord]:
    """Of batches without transactions and deleted records, uncompressed or zstd."""
    found: list[PlainRecord] = []
    for batch in batches:
        (attributes,) = struct.unpack_from(">h", batch.data, 21)
        (base_timestamp_ms,) = struct.unpack_from(">q", batch.data, 27)
        (count,) = struct.unpack_from(">i", batch.data, 57)
        payload = batch.data[_RECORDS_BEGIN:]
        if attributes & _CODEC_BITS == _ZSTD:
            payload = zstandard.ZstdDecompressor().decompressobj().decompress(payload)
        cursor = _Cursor(payload)
        found += (_record(cursor, base_timestamp_ms) for _ in range(count))
    return found


def _record(cursor: _Cursor, base_timestamp_ms: int) -> PlainRecord:
    cursor.integer()
    cursor.position += 1
    timestamp_ms = base_timestamp_ms + cursor.integer()
    cursor.integer()
    key, value = cursor.content(), cursor.content()
    return PlainRecord(
        timestamp_ms, key, value, tuple((cursor.content(), cursor.content()) for _ in range(cursor.integer()))
    )


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def integer(self) -> int:
        number = shift = 0
        while True:
            byte = self.data[self.position]
            self.position += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number // 2 if number % 2 == 0 else -(number + 1) // 2

    def content(self) -> bytes | None:
        length = self.integer()
        if length < 0:
            return None
        self.position += length
        return self.data[self.position - length : self.position]

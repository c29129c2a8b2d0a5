"""Messages of magic 0 and 1, built here byte by byte from the protocol's description."""

from __future__ import annotations

import struct
import zlib

import pytest

from kbackupd.format.codecs import GZIP, SNAPPY, compress_payload
from kbackupd.format.header import parse_header
from kbackupd.format.legacy import iter_legacy
from kbackupd.format.records import MalformedRecordError, decode_record


def nullable(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def message(
    offset: int, key: bytes | None, value: bytes | None, *, magic: int, attributes: int = 0, timestamp_ms: int = 0
) -> bytes:
    inner = struct.pack(">bb", magic, attributes)
    if magic == 1:
        inner += struct.pack(">q", timestamp_ms)
    inner += nullable(key) + nullable(value)
    return struct.pack(">qiI", offset, len(inner) + 4, zlib.crc32(inner)) + inner


def read(data: bytes) -> list[tuple[int, int, bytes | None, bytes | None]]:
    found = []
    for record in iter_legacy(parse_header(data, 0), data):
        key, value, headers = decode_record(record.body)
        assert headers == ()
        found.append((record.offset, record.timestamp_ms, key, value))
    return found


def test_a_magic_0_message_has_no_timestamp_and_keeps_null_apart_from_empty() -> None:
    assert read(message(12, None, b"", magic=0)) == [(12, -1, None, b"")]
    assert read(message(12, b"", None, magic=0)) == [(12, -1, b"", None)]


def test_a_magic_1_message_keeps_its_timestamp() -> None:
    assert read(message(3, b"k", b"v", magic=1, timestamp_ms=1_700)) == [(3, 1_700, b"k", b"v")]


def test_a_magic_1_wrapper_holds_relative_offsets_that_end_at_its_own() -> None:
    inner = b"".join(message(n, None, b"%d" % n, magic=1, timestamp_ms=100 + n) for n in (0, 2, 3))
    wrapper = message(43, None, compress_payload(GZIP, inner), magic=1, attributes=GZIP, timestamp_ms=103)

    assert read(wrapper) == [(40, 100, None, b"0"), (42, 102, None, b"2"), (43, 103, None, b"3")]


def test_a_wrapper_with_log_append_time_stamps_all_its_records() -> None:
    inner = b"".join(message(n, None, b"x", magic=1, timestamp_ms=5) for n in range(2))
    wrapper = message(9, None, compress_payload(GZIP, inner), magic=1, attributes=GZIP | 8, timestamp_ms=777)

    assert [stamp for _, stamp, _, _ in read(wrapper)] == [777, 777]


def test_a_magic_0_wrapper_holds_absolute_offsets() -> None:
    inner = b"".join(message(n, b"k", b"%d" % n, magic=0) for n in (40, 43))
    wrapper = message(43, None, compress_payload(SNAPPY, inner), magic=0, attributes=SNAPPY)

    assert [(offset, stamp) for offset, stamp, _, _ in read(wrapper)] == [(40, -1), (43, -1)]


def test_lengths_that_do_not_fit_are_refused() -> None:
    whole = bytearray(message(1, b"key", b"value", magic=1))
    struct.pack_into(">i", whole, 26, 2)

    with pytest.raises(MalformedRecordError):
        read(bytes(whole))

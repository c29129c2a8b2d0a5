"""Messages of magic 0 and 1, as logs older than Kafka 0.11 still hold them, read as records.

Brokers of Kafka 4 take only magic 2, so a restore converts these: key and value stay byte for byte, there were no
headers, and a magic 0 message had no timestamp (−1). Wrappers: a compressed message's value is itself a message set
(magic 0: absolute offsets inside; magic 1: relative ones, the last of which is the wrapper's offset; KIP-31, KIP-32).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kbackupd.format.batch import iter_batches
from kbackupd.format.codecs import decompress_payload
from kbackupd.format.header import LENGTH_OVERHEAD, BatchHeader
from kbackupd.format.records import MalformedRecordError, encode_body

_LENGTH = struct.Struct(">i")


class LegacyRecord(NamedTuple):
    """One message; `body` is what a magic 2 record with the same key and value and no headers holds."""

    offset: int
    timestamp_ms: int
    body: bytes


def iter_legacy(header: BatchHeader, message: bytes | memoryview) -> Iterator[LegacyRecord]:
    """The records of one legacy message, wrapper or not, in offset order.

    Raises:
        MalformedRecordError, MalformedBatchError: lengths that do not fit the bytes.
        UnknownCodecError, PayloadError: a wrapper that does not decompress.
    """
    key, value = _key_and_value(header, message)
    if not header.codec:
        yield LegacyRecord(header.base_offset, header.base_timestamp, encode_body(key, value))
        return
    if value is None:
        raise MalformedRecordError("a compressed wrapper message without a value")
    inner = [(each, bytes(part)) for each, part in iter_batches(decompress_payload(header.codec, value))]
    if not inner:
        return
    shift = header.base_offset - inner[-1][0].base_offset if header.magic else 0
    for each, part in inner:
        if each.codec or each.magic != header.magic:
            raise MalformedRecordError(f"a magic {header.magic} wrapper holds another wrapper or magic {each.magic}")
        stamp = header.base_timestamp if header.is_log_append_time else each.base_timestamp
        yield LegacyRecord(each.base_offset + shift, stamp, encode_body(*_key_and_value(each, part)))


def _key_and_value(header: BatchHeader, message: bytes | memoryview) -> tuple[bytes | None, bytes | None]:
    # Behind offset, size, CRC, magic and attributes: the timestamp (magic 1 only), then key and value.
    position = LENGTH_OVERHEAD + 6 + 8 * header.magic
    key, position = _nullable(message, position)
    value, position = _nullable(message, position)
    if position != header.size_bytes:
        raise MalformedRecordError("bytes are left behind the value of a legacy message")
    return key, value


def _nullable(message: bytes | memoryview, position: int) -> tuple[bytes | None, int]:
    try:
        (length,) = _LENGTH.unpack_from(message, position)
    except struct.error:
        raise MalformedRecordError("a legacy message ends inside a length") from None
    position += _LENGTH.size
    if length == -1:
        return None, position
    if length < -1 or position + length > len(message):
        raise MalformedRecordError(f"senseless length {length} in a legacy message")
    return bytes(message[position : position + length]), position + length

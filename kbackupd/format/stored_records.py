"""The records of a stored batch of any magic, each with its own offset and timestamp: what a consumer would see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kbackupd.format.codecs import decompress_payload
from kbackupd.format.header import HEADER_BYTES, BatchHeader
from kbackupd.format.legacy import iter_legacy
from kbackupd.format.records import iter_records

Buffer = bytes | bytearray | memoryview


class Record(NamedTuple):
    """A record with its offset and timestamp made absolute."""

    offset: int
    timestamp_ms: int
    attributes: int
    body: bytes


def payload_of(header: BatchHeader, data: Buffer) -> bytes:
    """The decompressed records of a stored batch of magic 2.

    Raises:
        UnknownCodecError, PayloadError.
    """
    return decompress_payload(header.codec, memoryview(data)[HEADER_BYTES:])


def records_of(header: BatchHeader, data: Buffer, payload: bytes | None = None) -> Iterator[Record]:
    """Every record of a stored batch of any magic, as a consumer sees its offset and timestamp.

    With LogAppendTime all records carry the batch's largest timestamp. With a delete horizon the base timestamp field
    holds that horizon, and the deltas are relative to it (KIP-534), so the sum is right either way.

    Args:
        payload: of a batch of magic 2, if it is decompressed already.

    Raises:
        UnknownCodecError, PayloadError, MalformedRecordError, MalformedBatchError.
    """
    if header.is_legacy:
        for legacy in iter_legacy(header, bytes(data)):
            yield Record(legacy.offset, legacy.timestamp_ms, 0, legacy.body)
        return
    for raw in iter_records(payload_of(header, data) if payload is None else payload, header.record_count):
        stamp = header.max_timestamp if header.is_log_append_time else header.base_timestamp + raw.timestamp_delta
        yield Record(header.base_offset + raw.offset_delta, stamp, raw.attributes, raw.body)

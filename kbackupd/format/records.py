"""Records inside a batch of magic 2: the slow path of restore and validation, never of capture.

A record keeps what a restore may have to change (attributes, timestamp, offset) apart from the rest, which stays one
raw slice: null and empty, duplicate, ordered and non-UTF-8 header names cannot be lost in a rewrite (hazard 9).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from kbackupd.format.codecs import compress_payload
from kbackupd.format.header import (
    CODEC_MASK,
    CONTROL,
    CRC_COVERS_FROM,
    DELETE_HORIZON,
    HEADER,
    HEADER_BYTES,
    LENGTH_OVERHEAD,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    parse_header,
)

Buffer = bytes | bytearray | memoryview
Headers = tuple[tuple[bytes, bytes | None], ...]


class MalformedRecordError(ValueError):
    """The bytes of a batch are not the records its header promises."""


class RawRecord(NamedTuple):
    """One record; `body` is everything from the key's length to the last header, as it stands in the batch."""

    attributes: int
    timestamp_delta: int
    """To the batch's base timestamp, milliseconds; any 64-bit value (hazard 13)."""
    offset_delta: int
    body: bytes


def read_varint(buf: Buffer, position: int) -> tuple[int, int]:
    """A zigzag varint of at most 64 bits at `position`: its value and the position behind it.

    Raises:
        MalformedRecordError: the bytes end inside it, or it is longer than 64 bits.
    """
    value = shift = 0
    try:
        while True:
            byte = buf[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    raise MalformedRecordError(f"varint before byte {position} is longer than 64 bits")
                return (value >> 1) ^ -(value & 1), position
            shift += 7
            if shift > 63:
                raise MalformedRecordError(f"varint before byte {position} is longer than 64 bits")
    except IndexError:
        raise MalformedRecordError(f"bytes end inside a varint at {position}") from None


def append_varint(out: bytearray, value: int) -> None:
    """Append `value` (64-bit) as a zigzag varint."""
    value = (value << 1) ^ (value >> 63)
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def iter_records(payload: bytes, count: int) -> Iterator[RawRecord]:
    """The `count` records of a batch's decompressed payload.

    Raises:
        MalformedRecordError: fewer or more bytes than that; all records before the place have been yielded.
    """
    position, total = 0, len(payload)
    for number in range(count):
        length, position = read_varint(payload, position)
        until = position + length
        if length < 1 or until > total:
            raise MalformedRecordError(f"record {number} of {count} has a senseless length, {length}")
        attributes = payload[position]
        timestamp_delta, position = read_varint(payload, position + 1)
        offset_delta, position = read_varint(payload, position)
        if position > until:
            raise MalformedRecordError(f"record {number} of {count} ends inside its own header")
        yield RawRecord(attributes, timestamp_delta, offset_delta, payload[position:until])
        position = until
    if position != total:
        raise MalformedRecordError(f"{total - position} bytes are left behind the last record")


def timestamp_bounds(payload: bytes, count: int) -> tuple[int, int]:
    """The smallest and the largest timestamp delta of a payload's `count` (> 0) records.

    Makes no records and has the short varints written out: a restore of a time window asks this of every batch whose
    header cannot tell, at a fifth of what `iter_records` takes.

    Raises:
        MalformedRecordError: lengths that do not fit the bytes.
    """
    position, total = 0, len(payload)
    least, most = 1 << 63, -(1 << 63)
    try:
        for number in range(count):
            value = payload[position]
            if value < 0x80:
                position += 1
                length = (value >> 1) ^ -(value & 1)
            elif (second := payload[position + 1]) < 0x80:
                position += 2
                value = value & 0x7F | second << 7
                length = (value >> 1) ^ -(value & 1)
            else:
                length, position = read_varint(payload, position)
            until = position + length
            if length < 1 or until > total:
                raise MalformedRecordError(f"record {number} of {count} has a senseless length, {length}")
            value = payload[position + 1]
            if value < 0x80:
                delta = (value >> 1) ^ -(value & 1)
            elif (second := payload[position + 2]) < 0x80:
                value = value & 0x7F | second << 7
                delta = (value >> 1) ^ -(value & 1)
            else:
                delta, _ = read_varint(payload, position + 1)
            if delta < least:
                least = delta
            if delta > most:
                most = delta
            position = until
    except IndexError:
        raise MalformedRecordError(f"bytes end inside a varint at {position}") from None
    if position != total:
        raise MalformedRecordError(f"{total - position} bytes are left behind the last record")
    return least, most


def read_nullable(body: Buffer, position: int) -> tuple[bytes | None, int]:
    """The key, value or header content whose length stands at `position` of a body, and the position behind it.

    Raises:
        MalformedRecordError: a length that does not fit the bytes.
    """
    length, position = read_varint(body, position)
    if length == -1:
        return None, position
    until = position + length
    if length < -1 or until > len(body):
        raise MalformedRecordError(f"senseless length {length} in a record")
    return bytes(body[position:until]), until


def decode_record(body: Buffer) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers of a record's `body`; null is None, never empty.

    Raises:
        MalformedRecordError: lengths that do not fit the bytes.
    """
    key, position = read_nullable(body, 0)
    value, position = read_nullable(body, position)
    count, position = read_varint(body, position)
    if not 0 <= count <= len(body):
        raise MalformedRecordError(f"senseless header count {count} in a record")
    headers: list[tuple[bytes, bytes | None]] = []
    for _ in range(count):
        name, position = read_nullable(body, position)
        if name is None:
            raise MalformedRecordError("null header name in a record")
        content, position = read_nullable(body, position)
        headers.append((name, content))
    if position != len(body):
        raise MalformedRecordError("bytes are left behind the last header of a record")
    return key, value, tuple(headers)


def _append_bytes(out: bytearray, value: bytes | None) -> None:
    if value is None:
        append_varint(out, -1)
    else:
        append_varint(out, len(value))
        out += value


def encode_body(key: bytes | None, value: bytes | None, headers: Sequence[tuple[bytes, bytes | None]] = ()) -> bytes:
    """The inverse of `decode_record`."""
    out = bytearray()
    _append_bytes(out, key)
    _append_bytes(out, value)
    append_varint(out, len(headers))
    out += encode_headers(headers)
    return bytes(out)


def encode_headers(headers: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Headers as they stand in a body, without their count."""
    out = bytearray()
    for name, content in headers:
        _append_bytes(out, name)
        _append_bytes(out, content)
    return bytes(out)


def with_headers(body: bytes, count: int, encoded: bytes) -> bytes:
    """A record's `body` with `count` more headers behind its own; every other byte stays as it is.

    Args:
        encoded: those headers, by `encode_headers`.

    Raises:
        MalformedRecordError: lengths that do not fit the bytes.
    """
    position = 0
    for _ in ("key", "value"):
        length, position = read_varint(body, position)
        position += max(length, 0)
    there, behind = read_varint(body, position)
    if there < 0:
        raise MalformedRecordError(f"senseless header count {there} in a record")
    out = bytearray(body[:position])
    append_varint(out, there + count)
    out += body[behind:]
    out += encoded
    return bytes(out)


def encode_record(record: RawRecord) -> bytes:
    """The record with its length, as it stands in a payload."""
    inner = bytearray((record.attributes & 0xFF,))
    append_varint(inner, record.timestamp_delta)
    append_varint(inner, record.offset_delta)
    out = bytearray()
    append_varint(out, len(inner) + len(record.body))
    return bytes(out + inner + record.body)


def build_batch(
    records: Iterable[RawRecord],
    *,
    codec: int = 0,
    base_offset: int = 0,
    base_timestamp_ms: int = -1,
    max_timestamp_ms: int | None = None,
    last_offset_delta: int | None = None,
    leader_epoch: int = -1,
    log_append_time: bool = False,
    transactional: bool = False,
    control: bool = False,
    delete_horizon: bool = False,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """A magic 2 batch of `records` with right lengths and checksum.

    Args:
        records: their deltas are taken as they are.
        max_timestamp_ms: None takes the records' maximum (the base timestamp if there are none).
        last_offset_delta: None takes the last record's (0 if there are none).
    """
    kept = list(records)
    payload = compress_payload(codec, b"".join(map(encode_record, kept)))
    if last_offset_delta is None:
        last_offset_delta = kept[-1].offset_delta if kept else 0
    if max_timestamp_ms is None:
        max_timestamp_ms = max(
            (base_timestamp_ms + record.timestamp_delta for record in kept), default=base_timestamp_ms
        )
    attributes = (
        codec
        | (LOG_APPEND_TIME if log_append_time else 0)
        | (TRANSACTIONAL if transactional else 0)
        | (CONTROL if control else 0)
        | (DELETE_HORIZON if delete_horizon else 0)
    )
    batch = bytearray(HEADER_BYTES)
    HEADER.pack_into(
        batch,
        0,
        base_offset,
        HEADER_BYTES - LENGTH_OVERHEAD + len(payload),
        leader_epoch,
        2,
        0,
        attributes,
        last_offset_delta,
        base_timestamp_ms,
        max_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
        len(kept),
    )
    batch += payload
    _set_crc(batch)
    return bytes(batch)


def rewrite_for_produce(
    batch: Buffer, *, producer_id: int, producer_epoch: int, base_sequence: int, base_offset: int = 0
) -> bytearray:
    """A copy of a stored batch that a broker accepts from an idempotent producer: only the header changes.

    Leader epoch -1; of the attributes only the codec stays, since a client may set neither control, LogAppendTime nor a
    delete horizon; producer id, epoch and sequence become ours. Whether the broker wants the batch at all (one record
    per offset, no control batch, base timestamp that means a record) is for the caller to decide beforehand.

    Raises:
        MalformedBatchError: not one whole batch.
        ValueError: a legacy message or a control batch: neither can be produced as it is.
    """
    header = parse_header(batch, 0)
    if header.is_legacy or header.is_control or header.size_bytes != len(batch):
        raise ValueError(f"not one producible batch: magic {header.magic}, attributes {header.attributes:#x}")
    rewritten = bytearray(batch)
    HEADER.pack_into(
        rewritten,
        0,
        *header._replace(
            base_offset=base_offset,
            leader_epoch=-1,
            attributes=header.attributes & CODEC_MASK,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        ),
    )
    _set_crc(rewritten)
    return rewritten


def _set_crc(batch: bytearray) -> None:
    with memoryview(batch) as view:
        batch[17:21] = crc32c(view[CRC_COVERS_FROM:]).to_bytes(4, "big")

"""Records on the slow path: nothing a producer can say is lost, and no bytes make the reader fail in another way."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.batch import iter_batches
from kbackupd.format.codecs import (
    CODEC_NAMES,
    GZIP,
    LZ4,
    SNAPPY,
    ZSTD,
    PayloadError,
    UnknownCodecError,
    compress_payload,
    decompress_payload,
)
from kbackupd.format.header import HEADER_BYTES, MalformedBatchError, crc_holds, parse_header
from kbackupd.format.records import (
    MalformedRecordError,
    RawRecord,
    append_varint,
    build_batch,
    decode_record,
    encode_body,
    encode_headers,
    encode_record,
    iter_records,
    read_varint,
    rewrite_for_produce,
    timestamp_bounds,
    with_headers,
)
from tests.unit.format.samples import batch, legacy_message, marker, records
from tests.unit.format.surgery import flipped

INT64 = st.integers(-(2**63), 2**63 - 1)
NULLABLE = st.none() | st.binary(max_size=300)
BODIES = st.tuples(NULLABLE, NULLABLE, st.lists(st.tuples(st.binary(max_size=20), NULLABLE), max_size=5).map(tuple))
RAW_RECORDS = st.builds(
    RawRecord, st.integers(0, 255), INT64, st.integers(0, 2**31 - 1), BODIES.map(lambda body: encode_body(*body))
)


@given(INT64)
def test_varints_of_64_bits_round_trip(value: int) -> None:
    out = bytearray(b"?")
    append_varint(out, value)
    assert read_varint(out, 1) == (value, len(out))
    assert len(out) <= 11


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 10, b"\xff" * 9 + b"\x02", b"\x80" * 20])
def test_varints_that_end_nowhere_or_beyond_64_bits_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        read_varint(data, 0)


@given(BODIES)
def test_keys_values_and_headers_round_trip_with_null_empty_order_and_duplicates(
    body: tuple[bytes | None, bytes | None, tuple[tuple[bytes, bytes | None], ...]],
) -> None:
    assert decode_record(encode_body(*body)) == body


def test_null_is_not_empty_and_header_names_need_not_be_text() -> None:
    headers = ((b"\xff\xfe", None), (b"", b""), (b"\xff\xfe", b"again"))
    assert decode_record(encode_body(None, b"", headers)) == (None, b"", headers)
    assert decode_record(encode_body(b"", None)) == (b"", None, ())


@given(st.lists(RAW_RECORDS, max_size=8))
def test_records_round_trip_with_their_bodies_untouched(kept: list[RawRecord]) -> None:
    payload = b"".join(map(encode_record, kept))
    assert list(iter_records(payload, len(kept))) == kept


@given(st.lists(RAW_RECORDS, min_size=1, max_size=8))
def test_timestamp_bounds_are_those_of_the_records(kept: list[RawRecord]) -> None:
    deltas = [record.timestamp_delta for record in kept]
    assert timestamp_bounds(b"".join(map(encode_record, kept)), len(kept)) == (min(deltas), max(deltas))


@given(st.lists(RAW_RECORDS, min_size=1, max_size=5), st.data())
def test_the_timestamp_bounds_of_damaged_records_end_in_no_other_error(
    kept: list[RawRecord], data: st.DataObject
) -> None:
    payload = b"".join(map(encode_record, kept))
    position = data.draw(st.integers(0, len(payload) - 1))
    with contextlib.suppress(MalformedRecordError):
        timestamp_bounds(flipped(payload, position, data.draw(st.integers(1, 255))), len(kept))
    with pytest.raises(MalformedRecordError):
        timestamp_bounds(payload[:position], len(kept) + 1)


@given(BODIES, st.lists(st.tuples(st.binary(max_size=20), NULLABLE), max_size=5))
def test_headers_are_added_behind_those_there_are_and_nothing_else_changes(
    body: tuple[bytes | None, bytes | None, tuple[tuple[bytes, bytes | None], ...]],
    added: list[tuple[bytes, bytes | None]],
) -> None:
    key, value, headers = body
    assert decode_record(with_headers(encode_body(*body), len(added), encode_headers(added))) == (
        key,
        value,
        (*headers, *added),
    )


@given(st.lists(RAW_RECORDS, min_size=1, max_size=5), st.data())
def test_damaged_records_are_refused_and_nothing_else_is_raised(kept: list[RawRecord], data: st.DataObject) -> None:
    payload = b"".join(map(encode_record, kept))
    position = data.draw(st.integers(0, len(payload) - 1))
    damaged = flipped(payload, position, data.draw(st.integers(1, 255)))[: data.draw(st.integers(0, len(payload)))]
    found: list[RawRecord] = []
    with contextlib.suppress(MalformedRecordError):
        found.extend(iter_records(damaged, len(kept)))
    for record in found:
        with contextlib.suppress(MalformedRecordError):
            decode_record(record.body)
    assert len(found) <= len(kept)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_record_count_that_does_not_fit_the_bytes_is_refused(count: int) -> None:
    payload = b"".join(map(encode_record, records(2)))
    with pytest.raises(MalformedRecordError):
        list(iter_records(payload, count))


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_every_codec_round_trips(codec: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert decompress_payload(codec, compress_payload(codec, data[:size]), max_bytes=size) == data[:size]


def test_bare_snappy_is_read_as_well_as_snappy_javas_framing() -> None:
    bare = bytes([5, 4 << 2]) + b"hello"
    assert decompress_payload(SNAPPY, bare) == b"hello"
    framed = compress_payload(SNAPPY, b"x" * 100_000)
    assert framed.startswith(b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01")
    assert decompress_payload(SNAPPY, framed) == b"x" * 100_000


def test_gzip_of_several_members_is_read_to_its_end() -> None:
    assert decompress_payload(GZIP, compress_payload(GZIP, b"one ") + compress_payload(GZIP, b"two")) == b"one two"


def test_lz4_blocks_do_not_depend_on_each_other_as_the_broker_demands() -> None:
    assert compress_payload(LZ4, b"x" * 1000)[4] & 0x20


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_output_beyond_the_bound_is_refused_before_it_fills_the_memory(codec: int) -> None:
    bomb = compress_payload(codec, bytes(10_000_000))
    with pytest.raises(PayloadError):
        decompress_payload(codec, bomb, max_bytes=9_999_999)
    assert len(decompress_payload(codec, bomb, max_bytes=10_000_000)) == 10_000_000


@given(st.sampled_from((GZIP, SNAPPY, LZ4, ZSTD)), st.data())
def test_damaged_payloads_end_in_a_payload_error_or_in_bytes(codec: int, data: st.DataObject) -> None:
    packed = compress_payload(codec, data.draw(st.binary(max_size=500)) * 3)
    position = data.draw(st.integers(0, len(packed) - 1))
    damaged = flipped(packed, position, data.draw(st.integers(1, 255)))[: data.draw(st.integers(0, len(packed)))]
    found = b""
    with contextlib.suppress(PayloadError):
        found = decompress_payload(codec, damaged, max_bytes=100_000)
    assert len(found) <= 100_000


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_of_the_future_has_an_error_of_its_own(codec: int) -> None:
    with pytest.raises(UnknownCodecError) as caught:
        decompress_payload(codec, b"...")
    assert caught.value.codec == codec
    with pytest.raises(UnknownCodecError):
        compress_payload(codec, b"...")


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_built_batch_is_whole_and_holds_its_records(codec: int) -> None:
    kept = [RawRecord(0, -5, 0, b"\x01\x01\x00"), RawRecord(0, 25 * 86_400_000, 7, b"\x01\x01\x00")]
    data = build_batch(kept, codec=codec, base_offset=3, base_timestamp_ms=1000)
    [(header, part)] = iter_batches(data)
    assert crc_holds(header, part)
    assert (header.last_offset_delta, header.record_count, header.max_timestamp) == (7, 2, 1000 + 25 * 86_400_000)
    assert list(iter_records(decompress_payload(codec, part[HEADER_BYTES:]), 2)) == kept


def test_an_emptied_batch_can_be_built() -> None:
    [(header, part)] = iter_batches(build_batch([], base_offset=3, last_offset_delta=6))
    assert crc_holds(header, part)
    assert (header.next_offset, header.record_count) == (10, 0)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_rewriting_for_produce_changes_the_header_alone(codec: int) -> None:
    stored = build_batch(
        records(3),
        codec=codec,
        base_offset=1_000,
        base_timestamp_ms=5,
        leader_epoch=17,
        log_append_time=True,
        transactional=True,
        delete_horizon=True,
        producer_id=9,
        producer_epoch=8,
        base_sequence=7,
    )
    ours = rewrite_for_produce(memoryview(stored), producer_id=4242, producer_epoch=3, base_sequence=77)
    header = parse_header(ours, 0)
    assert crc_holds(header, memoryview(ours))
    assert (header.base_offset, header.leader_epoch, header.attributes) == (0, -1, codec)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (4242, 3, 77)
    before = parse_header(stored, 0)
    assert (header.last_offset_delta, header.record_count) == (before.last_offset_delta, before.record_count)
    assert (header.base_timestamp, header.max_timestamp) == (before.base_timestamp, before.max_timestamp)
    assert ours[HEADER_BYTES:] == stored[HEADER_BYTES:]


@pytest.mark.parametrize(
    "unproducible",
    [
        pytest.param(marker(0, producer_id=1), id="a control batch"),
        pytest.param(legacy_message(0, b"old"), id="a legacy message"),
        pytest.param(batch(0) + batch(2), id="two batches"),
    ],
)
def test_what_no_broker_takes_is_not_rewritten(unproducible: bytes) -> None:
    with pytest.raises(ValueError, match="not one producible batch"):
        rewrite_for_produce(unproducible, producer_id=1, producer_epoch=0, base_sequence=0)


def test_half_a_batch_is_not_rewritten() -> None:
    with pytest.raises(MalformedBatchError):
        rewrite_for_produce(batch(0)[:-1], producer_id=1, producer_epoch=0, base_sequence=0)

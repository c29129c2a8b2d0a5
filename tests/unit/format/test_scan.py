"""The one pass over fetched bytes: what it says of whole batches, and that no bytes whatever make it fail or lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.format.header import HEADER_BYTES, MalformedBatchError, crc_holds, parse_header
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.model.path import MarkerSeen, TransactionBegun
from kbackupd.model.segment import RunFlag
from tests.unit.format.samples import (
    ABORT_KEY,
    NOW_MS,
    batch,
    legacy_message,
    marker,
    records,
    transactional_batch,
)
from tests.unit.format.surgery import flipped


def test_consecutive_batches_are_counted_and_nothing_is_flagged() -> None:
    data = batch(10, 3) + batch(13, 2) + batch(15, 1, leader_epoch=5)
    scan = scan_batches(data, asked_offset=10)
    assert (scan.first_offset, scan.next_offset, scan.batches, scan.records) == (10, 16, 3, 6)
    assert scan.flags == RunFlag(0)
    assert scan.leader_epochs == ((3, 10), (5, 15))
    assert (scan.base_timestamp_ms, scan.max_timestamp_ms) == (NOW_MS, NOW_MS + 20)
    assert scan.good_bytes == len(data)
    assert scan.largest_batch_bytes == len(batch(10, 3))
    assert (scan.partial_bytes, scan.partial_needs_bytes, scan.corrupt_bytes, scan.compressed_bytes) == (0, 0, 0, 0)


def test_nothing_fetched_leaves_the_position_where_it_was() -> None:
    scan = scan_batches(b"", asked_offset=77)
    assert (scan.first_offset, scan.next_offset, scan.batches, scan.good_bytes) == (77, 77, 0, 0)


def test_a_batch_that_begins_before_the_asked_offset_is_kept_whole_and_is_no_hole() -> None:
    scan = scan_batches(batch(10, 5) + batch(15), asked_offset=13)
    assert (scan.first_offset, scan.next_offset, scan.batches, scan.flags) == (10, 17, 2, RunFlag(0))


def test_a_batch_wholly_below_the_asked_offset_is_kept_and_the_position_does_not_go_back() -> None:
    data = batch(10, 2)
    scan = scan_batches(data, asked_offset=50)
    assert (scan.first_offset, scan.next_offset, scan.good_bytes) == (10, 50, len(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(batch(12, 2), id="before the first batch"),
        pytest.param(batch(10, 2) + batch(13, 2), id="between batches"),
        pytest.param(build_batch(records(2), base_offset=10, last_offset_delta=4), id="at the end of a batch"),
        pytest.param(
            build_batch([RawRecord(0, 0, 0, b""), RawRecord(0, 0, 2, b"")], base_offset=10), id="inside a batch"
        ),
        pytest.param(build_batch([], base_offset=10, last_offset_delta=3), id="an emptied batch"),
    ],
)
def test_a_hole_that_compaction_left_is_flagged(data: bytes) -> None:
    scan = scan_batches(data, asked_offset=10)
    assert scan.flags == RunFlag.HOLES
    assert scan.good_bytes == len(data)


def test_next_offset_counts_offsets_not_records() -> None:
    data = build_batch([], base_offset=3_000_000_000, last_offset_delta=99)
    scan = scan_batches(data, asked_offset=3_000_000_000)
    assert (scan.records, scan.next_offset) == (0, 3_000_000_100)


def test_transactions_begin_once_and_end_with_their_marker() -> None:
    data = (
        transactional_batch(0, producer_id=1)
        + transactional_batch(2, producer_id=2, producer_epoch=5)
        + transactional_batch(4, producer_id=1)
        + marker(6, producer_id=1)
        + transactional_batch(7, producer_id=1)
        + marker(9, producer_id=2, producer_epoch=6, key=ABORT_KEY)
    )
    scan = scan_batches(data, asked_offset=0)
    assert scan.begun == (
        TransactionBegun(offset=0, producer_id=1, producer_epoch=0),
        TransactionBegun(offset=2, producer_id=2, producer_epoch=5),
        TransactionBegun(offset=7, producer_id=1, producer_epoch=0),
    )
    assert scan.markers == (
        MarkerSeen(offset=6, producer_id=1, producer_epoch=0, committed=True),
        MarkerSeen(offset=9, producer_id=2, producer_epoch=6, committed=False),
    )
    assert scan.flags == RunFlag.TRANSACTIONAL | RunFlag.CONTROL


@pytest.mark.parametrize("key", [struct.pack(">hh", 0, 2), struct.pack(">hh", 0, 5), b"", b"\0", None])
def test_control_records_that_are_no_transaction_markers_are_kept_and_not_read_as_such(key: bytes | None) -> None:
    data = build_batch([RawRecord(0, 0, 0, encode_body(key, b""))], transactional=True, control=True)
    scan = scan_batches(data, asked_offset=0)
    assert (scan.markers, scan.good_bytes) == ((), len(data))


def test_producers_compression_log_append_time_and_control_are_seen() -> None:
    zipped = batch(2, 3, codec=4)
    stamped = build_batch(records(1), base_offset=5, log_append_time=True, max_timestamp_ms=NOW_MS)
    scan = scan_batches(batch(0) + zipped + stamped, asked_offset=0)
    assert scan.compressed_bytes == len(zipped)
    assert scan.flags == RunFlag.LOG_APPEND_TIME


def test_a_codec_that_is_not_known_is_kept_like_any() -> None:
    raw = bytearray(batch(0))
    raw[22] |= 7
    rebuilt = bytearray(raw)
    struct.pack_into(">I", rebuilt, 17, _crc32c(bytes(rebuilt[21:])))
    scan = scan_batches(bytes(rebuilt), asked_offset=0)
    assert (scan.good_bytes, scan.compressed_bytes) == (len(rebuilt), len(rebuilt))


def _crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 defines it: slow, and certainly not the library under test."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_legacy_messages_are_walked_by_their_own_header_and_checksum() -> None:
    data = legacy_message(5, b"a", magic=0) + legacy_message(6, b"b" * 100) + batch(7)
    scan = scan_batches(data, asked_offset=5)
    assert (scan.first_offset, scan.next_offset, scan.batches, scan.records) == (5, 9, 3, 4)
    assert scan.flags == RunFlag.LEGACY_MAGIC
    assert (scan.base_timestamp_ms, scan.max_timestamp_ms) == (-1, NOW_MS + 10)
    assert scan.good_bytes == len(data)


def test_a_legacy_wrapper_is_known_by_its_last_message_and_is_no_hole() -> None:
    data = legacy_message(9, b"ten messages", codec=1)
    scan = scan_batches(data, asked_offset=0)
    assert (scan.first_offset, scan.next_offset, scan.compressed_bytes) == (9, 10, len(data))
    assert scan.flags == RunFlag.LEGACY_MAGIC


@pytest.mark.parametrize("magic", [0, 1])
def test_any_flip_a_legacy_checksum_covers_is_found(magic: int) -> None:
    good = legacy_message(0, b"value", magic=magic)
    data = good + legacy_message(1, b"value", magic=magic)
    for position in range(len(good) + 12, len(data)):
        scan = scan_batches(flipped(data, position, 0x40), asked_offset=0)
        assert scan.good_bytes == len(good)
        assert scan.corrupt_bytes + scan.partial_bytes == len(data) - len(good)


def test_a_batch_cut_off_tells_how_many_bytes_it_needs() -> None:
    whole, cut = batch(0), batch(2, value=b"v" * 500)
    for length in range(1, len(cut)):
        scan = scan_batches(whole + cut[:length], asked_offset=0)
        assert (scan.batches, scan.next_offset, scan.good_bytes) == (1, 2, len(whole))
        assert (scan.partial_bytes, scan.corrupt_bytes) == (length, 0)
        assert scan.partial_needs_bytes == (len(cut) if length >= 12 else 0)


@pytest.mark.parametrize(
    ("field_at", "value"),
    [
        pytest.param(0, struct.pack(">q", -1), id="negative base offset"),
        pytest.param(0, struct.pack(">q", 2**63 - 1), id="base offset without a next one"),
        pytest.param(0, struct.pack(">q", 9), id="base offset that goes back"),
        pytest.param(8, struct.pack(">i", 48), id="length shorter than a header"),
        pytest.param(8, struct.pack(">i", -5), id="negative length"),
        pytest.param(16, b"\x03", id="unknown magic"),
        pytest.param(16, b"\xff", id="negative magic"),
        pytest.param(16, b"\x00", id="magic 0 without its checksum"),
        pytest.param(23, struct.pack(">i", -1), id="negative last offset delta"),
        pytest.param(57, struct.pack(">i", -1), id="negative record count"),
    ],
)
def test_a_senseless_header_ends_what_is_good(field_at: int, value: bytes) -> None:
    good, bad = batch(10, 3), bytearray(batch(13))
    bad[field_at : field_at + len(value)] = value
    scan = scan_batches(good + bytes(bad) + batch(15), asked_offset=10)
    assert (scan.batches, scan.next_offset, scan.good_bytes) == (1, 13, len(good))
    assert (scan.partial_bytes, scan.corrupt_bytes) == (0, len(bad) + len(batch(15)))


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[bytes], int]:
    """Batches of a partition in offset order, holes and all, and the offset they were asked for."""
    offset = asked = draw(st.integers(0, 2**40))
    out = []
    for _ in range(draw(st.integers(1, 6))):
        offset += draw(st.sampled_from((0, 0, 0, 1, 50)))
        kind = draw(st.sampled_from(("plain", "plain", "transactional", "marker", "compacted")))
        if kind == "marker":
            out.append(marker(offset, producer_id=draw(st.integers(0, 3))))
            offset += 1
        elif kind == "transactional":
            out.append(transactional_batch(offset, producer_id=draw(st.integers(0, 3))))
            offset += 2
        else:
            count = draw(st.integers(1, 5))
            delta = count - 1 + (draw(st.integers(1, 9)) if kind == "compacted" else 0)
            value = draw(st.binary(max_size=40))
            out.append(
                build_batch(
                    records(count, value=value),
                    codec=draw(st.integers(0, 4)),
                    base_offset=offset,
                    last_offset_delta=delta,
                    base_timestamp_ms=draw(st.integers(-1, NOW_MS)),
                    leader_epoch=3,
                )
            )
            offset += delta + 1
    return out, asked


@given(logs(), st.data())
def test_a_truncated_answer_yields_exactly_its_whole_batches(log: tuple[list[bytes], int], data: st.DataObject) -> None:
    batches, asked = log
    whole = b"".join(batches)
    length = data.draw(st.integers(0, len(whole)))
    scan = scan_batches(whole[:length], asked_offset=asked)
    kept = 0
    while kept < len(batches) and sum(map(len, batches[: kept + 1])) <= length:
        kept += 1
    assert scan.batches == kept
    assert scan.good_bytes == sum(map(len, batches[:kept]))
    assert scan.partial_bytes == length - scan.good_bytes
    assert scan.corrupt_bytes == 0
    headers = [header for header, _ in iter_batches(whole[: scan.good_bytes])]
    assert scan.records == sum(header.record_count for header in headers)
    assert scan.next_offset == (headers[-1].next_offset if headers else asked)


@given(logs(), st.data())
def test_a_flip_inside_checksummed_bytes_is_always_found_where_it_is(
    log: tuple[list[bytes], int], data: st.DataObject
) -> None:
    batches, asked = log
    victim = data.draw(st.integers(0, len(batches) - 1))
    begins = sum(map(len, batches[:victim]))
    position = begins + data.draw(st.integers(17, len(batches[victim]) - 1))
    damaged = flipped(b"".join(batches), position, data.draw(st.integers(1, 255)))
    scan = scan_batches(damaged, asked_offset=asked)
    assert (scan.batches, scan.good_bytes) == (victim, begins)
    assert (scan.corrupt_bytes, scan.partial_bytes) == (len(damaged) - begins, 0)
    assert scan.next_offset >= asked


@given(logs(), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=4), st.integers(0))
def test_no_bytes_whatever_make_the_scan_fail(
    log: tuple[list[bytes], int], flips: list[tuple[int, int]], cut: int
) -> None:
    batches, asked = log
    damaged = bytearray(b"".join(batches))
    for position, mask in flips:
        damaged[position % len(damaged)] ^= mask
    kept = bytes(damaged[: cut % (len(damaged) + 1)])
    scan = scan_batches(memoryview(kept), asked_offset=asked)
    assert scan.good_bytes + scan.partial_bytes + scan.corrupt_bytes == len(kept)
    assert scan.next_offset >= asked
    assert all(crc_holds(header, part) for header, part in iter_batches(kept[: scan.good_bytes]))


@given(st.binary(max_size=300), st.integers(0, 2**62))
def test_random_bytes_are_never_taken_for_a_batch(data: bytes, asked: int) -> None:
    scan = scan_batches(data, asked_offset=asked)
    assert scan.good_bytes + scan.partial_bytes + scan.corrupt_bytes == len(data)
    assert scan.batches == 0


@given(st.binary(max_size=300))
def test_iter_batches_ends_with_its_own_error_on_any_bytes(data: bytes) -> None:
    walked: list[int] = []
    failed_at = len(data)
    try:
        walked.extend(len(part) for _, part in iter_batches(data))
    except MalformedBatchError as problem:
        failed_at = problem.position
    assert sum(walked) == failed_at


def test_parse_header_names_every_field() -> None:
    data = build_batch(
        records(2),
        codec=3,
        base_offset=2**40,
        base_timestamp_ms=-1,
        leader_epoch=9,
        log_append_time=True,
        transactional=True,
        delete_horizon=True,
        producer_id=2**50,
        producer_epoch=12,
        base_sequence=2**31 - 1,
    )
    header = parse_header(b"???" + data, 3)
    assert (header.base_offset, header.next_offset, header.size_bytes) == (2**40, 2**40 + 2, len(data))
    assert (header.leader_epoch, header.magic, header.codec, header.record_count) == (9, 2, 3, 2)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (2**50, 12, 2**31 - 1)
    assert (header.base_timestamp, header.max_timestamp) == (-1, 9)
    assert header.is_log_append_time
    assert header.is_transactional
    assert header.has_delete_horizon
    assert not header.is_control
    assert not header.has_holes
    assert not header.is_legacy
    assert HEADER_BYTES == 61

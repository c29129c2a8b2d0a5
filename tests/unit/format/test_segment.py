"""Segments: runs gathered without a copy, sealed, opened by their end, verified to the last batch."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.codecs import GZIP, ZSTD, compress_payload
from kbackupd.format.container import TAIL_READ_BYTES, NeedMore
from kbackupd.format.header import HEADER_BYTES
from kbackupd.format.records import build_batch
from kbackupd.format.run import RunDraft, run_bytes, run_findings
from kbackupd.format.segment import SegmentDraft, open_footer, seal, verify_whole
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.path import SealedSegment
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Footer, ObjectRef, RunFlag, Sample
from tests import independent_reader
from tests.unit.format.samples import (
    IDENTITY,
    NOW_MS,
    ORDERS,
    TOPICS,
    batch,
    corrupt_run,
    example_draft,
    fetched,
    footer_only_draft,
    legacy_message,
    records,
)
from tests.unit.format.surgery import resealed

ID = PartitionId(ORDERS, 0)


def draft_of(*runs: RunDraft, samples: tuple[Sample, ...] = (), topics: dict[TopicId, str] = TOPICS) -> SegmentDraft:
    return replace(footer_only_draft(), runs=runs, topics=topics, samples=samples)


def whole(segment: SealedSegment) -> bytes:
    return b"".join(segment.parts)


def run_of(*chunks: bytes, asked_offset: int = 0) -> RunDraft:
    """One run over several answers."""
    first, *more = chunks
    draft = RunDraft.of(fetched(first, id_=ID, asked_offset=asked_offset))
    for chunk in more:
        following = fetched(chunk, id_=ID, asked_offset=draft.next_offset)
        assert draft.accepts(following)
        draft.append(following)
    return draft


def opened(segment: SealedSegment) -> tuple[Footer, ObjectRef]:
    data = whole(segment)
    found = open_footer(segment.ref.key, data[-TAIL_READ_BYTES:], len(data), IDENTITY)
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_sealed_segment_opens_as_it_was_sealed(codec: str) -> None:
    segment = seal(example_draft(), codec="zstd" if codec == "zstd" else "none", level=3)
    assert opened(segment) == (segment.footer, segment.ref)
    assert len(whole(segment)) == segment.size_bytes
    assert verify_whole(segment.ref.key, whole(segment), IDENTITY) == segment.footer


def test_a_segment_without_runs_holds_its_event() -> None:
    segment = seal(footer_only_draft(), codec="zstd")
    assert segment.footer.body_bytes == 8
    assert opened(segment)[0].events == footer_only_draft().events


def test_a_gathered_run_says_what_one_scan_of_all_its_bytes_says() -> None:
    chunks = [
        batch(0, 3),
        batch(3, 2, codec=1, leader_epoch=4) + batch(9, 1, leader_epoch=6),
        batch(10, leader_epoch=6),
    ]
    gathered, at_once = run_of(*chunks), run_of(b"".join(chunks))
    assert gathered.chunks == chunks
    gathered.chunks = at_once.chunks
    assert gathered == at_once
    assert gathered.leader_epochs == ((3, 0), (4, 3), (6, 9))
    assert gathered.flags == RunFlag.HOLES


def test_a_run_takes_only_what_goes_on_where_it_ends() -> None:
    run = run_of(batch(0, 3))
    going_on = fetched(batch(3), id_=ID, asked_offset=3)
    assert run.accepts(going_on)
    assert run.accepts(fetched(batch(7), id_=ID, asked_offset=3)), "compaction left a hole"
    assert not run.accepts(replace(going_on, id=PartitionId(ORDERS, 1)))
    assert not run.accepts(replace(going_on, asked_offset=4))
    assert not run.accepts(replace(going_on, branch=1))
    assert not run.accepts(replace(going_on, replica=2))
    assert not run.accepts(fetched(batch(2, 4), id_=ID, asked_offset=3)), "the log would run backwards"
    assert not run.accepts(replace(going_on, scan=going_on.scan._replace(flags=RunFlag.CORRUPT)))
    corrupt = corrupt_run()
    assert not corrupt.accepts(fetched(batch(502), id_=corrupt.id, asked_offset=502))


def test_uncompressed_runs_become_one_zstd_frame_and_come_back() -> None:
    chunks = [batch(2 * each, value=b"v" * 400) for each in range(50)]
    segment = seal(draft_of(run_of(*chunks)), codec="zstd")
    (run,) = segment.footer.runs
    stored = whole(segment)[run.position : run.position + run.stored_bytes]
    assert run.codec == "zstd"
    assert run.stored_bytes < run.raw_bytes / 10
    assert run_bytes(run, stored) == b"".join(chunks)


def test_runs_their_producer_compressed_are_stored_without_a_copy() -> None:
    zipped = memoryview(batch(0, 1, codec=ZSTD, value=random.Random(1).randbytes(400)))
    plain = batch(1)
    run = RunDraft.of(fetched(zipped, id_=ID, asked_offset=0))
    run.append(fetched(plain, id_=ID, asked_offset=1))
    segment = seal(draft_of(run), codec="zstd")
    assert segment.footer.runs[0].codec == "none"
    assert segment.parts[1] is zipped
    assert segment.parts[2] is plain


def test_a_run_that_zstd_makes_no_smaller_is_stored_as_it_is() -> None:
    chunk = batch(0, 1, value=random.Random(1).randbytes(5000))
    segment = seal(draft_of(run_of(chunk)), codec="zstd")
    assert segment.footer.runs[0].codec == "none"
    assert segment.parts[1] is chunk


def test_a_tail_that_was_read_too_short_says_how_much_it_needs() -> None:
    many = tuple(
        Sample(
            id=PartitionId(ORDERS, number),
            sent_ms=NOW_MS + number * 7919 % 1009,
            answered_ms=NOW_MS,
            log_start_offset=number * 1_000_003 % 999_983,
            last_stable_offset=number * 7_368_787 % 9_999_991,
            high_watermark=number * 6_700_417 % 9_999_973,
            leader_epoch=1,
        )
        for number in range(30_000)
    )
    segment = seal(draft_of(run_of(batch(0)), samples=many), codec="none")
    data = whole(segment)
    first = open_footer(segment.ref.key, data[-TAIL_READ_BYTES:], len(data), IDENTITY)
    assert isinstance(first, NeedMore)
    assert TAIL_READ_BYTES < first.bytes < len(data)
    assert open_footer(segment.ref.key, data[-first.bytes :], len(data)) == (segment.footer, segment.ref)
    assert open_footer(segment.ref.key, data[-(first.bytes - 1) :], len(data)) == first
    assert open_footer(segment.ref.key, b"", len(data)) == NeedMore(TAIL_READ_BYTES)
    assert open_footer(segment.ref.key, b"", 1000) == NeedMore(1000)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.binary(max_size=200)), min_size=1, max_size=8))
def test_any_batches_come_back_byte_for_byte(plan: list[tuple[int, int, bytes]]) -> None:
    chunks, offset = [], 0
    for count, codec, value in plan:
        chunks.append(batch(offset, count, codec=codec, value=value))
        offset += count
    segment = seal(draft_of(run_of(*chunks), corrupt_run()), codec="zstd")
    data = whole(segment)
    footer = verify_whole(segment.ref.key, data, IDENTITY)
    run = footer.runs[0]
    assert run_bytes(run, data[run.position : run.position + run.stored_bytes]) == b"".join(chunks)
    independent = independent_reader.container(data, segment.ref.key)
    assert independent["digest"] == segment.ref.digest
    assert independent["runs"][0]["bytes"] == b"".join(chunks)


def test_stored_bytes_are_checked_before_they_are_believed() -> None:
    segment = seal(draft_of(run_of(batch(0, value=b"v" * 400))), codec="zstd")
    (run,) = segment.footer.runs
    stored = whole(segment)[run.position : run.position + run.stored_bytes]
    for position in range(len(stored)):
        damaged = bytearray(stored)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptObjectError, match="CRC-32C of the stored bytes"):
            run_bytes(run, bytes(damaged), key=segment.ref.key)
    with pytest.raises(CorruptObjectError, match="bytes instead of"):
        run_bytes(run, stored[:-1])
    with pytest.raises(CorruptObjectError, match="zstd frame is not of 1 bytes"):
        run_bytes(run._replace(raw_bytes=1), stored)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("first_offset", 1),
        ("next_offset", 9),
        ("batches", 2),
        ("records", 3),
        ("flags", 1),
        ("base_timestamp", 0),
        ("max_timestamp", 0),
        ("largest_batch", 1),
    ],
)
def test_a_footer_that_miscounts_its_batches_is_found(column: str, value: int) -> None:
    segment = seal(draft_of(run_of(batch(0))), codec="none")
    wrong = resealed(whole(segment), footer=lambda footer: footer["runs"].update({column: [value]}))
    with pytest.raises(CorruptObjectError, match=f"{column} is {value} in the footer, "):
        verify_whole(segment.ref.key, wrong)


def test_leader_epochs_are_counted_like_the_rest() -> None:
    segment = seal(draft_of(run_of(batch(0))), codec="none")
    wrong = resealed(whole(segment), footer=lambda footer: footer["leader_epochs"].update(epoch=[4]))
    with pytest.raises(CorruptObjectError, match="leader_epochs is"):
        verify_whole(segment.ref.key, wrong)


def recrc(data: bytes) -> bytes:
    """The batch with a checksum that fits whatever it holds: damaged before its producer sent it."""
    return data[:17] + struct.pack(">I", crc32c(data[21:])) + data[21:]


def test_a_payload_that_does_not_decompress_is_told_by_its_offsets() -> None:
    good = batch(0, codec=ZSTD, value=b"v" * 100)
    bad = recrc(batch(2, codec=ZSTD, value=b"v" * 100)[:HEADER_BYTES] + b"?" * (len(good) - HEADER_BYTES))
    segment = seal(draft_of(run_of(good + bad)), codec="none")
    (finding,) = run_findings(segment.footer.runs[0], good + bad)
    assert (finding.first_offset, finding.next_offset, finding.damage) == (2, 4, True)
    with pytest.raises(CorruptObjectError, match=r"zstd payload does not decompress.*\[2, 4\)"):
        verify_whole(segment.ref.key, whole(segment))


def test_a_codec_of_the_future_is_kept_and_reported_but_is_no_damage() -> None:
    future = bytearray(batch(0))
    future[22] |= 6
    data = recrc(bytes(future))
    segment = seal(draft_of(run_of(data)), codec="none")
    assert verify_whole(segment.ref.key, whole(segment)) == segment.footer
    (finding,) = run_findings(segment.footer.runs[0], data)
    assert (finding.damage, finding.reason) == (False, "codec 6 is not known to this version")


def test_corrupt_at_source_bytes_and_legacy_messages_are_verified_as_what_they_are() -> None:
    legacy = run_of(
        legacy_message(0, b"old", magic=0) + legacy_message(1, b"old"), build_batch(records(1), base_offset=2)
    )
    segment = seal(draft_of(corrupt_run(), legacy), codec="zstd")
    footer = verify_whole(segment.ref.key, whole(segment))
    assert [run.flags for run in footer.runs] == [RunFlag.CORRUPT, RunFlag.LEGACY_MAGIC]


@pytest.mark.parametrize("magic", [0, 1])
def test_legacy_wrappers_are_decompressed_too(magic: int) -> None:
    inner = compress_payload(GZIP, legacy_message(0, b"old", magic=magic))
    good = legacy_message(0, inner, magic=magic, codec=GZIP)
    bad = legacy_message(1, b"no gzip at all", magic=magic, codec=GZIP)
    segment = seal(draft_of(run_of(good + bad)), codec="none")
    (finding,) = run_findings(segment.footer.runs[0], good + bad)
    assert (finding.first_offset, finding.next_offset, finding.damage) == (1, 2, True)
    assert "gzip payload does not decompress" in finding.reason

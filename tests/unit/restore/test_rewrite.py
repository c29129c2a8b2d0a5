"""From stored batches to batches a broker takes: what is kept is kept verbatim, what is not is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.format.batch import iter_batches
from kbackupd.format.codecs import GZIP, LZ4, NONE, SNAPPY, ZSTD
from kbackupd.format.header import BatchHeader, crc_holds, parse_header
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.stored_records import Record, records_of
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.segment import TransactionOutcome
from kbackupd.restore.offset_map import MappedRun
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, ProduceBatch, ProducerIdentity
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.visibility import Outcomes, Visibility
from tests.unit.format.test_legacy import message

ID = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), 0)
PRODUCER = ProducerIdentity(4_000, 2)
CODECS = (NONE, GZIP, SNAPPY, LZ4, ZSTD)


@dataclass(frozen=True)
class Stored:
    header: BatchHeader
    data: bytes
    first_offset: int
    next_offset: int


def stored(data: bytes | bytearray, *, only: OffsetRange | None = None) -> Stored:
    header = parse_header(data, 0)
    first, following = (0, header.next_offset) if only is None else (only.first_offset, only.next_offset)
    return Stored(header, bytes(data), first, following)


def raw(offset_delta: int, *, timestamp_delta: int = 0, value: bytes | None = b"value") -> RawRecord:
    return RawRecord(0, timestamp_delta, offset_delta, encode_body(b"key", value, ((b"\xff\xfe", None),)))


def rewriter(
    *,
    outcomes: Outcomes | None = None,
    max_batch_bytes: int = 1 << 20,
    next_sequence: int = 0,
) -> PartitionRewriter:
    return PartitionRewriter(
        outcomes=outcomes or Outcomes(()),
        producer=PRODUCER,
        max_batch_bytes=max_batch_bytes,
        next_sequence=next_sequence,
    )


def read_back(batches: Sequence[ProduceBatch], *, stale_maximum: bool = False) -> list[tuple[int, bytes]]:
    """(timestamp, body) of every record, after checking what a broker checks of a client's batch.

    Args:
        stale_maximum: the largest timestamp may be that of a record compacted away; a broker sets it right.
    """
    found: list[tuple[int, bytes]] = []
    for batch in batches:
        [(header, view)] = iter_batches(bytes(batch.data))
        assert crc_holds(header, view)
        assert header.record_count == header.last_offset_delta + 1 == batch.records
        assert header.attributes == header.codec
        assert (header.producer_id, header.producer_epoch) == PRODUCER
        assert header.base_sequence == batch.base_sequence
        records = list(records_of(header, view))
        assert [record.offset - header.base_offset for record in records] == list(range(len(records)))
        newest_ms = max(record.timestamp_ms for record in records)
        assert header.max_timestamp == newest_ms or (stale_maximum and header.max_timestamp > newest_ms)
        found += [(record.timestamp_ms, record.body) for record in records]
    return found


def test_a_plain_batch_takes_the_fast_path_with_its_payload_untouched() -> None:
    batch = stored(build_batch([raw(0), raw(1)], codec=ZSTD, base_offset=70, base_timestamp_ms=5, leader_epoch=3))
    into = rewriter()

    [produced] = into.rewrite(batch)

    assert bytes(produced.data[61:]) == batch.data[61:]
    assert (into.tally.fast_batches, into.tally.slow_batches, into.tally.restored) == (1, 0, 2)
    assert list(into.offset_map.runs()) == [MappedRun(source_offset=70, target_offset=0, count=2)]
    assert read_back([produced])[0][0] == 5


def test_an_unknown_codec_passes_on_the_fast_path_and_is_reported_missing_where_records_must_be_touched() -> None:
    whole = bytearray(build_batch([raw(0), raw(1)], base_offset=70))
    whole[22] |= 6
    into = rewriter()
    assert len(into.rewrite(stored(whole))) == 1

    cut = rewriter()
    assert cut.rewrite(stored(whole, only=OffsetRange(71, 100))) == []
    assert cut.tally.missing == 2
    assert "codec 6" in cut.tally.missing_parts[0].reason


@pytest.mark.parametrize("codec", CODECS)
def test_holes_inside_a_batch_are_closed_and_mapped(codec: int) -> None:
    batch = stored(build_batch([raw(1, value=None), raw(2), raw(5)], codec=codec, base_offset=70, last_offset_delta=9))
    into = rewriter()

    produced = into.rewrite(batch)

    assert parse_header(produced[0].data, 0).codec == codec
    assert [body for _, body in read_back(produced)] == [raw(1, value=None).body, raw(2).body, raw(5).body]
    assert list(into.offset_map.runs()) == [
        MappedRun(source_offset=71, target_offset=0, count=2),
        MappedRun(source_offset=75, target_offset=2, count=1),
    ]


def test_a_batch_that_reaches_over_the_range_is_cut_at_exactly_its_edges() -> None:
    whole = build_batch([raw(n, timestamp_delta=n) for n in range(10)], base_offset=70, base_timestamp_ms=100)
    into = rewriter()

    produced = into.rewrite(stored(whole, only=OffsetRange(73, 76)))

    assert [stamp for stamp, _ in read_back(produced)] == [103, 104, 105]
    assert into.tally.outside == 7


def test_log_append_time_becomes_each_records_own_timestamp() -> None:
    batch = stored(
        build_batch(
            [raw(0, timestamp_delta=0), raw(1, timestamp_delta=9)],
            base_timestamp_ms=1_000,
            max_timestamp_ms=5_000,
            log_append_time=True,
        )
    )
    into = rewriter()

    assert [stamp for stamp, _ in read_back(into.rewrite(batch))] == [5_000, 5_000]
    assert into.tally.restamped == 2


def test_with_a_delete_horizon_deltas_are_relative_to_the_horizon() -> None:
    batch = stored(
        build_batch(
            [raw(0, timestamp_delta=-400), raw(1, timestamp_delta=-300)],
            base_timestamp_ms=10_000,
            max_timestamp_ms=9_700,
            delete_horizon=True,
        )
    )

    assert [stamp for stamp, _ in read_back(rewriter().rewrite(batch))] == [9_600, 9_700]


def test_a_batch_too_big_for_the_target_is_split_and_a_record_too_big_is_missing() -> None:
    records = [raw(n, value=bytes(1_000)) for n in range(8)]
    records[5] = raw(5, value=bytes(9_000))
    into = rewriter(max_batch_bytes=2_500)

    produced = into.rewrite(stored(build_batch(records, base_offset=70)))

    assert [body for _, body in read_back(produced)] == [record.body for n, record in enumerate(records) if n != 5]
    assert all(len(batch.data) <= 2_500 for batch in produced)
    assert into.tally.missing == 1
    assert into.tally.missing_parts[0].offsets == OffsetRange(75, 76)
    assert [batch.base_sequence for batch in produced] == [
        sum(batch.records for batch in produced[:n]) for n in range(len(produced))
    ]


def test_sequences_wrap_where_kafkas_do() -> None:
    into = rewriter(next_sequence=SEQUENCE_MODULUS - 1)

    first = into.rewrite(stored(build_batch([raw(n) for n in range(3)], base_offset=70)))
    second = into.rewrite(stored(build_batch([raw(0)], base_offset=73)))

    assert [batch.base_sequence for batch in first + second] == [SEQUENCE_MODULUS - 1, 2]


def test_control_batches_and_empty_batches_are_dropped_and_counted() -> None:
    into = rewriter()

    assert into.rewrite(stored(build_batch([raw(0)], base_offset=1, control=True, transactional=True))) == []
    assert into.rewrite(stored(build_batch([], base_offset=2, last_offset_delta=4))) == []
    assert (into.tally.control_batches, into.tally.empty_batches, into.tally.restored) == (1, 1, 0)


def test_only_committed_transactions_and_those_of_unknown_outcome_are_restored() -> None:
    def batch(producer_id: int, offset: int) -> Stored:
        return stored(build_batch([raw(0)], base_offset=offset, transactional=True, producer_id=producer_id))

    def marker(producer_id: int, offset: int, *, committed: bool) -> TransactionOutcome:
        return TransactionOutcome(id=ID, offset=offset, producer_id=producer_id, producer_epoch=0, committed=committed)

    outcomes = Outcomes(
        [marker(1, 20, committed=True), marker(2, 21, committed=False)],
        unseen=[OffsetRange(22, 30)],
        last_stable_offset=12,
    )
    into = rewriter(outcomes=outcomes)

    produced = [len(into.rewrite(batch(producer_id, 9 + producer_id))) for producer_id in (1, 2, 3, 4)]

    # Producer 3's batch, at 12, is not below the last stable offset; nor is producer 4's.
    assert produced == [1, 0, 0, 0]
    assert (into.tally.aborted, into.tally.undecided) == (1, 2)
    early = rewriter(outcomes=outcomes)
    assert len(early.rewrite(batch(3, 11))) == 1
    assert early.tally.unknown_outcome == 1
    assert {key.visibility for key in into.tally.transactions} == {Visibility.UNDECIDED}


@pytest.mark.parametrize("magic", [0, 1])
def test_legacy_messages_become_batches_of_magic_2(magic: int) -> None:
    into = rewriter()

    produced = into.rewrite(stored(message(7, b"k", None, magic=magic, timestamp_ms=55)))

    assert read_back(produced) == [(-1 if magic == 0 else 55, encode_body(b"k", None))]
    assert into.tally.converted == 1


def test_records_that_do_not_decode_are_missing_where_the_batch_cannot_pass_as_it_is() -> None:
    whole = bytearray(build_batch([raw(0), raw(1)], codec=GZIP, base_offset=70, last_offset_delta=4))
    whole[75] ^= 0xFF
    into = rewriter()

    assert into.rewrite(stored(whole)) == []
    assert into.tally.missing == 2
    assert into.tally.missing_parts[0].offsets == OffsetRange(70, 75)


record_lists = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from((0, -1, 1, 25 * 86_400_000, -25 * 86_400_000)),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(
    batches=st.lists(st.tuples(record_lists, st.sampled_from(CODECS)), max_size=5),
    first_offset=st.integers(0, 40),
    length=st.integers(0, 120),
    max_batch_bytes=st.sampled_from((200, 1 << 20)),
)
def test_every_record_within_the_range_arrives_once_in_order_with_body_and_timestamp_verbatim(
    batches: list[tuple[list[tuple[int, int, bytes]], int]], first_offset: int, length: int, max_batch_bytes: int
) -> None:
    offsets = OffsetRange(first_offset, first_offset + length)
    into = rewriter(max_batch_bytes=max_batch_bytes)
    expected: list[Record] = []
    produced: list[ProduceBatch] = []
    position = total = 0
    for steps, codec in batches:
        offset, records = -1, []
        for step, delta, body in steps:
            offset += step
            records.append(RawRecord(0, delta, offset, body))
            if offsets.first_offset <= position + offset < offsets.next_offset:
                expected.append(Record(position + offset, 1_000_000 + delta, 0, body))
        batch = stored(
            build_batch(records, codec=codec, base_offset=position, base_timestamp_ms=1_000_000), only=offsets
        )
        produced += into.rewrite(batch)
        position = batch.header.next_offset
        total += len(records)

    assert read_back(produced) == [(record.timestamp_ms, record.body) for record in expected]
    assert into.tally.restored == len(expected)
    assert into.tally.outside == total - len(expected)
    assert [into.offset_map.target_of(record.offset) for record in expected] == list(range(len(expected)))

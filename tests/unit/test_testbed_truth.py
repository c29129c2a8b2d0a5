"""The testbed's comparison must see every kind of difference, or every test that rests on it proves nothing."""

from __future__ import annotations

import pytest

from kbackupd.testbed.truth import (
    NOWHERE_SAID,
    Headers,
    Outcome,
    Record,
    Truth,
    compare_records,
    content_digest,
    expected,
    split_batches,
)


def record(offset: int, *, value: bytes | None = b"v", headers: Headers = (), timestamp_ms: int = 1_000) -> Record:
    return Record(0, offset, timestamp_ms, 1, b"k", value, headers)


RECORDS = [record(0, value=b"zero"), record(1, value=None), record(2, value=b""), record(5, value=b"five")]
WANTED = expected(RECORDS)


def test_equal_records_show_no_difference() -> None:
    assert compare_records(WANTED, RECORDS) == []
    assert compare_records(WANTED, RECORDS, offsets=False) == []


@pytest.mark.parametrize("offsets", [True, False])
def test_a_missing_record_is_named(offsets: bool) -> None:
    assert any(
        "offset 2: missing" in one for one in compare_records(WANTED, RECORDS[:2] + RECORDS[3:], offsets=offsets)
    )


def test_a_record_nobody_produced_is_named() -> None:
    assert compare_records(WANTED, [*RECORDS, record(6)]) == [
        "offset 6: not expected: key b'k', value b'v', headers ()"
    ]
    assert len(compare_records(WANTED, [*RECORDS, record(6)], offsets=False)) == 2


def test_a_doubled_record_is_named() -> None:
    assert "offset 5: read twice" in compare_records(WANTED, [*RECORDS, RECORDS[3]])
    assert any("doubled" in one for one in compare_records(WANTED, [*RECORDS, record(6, value=b"five")], offsets=False))


def test_records_out_of_order_are_named() -> None:
    swapped = [RECORDS[1], RECORDS[0], *RECORDS[2:]]
    assert compare_records(WANTED, swapped) == ["offset 0: read after offset 1"]
    assert len(compare_records(WANTED, swapped, offsets=False)) == 2


@pytest.mark.parametrize("offsets", [True, False])
def test_null_in_place_of_empty_is_a_difference(offsets: bool) -> None:
    altered = [*RECORDS[:2], record(2, value=None), RECORDS[3]]
    (difference,) = compare_records(WANTED, altered, offsets=offsets)
    assert "other contents" in difference


@pytest.mark.parametrize("offsets", [True, False])
def test_another_timestamp_is_a_difference_unless_told_otherwise(offsets: bool) -> None:
    altered = [record(0, value=b"zero", timestamp_ms=1_001), *RECORDS[1:]]
    (difference,) = compare_records(WANTED, altered, offsets=offsets)
    assert "timestamp 1001, produced with 1000" in difference
    assert compare_records(WANTED, altered, offsets=offsets, timestamps=False) == []


def test_many_differences_are_cut_short_and_counted() -> None:
    differences = compare_records(expected([record(i) for i in range(100)]), [], limit=3)
    assert len(differences) == 4
    assert differences[-1] == "… and 97 more differences"


def test_headers_count_with_order_doubles_and_nulls() -> None:
    variants: list[Headers] = [
        (),
        (("a", None),),
        (("a", b""),),
        (("a", b"1"), ("a", b"2")),
        (("a", b"2"), ("a", b"1")),
        (("a", b"1"),),
        (("a", b"1"), ("a", b"1")),
    ]
    assert len({content_digest(b"k", b"v", headers) for headers in variants}) == len(variants)


def test_no_two_ways_to_cut_the_same_bytes_share_a_digest() -> None:
    assert content_digest(b"ab", b"c", ()) != content_digest(b"a", b"bc", ())
    assert content_digest(None, b"", ()) != content_digest(b"", None, ())


def _acknowledge(truth: Truth, offset: int, outcome: Outcome) -> None:
    transaction = truth.begin()
    truth.acknowledge("t", 0, offset=offset, timestamp_ms=0, key=None, value=b"v", headers=(), transaction=transaction)
    truth.decide(transaction, outcome)


def test_a_committed_reader_is_expected_to_see_neither_aborted_nor_open_transactions() -> None:
    truth = Truth()
    for offset, outcome in enumerate((Outcome.ABORTED, Outcome.COMMITTED, Outcome.OPEN)):
        _acknowledge(truth, offset, outcome)
    assert [one.offset for one in truth.records("t", 0)] == [1]
    assert [one.offset for one in truth.records("t", 0, isolation="read_uncommitted")] == [0, 1, 2]


def test_an_unknown_outcome_is_never_guessed() -> None:
    truth = Truth()
    _acknowledge(truth, 0, Outcome.UNKNOWN)
    with pytest.raises(LookupError, match="unknown outcome"):
        truth.records("t", 0)


def test_a_record_of_unknown_fate_matters_only_where_it_could_be_seen() -> None:
    truth = Truth()
    truth.know_topic("t", 2)
    aborted = truth.begin()
    truth.doubt("t", 0, "time-out", aborted)
    truth.decide(aborted, Outcome.ABORTED)
    truth.doubt("t", 1, "time-out")
    assert truth.records("t", 0) == []
    with pytest.raises(LookupError, match="unknown fate"):
        truth.records("t", 0, isolation="read_uncommitted")
    with pytest.raises(LookupError, match="unknown fate"):
        truth.records("t", 1)


def test_a_log_that_is_cut_off_is_refused() -> None:
    batch = bytes(8) + (100 - 12).to_bytes(4) + bytes(88)
    assert [(one.first_offset, one.next_offset) for one in split_batches(batch + batch)] == [(0, 1), (0, 1)]
    with pytest.raises(ValueError, match="cut off"):
        list(split_batches(batch + batch[:-1]))
    with pytest.raises(ValueError, match="no batch"):
        list(split_batches(batch + b"short"))


def test_a_record_that_a_broker_only_said_it_has_lies_where_a_reader_found_it() -> None:
    truth = Truth()
    for offset, value in ((0, b"a"), (NOWHERE_SAID, b"b"), (2, b"c")):
        truth.acknowledge("t", 0, offset=offset, timestamp_ms=7, key=None, value=value, headers=())
    seen = [Record(0, offset, 7, 0, None, value, ()) for offset, value in enumerate((b"a", b"b", b"c"))]

    assert compare_records(truth.records("t", 0, seen=seen), seen) == []
    for wrong in (seen[:1], [*seen, seen[1]._replace(offset=3)], []):
        with pytest.raises(LookupError, match=r"lies at [02] places"):
            truth.records("t", 0, seen=wrong)

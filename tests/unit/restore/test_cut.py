"""What a cut leaves of a partition: exactly the records asked for, whatever their batches look like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.format.codecs import GZIP, LZ4, NONE, SNAPPY, ZSTD, compress_payload
from kbackupd.format.records import Headers, RawRecord, build_batch, decode_record, encode_body
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.scope import HeaderPattern, OffsetBounds, RecordPatterns, RecordsOf, TimeWindow
from kbackupd.model.segment import TransactionOutcome
from kbackupd.restore.cut import PartitionCut, Reach, RecordFilter, compiled
from kbackupd.restore.produce_batch import ProduceBatch
from kbackupd.restore.provenance import Provenance
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.visibility import Outcomes, Visibility
from tests.unit.format.test_legacy import message
from tests.unit.restore.test_rewrite import CODECS, PRODUCER, Stored, read_back, stored

ID = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), 0)
BASE_MS = 1_760_000_000_000


def cut(
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    offsets: OffsetBounds | None = None,
    patterns: RecordPatterns | None = None,
) -> PartitionCut:
    return PartitionCut(
        offsets=offsets or OffsetBounds(),
        window=TimeWindow(start_ms=start_ms, end_ms=end_ms),
        filter=RecordFilter(patterns or RecordPatterns()),
    )


def rewriter(
    what: PartitionCut, *, records_of: RecordsOf = RecordsOf.COMMITTED, outcomes: Outcomes | None = None
) -> PartitionRewriter:
    return PartitionRewriter(
        outcomes=outcomes or Outcomes(()),
        producer=PRODUCER,
        max_batch_bytes=1 << 20,
        cut=what,
        records_of=records_of,
    )


def at(*stamps_ms: int, base_offset: int = 0, codec: int = NONE) -> Stored:
    """A plain batch of one record for each timestamp."""
    records = [RawRecord(0, stamp - stamps_ms[0], n, encode_body(b"k", b"%d" % n)) for n, stamp in enumerate(stamps_ms)]
    return stored(build_batch(records, codec=codec, base_offset=base_offset, base_timestamp_ms=stamps_ms[0]))


def stamps_of(batches: Sequence[ProduceBatch]) -> list[int]:
    return [stamp for stamp, _ in read_back(batches, stale_maximum=True)]


def test_hazard_39_the_start_of_a_window_is_in_it_and_its_end_is_not() -> None:
    into = rewriter(cut(start_ms=100, end_ms=200))

    produced = into.rewrite(at(99, 100, 100, 199, 200, 200, 201))

    assert stamps_of(produced) == [100, 100, 199]
    assert (into.tally.restored, into.tally.cut_away) == (3, 4)


def test_hazard_33_a_record_inside_is_found_between_a_first_and_a_last_one_outside() -> None:
    early, late = rewriter(cut(end_ms=200)), rewriter(cut(start_ms=200))

    assert stamps_of(early.rewrite(at(500, 150, 400))) == [150]
    assert stamps_of(late.rewrite(at(100, 250, 120))) == [250]


def test_a_batch_whose_records_are_all_inside_passes_as_it_is() -> None:
    batch = at(150, 100, 199, codec=ZSTD)
    into = rewriter(cut(start_ms=100, end_ms=200))

    [produced] = into.rewrite(batch)

    assert produced.data[61:] == batch.data[61:]
    assert (into.tally.fast_batches, into.tally.slow_batches) == (1, 0)


@pytest.mark.parametrize("codec", [6, ZSTD])
def test_what_the_header_decides_is_never_decoded(codec: int) -> None:
    damaged = bytearray(at(100, 150).data)
    damaged[22] |= codec
    batch = stored(damaged)

    assert len(rewriter(cut(end_ms=151)).rewrite(batch)) == 1
    for what in (cut(start_ms=151), cut(offsets=OffsetBounds(first_offset=2))):
        beyond = rewriter(what)
        assert beyond.rewrite(batch) == []
        assert (beyond.tally.cut_away, beyond.tally.missing) == (2, 0)


def test_a_codec_of_the_future_is_missing_where_only_its_records_could_tell() -> None:
    batch = bytearray(at(100, 150).data)
    batch[22] |= 6
    into = rewriter(cut(start_ms=120))

    assert into.rewrite(stored(batch)) == []
    assert (into.tally.missing, into.tally.cut_away) == (2, 0)
    assert "which records of the batch are wanted cannot be told: codec 6" in into.tally.missing_parts[0].reason


def test_the_largest_timestamp_that_compaction_left_behind_is_only_an_upper_bound() -> None:
    records = [RawRecord(0, 0, 0, encode_body(b"k", b"v"))]
    batch = stored(build_batch(records, base_timestamp_ms=100, max_timestamp_ms=300))

    assert stamps_of(rewriter(cut(end_ms=200)).rewrite(batch)) == [100]
    assert rewriter(cut(start_ms=200)).rewrite(batch) == []


def test_log_append_time_is_decided_by_the_batch_alone() -> None:
    records = [RawRecord(0, delta, n, encode_body(b"k", b"v")) for n, delta in enumerate((0, 900))]
    batch = stored(
        build_batch(records, base_timestamp_ms=100, max_timestamp_ms=5_000, log_append_time=True, base_offset=3)
    )

    assert stamps_of(rewriter(cut(start_ms=5_000, end_ms=5_001)).rewrite(batch)) == [5_000, 5_000]
    assert rewriter(cut(end_ms=5_000)).rewrite(batch) == []
    assert cut(end_ms=5_000).of_batch(batch.header) is Reach.NONE


def test_a_record_without_a_timestamp_is_older_than_every_other() -> None:
    batch = at(-1, 100)

    assert stamps_of(rewriter(cut(end_ms=100)).rewrite(batch)) == [-1]
    assert stamps_of(rewriter(cut(start_ms=0)).rewrite(batch)) == [100]


def test_offset_ranges_cut_batches_and_say_how_much() -> None:
    into = rewriter(cut(offsets=OffsetBounds(first_offset=72, next_offset=74)))

    produced = into.rewrite(at(1, 2, 3, 4, 5, base_offset=70))

    assert stamps_of(produced) == [3, 4]
    assert (into.tally.restored, into.tally.cut_away, into.tally.outside) == (2, 3, 0)
    assert [into.offset_map.target_of(offset) for offset in (71, 72, 73, 74)] == [None, 0, 1, None]


def test_a_window_that_holds_all_of_a_batch_does_not_undo_what_offsets_cut_away() -> None:
    into = rewriter(cut(start_ms=0, offsets=OffsetBounds(next_offset=1)))

    assert stamps_of(into.rewrite(at(5, 6))) == [5]
    assert into.tally.cut_away == 1


def record(key: bytes | None, value: bytes | None, *headers: tuple[bytes, bytes | None]) -> bytes:
    return encode_body(key, value, headers)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (RecordPatterns(key="^order-"), [0, 1]),
        (RecordPatterns(key="order", value=r"\xff"), [1]),
        (RecordPatterns(value=""), [0, 1, 3]),
        (RecordPatterns(value="größe"), [3]),
        (RecordPatterns(headers=(HeaderPattern(name="tenant", value="^eu$"),)), [1]),
        (RecordPatterns(headers=(HeaderPattern(name="tenant"),)), [0, 1]),
        (RecordPatterns(key="order", headers=(HeaderPattern(name="tenant", value="us"),)), [1]),
        (RecordPatterns(key="-1", headers=(HeaderPattern(name="tenant", value="us"),)), []),
    ],
)
def test_hazard_9_filters_search_bytes_all_must_match_and_a_null_never_does(
    patterns: RecordPatterns, found: list[int]
) -> None:
    bodies = [
        record(b"order-1", b"", (b"tenant", None)),
        record(b"order-2", b"a\xffb", (b"tenant", b"us-"), (b"tenant", b"eu")),
        record(None, None),
        record(b"", "größe".encode()),
    ]
    batch = stored(build_batch([RawRecord(0, 0, n, body) for n, body in enumerate(bodies)], base_timestamp_ms=1))
    into = rewriter(cut(patterns=patterns))

    assert [body for _, body in read_back(into.rewrite(batch))] == [bodies[n] for n in found]
    assert (into.tally.restored, into.tally.filtered) == (len(found), len(bodies) - len(found))


def test_with_filters_a_batch_of_which_every_record_matches_still_passes_as_it_is() -> None:
    into = rewriter(cut(patterns=RecordPatterns(key="k")))
    into.rewrite(at(1, 2, codec=LZ4))
    assert (into.tally.fast_batches, into.tally.slow_batches) == (1, 0)


def test_a_bad_pattern_tells_where_it_is_bad() -> None:
    with pytest.raises(re.error) as refused:
        compiled("order-(")
    assert refused.value.pos == 6


def test_provenance_is_added_behind_a_records_own_headers_with_its_source_offset() -> None:
    batch = stored(build_batch([RawRecord(0, 0, 4, record(b"k", None, (b"a", b"1")))], base_offset=70))
    into = PartitionRewriter(
        outcomes=Outcomes(()), producer=PRODUCER, max_batch_bytes=1 << 20, provenance=Provenance("orders", 3)
    )

    [(_, body)] = read_back(into.rewrite(batch))

    assert decode_record(body) == (
        b"k",
        None,
        (
            (b"a", b"1"),
            (b"kbackupd.source.topic", b"orders"),
            (b"kbackupd.source.partition", b"3"),
            (b"kbackupd.source.offset", b"74"),
        ),
    )


def test_uncommitted_restores_what_was_aborted_and_undecided_and_counts_it() -> None:
    aborted = TransactionOutcome(id=ID, offset=9, producer_id=1, producer_epoch=0, committed=False)

    def batch(producer_id: int, offset: int) -> Stored:
        records = [RawRecord(0, 0, 0, record(b"k", b"v"))]
        return stored(build_batch(records, base_offset=offset, transactional=True, producer_id=producer_id))

    marker = stored(build_batch([RawRecord(0, 0, 0, b"\0")], base_offset=9, control=True, transactional=True))
    into = rewriter(cut(), records_of=RecordsOf.UNCOMMITTED, outcomes=Outcomes([aborted]))

    produced = [len(into.rewrite(each)) for each in (batch(1, 1), batch(2, 2), marker)]

    assert produced == [1, 1, 0]
    tally = into.tally
    assert (tally.restored, tally.aborted, tally.undecided, tally.control_batches) == (2, 0, 0, 1)
    assert (tally.restored_aborted, tally.restored_undecided) == (1, 1)
    assert [key.visibility for key in tally.transactions] == [Visibility.UNDECIDED]


@dataclass(frozen=True)
class Made:
    """A batch, and its records as a consumer of the source would see them: (offset, timestamp, body)."""

    data: bytes
    seen: list[tuple[int, int, bytes]]
    passes: bool
    """A broker takes it as it is."""


STAMPS = st.sampled_from((-1, BASE_MS, BASE_MS + 1, BASE_MS + 2, BASE_MS + 200, BASE_MS - 25 * 86_400_000))
CONTENT = st.sampled_from((None, b"", b"a", b"ab", b"\xff", b"x" * 150))
NAMES = st.sampled_from((b"h", b"\xff\xfe", b""))
BODIES: st.SearchStrategy[tuple[bytes | None, bytes | None, Headers]] = st.tuples(
    CONTENT, CONTENT, st.lists(st.tuples(NAMES, CONTENT), max_size=3).map(tuple)
)
BATCHES = st.tuples(
    st.sampled_from(("plain", "plain", "stale maximum", "log append time", "delete horizon", "magic 0", "magic 1")),
    st.sampled_from(CODECS),
    st.lists(st.tuples(st.sampled_from((1, 1, 1, 2, 3)), STAMPS, BODIES), min_size=1, max_size=8),
)
BOUND = st.none() | st.sampled_from((BASE_MS - 1, BASE_MS, BASE_MS + 1, BASE_MS + 2, BASE_MS + 3, BASE_MS + 200))
PATTERN = st.none() | st.sampled_from(("", "a", "^ab?$", r"\xff", "nowhere"))
HEADER_PATTERNS = st.lists(st.builds(HeaderPattern, name=st.sampled_from(("h", "")), value=PATTERN), max_size=2).map(
    tuple
)


def make(
    kind: str, codec: int, rows: list[tuple[int, int, tuple[bytes | None, bytes | None, Headers]]], at: int
) -> Made:
    """A batch of that kind at the log's end, `at`."""
    offset, seen = at - 1, []
    legacy = kind.startswith("magic")
    for step, stamp, (key, value, headers) in rows:
        offset += step
        seen.append((offset, -1 if kind == "magic 0" else stamp, encode_body(key, value, () if legacy else headers)))
    if legacy:
        return Made(_legacy(kind == "magic 1", codec if codec in (GZIP, SNAPPY) else NONE, rows, seen), seen, False)
    base = BASE_MS + 1_000 if kind == "delete horizon" else seen[0][1]
    highest = max(stamp for _, stamp, _ in seen) + (300 if kind in ("stale maximum", "log append time") else 0)
    data = build_batch(
        [RawRecord(0, stamp - base, offset - at, body) for offset, stamp, body in seen],
        codec=codec,
        base_offset=at,
        base_timestamp_ms=base,
        max_timestamp_ms=highest,
        log_append_time=kind == "log append time",
        delete_horizon=kind == "delete horizon",
    )
    if kind == "log append time":
        seen = [(offset, highest, body) for offset, _, body in seen]
    dense = seen[-1][0] - at + 1 == len(seen)
    return Made(data, seen, dense and kind in ("plain", "stale maximum"))


def _legacy(
    stamped: bool,
    codec: int,
    rows: list[tuple[int, int, tuple[bytes | None, bytes | None, Headers]]],
    seen: list[tuple[int, int, bytes]],
) -> bytes:
    """Messages one by one, or in a wrapper."""
    magic, last = int(stamped), seen[-1][0]
    messages = [
        message(offset - (seen[0][0] if codec and stamped else 0), key, value, magic=magic, timestamp_ms=stamp)
        for (_, _, (key, value, _)), (offset, stamp, _) in zip(rows, seen, strict=True)
    ]
    if not codec:
        return b"".join(messages)
    packed = compress_payload(codec, b"".join(messages))
    return message(last, None, packed, magic=magic, attributes=codec, timestamp_ms=max(stamp for _, stamp, _ in seen))


def matches(patterns: RecordPatterns, body: bytes) -> bool:
    """Written again, so that it cannot be wrong in the same way."""
    key, value, headers = decode_record(body)
    for pattern, content in ((patterns.key, key), (patterns.value, value)):
        if pattern is not None and (content is None or not re.search(pattern.encode(), content)):
            return False
    for wanted in patterns.headers:
        values = [content for name, content in headers if name == wanted.name.encode()]
        if wanted.value is not None:
            values = [c for c in values if c is not None and re.search(wanted.value.encode(), c)]
        if not values:
            return False
    return True


@settings(max_examples=400, deadline=None)
@given(
    batches=st.lists(BATCHES, max_size=6),
    window=st.builds(TimeWindow, start_ms=BOUND, end_ms=BOUND),
    first_offset=st.none() | st.integers(0, 40),
    length=st.none() | st.integers(1, 40),
    patterns=st.builds(RecordPatterns, key=PATTERN, value=PATTERN, headers=HEADER_PATTERNS) | st.just(RecordPatterns()),
    covered=st.none() | st.tuples(st.integers(0, 20), st.integers(0, 40)),
)
def test_a_cut_restores_what_a_brute_force_filter_over_the_records_keeps(
    batches: list[tuple[str, int, list[tuple[int, int, tuple[bytes | None, bytes | None, Headers]]]]],
    window: TimeWindow,
    first_offset: int | None,
    length: int | None,
    patterns: RecordPatterns,
    covered: tuple[int, int] | None,
) -> None:
    bounds = OffsetBounds(
        first_offset=first_offset, next_offset=None if length is None else (first_offset or 0) + length
    )
    coverage = None if covered is None else OffsetRange(covered[0], covered[0] + covered[1])
    into = rewriter(PartitionCut(offsets=bounds, window=window, filter=RecordFilter(patterns)))
    expected: list[tuple[int, bytes]] = []
    offsets: list[int] = []
    produced: list[ProduceBatch] = []
    end = total = whole = 0

    def wanted(offset: int, stamp: int, body: bytes) -> bool:
        if coverage is not None and not coverage.first_offset <= offset < coverage.next_offset:
            return False
        return (
            (bounds.first_offset is None or bounds.first_offset <= offset)
            and (bounds.next_offset is None or offset < bounds.next_offset)
            and (window.start_ms is None or window.start_ms <= stamp)
            and (window.end_ms is None or stamp < window.end_ms)
            and matches(patterns, body)
        )

    for kind, codec, rows in batches:
        made = make(kind, codec, rows, end)
        kept = [(offset, stamp, body) for offset, stamp, body in made.seen if wanted(offset, stamp, body)]
        offsets += [offset for offset, _, _ in kept]
        expected += [(stamp, body) for _, stamp, body in kept]
        whole += made.passes and len(kept) == len(made.seen)
        for data in _each(made):
            produced += into.rewrite(stored(data, only=coverage))
        total += len(made.seen)
        end = made.seen[-1][0] + 1

    assert read_back(produced, stale_maximum=True) == expected
    assert [into.offset_map.target_of(offset) for offset in offsets] == list(range(len(offsets)))
    tally = into.tally
    assert tally.restored == len(expected)
    assert tally.restored + tally.cut_away + tally.filtered + tally.outside == total
    assert tally.fast_batches == whole


def _each(made: Made) -> list[bytes]:
    """The batch, or its legacy messages one by one."""
    data, found = made.data, []
    while data:
        size = 12 + int.from_bytes(data[8:12], "big")
        found.append(data[:size])
        data = data[size:]
    return found

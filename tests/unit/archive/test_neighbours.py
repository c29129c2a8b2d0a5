"""Which ranges of an object one request fetches."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.archive.neighbours import GAP_BYTES, REQUEST_BYTES, Wish, neighbours


def wishes(*ranges: tuple[int, int]) -> list[Wish]:
    """Of (first byte, next byte)."""
    return [Wish(first, next - first, number) for number, (first, next) in enumerate(ranges)]


def chosen(ranges: list[Wish], at: int, most_bytes: int = REQUEST_BYTES) -> list[int]:
    return [wish.number for wish in ranges[neighbours(ranges, at, most_bytes=most_bytes)]]


def test_ranges_side_by_side_come_together_whichever_is_asked_for_first() -> None:
    side_by_side = wishes((8, 100), (100, 200), (200, 300))
    for at in range(3):
        assert chosen(side_by_side, at) == [0, 1, 2]


def test_a_small_gap_is_read_over_and_a_large_one_is_not() -> None:
    half = GAP_BYTES // 2
    small = wishes((0, half), (half + GAP_BYTES, 2 * half + GAP_BYTES))
    large = wishes((0, half + 1), (half + 2 + GAP_BYTES, 2 * half + 3 + GAP_BYTES))
    assert chosen(small, 0) == chosen(small, 1) == [0, 1]
    assert chosen(large, 0) == [0]
    assert chosen(large, 1) == [1]


def test_no_more_is_read_over_than_is_wanted() -> None:
    assert chosen(wishes((0, 100), (301, 400)), 0) == [0]
    assert chosen(wishes((0, 100), (200, 300), (450, 500)), 0) == [0, 1, 2]
    assert chosen(wishes((0, 100), (200, 300), (460, 500)), 0) == [0, 1]
    assert chosen(wishes((0, 300), (400, 500), (600, 700), (800, 900)), 0) == [0, 1, 2, 3]


def test_room_goes_to_what_follows_before_what_precedes() -> None:
    assert chosen(wishes((0, 10), (10, 20), (20, 30), (30, 40)), 1, most_bytes=20) == [1, 2]
    assert chosen(wishes((0, 10), (10, 20), (20, 30), (30, 40)), 3, most_bytes=20) == [2, 3]


def test_without_room_a_range_comes_alone_however_large_it_is() -> None:
    side_by_side = wishes((0, 10), (10, 20))
    assert chosen(side_by_side, 0, most_bytes=0) == [0]
    assert chosen(side_by_side, 0, most_bytes=-5) == [0]
    assert chosen(wishes((0, 2 * REQUEST_BYTES), (2 * REQUEST_BYTES, 2 * REQUEST_BYTES + 1)), 0) == [0]


def test_ranges_that_overlap_are_not_fetched_together() -> None:
    assert chosen(wishes((0, 10), (0, 10), (10, 20)), 0) == [0]
    assert chosen(wishes((0, 10), (0, 10), (10, 20)), 1) == [1, 2]


@given(
    ranges=st.lists(st.tuples(st.integers(0, 12_000_000), st.integers(1, 4_000_000)), min_size=1, max_size=12),
    at=st.integers(0, 11),
    most_bytes=st.integers(-1, 24_000_000),
)
def test_what_is_chosen_has_the_one_asked_for_and_keeps_to_its_bounds(
    ranges: list[tuple[int, int]], at: int, most_bytes: int
) -> None:
    ordered = sorted(Wish(first, length, number) for number, (first, length) in enumerate(ranges))
    at %= len(ordered)
    together = ordered[neighbours(ordered, at, most_bytes=most_bytes)]
    assert ordered[at] in together
    if len(together) > 1:
        all_bytes = together[-1].next_byte - together[0].first_byte
        assert all_bytes <= min(most_bytes, REQUEST_BYTES)
        assert all_bytes <= 2 * sum(wish.length for wish in together)
    for one, following in itertools.pairwise(together):
        assert 0 <= following.first_byte - one.next_byte <= GAP_BYTES

"""How much a fetch asks for: as much as ever where it is alone, and never more together than the budget bears (I9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.capture.partition import SessionKind
from kbackupd.capture.request_size import (
    ASKED_SHARE,
    HALVINGS_MAX,
    LARGE_BATCH_SECONDS,
    RECEIVING_COPIES,
    REQUEST_BYTES,
    SMALLEST_REQUEST_BYTES,
    RequestSize,
    request_bytes,
)
from kbackupd.model.positions import PartitionId, TopicId

MIB = 1 << 20
FOLLOWING = SessionKind.FOLLOWING


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_up_to_three_brokers_ask_for_all_a_request_may_under_the_default_memory_limit(loops: int) -> None:
    assert (
        request_bytes(FOLLOWING, limit_bytes=244 * MIB, loops=loops, largest_batch_bytes=0) == REQUEST_BYTES[FOLLOWING]
    )


@given(limit=st.integers(32 * MIB, 1 << 40), loops=st.integers(1, 10_000))
def test_together_they_ask_for_their_share_of_the_budget_at_most_or_for_the_least(limit: int, loops: int) -> None:
    each = request_bytes(FOLLOWING, limit_bytes=limit, loops=loops, largest_batch_bytes=0)
    assert each * RECEIVING_COPIES * loops <= limit // ASKED_SHARE or each == SMALLEST_REQUEST_BYTES


def test_a_batch_larger_than_the_share_is_asked_for_but_a_huge_one_does_not_take_the_budget() -> None:
    assert request_bytes(FOLLOWING, limit_bytes=32 * MIB, loops=60, largest_batch_bytes=MIB) == MIB
    huge = request_bytes(FOLLOWING, limit_bytes=244 * MIB, loops=60, largest_batch_bytes=60 * MIB)
    assert huge == REQUEST_BYTES[FOLLOWING]


def asked(size: RequestSize, *, most: int = 4 * MIB, loops: int = 1) -> int:
    return size.next_bytes(limit_bytes=244 * MIB, loops=loops, most_bytes=most)


def test_a_request_that_was_given_up_is_halved_until_half_of_it_comes_well_in_time() -> None:
    size = RequestSize(FOLLOWING, timeout_seconds=30.0)
    size.timed_out()
    size.timed_out()
    assert asked(size) == MIB
    size.received(MIB, asked_bytes=MIB, seconds=8.0, now=0.0)
    size.received(MIB // 4, asked_bytes=MIB, seconds=1.0, now=0.0)
    assert asked(size) == MIB, "too slow, and too little to tell"
    size.received(MIB // 2, asked_bytes=MIB, seconds=7.0, now=0.0)
    assert asked(size) == 2 * MIB


def test_it_is_not_halved_below_the_least_and_so_often_only_that_it_recovers() -> None:
    size = RequestSize(FOLLOWING, timeout_seconds=30.0)
    for _ in range(100):
        size.timed_out()
    assert asked(size) == SMALLEST_REQUEST_BYTES
    for _ in range(HALVINGS_MAX):
        size.received(MIB, asked_bytes=MIB, seconds=1.0, now=0.0)
    assert asked(size) == 4 * MIB


def test_a_batch_larger_than_was_asked_for_is_reckoned_with_for_as_long_as_one_like_it_may_come() -> None:
    size = RequestSize(FOLLOWING, timeout_seconds=30.0)
    little = asked(size, loops=200)
    size.received(2 * MIB, asked_bytes=little, seconds=0.1, now=100.0)
    size.checked(0, now=100.0 + LARGE_BATCH_SECONDS - 1)
    assert asked(size, loops=200) == 2 * MIB
    size.checked(0, now=100.0 + LARGE_BATCH_SECONDS)
    assert asked(size, loops=200) == little


def test_a_partition_whose_batch_needs_more_is_asked_for_with_that_whatever_the_most_is_until_it_needs_it_no_more() -> (
    None
):
    size = RequestSize(FOLLOWING, timeout_seconds=30.0)
    id = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), 0)
    size.needs(id, 40 * MIB)
    size.timed_out()
    assert asked(size) == 40 * MIB
    size.needs(id, 0)
    assert asked(size) == 2 * MIB

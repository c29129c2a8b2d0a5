"""How much a fetch asks for: as much as ever where it is alone, and never more together than the budget bears (I9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.capture.partition import SessionKind
from kbackupd.capture.request_size import (
    ASKED_SHARE,
    RECEIVING_COPIES,
    REQUEST_BYTES,
    SMALLEST_REQUEST_BYTES,
    request_bytes,
)

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

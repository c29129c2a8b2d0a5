"""Which transactional batches a restore keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.segment import TransactionOutcome
from kbackupd.restore.visibility import Outcomes, Visibility

ID = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), 0)


def marker(offset: int, *, producer_id: int = 7, epoch: int = 0, committed: bool = True) -> TransactionOutcome:
    return TransactionOutcome(id=ID, offset=offset, producer_id=producer_id, producer_epoch=epoch, committed=committed)


def test_the_first_marker_of_the_producer_behind_the_batch_decides() -> None:
    outcomes = Outcomes([marker(20, committed=False), marker(10), marker(12, producer_id=8, committed=False)])

    assert outcomes.of_batch(7, 5) is Visibility.COMMITTED
    assert outcomes.of_batch(8, 5) is Visibility.ABORTED
    assert outcomes.of_batch(7, 11) is Visibility.ABORTED


def test_a_fenced_producers_transaction_is_aborted_by_a_marker_of_the_next_epoch() -> None:
    assert Outcomes([marker(10, epoch=4, committed=False)]).of_batch(7, 3) is Visibility.ABORTED


def test_without_a_marker_the_last_stable_offset_says_whether_it_was_decided_where_the_archive_lacks_offsets() -> None:
    outcomes = Outcomes([marker(10)], unseen=[OffsetRange(60, 70)], last_stable_offset=50)

    assert outcomes.of_batch(7, 49) is Visibility.UNKNOWN
    assert outcomes.of_batch(7, 50) is Visibility.UNDECIDED
    assert Visibility.UNKNOWN.kept
    assert not Visibility.UNDECIDED.kept


def test_a_marker_that_compaction_took_leaves_the_outcome_unknown() -> None:
    outcomes = Outcomes([], last_stable_offset=50, compacted_below=30)

    assert outcomes.of_batch(7, 28) is Visibility.UNKNOWN
    assert outcomes.of_batch(7, 29) is Visibility.UNDECIDED


def test_a_transaction_decided_behind_the_end_of_what_was_captured_is_undecided_however_far_the_source_was() -> None:
    assert Outcomes([], unseen=[OffsetRange(0, 20)], last_stable_offset=500).of_batch(7, 40) is Visibility.UNDECIDED


@pytest.mark.parametrize("committed", [True, False])
def test_an_outcome_seen_across_a_gap_may_be_a_later_transactions_so_the_batch_is_kept_and_listed(
    committed: bool,
) -> None:
    outcomes = Outcomes([marker(40, committed=committed)], unseen=[OffsetRange(20, 30)])

    assert outcomes.of_batch(7, 10) is Visibility.UNKNOWN
    assert outcomes.of_batch(7, 35) is (Visibility.COMMITTED if committed else Visibility.ABORTED)


@given(
    markers=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.booleans())),
    gaps=st.sets(st.integers(0, 60), max_size=6),
    last_stable_offset=st.integers(-1, 60),
    producer_id=st.integers(0, 3),
    offset=st.integers(0, 60),
)
def test_outcomes_agree_with_a_walk_over_the_log(
    markers: list[tuple[int, int, bool]],
    gaps: set[int],
    last_stable_offset: int,
    producer_id: int,
    offset: int,
) -> None:
    by_place = {(producer, at): committed for producer, at, committed in markers}
    outcomes = Outcomes(
        [marker(at, producer_id=producer, committed=committed) for (producer, at), committed in by_place.items()],
        unseen=[OffsetRange(gap, gap + 1) for gap in sorted(gaps)],
        last_stable_offset=last_stable_offset,
    )

    lacking = any(gap > offset for gap in gaps)
    expected = Visibility.UNKNOWN if offset < last_stable_offset and lacking else Visibility.UNDECIDED
    gap_seen = False
    for at in range(offset + 1, 61):
        if (producer_id, at) in by_place:
            seen = Visibility.COMMITTED if by_place[producer_id, at] else Visibility.ABORTED
            expected = Visibility.UNKNOWN if gap_seen else seen
            break
        gap_seen = gap_seen or at in gaps
    # A gap at the marker's own offset is not between: the marker was seen.
    assert outcomes.of_batch(producer_id, offset) is expected

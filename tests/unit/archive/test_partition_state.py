"""How far one partition is covered, one segment's word at a time (I4, I6, I8)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.archive.partition_state import UNSEEN, PartitionState, add_epochs, advance, cut_epochs
from kbackupd.model.events import Gap, GapCause, Truncated
from kbackupd.model.positions import PartitionId, TopicId

P = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), 0)


def covered(following: int, *, first: int = 0) -> PartitionState:
    return PartitionState(id=P, first_offset=first, next_offset=following)


def gap(first: int, following: int, *, branch: int = 0, cause: GapCause = GapCause.LOG_START_MOVED) -> Gap:
    return Gap(id=P, branch=branch, first_offset=first, next_offset=following, cause=cause, at_ms=0)


def cut(branch: int, parent: int, offset: int) -> Truncated:
    return Truncated(id=P, branch=branch, parent=parent, offset=offset, leader_epoch=branch, at_ms=0)


def test_what_does_not_follow_holds_the_position_back_and_says_so() -> None:
    partition = covered(5)
    assert not advance(partition, [gap(7, 9)])
    assert partition.next_offset == 5


def test_what_is_contiguous_counts_in_whatever_order_it_is_told_and_as_far_as_it_goes() -> None:
    partition = covered(5)
    assert not advance(partition, [gap(12, 14), gap(7, 9), gap(5, 7)])
    assert partition.next_offset == 9


def test_offsets_that_are_told_again_never_move_it_backwards() -> None:
    partition = covered(9)
    assert advance(partition, [gap(2, 4)])
    assert partition.next_offset == 9


def test_a_truncation_is_followed_from_its_own_parent_only_and_its_number_is_used_up() -> None:
    partition = covered(9)
    assert not advance(partition, [cut(2, 1, 5)])
    assert (partition.branch, partition.next_branch, partition.next_offset) == (0, 3, 9)


def test_what_an_older_branch_still_tells_moves_nothing() -> None:
    partition = covered(9)
    assert advance(partition, [cut(1, 0, 4)])
    assert advance(partition, [gap(4, 20)])
    assert (partition.branch, partition.next_offset) == (1, 4)


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99))), offset=st.integers(0, 99))
def test_an_epoch_table_ascends_and_a_cut_leaves_only_what_began_below_it(
    pairs: list[tuple[int, int]], offset: int
) -> None:
    table: list[tuple[int, int]] = []
    add_epochs(table, sorted(pairs, key=lambda pair: (pair[1], pair[0])))
    assert [epoch for epoch, _ in table] == sorted({epoch for epoch, _ in table})
    cut_epochs(table, offset)
    assert all(start < offset for _, start in table)


def test_a_partition_state_that_was_never_seen_says_so() -> None:
    assert not PartitionState(id=P, first_offset=0, next_offset=0, state=UNSEEN).seen

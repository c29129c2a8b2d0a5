"""When a goal is reached, what keeps it from that, and when waiting has no sense any more: no clock, no broker."""

from __future__ import annotations

from dataclasses import replace

from kbackupd.capture.goals import GONE, Fate, Goal, Goals, Standing
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.status import PartitionState

PATIENCE_SECONDS = 60.0
ID = PartitionId(TopicId("A" * 22), 0)
OTHER = PartitionId(TopicId("A" * 22), 1)
AT = Standing(branch=0, position=10, high_watermark=20, heard=5.0, state=PartitionState.CATCHING_UP)


def goals(*, end_offset: int = 20, first_offset: int = 0, held_to: int = 10, noted: float = 3.0) -> Goals:
    made = Goals(patience_seconds=PATIENCE_SECONDS)
    made.add(ID, "orders", listed=True, now=0.0)
    made.note(ID, first_offset=first_offset, end_offset=end_offset, held_to=held_to, now=noted)
    return made


def see(made: Goals, now: float, at: Standing | None) -> Goal:
    made.observe(now, lambda _: at)
    return next(iter(made))


def test_a_goal_is_reached_when_all_below_the_end_is_captured() -> None:
    made = goals()
    assert not see(made, 6.0, AT).reached
    assert (made.offsets, made.offsets_done) == (10, 0)
    assert not see(made, 7.0, replace(AT, position=19)).reached
    assert made.offsets_done == 9
    assert see(made, 8.0, replace(AT, position=23)).reached
    assert (made.offsets, made.offsets_done, made.reached_count) == (10, 10, 1)
    assert made.over(8.0)


def test_a_position_at_the_end_counts_only_after_the_leader_has_spoken_since_it_told_the_end() -> None:
    """Else a log that was lost and has regrown less would pass for one that is captured."""
    made = goals(held_to=500)
    before = replace(AT, position=500, heard=2.0)
    assert not see(made, 6.0, before).reached
    assert see(made, 7.0, replace(before, branch=1, position=20, heard=6.5)).fate is Fate.COMPLETE


def test_an_empty_partition_is_reached_at_its_first_answer() -> None:
    made = goals(end_offset=0, held_to=-1)
    assert see(made, 6.0, replace(AT, position=0, high_watermark=0)).reached
    assert made.offsets == 0


def test_what_is_still_being_captured_at_the_end_is_unfinished_and_not_stuck() -> None:
    assert see(goals(), 6.0, AT).fate is Fate.UNFINISHED
    assert see(goals(), 6.0, replace(AT, state=PartitionState.RETRYING, reason="X")).fate is Fate.STUCK


def test_a_paused_partition_is_not_waited_for_until_it_is_resumed() -> None:
    made = goals()
    paused = replace(AT, state=PartitionState.PAUSED, reason="paused by an operator")
    assert see(made, 6.0, paused).fate is Fate.PAUSED
    assert made.over(6.0)
    see(made, 7.0, AT)
    assert not made.over(7.0)


def test_what_does_not_move_is_given_up_after_patience_and_not_while_another_moves() -> None:
    made = goals()
    made.add(OTHER, "orders", listed=True, now=0.0)
    made.note(OTHER, first_offset=0, end_offset=1_000, held_to=0, now=3.0)
    failing = replace(AT, state=PartitionState.QUARANTINED, reason="the broker answered X", heard=0.0)
    for second in range(0, 300, 30):
        moving = replace(AT, position=second, high_watermark=1_000, heard=float(second))
        made.observe(float(second), lambda id, moving=moving: failing if id == ID else moving)  # type: ignore[misc]  # bound now
        assert not made.over(float(second))
    last = replace(AT, position=270, high_watermark=1_000)
    made.observe(270.0 + PATIENCE_SECONDS, lambda id: failing if id == ID else last)
    assert made.over(270.0 + PATIENCE_SECONDS)
    stuck = next(goal for goal in made if goal.id == ID)
    assert (stuck.fate, stuck.reason) == (Fate.STUCK, "the broker answered X")


def test_a_deleted_topic_of_which_nothing_can_be_missing_is_complete_and_any_other_is_not() -> None:
    assert see(goals(first_offset=20, held_to=-1), 6.0, GONE).fate is Fate.COMPLETE
    made = goals(held_to=-1)
    assert see(made, 6.0, GONE).fate is Fate.DELETED
    assert made.over(6.0)


def test_a_topic_that_only_the_archive_knew_and_that_is_gone_is_no_goal() -> None:
    made = Goals(patience_seconds=PATIENCE_SECONDS)
    made.add(ID, "orders", listed=False, now=0.0)
    made.observe(1.0, lambda _: GONE)
    assert len(made) == 0
    assert made.over(1.0)


def test_a_cut_log_is_captured_to_the_end_of_what_is_left_and_the_loss_is_its_fate() -> None:
    made = goals()
    see(made, 6.0, replace(AT, position=15))
    cut = replace(AT, branch=1, position=12, high_watermark=-1)
    assert not see(made, 7.0, cut).reached
    assert not see(made, 8.0, replace(cut, high_watermark=14)).reached
    goal = see(made, 9.0, replace(cut, position=14, high_watermark=14))
    assert (goal.reached, goal.fate, goal.lost_from, goal.noted_end) == (True, Fate.CUT, 15, 20)
    assert made.offsets == made.offsets_done == 4


def test_the_end_of_a_cut_log_is_what_its_leader_says_of_that_log_and_nobody_else() -> None:
    made = goals()
    see(made, 6.0, replace(AT, position=15))
    cut = replace(AT, branch=1, position=12, high_watermark=12)
    assert not see(made, 7.0, replace(cut, heard=float("-inf"))).reached
    assert not see(made, 8.0, replace(cut, heard=7.5, high_watermark=14)).reached
    assert see(made, 9.0, replace(cut, heard=8.5, position=14, high_watermark=14)).reached


def test_a_cut_log_that_grew_beyond_the_old_end_is_captured_no_further_than_that() -> None:
    made = goals()
    see(made, 6.0, replace(AT, position=15))
    see(made, 7.0, replace(AT, branch=1, position=12, high_watermark=900))
    assert see(made, 8.0, replace(AT, branch=1, position=20, high_watermark=900)).reached


def test_a_log_cut_after_its_end_was_captured_stays_complete() -> None:
    made = goals()
    see(made, 6.0, replace(AT, position=20))
    goal = see(made, 7.0, replace(AT, branch=1, position=3, high_watermark=3))
    assert (goal.fate, goal.branch, goal.captured_to) == (Fate.COMPLETE, 0, 20)


def test_a_high_watermark_below_the_end_is_waited_for_and_then_told_as_a_loss() -> None:
    made = goals()
    short = replace(AT, position=14, high_watermark=14)
    goal = see(made, 6.0, short)
    assert not made.over(6.0 + PATIENCE_SECONDS / 2)
    assert (goal.fate, "ends at 14" in goal.reason) == (Fate.CUT, True)
    assert see(made, 7.0, replace(AT, position=20)).fate is Fate.COMPLETE


def test_a_tail_proven_empty_is_the_end_unless_the_partition_has_moved_since() -> None:
    made = goals()
    see(made, 6.0, replace(AT, position=14))
    made.empty(ID, branch=0, offset=12, high_watermark=20)
    assert not see(made, 7.0, replace(AT, position=14)).reached
    made.empty(ID, branch=0, offset=14, high_watermark=19)
    assert not see(made, 7.5, replace(AT, position=14)).reached, "of what follows up to the end nothing was said"
    made.empty(ID, branch=0, offset=14, high_watermark=20)
    goal = see(made, 8.0, replace(AT, position=14))
    assert (goal.fate, goal.captured_to) == (Fate.COMPLETE, 14)


def test_an_end_that_is_never_told_keeps_it_waiting_no_longer_than_patience() -> None:
    made = Goals(patience_seconds=PATIENCE_SECONDS)
    made.add(ID, "orders", listed=True, now=0.0)
    made.not_told(ID, "the partition has no leader")
    made.observe(1.0, lambda _: None)
    assert not made.over(1.0)
    assert made.over(PATIENCE_SECONDS)
    assert next(iter(made)).fate is Fate.STUCK

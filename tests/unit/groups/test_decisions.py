"""What is planned from what, and why a plan is not executed (hazards 12, 31, 32 and 47)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbackupd.groups.plan import PlanKind, Position, ResetPlan, Strategy
from kbackupd.groups.planning import build_plan, outside, selects
from kbackupd.groups.refusals import PlanRefusedError, of_cluster, refusals_of
from kbackupd.groups.state import GroupInTarget
from kbackupd.groups.strategies import (
    Draft,
    Drafts,
    Found,
    GivenPosition,
    SourcePosition,
    as_found,
    as_given,
    at_timestamp,
    through_map,
)
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import UsageError
from kbackupd.model.offset_map import Exactness
from kbackupd.model.positions import OffsetRange, TopicId
from tests.unit.groups.examples import ANEW, group, plan_of, row, topics
from tests.unit.restore.test_mapped import document_of, partition_map

LOG = {TopicPartition("orders", n): OffsetRange(5, 20) for n in range(3)}


def position(
    offset: int, *, topic: str = "orders", partition: int = 0, topic_id: TopicId | None = None
) -> SourcePosition:
    return SourcePosition(group="g", topic=topic, partition=partition, offset=offset, topic_id=topic_id)


def draft(offset: int | None, *, topic: str = "orders", partition: int = 0, id: str = "g") -> Draft:
    return Draft(group=id, topic=topic, partition=partition, offset=offset, exactness=Exactness.EXACT, reason="because")


def built(drafts: Drafts, groups: dict[str, GroupInTarget] | None = None) -> ResetPlan:
    return build_plan(
        drafts,
        strategy=Strategy.MANUAL,
        made_ms=0,
        target_cluster_id="here",
        topics=topics(),
        ranges=LOG,
        groups=groups or {"g": group({0: 7})},
    )


def test_hazard_32_a_position_goes_through_the_map_into_the_renamed_topic() -> None:
    document = document_of(partition_map([(0, 10), (4, 10)], trailing=1))

    drafts = through_map([position(n) for n in (3, 11, 24, 30)], document)

    assert [(one.topic, one.offset, one.exactness) for one in drafts.planned] == [
        ("orders-réstored", 3, Exactness.EXACT),
        ("orders-réstored", 10, Exactness.NEXT),
        ("orders-réstored", 20, Exactness.END),
        ("orders-réstored", 20, Exactness.END),
    ]
    assert "5 beyond" in drafts.planned[3].reason


def test_every_position_ends_as_planned_not_planned_or_left_out() -> None:
    document = document_of(partition_map([(0, 10)]))

    drafts = through_map(
        [
            position(1),
            position(1, topic="elsewhere"),
            position(2, topic="elsewhere"),
            position(1, partition=9),
            position(1, topic_id=ANEW),
        ],
        document,
    )

    assert (len(drafts.planned), drafts.left_out) == (1, {"elsewhere": 2})
    assert [one.reason for one in drafts.not_planned] == [
        "the partition is not in the offset map",
        "the position is of another incarnation of the topic than the one restored",
    ]


def test_where_a_partition_was_not_restored_to_its_end_no_end_is_claimed() -> None:
    document = document_of(replace(partition_map([(0, 10)]), complete=False))

    drafts = through_map([position(3), position(15)], document)

    assert [one.offset for one in drafts.planned] == [3]
    assert "not restored to its end" in drafts.planned[0].reason
    assert [one.reason for one in drafts.not_planned] == ["the partition was restored only below offset 10"]


def test_a_timestamp_that_nothing_reaches_is_the_end() -> None:
    tps = [TopicPartition("orders", n) for n in range(2)]

    drafts = at_timestamp({"g": tps}, {tps[0]: 8, tps[1]: -1}, LOG, 1_767_225_600_000)

    assert [(one.offset, one.exactness) for one in drafts.planned] == [(8, Exactness.EXACT), (20, Exactness.END)]


def test_what_a_scan_does_not_find_is_not_planned() -> None:
    found = {
        ("orders", 0, 1): Found(offset=9, exactness=Exactness.EXACT, reason="found"),
        ("orders", 0, 2): Found(offset=None, exactness=Exactness.AMBIGUOUS, reason="nowhere"),
    }

    drafts = as_found([position(1), position(2), position(3, topic="other")], found, {"orders": "new"}.get)

    assert [(one.topic, one.offset) for one in drafts.planned] == [("new", 9)]
    assert [one.reason for one in drafts.not_planned] == ["nowhere"]
    assert drafts.left_out == {"other": 1}


def test_a_plan_says_where_groups_stand_and_what_the_target_has_no_room_for() -> None:
    drafts = Drafts(
        planned=[
            draft(9),
            draft(9, partition=1),
            draft(4, partition=2),
            draft(9, partition=3),
            draft(9, topic="absent"),
            draft(None, id="new"),
        ]
    )

    plan = built(drafts, {"g": group({0: 7}), "new": GroupInTarget(group_id="new")})

    assert [(one.group, one.partition, one.current_offset, one.new_offset) for one in plan.partitions] == [
        ("g", 0, 7, 9),
        ("g", 1, None, 9),
        ("new", 0, None, None),
    ]
    assert plan.absent_groups == ("new",)
    assert [one.reason for one in plan.not_planned] == [
        "the target has no topic absent, or hides it",
        "offset 4 is below the target's log start, 5",
        "orders has no partition 3 in the target",
    ]


def test_two_different_positions_for_one_partition_are_a_mistake_and_the_same_one_twice_is_not() -> None:
    assert len(built(Drafts(planned=[draft(9), draft(9)])).partitions) == 1
    with pytest.raises(UsageError, match="both 9 and 8"):
        built(Drafts(planned=[draft(9), draft(8)]))


def test_the_ends_of_a_log_are_positions_and_nothing_beyond_them() -> None:
    assert [bool(outside(offset, OffsetRange(5, 20))) for offset in (4, 5, 20, 21)] == [True, False, False, True]


def test_no_globs_match_everything() -> None:
    assert selects((), "any")
    assert selects(("a*", "b"), "b")
    assert not selects(("a*",), "b")


def test_rows_given_without_a_group_are_not_guessed_at() -> None:
    drafts = as_given(
        [GivenPosition(topic="t", partition=0, offset=1), GivenPosition(topic="t", partition=0, offset=1, group="g")]
    )

    assert [one.group for one in drafts.planned] == ["g"]


def test_a_plan_for_another_cluster_is_refused() -> None:
    with pytest.raises(PlanRefusedError, match="is for cluster here; the target configured is there"):
        of_cluster(plan_of(row(9)), "there")


def test_hazard_32_every_reason_against_a_plan_is_told_at_once() -> None:
    plan = plan_of(row(9, current=7), row(9, partition=1), row(21, current=8, partition=2))
    live = group({0: 6, 2: 8}, state="Stable", members=2)

    refusals = refusals_of(plan, topics=topics(ANEW), ranges=LOG, groups={"g": live})

    assert [one.what for one in refusals] == [
        "group g is in use (Stable):",
        "  member m0, client c, host 10.0.0.1",
        "  member m1, client c, host 10.0.0.1",
        "topic orders was deleted and made anew since the plan was made",
        "group g, orders/0: the position is 6 by now; it was 7 when the plan was made",
        "group g, orders/2: offset 21 is beyond the target's log end, 20",
    ]
    error = PlanRefusedError(refusals)
    assert error.exit_code == 5
    assert error.hint.count("\n") == 3


def test_what_is_as_planned_already_is_no_reason_against_it() -> None:
    plan = plan_of(row(9, current=7), row(8, current=3, partition=1))

    assert refusals_of(plan, topics=topics(), ranges=LOG, groups={"g": group({0: 9, 1: 3})}) == []


def test_a_rollback_puts_back_what_the_log_has_no_room_for_any_more() -> None:
    plan = plan_of(row(2, current=9), kind=PlanKind.ROLLBACK)

    assert refusals_of(plan, topics=topics(), ranges=LOG, groups={"g": group({0: 9})}) == []


def test_a_group_in_a_state_without_known_members_is_live_all_the_same() -> None:
    preparing = group(state="PreparingRebalance")

    [one] = refusals_of(plan_of(row(9)), topics=topics(), ranges=LOG, groups={"g": preparing})

    assert "PreparingRebalance" in one.what


def test_hundreds_of_reasons_are_counted_and_not_printed() -> None:
    plan = plan_of(*(row(9, current=7, partition=n) for n in range(100)))
    moved = group(dict.fromkeys(range(100), 6))

    error = PlanRefusedError(refusals_of(plan, topics=topics(), ranges={}, groups={"g": moved}))

    assert error.message.count("by now") == 20
    assert "… and 80 more of this kind" in error.message


def test_a_position_is_compared_with_all_that_was_committed() -> None:
    one = row(9, current=9, metadata="new")

    assert one.changes
    assert one.new == Position(9, -1, "new")

"""A group is gone, or without positions, when its own coordinator says so twice; what else is short keeps it (I5)."""

from __future__ import annotations

from kbackupd.capture.group_beliefs import NOTHING, GroupAnswer, GroupBeliefs
from kbackupd.kafka.answers import FetchedOffset, FetchedOffsets, ListedGroup
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import GroupState, ReadOutcome

TOPIC = TopicId("AAAAAAAAAAAAAAAAAAAAAQ")
LISTED = ListedGroup(group_id="billing", protocol_type="consumer", state="Stable", type="Classic")


def committed(offset: int, *, code: int = KafkaErrorCode.NONE) -> FetchedOffsets:
    one = FetchedOffset(topic="orders", partition=0, offset=offset, leader_epoch=-1, metadata="", error_code=code)
    return FetchedOffsets(error_code=KafkaErrorCode.NONE, offsets=(one,))


def answered(found: FetchedOffsets | None, *, at_ms: int) -> GroupAnswer:
    answer = GroupAnswer(node_id=1)
    answer.settle(found, at_ms - 1, at_ms)
    return answer


def judged(
    beliefs: GroupBeliefs,
    answer: GroupAnswer,
    before: GroupState | None,
    *,
    listed: ListedGroup | None = LISTED,
    hidden: frozenset[str] = frozenset(),
) -> GroupState | None:
    return beliefs.judge("billing", listed, before, answer, {"orders": TOPIC}, hidden)


def known() -> GroupState:
    state = judged(GroupBeliefs(), answered(committed(7), at_ms=10), None)
    assert state is not None
    assert [(one.topic_id, one.offset) for one in state.positions] == [(TOPIC, 7)]
    return state


def test_positions_that_went_are_kept_as_they_were_until_the_second_round_says_so() -> None:
    beliefs, before = GroupBeliefs(), known()
    once = judged(beliefs, answered(NOTHING, at_ms=20), before)
    assert once is not None
    assert (once.positions, once.part.outcome) == (before.positions, ReadOutcome.FAILED)
    assert (once.sent_ms, once.answered_ms) == (before.sent_ms, 10), "of when that was read"
    twice = judged(beliefs, answered(NOTHING, at_ms=30), once)
    assert twice is not None
    assert (twice.positions, twice.part.outcome, twice.answered_ms) == ((), ReadOutcome.OK, 30)


def test_a_group_nobody_lists_is_gone_in_the_second_round() -> None:
    beliefs, before = GroupBeliefs(), known()
    unknown = FetchedOffsets(error_code=KafkaErrorCode.GROUP_ID_NOT_FOUND, offsets=())
    assert judged(beliefs, answered(unknown, at_ms=20), before, listed=None) is not None
    assert judged(beliefs, answered(unknown, at_ms=30), before, listed=None) is None


def test_positions_that_come_back_in_between_begin_the_count_anew() -> None:
    beliefs, before = GroupBeliefs(), known()
    for found in (NOTHING, committed(8), NOTHING):
        state = judged(beliefs, answered(found, at_ms=20), before)
        assert state is not None
        assert state.positions
        before = state


def test_one_position_that_is_not_told_leaves_the_whole_group_as_it_was() -> None:
    before = known()
    loading = committed(-1, code=KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    for answer in (answered(loading, at_ms=20), answered(None, at_ms=20), GroupAnswer(node_id=-1)):
        state = judged(GroupBeliefs(), answer, before)
        assert state is not None
        assert (state.positions, state.part.outcome, state.answered_ms) == (before.positions, ReadOutcome.FAILED, 10)


def test_positions_of_a_topic_that_permissions_hide_are_kept_and_said_to_be_hidden() -> None:
    before = known()
    state = judged(GroupBeliefs(), answered(NOTHING, at_ms=20), before, hidden=frozenset({"orders"}))
    assert state is not None
    assert (state.positions, state.part.outcome) == (before.positions, ReadOutcome.DENIED)
    assert "orders" in state.part.cause


def test_a_group_that_never_had_positions_is_believed_at_once() -> None:
    state = judged(GroupBeliefs(), answered(NOTHING, at_ms=20), None)
    assert state is not None
    assert (state.positions, state.part.outcome) == ((), ReadOutcome.OK)

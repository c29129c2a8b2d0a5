"""The state machine of a fetch session: what each request says, after every way the one before it can end."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.types import FetchAnswer, KafkaErrorCode
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from tests.unit.kafka.scripted import ScriptedBroker, answered, at, everything, part

A, B, C = part(0), part(1), part(2)


def _session(broker: ScriptedBroker) -> FetchSession:
    return FetchSession(broker, 1, clock=ManualClock())


async def _fetch(session: FetchSession) -> FetchAnswer:
    return await session.fetch(max_bytes=1 << 20, max_wait_ms=100, timeout_seconds=10)


async def test_the_first_fetch_tells_everything_and_the_next_only_what_changed() -> None:
    broker = ScriptedBroker(everything(), answered(A), answered(), answered())
    session = _session(broker)
    for id_ in (A, B, C):
        session.want(id_, at(0))
    first = await _fetch(session)
    session.want(A, at(10))
    second = await _fetch(session)
    await _fetch(session)
    session.forget(B)
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0), (77, 1), (77, 2), (77, 3)]
    assert broker.told[0].targets == {A: at(0), B: at(0), C: at(0)}
    assert broker.told[1].targets == {A: at(10)}
    assert (broker.told[2].targets, broker.told[2].forgotten) == ({}, [])
    assert (broker.told[3].targets, broker.told[3].forgotten) == ({}, [B])
    assert (first.full, second.full) == (True, False)
    assert [answer.asked_offset for answer in second.partitions] == [10]


async def test_wanting_what_is_wanted_already_says_nothing() -> None:
    broker = ScriptedBroker(everything(), answered())
    session = _session(broker)
    session.want(A, at(5))
    await _fetch(session)
    session.want(A, at(6))
    session.want(A, at(5))
    await _fetch(session)

    assert broker.told[1].targets == {}


async def test_a_partition_forgotten_and_wanted_again_in_one_interval_is_never_in_both_lists() -> None:
    broker = ScriptedBroker(everything(), answered(A), answered())
    session = _session(broker)
    session.want(A, at(5))
    session.want(B, at(5))
    await _fetch(session)
    session.forget(A)
    session.want(A, at(0))
    session.forget(B)
    session.want(B, at(5))
    await _fetch(session)

    assert broker.told[1].targets == {A: at(0)}
    assert broker.told[1].forgotten == []


async def test_a_partition_wanted_and_forgotten_before_the_broker_heard_of_it_is_never_mentioned() -> None:
    broker = ScriptedBroker(everything(), answered())
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    session.want(B, at(0))
    session.forget(B)
    session.forget(C)
    await _fetch(session)

    assert (broker.told[1].targets, broker.told[1].forgotten) == ({}, [])


async def test_a_recreated_topic_replaces_the_old_incarnation_in_one_request() -> None:
    broker = ScriptedBroker(everything(), answered())
    session = _session(broker)
    old, new = part(0, "A" * 22), part(0, "B" * 22)
    session.want(old, at(900))
    await _fetch(session)
    session.forget(old)
    session.want(new, at(0))
    await _fetch(session)

    assert (broker.told[1].targets, broker.told[1].forgotten) == ({new: at(0)}, [old])


async def test_changes_made_while_a_request_is_under_way_belong_to_the_next() -> None:
    broker = ScriptedBroker(everything(), answered(A, B), answered(A, C))
    session = _session(broker)
    session.want(A, at(0))
    session.want(B, at(0))
    await _fetch(session)
    broker.gate.clear()
    broker.arrived.clear()
    under_way = asyncio.create_task(_fetch(session))
    await broker.arrived.wait()
    session.want(A, at(3))
    session.want(C, at(0))
    session.forget(B)
    broker.gate.set()
    answer = await under_way
    await _fetch(session)

    assert [(part.id, part.asked_offset) for part in answer.partitions] == [(A, 0)], "as asked, less the forgotten"
    assert (broker.told[1].targets, broker.told[1].forgotten) == ({}, [])
    assert (broker.told[2].targets, broker.told[2].forgotten) == ({A: at(3), C: at(0)}, [B])
    assert set(session.wanted) == {A, C}


async def test_a_partition_that_an_answer_told_of_while_it_was_forgotten_is_told_of_again_in_full() -> None:
    """The broker believes that we know: it would be left out as unchanged from what we never heard."""
    broker = ScriptedBroker(everything(), answered(B), everything(session=78))
    session = _session(broker)
    session.want(A, at(0))
    session.want(B, at(0))
    await _fetch(session)
    broker.gate.clear()
    broker.arrived.clear()
    under_way = asyncio.create_task(_fetch(session))
    await broker.arrived.wait()
    session.forget(B)
    broker.gate.set()
    assert (await under_way).partitions == ()
    session.want(B, at(0))
    answer = await _fetch(session)

    assert broker.told[2].session == (77, 0)
    assert {part.id for part in answer.partitions} == {A, B}


@pytest.mark.parametrize(
    ("code", "closes"),
    [
        (KafkaErrorCode.FETCH_SESSION_ID_NOT_FOUND, 0),
        (KafkaErrorCode.INVALID_FETCH_SESSION_EPOCH, 77),
        (KafkaErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, 77),
    ],
)
async def test_a_session_the_broker_refuses_is_replaced_within_the_call(code: int, closes: int) -> None:
    broker = ScriptedBroker(everything(), answered(error=code, session=0), everything(session=78), answered(session=78))
    session = _session(broker)
    session.want(A, at(0))
    session.want(B, at(0))
    await _fetch(session)
    session.want(A, at(4))
    session.forget(B)
    answer = await _fetch(session)
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0), (77, 1), (closes, 0), (78, 1)]
    assert broker.told[2].targets == {A: at(4)}
    assert broker.told[3].targets == {}
    assert answer.full
    assert broker.dropped == [], "the connection is fine"


async def test_a_refused_full_fetch_is_an_error_and_not_repeated_for_ever() -> None:
    broker = ScriptedBroker(answered(error=KafkaErrorCode.INVALID_FETCH_SESSION_EPOCH, session=0))
    session = _session(broker)
    session.want(A, at(0))
    with pytest.raises(KafkaUnavailableError, match="INVALID_FETCH_SESSION_EPOCH"):
        await _fetch(session)

    assert len(broker.told) == 1


async def test_after_a_lost_answer_the_next_fetch_is_full_and_closes_the_session_left_behind() -> None:
    lost = KafkaUnavailableError("no answer in time")
    broker = ScriptedBroker(everything(), lost, everything(session=78), answered(session=78))
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    session.want(A, at(9))
    session.want(B, at(1))
    with pytest.raises(KafkaUnavailableError):
        await _fetch(session)
    answer = await _fetch(session)
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0), (77, 1), (77, 0), (78, 1)]
    assert broker.told[2].targets == {A: at(9), B: at(1)}
    assert broker.told[3].targets == {}
    assert answer.full
    assert len(broker.dropped) == 1


async def test_a_cancelled_fetch_drops_its_connection_and_the_next_is_full() -> None:
    broker = ScriptedBroker(everything(), answered(), everything())
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    broker.gate.clear()
    broker.arrived.clear()
    under_way = asyncio.create_task(_fetch(session))
    await broker.arrived.wait()
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    broker.gate.set()
    await _fetch(session)

    assert len(broker.dropped) == 1
    assert broker.told[2].session == (77, 0)
    assert broker.told[2].targets == {A: at(0)}


async def test_a_broker_without_room_for_a_session_is_asked_for_everything_each_time_the_last_served_last() -> None:
    broker = ScriptedBroker(*[everything(session=0)] * 3)
    session = _session(broker)
    for id_ in (A, B, C):
        session.want(id_, at(0))
    await _fetch(session)
    session.want(A, at(10))
    await _fetch(session)
    session.want(B, at(10))
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0)] * 3
    assert [told.order for told in broker.told] == [[A, B, C], [B, C, A], [C, A, B]]


async def test_a_session_closed_by_the_broker_is_asked_for_anew() -> None:
    broker = ScriptedBroker(everything(), answered(A, session=0), everything())
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    await _fetch(session)
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0), (77, 1), (0, 0)]


async def test_an_answer_about_a_stranger_is_left_out_and_costs_the_session() -> None:
    broker = ScriptedBroker(everything(), answered(A, C), everything(session=78))
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    answer = await _fetch(session)
    await _fetch(session)

    assert [part.id for part in answer.partitions] == [A]
    assert broker.told[2].session == (77, 0)


async def test_a_full_answer_that_leaves_partitions_out_is_followed_by_another_full_fetch() -> None:
    broker = ScriptedBroker(answered(A), everything(session=78))
    session = _session(broker)
    session.want(A, at(0))
    session.want(B, at(0))
    await _fetch(session)
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0), (77, 0)]


async def test_a_throttled_answer_says_so_and_a_throttled_first_one_is_tried_again_in_full() -> None:
    broker = ScriptedBroker(answered(throttle_ms=250, session=0), everything(), answered(throttle_ms=90))
    session = _session(broker)
    session.want(A, at(0))
    empty = await _fetch(session)
    await _fetch(session)
    held_back = await _fetch(session)

    assert (empty.throttle_ms, empty.partitions) == (250, ())
    assert [told.session for told in broker.told] == [(0, 0), (0, 0), (77, 1)]
    assert held_back.throttle_ms == 90


async def test_a_request_refused_for_good_is_told_as_denied() -> None:
    broker = ScriptedBroker(answered(error=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED, session=0))
    session = _session(broker)
    session.want(A, at(0))
    with pytest.raises(KafkaDeniedError) as refused:
        await _fetch(session)

    assert refused.value.code == KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED


async def test_the_session_epoch_starts_again_at_one_after_the_largest() -> None:
    broker = ScriptedBroker(everything(), answered(), answered())
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    session._session_epoch = 2**31 - 1
    await _fetch(session)
    await _fetch(session)

    assert [told.session for told in broker.told] == [(0, 0), (77, 2**31 - 1), (77, 1)]


async def test_a_fetch_with_nothing_wanted_or_no_time_to_answer_is_a_mistake_of_the_caller() -> None:
    session = _session(ScriptedBroker())
    with pytest.raises(ValueError, match="nothing wanted"):
        await _fetch(session)
    session.want(A, at(0))
    with pytest.raises(ValueError, match="may wait"):
        await session.fetch(max_bytes=1, max_wait_ms=5_000, timeout_seconds=5)


async def test_two_fetches_at_once_are_a_mistake_that_leaves_the_first_alone() -> None:
    broker = ScriptedBroker(everything(), answered())
    session = _session(broker)
    session.want(A, at(0))
    broker.gate.clear()
    under_way = asyncio.create_task(_fetch(session))
    await broker.arrived.wait()
    with pytest.raises(RuntimeError, match="one fetch at a time"):
        await _fetch(session)
    broker.gate.set()
    answer = await under_way
    await _fetch(session)

    assert [part.id for part in answer.partitions] == [A]
    assert broker.told[1].session == (77, 1)


async def test_closing_gives_the_slot_back_and_an_unreachable_broker_does_not_mind() -> None:
    broker = ScriptedBroker(everything(), answered(session=0))
    session = _session(broker)
    session.want(A, at(0))
    await _fetch(session)
    await session.close()
    gone = ScriptedBroker(everything(), KafkaUnavailableError("gone"))
    other = _session(gone)
    other.want(A, at(0))
    await _fetch(other)
    await other.close()

    assert broker.told[1].session == (77, -1)
    assert (broker.told[1].targets, len(broker.dropped), len(gone.dropped)) == ({}, 1, 1)


async def test_an_answer_asked_for_under_an_earlier_leader_epoch_is_not_handed_on_and_all_is_asked_anew() -> None:
    """Hazard 21: a leader that was deposed, cut back and elected again; what it said before is of another log."""
    broker = ScriptedBroker(everything(), answered(A, B), everything())
    session = _session(broker)
    session.want(A, at(10, epoch=1))
    session.want(B, at(10, epoch=1))
    await _fetch(session)
    broker.gate.clear()
    broker.arrived.clear()
    under_way = asyncio.create_task(_fetch(session))
    await broker.arrived.wait()
    session.forget(A)
    session.want(A, at(10, epoch=3))
    broker.gate.set()
    late = await under_way
    after = await _fetch(session)

    assert [answer.id for answer in late.partitions] == [B]
    assert broker.told[2].session == (77, 0), "what was not handed on would not be told again"
    assert broker.told[2].targets == {A: at(10, epoch=3), B: at(10, epoch=1)}
    assert [answer.id for answer in after.partitions] == [B, A]

"""Every group's own coordinator answers for it, or it is unanswered (hazards 15 and 31)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from kbackupd.groups.coordinators import Coordinators, GroupRequests, Reply, Unanswered
from kbackupd.kafka.answers import Coordinator, FetchedOffsets, GroupMembers
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from tests.virtual_time import run


class Brokers:
    """Says who coordinates what; a test scripts what the coordinators answer."""

    def __init__(self, *where: Mapping[str, int]) -> None:
        self.where = list(where)
        self.located: list[tuple[str, ...]] = []

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]:
        self.located.append(tuple(group_ids))
        now = self.where.pop(0) if len(self.where) > 1 else self.where[0]
        return {id: Coordinator(error_code=0 if id in now else 15, node_id=now.get(id, -1)) for id in group_ids}

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        raise NotImplementedError

    async def describe_consumer_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        raise NotImplementedError

    async def fetch_offsets(
        self, node_id: int, group_ids: Sequence[str], *, stable: bool = False
    ) -> Mapping[str, FetchedOffsets]:
        raise NotImplementedError

    async def commit_offsets(
        self, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
    ) -> Mapping[TopicPartition, int]:
        raise NotImplementedError

    async def delete_offsets(
        self, node_id: int, group_id: str, partitions: Sequence[TopicPartition]
    ) -> tuple[int, Mapping[TopicPartition, int]]:
        raise NotImplementedError

    async def delete_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, int]:
        raise NotImplementedError


def asked(
    brokers: Brokers, ids: Sequence[str], answers: Sequence[Mapping[str, int]]
) -> tuple[dict[str, str | Unanswered], list[tuple[object, ...]]]:
    """What `Coordinators.ask` makes of it where each request is answered with the next of `answers` (codes; a group
    that is left out is not answered for; None: the broker does not answer at all), and the requests."""
    requests: list[tuple[object, ...]] = []
    script = list(answers)

    async def question(lane: GroupRequests, node_id: int, group_ids: Sequence[str]) -> Mapping[str, Reply[str]]:
        requests.append((node_id, *group_ids))
        now = script.pop(0) if script else {}
        if not now:
            raise KafkaUnavailableError("broken")
        return {id: Reply(now[id], f"answer of {node_id}") for id in group_ids if id in now}

    clock = ManualClock()

    async def scenario() -> dict[str, str | Unanswered]:
        coordinators = Coordinators([brokers], clock=clock, deadline_seconds=5.0)
        return await coordinators.ask(ids, question, per_request=2)

    return run(scenario(), clock=clock), requests


def test_each_group_is_asked_of_its_own_coordinator_some_at_a_time() -> None:
    brokers = Brokers({"a": 1, "b": 2, "c": 1, "d": 1})

    answers, requests = asked(brokers, ["a", "b", "c", "d"], [dict.fromkeys("abcd", 0)] * 3)

    assert answers == {"a": "answer of 1", "b": "answer of 2", "c": "answer of 1", "d": "answer of 1"}
    assert requests == [(1, "a", "c"), (1, "d"), (2, "b")]
    assert brokers.located == [("a", "b", "c", "d")]


def test_hazard_31_who_is_not_the_coordinator_has_said_nothing() -> None:
    brokers = Brokers({"a": 1, "b": 1}, {"a": 2})

    answers, requests = asked(
        brokers, ["a", "b"], [{"a": KafkaErrorCode.NOT_COORDINATOR, "b": 0}, {"a": KafkaErrorCode.NONE}]
    )

    assert answers == {"a": "answer of 2", "b": "answer of 1"}
    assert requests == [(1, "a", "b"), (2, "a")]
    assert brokers.located == [("a", "b"), ("a",)]


def test_hazard_15_a_coordinator_that_loads_is_asked_until_it_has_loaded() -> None:
    loading = {"a": int(KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS)}

    answers, requests = asked(Brokers({"a": 1}), ["a"], [loading, loading, {"a": 0}])

    assert (answers, len(requests)) == ({"a": "answer of 1"}, 3)


def test_an_answer_that_was_lost_or_left_a_group_out_is_asked_for_again() -> None:
    answers, requests = asked(Brokers({"a": 1, "b": 1}), ["a", "b"], [{}, {"b": 0}, {"a": 0}])

    assert answers == {"a": "answer of 1", "b": "answer of 1"}
    assert requests == [(1, "a", "b"), (1, "a", "b"), (1, "a")]


def test_a_final_error_is_an_answer_and_not_asked_again() -> None:
    denied = int(KafkaErrorCode.GROUP_AUTHORIZATION_FAILED)

    answers, requests = asked(Brokers({"a": 1}), ["a"], [{"a": denied}])

    assert (answers, len(requests)) == ({"a": "answer of 1"}, 1)


def test_a_group_that_nobody_answers_for_says_what_was_heard_last() -> None:
    answers, _ = asked(Brokers({"a": 1}), ["a", "b"], [{"a": KafkaErrorCode.NOT_COORDINATOR}] * 100)

    assert answers == {
        "a": Unanswered("broker 1: NOT_COORDINATOR (16)"),
        "b": Unanswered("finding its coordinator: COORDINATOR_NOT_AVAILABLE (15)"),
    }


def test_hazard_40_a_broker_that_does_not_answer_is_waited_for_once_a_round_and_holds_up_no_other() -> None:
    brokers = Brokers({"a": 1, "b": 1, "c": 1, "d": 2})

    answers, requests = asked(brokers, ["a", "b", "c", "d"], [{}, {"d": 0}, dict.fromkeys("abc", 0), {"c": 0}])

    assert len(answers) == 4
    assert requests == [(1, "a", "b"), (2, "d"), (1, "a", "b"), (1, "c")]


def test_a_broker_that_refuses_us_for_good_ends_it_with_its_own_error() -> None:
    brokers, clock = Brokers({"a": 1, "b": 2}), ManualClock()

    async def denied(lane: GroupRequests, node_id: int, group_ids: Sequence[str]) -> Mapping[str, Reply[str]]:
        raise KafkaDeniedError("the login is refused")

    coordinators = Coordinators([brokers, brokers], clock=clock)
    with pytest.raises(KafkaDeniedError, match="the login is refused"):
        run(coordinators.ask(["a", "b"], denied, per_request=1), clock=clock)

"""Asking every group's own coordinator, many groups at a time, until each has answered for good.

Keeps hazards 15 and 31: who is not the coordinator (any more), or is still loading, has said nothing; its groups are
located anew and asked again until a deadline. Only the coordinator's own final answer counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from kbackupd.kafka.answers import Coordinator, FetchedOffsets, GroupMembers
from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaUnavailableError, principal

T = TypeVar("T")

LANES = 8
"""Requests under way at a time: a broker answers those of one connection one after the other."""
DEADLINE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0

NOT_NOW = frozenset(
    {
        KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaErrorCode.COORDINATOR_NOT_AVAILABLE,
        KafkaErrorCode.NOT_COORDINATOR,
        KafkaErrorCode.REQUEST_TIMED_OUT,
        KafkaErrorCode.NETWORK_EXCEPTION,
        KafkaErrorCode.UNSTABLE_OFFSET_COMMIT,
    }
)


class GroupRequests(Protocol):
    """What is asked of brokers, over connections of its own; all of it raises Kafka errors of ours."""

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]: ...

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]: ...

    async def describe_consumer_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]: ...

    async def fetch_offsets(
        self, node_id: int, group_ids: Sequence[str], *, stable: bool = False
    ) -> Mapping[str, FetchedOffsets]: ...

    async def commit_offsets(
        self, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
    ) -> Mapping[TopicPartition, int]: ...

    async def delete_offsets(
        self, node_id: int, group_id: str, partitions: Sequence[TopicPartition]
    ) -> tuple[int, Mapping[TopicPartition, int]]: ...

    async def delete_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, int]: ...


class Reply(NamedTuple, Generic[T]):
    """A coordinator's word about one group: an error code that may pass, or its answer."""

    code: int
    value: T


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No coordinator answered for the group by the deadline; `reason` is the last thing heard."""

    reason: str


Question = Callable[[GroupRequests, int, Sequence[str]], Awaitable[Mapping[str, Reply[T]]]]
"""Ask one broker about some groups it coordinates."""


class Coordinators:
    """One cluster's coordinators.

    Args:
        lanes: each a connection to every broker; as many requests are under way at a time.
    """

    def __init__(
        self, lanes: Sequence[GroupRequests], *, clock: Clock, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._lanes = tuple(lanes)
        self._clock = clock
        self._deadline_seconds = deadline_seconds
        self._where: dict[str, int] = {}

    async def ask(
        self, group_ids: Sequence[str], question: Question[T], *, per_request: int
    ) -> dict[str, T | Unanswered]:
        """Put `question` to each group's coordinator, `per_request` groups at a time; an answer for every group.

        Asked again, a group's question must be harmless: an answer may have been lost.

        Raises:
            KafkaDeniedError: this principal or this version is not welcome at all.
        """
        answers: dict[str, T | Unanswered] = {}
        why = dict.fromkeys(group_ids, "not asked")
        pending = list(why)
        deadline = self._clock.monotonic() + self._deadline_seconds
        pause = FIRST_PAUSE_SECONDS
        while pending:
            await self._locate(pending, why)
            batches = self._batches(pending, per_request)
            silent: set[int] = set()
            try:
                async with asyncio.TaskGroup() as workers:
                    for lane in self._lanes[: len(batches)]:
                        workers.create_task(self._work(lane, batches, silent, question, answers, why))
            except BaseExceptionGroup as failed:
                raise principal(failed) from failed
            pending = [id for id in pending if id not in answers]
            if pending and self._clock.monotonic() >= deadline:
                break
            if pending:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        for id in pending:
            answers[id] = Unanswered(why[id])
        return answers

    async def _locate(self, pending: Sequence[str], why: dict[str, str]) -> None:
        lost = [id for id in pending if id not in self._where]
        if not lost:
            return
        try:
            found = await self._lanes[0].find_coordinators(lost)
        except KafkaUnavailableError as error:
            why.update(dict.fromkeys(lost, error.message))
            return
        for id in lost:
            coordinator = found.get(id)
            if coordinator is not None and coordinator.error_code == KafkaErrorCode.NONE:
                self._where[id] = coordinator.node_id
            elif coordinator is not None:
                why[id] = f"finding its coordinator: {named(coordinator.error_code)}"

    def _batches(self, pending: Sequence[str], per_request: int) -> deque[tuple[int, Sequence[str]]]:
        by_node: dict[int, list[str]] = {}
        for id in pending:
            if id in self._where:
                by_node.setdefault(self._where[id], []).append(id)
        return deque(
            (node_id, ids[start : start + per_request])
            for node_id, ids in by_node.items()
            for start in range(0, len(ids), per_request)
        )

    async def _work(
        self,
        lane: GroupRequests,
        batches: deque[tuple[int, Sequence[str]]],
        silent: set[int],
        question: Question[T],
        answers: dict[str, T | Unanswered],
        why: dict[str, str],
    ) -> None:
        """Take batches until there are none. A broker that did not answer once is not waited for again this round."""
        while batches:
            node_id, ids = batches.popleft()
            replies: Mapping[str, Reply[T]] = {}
            if node_id not in silent:
                try:
                    replies = await question(lane, node_id, ids)
                except KafkaUnavailableError as error:
                    silent.add(node_id)
                    why.update(dict.fromkeys(ids, error.message))
            for id in ids:
                reply = replies.get(id)
                if reply is not None and reply.code not in NOT_NOW:
                    answers[id] = reply.value
                    continue
                self._where.pop(id, None)
                if reply is not None:
                    why[id] = f"broker {node_id}: {named(reply.code)}"


def named(code: int) -> str:
    return f"{code_name(code)} ({code})"

"""Asking every coordinator for its consumer groups and their positions: one round.

A broker that is down, a coordinator that is loading, a missing permission or an answer that came up short fail what
they concern and nothing else; what is believed of a group then is decided in `group_beliefs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from kbackupd.capture.failed_part import failed_by, failed_part
from kbackupd.capture.group_beliefs import NOTHING, GroupAnswer, GroupBeliefs
from kbackupd.capture.source import ClusterQuestions
from kbackupd.kafka.answers import ListedGroup
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import (
    NEVER_MS,
    CoordinatorState,
    GroupsContent,
    GroupState,
    PartState,
    ReadOutcome,
)

GROUPS_PER_REQUEST = 100
BROKERS_AT_ONCE = 8
TRIES = 3
"""Of a question whose answer says "not now" or "not me", within one round."""
FIRST_PAUSE_SECONDS = 0.5
POSITIONS_MAX = 100_000
"""Bounds the memory of a round, some 40 MB. `__consumer_offsets` itself is captured whatever this says."""

_NOT_NOW = frozenset(
    {
        KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaErrorCode.COORDINATOR_NOT_AVAILABLE,
        KafkaErrorCode.NOT_COORDINATOR,
    }
)


class GroupSurvey:
    """
    Args:
        own_group: left out of every round. What the archive reaches stands in the archive; as a group's positions it
            would make a snapshot in every round of a busy cluster, and a restore would bring it to the target.
    """

    def __init__(self, source: ClusterQuestions, *, clock: Clock, own_group: str | None = None) -> None:
        self._source = source
        self._own_group = own_group
        self._clock = clock
        self._beliefs = GroupBeliefs()

    async def take(self, before: GroupsContent | None) -> GroupsContent:
        """One round; `before` is what the last one gave, or what an earlier life stored.

        Raises:
            KafkaUnavailableError, KafkaDeniedError: not even the brokers could be asked for; nothing has changed then.
        """
        metadata = await self._source.metadata()
        access = await self._source.access()
        topic_ids = {topic.name: topic.topic_id for topic in metadata.topics if topic.error_code == KafkaErrorCode.NONE}
        known = {one.group_id: one for one in before.groups if one.group_id != self._own_group} if before else {}
        asked_before = {one.node_id: one.part.answered_ms for one in before.coordinators} if before else {}

        slots = asyncio.Semaphore(BROKERS_AT_ONCE)
        nodes = sorted(broker.node_id for broker in metadata.brokers)
        async with asyncio.TaskGroup() as group:
            lists = {
                node: group.create_task(self._list(node, asked_before.get(node, NEVER_MS), slots)) for node in nodes
            }
        listed = {
            row.group_id: (row, node)
            for node, task in lists.items()
            for row in task.result()[1]
            if row.group_id != self._own_group
        }

        where = {group_id: node for group_id, (_, node) in listed.items()}
        missing = [group_id for group_id in known if group_id not in listed]
        answers = await self._ask(where, missing, {id: row for id, (row, _) in listed.items()}, slots)
        hidden = await self._hidden_topics(known.values(), answers, topic_ids)

        groups = []
        for group_id in sorted({*listed, *known}):
            row = listed[group_id][0] if group_id in listed else None
            state = self._beliefs.judge(group_id, row, known.get(group_id), answers[group_id], topic_ids, hidden)
            if state is not None:
                groups.append(state)
        self._beliefs.forget_others(known)
        return GroupsContent(
            lists_all=access.may_describe,
            coordinators=tuple(CoordinatorState(node_id=node, part=lists[node].result()[0]) for node in nodes),
            groups=tuple(groups),
        )

    async def _list(
        self, node_id: int, answered_before_ms: int, slots: asyncio.Semaphore
    ) -> tuple[PartState, Sequence[ListedGroup]]:
        """A broker's groups. A list that came with an error is not whole, and is used for what is in it."""
        async with slots:
            part = PartState(outcome=ReadOutcome.FAILED, answered_ms=answered_before_ms)
            rows: Sequence[ListedGroup] = ()
            for attempt in range(TRIES):
                if attempt:
                    await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
                try:
                    answer = await self._source.list_groups(node_id)
                except (KafkaUnavailableError, KafkaDeniedError) as error:
                    part = failed_by(error, answered_before_ms)
                    if attempt:  # once more, for a connection that broke while idle; a silent broker costs its deadline
                        break
                    continue
                rows = answer.groups
                if answer.error_code == KafkaErrorCode.NONE:
                    return PartState(outcome=ReadOutcome.OK, answered_ms=self._clock.now_ms()), rows
                part = failed_part(answer.error_code, answered_before_ms)
                if answer.error_code not in _NOT_NOW:
                    break
            return part, rows

    async def _ask(
        self,
        where: Mapping[str, int],
        missing: Sequence[str],
        listed: Mapping[str, ListedGroup],
        slots: asyncio.Semaphore,
    ) -> dict[str, GroupAnswer]:
        """Positions of every group, asked of its coordinator; who is not the coordinator (any more) is asked once."""
        answers = {group_id: GroupAnswer(node_id=node) for group_id, node in where.items()}
        answers |= {group_id: GroupAnswer(node_id=-1) for group_id in missing}
        for group_id, row in listed.items():
            if row.type.lower() == "share":  # no committed offsets: their state is in __share_group_state
                answers[group_id].settle(NOTHING, self._clock.now_ms(), self._clock.now_ms())
        left = _Allowance(POSITIONS_MAX)
        unsettled = [group_id for group_id, answer in answers.items() if answer.result is None]
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            await self._locate([answers[id] for id in unsettled], unsettled, anew=attempt > 0)
            per_node: dict[int, list[str]] = {}
            for group_id in unsettled:
                if answers[group_id].node_id >= 0:
                    per_node.setdefault(answers[group_id].node_id, []).append(group_id)
            async with asyncio.TaskGroup() as group:
                for node_id, ids in per_node.items():
                    group.create_task(self._ask_node(node_id, ids, answers, listed, left, slots))
            unsettled = [id for id in unsettled if answers[id].result is None and answers[id].why.outcome == "failed"]
            if not unsettled or left.spent:
                break
        return answers

    async def _locate(self, answers: Sequence[GroupAnswer], group_ids: Sequence[str], *, anew: bool) -> None:
        """Find the coordinators of groups nobody listed, and of those whose coordinator did not answer as one."""
        lost = {id: answer for id, answer in zip(group_ids, answers, strict=True) if anew or answer.node_id < 0}
        if not lost:
            return
        try:
            found = await self._source.find_coordinators(sorted(lost))
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            for answer in lost.values():
                answer.why = failed_by(error, NEVER_MS)
            return
        for group_id, answer in lost.items():
            coordinator = found.get(group_id)
            if coordinator is None or coordinator.error_code != KafkaErrorCode.NONE:
                code = KafkaErrorCode.UNKNOWN_SERVER_ERROR if coordinator is None else coordinator.error_code
                answer.node_id, answer.why = -1, failed_part(code, NEVER_MS)
            else:
                answer.node_id = coordinator.node_id

    async def _ask_node(
        self,
        node_id: int,
        group_ids: Sequence[str],
        answers: Mapping[str, GroupAnswer],
        listed: Mapping[str, ListedGroup],
        left: _Allowance,
        slots: asyncio.Semaphore,
    ) -> None:
        async with slots:
            for start in range(0, len(group_ids), GROUPS_PER_REQUEST):
                part = group_ids[start : start + GROUPS_PER_REQUEST]
                if left.spent:
                    for group_id in part:
                        answers[group_id].why = left.why
                    continue
                sent_ms = self._clock.now_ms()
                try:
                    found = await self._source.fetch_offsets(node_id, part)
                except (KafkaUnavailableError, KafkaDeniedError) as error:
                    for group_id in part:
                        answers[group_id].why = failed_by(error, NEVER_MS)
                    continue
                answered_ms = self._clock.now_ms()
                for group_id in part:
                    answers[group_id].settle(found.get(group_id), sent_ms, answered_ms)
                    left.take(len(found[group_id].offsets) if group_id in found else 0)
                await self._count_members(node_id, [id for id in part if _may_have_members(listed.get(id))], answers)

    async def _count_members(self, node_id: int, group_ids: Sequence[str], answers: Mapping[str, GroupAnswer]) -> None:
        """How many members classic groups have; not worth a second try, and unknown is a fine answer."""
        if not group_ids:
            return
        try:
            described = await self._source.describe_groups(node_id, group_ids)
        except (KafkaUnavailableError, KafkaDeniedError):
            return
        for group_id, row in described.items():
            if row.error_code == KafkaErrorCode.NONE and row.state != "Dead" and group_id in answers:
                answers[group_id].members = len(row.members)

    async def _hidden_topics(
        self, known: Iterable[GroupState], answers: Mapping[str, GroupAnswer], topic_ids: Mapping[str, TopicId]
    ) -> frozenset[str]:
        """Topics of positions we knew, that answers leave out now because permissions do: nobody says so by himself."""
        gone = set()
        for group in known:
            result = answers[group.group_id].result
            if result is not None:
                told = {one.topic for one in result.offsets}
                gone |= {one.topic for one in group.positions if one.topic not in told and one.topic not in topic_ids}
        if not gone:
            return frozenset()
        try:
            asked = await self._source.metadata(sorted(gone))
        except (KafkaUnavailableError, KafkaDeniedError):
            return frozenset(gone)
        absent = {row.name for row in asked.topics if row.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        return frozenset(gone - absent)


def _may_have_members(listed: ListedGroup | None) -> bool:
    return listed is not None and listed.state not in ("Empty", "Dead") and listed.type.lower() in ("", "classic")


class _Allowance:
    """How many positions may still be taken in this round."""

    def __init__(self, most: int) -> None:
        self._left = most
        self.why = PartState(
            outcome=ReadOutcome.FAILED,
            cause=f"more than {most} positions in all: not asked for, see __consumer_offsets",
        )

    @property
    def spent(self) -> bool:
        return self._left <= 0

    def take(self, count: int) -> None:
        self._left -= count

"""The target as plans need it: where its logs begin and end, where its groups stand, who is in them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from kbackupd.groups.coordinators import NOT_NOW, Coordinators, GroupRequests, Reply, Unanswered, named
from kbackupd.groups.plan import Position
from kbackupd.groups.state import GroupInTarget, TargetTopic
from kbackupd.kafka.answers import GroupMembers, ListedGroups
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code, is_retriable
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    KafkaErrorCode,
    TopicPartition,
)
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import OffsetRange

GROUPS_PER_REQUEST = 100
_TRIES = 20
_PAUSE_SECONDS = 0.25


async def target_topics(connection: KafkaConnection, names: Sequence[str] | None) -> tuple[str, dict[str, TargetTopic]]:
    """The cluster's id and topics; names it does not have, or hides, are left out. None: all topics.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    metadata = await cluster_metadata(connection, names)
    return metadata.cluster_id, {
        topic.name: TargetTopic(
            topic_id=topic.topic_id, leaders={one.partition: one.leader_id for one in topic.partitions}
        )
        for topic in metadata.topics
        if topic.error_code == KafkaErrorCode.NONE
    }


class TargetLogs:
    """Where logs begin and end, and offsets by timestamp: asked of leaders, again while they move."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection

    async def topics(self, names: Sequence[str] | None) -> tuple[str, dict[str, TargetTopic]]:
        """As `target_topics`."""
        return await target_topics(self._connection, names)

    async def ranges(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """[log start, high watermark) of each partition.

        Raises:
            KafkaUnavailableError, KafkaDeniedError: one of them does not tell.
        """
        starts = await self.offsets(dict.fromkeys(partitions, EARLIEST_TIMESTAMP))
        ends = await self.offsets(dict.fromkeys(partitions, LATEST_TIMESTAMP))
        return {tp: OffsetRange(min(starts[tp], ends[tp]), ends[tp]) for tp in partitions}

    async def offsets(self, asked: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """By timestamp, as `list_offsets`: the first offset of a record at or after it, −1 if there is none.

        Raises: as `ranges`.
        """
        found: dict[TopicPartition, int] = {}
        failure: KafkaUnavailableError | KafkaDeniedError = KafkaUnavailableError("no leader was found")
        for attempt in range(_TRIES):
            left = [tp for tp in asked if tp not in found]
            if not left:
                break
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS)
            try:
                failure = await self._round(asked, left, found) or failure
            except KafkaUnavailableError as error:
                failure = error
        if len(found) < len(asked):
            raise failure
        return found

    async def _round(
        self, asked: Mapping[TopicPartition, int], left: Sequence[TopicPartition], found: dict[TopicPartition, int]
    ) -> KafkaUnavailableError | KafkaDeniedError | None:
        _, topics = await target_topics(self._connection, sorted({tp.topic for tp in left}))
        failure: KafkaUnavailableError | KafkaDeniedError | None = None
        by_leader: dict[int, list[TopicPartition]] = {}
        for tp in left:
            leader = topics[tp.topic].leaders.get(tp.partition, -1) if tp.topic in topics else -1
            if leader < 0:
                failure = KafkaUnavailableError(f"{tp.topic}/{tp.partition} has no leader, or does not exist")
            else:
                by_leader.setdefault(leader, []).append(tp)
        for node_id, tps in by_leader.items():
            answers = await list_offsets(self._connection, node_id, {tp: (asked[tp], -1) for tp in tps})
            for tp, answer in answers.items():
                if answer.error_code == KafkaErrorCode.NONE:
                    found[tp] = answer.offset
                    continue
                failure = error_for_code(answer.error_code, f"offsets of {tp.topic}/{tp.partition}")
                if not is_retriable(answer.error_code):
                    raise failure
        return failure


class GroupLists(Protocol):
    async def list_groups(self, node_id: int) -> ListedGroups: ...


async def listed_groups(connection: KafkaConnection, lists: GroupLists) -> list[str]:
    """Every group that can have positions, from every broker; those this principal may not describe are not told.

    Raises:
        KafkaUnavailableError, KafkaDeniedError: a broker does not answer for its groups (hazard 15).
    """
    found: set[str] = set()
    for node_id in sorted(connection.brokers):
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS)
            listed = await lists.list_groups(node_id)
            if listed.error_code not in NOT_NOW:
                break
        if listed.error_code != KafkaErrorCode.NONE:
            raise error_for_code(listed.error_code, f"the groups of broker {node_id}")
        found |= {one.group_id for one in listed.groups if one.type.lower() != "share"}
    return sorted(found)


async def groups_in_target(coordinators: Coordinators, group_ids: Iterable[str]) -> dict[str, GroupInTarget]:
    """Every group's members and positions, each from its own coordinator.

    Raises:
        KafkaDeniedError: as `Coordinators.ask`.
    """
    ids = sorted(set(group_ids))
    described = await coordinators.ask(ids, _describe, per_request=GROUPS_PER_REQUEST)
    offsets = await coordinators.ask(ids, _positions, per_request=GROUPS_PER_REQUEST)
    return {id: _judged(id, described[id], offsets[id]) for id in ids}


async def positions_in_target(
    coordinators: Coordinators, group_ids: Iterable[str]
) -> dict[str, Mapping[TopicPartition, Position] | str]:
    """Positions alone; text: why a group's are not told."""
    ids = sorted(set(group_ids))
    offsets = await coordinators.ask(ids, _positions, per_request=GROUPS_PER_REQUEST)
    return {id: one.reason if isinstance(one, Unanswered) else one for id, one in offsets.items()}


def _judged(
    id: str, described: GroupMembers | Unanswered, offsets: Mapping[TopicPartition, Position] | str | Unanswered
) -> GroupInTarget:
    if isinstance(described, Unanswered):
        return GroupInTarget(group_id=id, problem=described.reason)
    if isinstance(offsets, Unanswered):
        return GroupInTarget(group_id=id, problem=offsets.reason)
    if described.error_code != KafkaErrorCode.NONE:
        return GroupInTarget(group_id=id, problem=named(described.error_code))
    if isinstance(offsets, str):
        return GroupInTarget(group_id=id, problem=offsets)
    return GroupInTarget(
        group_id=id,
        exists=described.state not in ("Dead", "") or bool(offsets),
        state=described.state,
        members=described.members,
        positions=offsets,
    )


async def _describe(lane: GroupRequests, node_id: int, ids: Sequence[str]) -> Mapping[str, Reply[GroupMembers]]:
    classic = await lane.describe_groups(node_id, ids)
    replies = {id: Reply(one.error_code, one) for id, one in classic.items()}
    unknown = [id for id, one in classic.items() if one.error_code == KafkaErrorCode.NONE and one.state == "Dead"]
    if unknown:
        for id, one in (await lane.describe_consumer_groups(node_id, unknown)).items():
            if one.error_code != KafkaErrorCode.GROUP_ID_NOT_FOUND:
                replies[id] = Reply(one.error_code, one)
    return replies


async def _positions(
    lane: GroupRequests, node_id: int, ids: Sequence[str]
) -> Mapping[str, Reply[Mapping[TopicPartition, Position] | str]]:
    replies: dict[str, Reply[Mapping[TopicPartition, Position] | str]] = {}
    # An open transaction's commit would come on top of ours: it is waited for, and then it is a position that moved.
    for id, fetched in (await lane.fetch_offsets(node_id, ids, stable=True)).items():
        code = fetched.error_code
        if code == KafkaErrorCode.NONE:
            code = next((one.error_code for one in fetched.offsets if one.error_code != KafkaErrorCode.NONE), code)
        if code in (KafkaErrorCode.NONE, KafkaErrorCode.GROUP_ID_NOT_FOUND):
            positions = {
                TopicPartition(one.topic, one.partition): Position(one.offset, one.leader_epoch, one.metadata)
                for one in fetched.offsets
                if one.offset >= 0
            }
            replies[id] = Reply(KafkaErrorCode.NONE, positions)
        else:
            replies[id] = Reply(code, f"its positions are not told: {named(code)}")
    return replies


def refuse_untold(groups: Mapping[str, GroupInTarget]) -> None:
    """Raises: KafkaUnavailableError if a group's coordinator did not answer for it: unknown is not "none" (I5)."""
    untold = {id: group.problem for id, group in groups.items() if group.problem}
    if untold:
        first = next(iter(untold))
        more = f" and of {len(untold) - 1} more" if len(untold) > 1 else ""
        raise KafkaUnavailableError(
            f"the state of group {first}{more} is not known: {untold[first]}",
            hint="are all brokers up, and may this principal Describe and Read the groups?",
        )

"""Carrying a reviewed plan out: refuse or change, group by group, and look again afterwards.

Keeps the order that makes it safe to be interrupted anywhere: nothing is changed before every reason against it was
looked for, and nothing before the rollback snapshot is durable. Positions are committed by one who is no member, which
the coordinator itself refuses for a group that has members; so who joins in between keeps its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from kbackupd.groups.coordinators import NOT_NOW, Coordinators, GroupRequests, Reply, Unanswered, named
from kbackupd.groups.plan import PlanKind, PlannedPosition, Position, ResetPlan
from kbackupd.groups.refusals import PlanRefusedError, is_as_planned, of_cluster, refusals_of
from kbackupd.groups.state import GroupInTarget, TargetTopic
from kbackupd.groups.target import groups_in_target, positions_in_target, refuse_untold
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.offset_map import Exactness
from kbackupd.model.positions import OffsetRange

POSITIONS_PER_REQUEST = 1_000
"""All positions of a commit become one batch of `__consumer_offsets`, which has to stay below its largest message."""

_LIVE = frozenset(
    {
        KafkaErrorCode.UNKNOWN_MEMBER_ID,
        KafkaErrorCode.ILLEGAL_GENERATION,
        KafkaErrorCode.REBALANCE_IN_PROGRESS,
        KafkaErrorCode.NON_EMPTY_GROUP,
        KafkaErrorCode.GROUP_SUBSCRIBED_TO_TOPIC,
        KafkaErrorCode.FENCED_MEMBER_EPOCH,
        KafkaErrorCode.STALE_MEMBER_EPOCH,
    }
)

Codes = Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedPosition:
    group: str
    topic: str
    partition: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionReport:
    """What became of each row: applied, already as planned, or failed and listed."""

    plan: str
    """Its digest."""
    target_cluster_id: str
    groups: int
    partitions: int
    applied: int
    already: int
    failed: tuple[FailedPosition, ...]
    rollback: str | None
    """The file that `offset-reset rollback` takes; None: of a rollback itself, or nothing had to be changed."""
    deleted_groups: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        return 6 if self.failed else 0


KeepRollback = Callable[[Mapping[str, GroupInTarget]], Awaitable[str | None]]
"""Make the snapshot of what is there durable; where it is. Called once, before the first change."""


class Target(Protocol):
    """What is asked of the target beside its groups; `target.TargetLogs` is one."""

    async def topics(self, names: Sequence[str] | None) -> tuple[str, dict[str, TargetTopic]]: ...

    async def ranges(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetRange]: ...


async def execute_plan(
    plan: ResetPlan,
    *,
    target: Target,
    coordinators: Coordinators,
    keep_rollback: KeepRollback,
    clock: Clock,
) -> ExecutionReport:
    """Bring every group of `plan` to where it says. On return what counts as applied is committed and was read back.

    Run again, it does what is left to do, and nothing where all is as planned. Cancelled, some groups are where they
    shall be and others where they were: run it again, or roll back.

    Raises:
        PlanRefusedError: nothing was changed.
        KafkaUnavailableError: nothing was changed; the target, or the coordinator of a group, does not answer.
        KafkaDeniedError: the target refuses this principal, or this version.
    """
    began = clock.monotonic()
    cluster_id, topics = await target.topics(sorted(one.topic for one in plan.topics))
    of_cluster(plan, cluster_id)
    groups = await groups_in_target(coordinators, plan.groups)
    refuse_untold(groups)
    there = sorted(
        {
            tp
            for row in plan.partitions
            for tp in (TopicPartition(row.topic, row.partition),)
            if tp.topic in topics and tp.partition in topics[tp.topic].leaders
        }
    )
    ranges = await target.ranges(there) if plan.kind is PlanKind.PLAN else {}
    to_do = [row for row in plan.partitions if not is_as_planned(row, _held(groups, row))]
    against = refusals_of(plan, topics=topics, ranges=ranges, groups=groups)
    if against and to_do:
        raise PlanRefusedError(against)
    rollback = await keep_rollback(groups) if to_do else None
    failed = await _apply(coordinators, to_do) if to_do else {}
    deleted = await _delete_absent(coordinators, plan, groups) if plan.kind is PlanKind.ROLLBACK else ()
    return ExecutionReport(
        plan=plan.digest,
        target_cluster_id=cluster_id,
        groups=len(plan.groups),
        partitions=len(plan.partitions),
        applied=len(to_do) - len(failed),
        already=len(plan.partitions) - len(to_do),
        failed=tuple(
            FailedPosition(group=row.group, topic=row.topic, partition=row.partition, reason=failed[row.key])
            for row in to_do
            if row.key in failed
        ),
        rollback=rollback,
        deleted_groups=deleted,
        seconds=clock.monotonic() - began,
    )


def rollback_plan(plan: ResetPlan, groups: Mapping[str, GroupInTarget], *, made_ms: int) -> ResetPlan:
    """What puts back, row by row, what `groups` have now, once `plan` was executed. Without a digest."""
    return replace(
        plan,
        kind=PlanKind.ROLLBACK,
        made_ms=made_ms,
        undoes=plan.digest,
        not_planned=(),
        left_out=(),
        absent_groups=tuple(sorted(id for id, group in groups.items() if not group.exists)),
        partitions=tuple(_undone(row, _held(groups, row)) for row in plan.partitions),
        digest="",
    )


def _undone(row: PlannedPosition, held: Position | None) -> PlannedPosition:
    return replace(
        row,
        current_offset=row.new_offset,
        current_leader_epoch=row.new_leader_epoch,
        current_metadata=row.new_metadata,
        new_offset=held.offset if held else None,
        new_leader_epoch=held.leader_epoch if held else -1,
        new_metadata=held.metadata if held else "",
        exactness=Exactness.GIVEN,
        reason="as it was before" if held else "it had none before",
    )


def _held(groups: Mapping[str, GroupInTarget], row: PlannedPosition) -> Position | None:
    return groups[row.group].positions.get(TopicPartition(row.topic, row.partition))


async def _apply(coordinators: Coordinators, rows: Sequence[PlannedPosition]) -> dict[tuple[str, str, int], str]:
    """Commit and delete, then read back; why each row that is not where it shall be is not."""
    commits: dict[str, dict[TopicPartition, OffsetToCommit]] = {}
    deletions: dict[str, list[TopicPartition]] = {}
    for row in rows:
        tp = TopicPartition(row.topic, row.partition)
        if row.new is None:
            deletions.setdefault(row.group, []).append(tp)
        else:
            commits.setdefault(row.group, {})[tp] = OffsetToCommit(*row.new)

    async def commit(lane: GroupRequests, node_id: int, ids: Sequence[str]) -> Mapping[str, Reply[Codes]]:
        return {id: await _commit(lane, node_id, id, commits[id]) for id in ids}

    async def delete(lane: GroupRequests, node_id: int, ids: Sequence[str]) -> Mapping[str, Reply[Codes]]:
        return {id: await _delete(lane, node_id, id, deletions[id]) for id in ids}

    committed = await coordinators.ask(list(commits), commit, per_request=1)
    deleted = await coordinators.ask(list(deletions), delete, per_request=1)
    now = await positions_in_target(coordinators, {row.group for row in rows})
    failed: dict[tuple[str, str, int], str] = {}
    for row in rows:
        answer = (deleted if row.new is None else committed)[row.group]
        reason = _reason(row, answer, now[row.group])
        if reason:
            failed[row.key] = reason
    return failed


async def _commit(
    lane: GroupRequests, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
) -> Reply[Codes]:
    codes: dict[TopicPartition, int] = {}
    for part in _parts(offsets):
        codes.update(await lane.commit_offsets(node_id, group_id, {tp: offsets[tp] for tp in part}))
    return Reply(_passing(codes.values()), codes)


async def _delete(
    lane: GroupRequests, node_id: int, group_id: str, partitions: Sequence[TopicPartition]
) -> Reply[Codes]:
    codes: dict[TopicPartition, int] = {}
    for part in _parts(partitions):
        code, answered = await lane.delete_offsets(node_id, group_id, part)
        if code == KafkaErrorCode.GROUP_ID_NOT_FOUND:  # no group, no positions: what is wanted
            code = KafkaErrorCode.NONE
        codes.update(dict.fromkeys(part, code) if code else answered)
    return Reply(_passing(codes.values()), codes)


def _parts(partitions: Mapping[TopicPartition, object] | Sequence[TopicPartition]) -> Iterator[list[TopicPartition]]:
    left = iter(partitions)
    while part := list(islice(left, POSITIONS_PER_REQUEST)):
        yield part


def _passing(codes: Iterable[int]) -> int:
    """A code that may pass, if there is one among them: then all of them are sent again, which harms nothing."""
    return next((code for code in codes if code in NOT_NOW), KafkaErrorCode.NONE)


def _reason(row: PlannedPosition, answer: Codes | Unanswered, now: Mapping[TopicPartition, Position] | str) -> str:
    """Why a row is not where it shall be; "" if it is. What is read back decides, the answer explains."""
    tp = TopicPartition(row.topic, row.partition)
    if not isinstance(now, str) and is_as_planned(row, now.get(tp)):
        return ""
    if isinstance(answer, Unanswered):
        return answer.reason
    code = answer.get(tp, KafkaErrorCode.NONE)
    if code in _LIVE:
        return f"the group has members by now: {named(code)}"
    if code != KafkaErrorCode.NONE:
        return named(code)
    if isinstance(now, str):
        return f"committed, but {now}"
    held = now.get(tp)
    return f"committed, but somebody moved it since: it is {'none' if held is None else held.offset}"


async def _delete_absent(
    coordinators: Coordinators, plan: ResetPlan, before: Mapping[str, GroupInTarget]
) -> tuple[str, ...]:
    """Delete the groups that were not there before and have nothing left: a rollback leaves no empty shells."""
    ids = [id for id in plan.absent_groups if before[id].exists]
    left = await positions_in_target(coordinators, ids)
    empty = [id for id in ids if not left[id]]

    async def delete(lane: GroupRequests, node_id: int, ids: Sequence[str]) -> Mapping[str, Reply[int]]:
        return {id: Reply(code, code) for id, code in (await lane.delete_groups(node_id, ids)).items()}

    codes = await coordinators.ask(empty, delete, per_request=100)
    return tuple(id for id, code in codes.items() if code in (KafkaErrorCode.NONE, KafkaErrorCode.GROUP_ID_NOT_FOUND))

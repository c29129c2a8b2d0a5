"""Why a reviewed plan is not executed: every reason at once, before anything is changed. Pure.

Owns hazard 32's last part: a commit to a group with live members is lost or loses theirs, and a plan whose "current" is
not current any more was reviewed for a state that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kbackupd.groups.plan import PlanKind, PlannedPosition, Position, ResetPlan
from kbackupd.groups.planning import outside
from kbackupd.groups.state import GroupInTarget, TargetTopic
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import RefusedError
from kbackupd.model.positions import OffsetRange

_LISTED = 20
"""Lines of one kind in a message; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    what: str
    remedy: str


class PlanRefusedError(RefusedError):
    """Nothing was changed; `refusals` are all that was found."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        lines = [line for one in self._kinds() for line in one]
        super().__init__("\n  ".join(("refused, nothing was changed:", *lines)), hint=self._remedies())

    def _kinds(self) -> Iterator[list[str]]:
        by_remedy: dict[str, list[str]] = {}
        for one in self.refusals:
            by_remedy.setdefault(one.remedy, []).append(one.what)
        for whats in by_remedy.values():
            more = [f"… and {len(whats) - _LISTED} more of this kind"] if len(whats) > _LISTED else []
            yield whats[:_LISTED] + more

    def _remedies(self) -> str:
        return "\n      ".join(dict.fromkeys(one.remedy for one in self.refusals))


def of_cluster(plan: ResetPlan, cluster_id: str) -> None:
    """Raises: PlanRefusedError: the plan is for another cluster."""
    if plan.target_cluster_id != cluster_id:
        raise PlanRefusedError(
            [
                Refusal(
                    what=f"the plan is for cluster {plan.target_cluster_id}; the target configured is {cluster_id}",
                    remedy="use the configuration of the cluster the plan was made for",
                )
            ]
        )


def refusals_of(
    plan: ResetPlan,
    *,
    topics: Mapping[str, TargetTopic],
    ranges: Mapping[TopicPartition, OffsetRange],
    groups: Mapping[str, GroupInTarget],
) -> list[Refusal]:
    """Everything that stands against executing `plan` now."""
    return [
        *_live(groups),
        *_topics(plan, topics),
        *(one for row in plan.partitions for one in _row(row, plan, ranges, groups[row.group])),
    ]


def is_as_planned(row: PlannedPosition, held: Position | None) -> bool:
    return held == row.new


def _live(groups: Mapping[str, GroupInTarget]) -> Iterator[Refusal]:
    remedy = "stop every consumer of these groups, wait until they have left (session.timeout.ms), and execute again"
    for group in groups.values():
        if not group.live:
            continue
        yield Refusal(what=f"group {group.group_id} is in use ({group.state or 'live'}):", remedy=remedy)
        for member in group.members:
            yield Refusal(
                what=f"  member {member.member_id}, client {member.client_id}, host {member.client_host.lstrip('/')}",
                remedy=remedy,
            )


def _topics(plan: ResetPlan, topics: Mapping[str, TargetTopic]) -> Iterator[Refusal]:
    remedy = "the offsets mean something else by now: make a new plan and review it"
    for pinned in plan.topics:
        there = topics.get(pinned.topic)
        if there is None:
            yield Refusal(what=f"topic {pinned.topic} is not in the target any more", remedy=remedy)
        elif there.topic_id != pinned.topic_id:
            yield Refusal(what=f"topic {pinned.topic} was deleted and made anew since the plan was made", remedy=remedy)


def _row(
    row: PlannedPosition, plan: ResetPlan, ranges: Mapping[TopicPartition, OffsetRange], group: GroupInTarget
) -> Iterator[Refusal]:
    tp = TopicPartition(row.topic, row.partition)
    held = group.positions.get(tp)
    if is_as_planned(row, held):
        return
    where = f"group {row.group}, {row.topic}/{row.partition}"
    now = "none" if held is None else str(held.offset)
    planned = "none" if row.current_offset is None else str(row.current_offset)
    if now != planned:
        yield Refusal(
            what=f"{where}: the position is {now} by now; it was {planned} when the plan was made",
            remedy="somebody moved these groups since: make a new plan and review it",
        )
    # What was there before is put back whatever became of the log: that is what a rollback is.
    if plan.kind is PlanKind.PLAN and row.new_offset is not None and tp in ranges:
        problem = outside(row.new_offset, ranges[tp])
        if problem:
            yield Refusal(what=f"{where}: {problem}", remedy="the log has changed: make a new plan and review it")

"""Small plans, groups and topics for tests of decisions."""

from __future__ import annotations

from collections.abc import Mapping

from kbackupd.groups.document import sealed
from kbackupd.groups.plan import (
    PLAN_FORMAT,
    PlanKind,
    PlannedPosition,
    Position,
    ResetPlan,
    Strategy,
    TargetTopicId,
)
from kbackupd.groups.state import GroupInTarget, TargetTopic
from kbackupd.kafka.answers import GroupMember
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.offset_map import Exactness
from kbackupd.model.positions import TopicId

ORDERS = TopicId("AAAAAAAAAAAAAAAAAAAAAQ")
ANEW = TopicId("AAAAAAAAAAAAAAAAAAAAAg")


def row(
    new: int | None,
    *,
    current: int | None = None,
    group: str = "g",
    partition: int = 0,
    topic: str = "orders",
    metadata: str = "",
) -> PlannedPosition:
    return PlannedPosition(
        group=group,
        topic=topic,
        partition=partition,
        current_offset=current,
        new_offset=new,
        exactness=Exactness.EXACT,
        reason="because",
        new_metadata=metadata,
    )


def plan_of(*rows: PlannedPosition, kind: PlanKind = PlanKind.PLAN) -> ResetPlan:
    return sealed(
        ResetPlan(
            format=PLAN_FORMAT,
            kind=kind,
            strategy=Strategy.GROUP,
            made_ms=1_767_225_600_000,
            target_cluster_id="here",
            archive=None,
            offset_map=None,
            timestamp_ms=None,
            undoes=None,
            topics=(TargetTopicId(topic="orders", topic_id=ORDERS),),
            partitions=rows,
            not_planned=(),
            left_out=(),
            absent_groups=(),
        )
    )


def topics(topic_id: TopicId = ORDERS, partitions: int = 3) -> dict[str, TargetTopic]:
    return {"orders": TargetTopic(topic_id=topic_id, leaders=dict.fromkeys(range(partitions), 1))}


def group(
    positions: Mapping[int, int] | None = None, *, id: str = "g", state: str = "Empty", members: int = 0
) -> GroupInTarget:
    return GroupInTarget(
        group_id=id,
        exists=True,
        state=state,
        members=tuple(GroupMember(member_id=f"m{n}", client_id="c", client_host="/10.0.0.1") for n in range(members)),
        positions={TopicPartition("orders", p): Position(offset) for p, offset in (positions or {}).items()},
    )

"""From drafts and the target's state to the plan that people review. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from kbackupd.groups.document import sealed
from kbackupd.groups.plan import (
    PLAN_FORMAT,
    LeftOut,
    NotPlanned,
    PlanArchive,
    PlanKind,
    PlannedPosition,
    ResetPlan,
    Strategy,
    TargetTopicId,
)
from kbackupd.groups.state import GroupInTarget, TargetTopic
from kbackupd.groups.strategies import Draft, Drafts
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import UsageError
from kbackupd.model.positions import OffsetRange


def selects(globs: Iterable[str], name: str) -> bool:
    """Whether a glob matches; no globs at all match everything."""
    globs = tuple(globs)
    return not globs or any(fnmatchcase(name, glob) for glob in globs)


def needed_groups(drafts: Drafts) -> tuple[str, ...]:
    return tuple(sorted({draft.group for draft in drafts.planned}))


def needed_partitions(drafts: Drafts, topics: Mapping[str, TargetTopic]) -> tuple[TopicPartition, ...]:
    """Those of the drafts' partitions that the target has."""
    found = {TopicPartition(draft.topic, draft.partition) for draft in drafts.planned}
    return tuple(sorted(tp for tp in found if tp.topic in topics and tp.partition in topics[tp.topic].leaders))


def build_plan(
    drafts: Drafts,
    *,
    strategy: Strategy,
    made_ms: int,
    target_cluster_id: str,
    topics: Mapping[str, TargetTopic],
    ranges: Mapping[TopicPartition, OffsetRange],
    groups: Mapping[str, GroupInTarget],
    archive: PlanArchive | None = None,
    offset_map: str | None = None,
    timestamp_ms: int | None = None,
) -> ResetPlan:
    """The plan, digest included. A draft that the target has no room for becomes "not planned".

    Raises:
        UsageError: two drafts are for the same group and partition and differ.
    """
    rows: dict[tuple[str, str, int], PlannedPosition] = {}
    not_planned = list(drafts.not_planned)
    for draft in drafts.planned:
        problem = _misfit(draft, topics, ranges)
        if problem:
            not_planned.append(
                NotPlanned(
                    group=draft.group,
                    topic=draft.topic,
                    partition=draft.partition,
                    source_offset=draft.source.offset if draft.source else None,
                    reason=problem,
                )
            )
            continue
        row = _row(draft, groups[draft.group])
        key = (row.group, row.topic, row.partition)
        other = rows.setdefault(key, row)
        if other.new != row.new:
            raise UsageError(
                f"group {row.group}, {row.topic}/{row.partition}: both {other.new_offset} and {row.new_offset} are "
                "asked for",
                hint="two topics of the source that become one, or a row that stands twice in --positions?",
            )
    used = sorted({row.topic for row in rows.values()})
    return sealed(
        ResetPlan(
            format=PLAN_FORMAT,
            kind=PlanKind.PLAN,
            strategy=strategy,
            made_ms=made_ms,
            target_cluster_id=target_cluster_id,
            archive=archive,
            offset_map=offset_map,
            timestamp_ms=timestamp_ms,
            undoes=None,
            topics=tuple(TargetTopicId(topic=name, topic_id=topics[name].topic_id) for name in used),
            partitions=tuple(row for _, row in sorted(rows.items())),
            not_planned=tuple(sorted(not_planned, key=lambda one: (one.group, one.topic, one.partition))),
            left_out=tuple(LeftOut(topic=name, positions=n) for name, n in sorted(drafts.left_out.items())),
            absent_groups=tuple(sorted({row.group for row in rows.values() if not groups[row.group].exists})),
        )
    )


def _misfit(draft: Draft, topics: Mapping[str, TargetTopic], ranges: Mapping[TopicPartition, OffsetRange]) -> str:
    """Why the target cannot take the draft; "" if it can."""
    topic = topics.get(draft.topic)
    if topic is None:
        return f"the target has no topic {draft.topic}, or hides it"
    if draft.partition not in topic.leaders:
        return f"{draft.topic} has no partition {draft.partition} in the target"
    if draft.offset is None:
        return ""
    return outside(draft.offset, ranges[TopicPartition(draft.topic, draft.partition)])


def outside(offset: int, log: OffsetRange) -> str:
    """Why a position cannot be `offset` in a log that holds `log`; "" if it can. The end itself can be."""
    if offset < log.first_offset:
        return f"offset {offset} is below the target's log start, {log.first_offset}"
    if offset > log.next_offset:
        return f"offset {offset} is beyond the target's log end, {log.next_offset}"
    return ""


def _row(draft: Draft, group: GroupInTarget) -> PlannedPosition:
    current = group.positions.get(TopicPartition(draft.topic, draft.partition))
    source = draft.source
    return PlannedPosition(
        group=draft.group,
        topic=draft.topic,
        partition=draft.partition,
        current_offset=current.offset if current else None,
        new_offset=draft.offset,
        exactness=draft.exactness,
        reason=draft.reason,
        source_topic=source.topic if source else None,
        source_partition=source.partition if source else None,
        source_offset=source.offset if source else None,
        current_leader_epoch=current.leader_epoch if current else -1,
        current_metadata=current.metadata if current else "",
        new_metadata=draft.metadata if draft.offset is not None else "",
    )

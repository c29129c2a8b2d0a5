"""Where groups shall go on: the decisions of each strategy. Pure; what they are decided from is handed in.

Every position that was asked for ends in exactly one of three places: a draft (a new position, how it was come by and
how exact it is), "not planned" with why, or the count of those whose topic the restore did not bring. Nothing is
dropped in silence (hazard 32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.groups.plan import NotPlanned
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.clock import iso
from kbackupd.model.offset_map import Exactness, MappedPosition, OffsetMapDocument
from kbackupd.model.positions import OffsetRange, TopicId

TargetOf = Callable[[str], str | None]
"""A source topic's name in the target; None: the restore does not select it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePosition:
    """A group's position at the source. `topic_id` None: nobody knew it."""

    group: str
    topic: str
    partition: int
    offset: int
    topic_id: TopicId | None = None
    metadata: str = ""
    note: str = ""
    """What is to be said of it beside where it leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A new position in the target; `offset` None: none. What the group has now is not looked at yet."""

    group: str
    topic: str
    partition: int
    offset: int | None
    exactness: Exactness
    reason: str
    metadata: str = ""
    source: SourcePosition | None = None


@dataclass(slots=True, kw_only=True)
class Drafts:
    planned: list[Draft] = field(default_factory=list)
    not_planned: list[NotPlanned] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Positions by source topic."""

    def refuse(self, position: SourcePosition, reason: str) -> None:
        self.not_planned.append(
            NotPlanned(
                group=position.group,
                topic=position.topic,
                partition=position.partition,
                source_offset=position.offset,
                reason=reason,
            )
        )

    def take(self, position: SourcePosition, target: TopicPartition, mapped: MappedPosition, reason: str) -> None:
        self.planned.append(
            Draft(
                group=position.group,
                topic=target.topic,
                partition=target.partition,
                offset=mapped.target_offset,
                exactness=mapped.exactness,
                reason=f"{reason}; {position.note}" if position.note else reason,
                metadata=position.metadata,
                source=position,
            )
        )


def through_map(positions: Iterable[SourcePosition], document: OffsetMapDocument) -> Drafts:
    """Positions of the source through the offset map, for the strategies `group` and `offset`."""
    drafts = Drafts()
    topics = {topic.source: topic for topic in document.topics}
    partitions = {(topic.source, one.source_partition): one for topic in document.topics for one in topic.partitions}
    for position in positions:
        topic = topics.get(position.topic)
        if topic is None:
            drafts.left_out[position.topic] += 1
            continue
        if position.topic_id not in (None, topic.topic_id):
            drafts.refuse(position, "the position is of another incarnation of the topic than the one restored")
            continue
        partition = partitions.get((position.topic, position.partition))
        if partition is None:
            drafts.refuse(position, "the partition is not in the offset map")
            continue
        mapped = partition.mapped(position.offset)
        reason = _mapped_reason(position.offset, mapped.exactness, partition.source_next_offset)
        if not partition.complete:
            if mapped.exactness is Exactness.END:
                drafts.refuse(position, f"the partition was restored only below offset {partition.source_next_offset}")
                continue
            reason += "; the partition was not restored to its end"
        drafts.take(position, TopicPartition(topic.target, partition.target_partition), mapped, reason)
    return drafts


def _mapped_reason(offset: int, exactness: Exactness, source_next_offset: int) -> str:
    match exactness:
        case Exactness.EXACT:
            return f"source offset {offset}"
        case Exactness.NEXT:
            return f"source offset {offset} was not restored: the next record that was"
        case Exactness.BEFORE_START:
            return f"source offset {offset} is below what was restored: its first record"
        case _ if offset == source_next_offset:
            return f"source offset {offset} is the end of what was restored"
        case _ if offset > source_next_offset:
            return f"source offset {offset} is {offset - source_next_offset} beyond what was restored: its end"
        case _:
            return f"nothing at or after source offset {offset} was restored: the end"


def at_timestamp(
    wanted: Mapping[str, Iterable[TopicPartition]],
    found: Mapping[TopicPartition, int],
    ranges: Mapping[TopicPartition, OffsetRange],
    timestamp_ms: int,
) -> Drafts:
    """The first record of the target with a timestamp at or after `timestamp_ms`, the end where there is none.

    Args:
        wanted: partitions of each group.
        found: what the leaders answered, −1 for none.
    """
    drafts = Drafts()
    for group, partitions in sorted(wanted.items()):
        for tp in sorted(set(partitions)):
            offset = found[tp]
            drafts.planned.append(
                Draft(
                    group=group,
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=ranges[tp].next_offset if offset < 0 else offset,
                    exactness=Exactness.END if offset < 0 else Exactness.EXACT,
                    reason=f"no record at or after {iso(timestamp_ms)}: the end"
                    if offset < 0
                    else f"the first record at or after {iso(timestamp_ms)}",
                )
            )
    return drafts


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPosition:
    """A row of `--positions`; `group` None: every group that is selected. `offset` None: no position."""

    topic: str
    partition: int
    offset: int | None
    group: str | None = None


def as_given(rows: Sequence[GivenPosition]) -> Drafts:
    """Positions of the target as somebody wrote them down, each with its group."""
    return Drafts(
        planned=[
            Draft(
                group=row.group,
                topic=row.topic,
                partition=row.partition,
                offset=row.offset,
                exactness=Exactness.GIVEN,
                reason="given" if row.offset is not None else "given: no position",
            )
            for row in rows
            if row.group is not None
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where in the target a source position was found by content; `offset` None: `reason` says why not."""

    offset: int | None
    exactness: Exactness
    reason: str


def as_found(
    positions: Iterable[SourcePosition],
    found: Mapping[tuple[str, int, int], Found],
    target_of: TargetOf,
) -> Drafts:
    """Positions of the source by what a scan of the target found for (source topic, partition, offset)."""
    drafts = Drafts()
    for position in positions:
        target = target_of(position.topic)
        if target is None:
            drafts.left_out[position.topic] += 1
            continue
        one = found[position.topic, position.partition, position.offset]
        if one.offset is None:
            drafts.refuse(position, one.reason)
            continue
        mapped = MappedPosition(position.offset, one.offset, one.exactness)
        drafts.take(position, TopicPartition(target, position.partition), mapped, one.reason)
    return drafts

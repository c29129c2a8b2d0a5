"""The target's topics and groups as they were told, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kbackupd.groups.plan import Position
from kbackupd.kafka.answers import GroupMember
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.positions import TopicId

_NOBODY = frozenset({"Empty", "Dead", ""})
"""States of a group without members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTopic:
    topic_id: TopicId
    leaders: Mapping[int, int]
    """Partition → broker, −1: none at the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInTarget:
    """One group as its coordinator tells; `problem`: why it does not."""

    group_id: str
    exists: bool = False
    state: str = ""
    members: tuple[GroupMember, ...] = ()
    positions: Mapping[TopicPartition, Position] = field(default_factory=dict)
    problem: str = ""

    @property
    def live(self) -> bool:
        return bool(self.members) or self.state not in _NOBODY

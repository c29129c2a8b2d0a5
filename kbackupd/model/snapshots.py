"""What brokers said of the cluster beside its records: group positions, configurations, ACLs, quotas, at an instant.

A snapshot never turns "could not be read" into "there is none" (invariant I5): every part says how asking for it ended,
and where it did not end well, its content is the last that did, with the instant of that. So one snapshot is always
enough to know the state at its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity, ObjectRef

NEVER_MS = -1
"""Stands where nothing was ever answered."""


class ReadOutcome(StrEnum):
    """How asking ended."""

    OK = "ok"
    DENIED = "denied"
    """Permissions hide it."""
    FAILED = "failed"
    """No answer, or one that says "not now"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartState:
    """How the last asking for a part ended, and when its content was answered."""

    outcome: ReadOutcome
    cause: str = ""
    """Why it is not `ok`, for people."""
    answered_ms: int = NEVER_MS
    """Of the content, which is older than the snapshot where the outcome is not `ok`."""

    def without_time(self) -> PartState:
        return replace(self, answered_ms=NEVER_MS if self.answered_ms == NEVER_MS else 0)


class CommittedOffset(NamedTuple):
    """A group's position in one partition; when it was committed no broker tells."""

    topic_id: TopicId | None
    """None: no topic of that name was known when the group was asked for."""
    topic: str
    partition: int
    offset: int
    leader_epoch: int
    """−1: the client gave none."""
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """One consumer group. Its positions were true at a moment within [sent_ms, answered_ms]."""

    group_id: str
    type: str
    """`classic`, `consumer`, `share`, `streams`; empty where the broker does not tell."""
    protocol_type: str
    state: str
    coordinator: int
    """Node id of the broker that listed it or answered for it."""
    members: int
    """−1: not known."""
    part: PartState
    sent_ms: int
    positions: tuple[CommittedOffset, ...]

    @property
    def answered_ms(self) -> int:
        return self.part.answered_ms

    def without_time(self) -> GroupState:
        return replace(self, part=self.part.without_time(), sent_ms=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorState:
    """One broker asked for the groups it coordinates."""

    node_id: int
    part: PartState


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsContent:
    """Every consumer group that could be seen; groups by id."""

    lists_all: bool
    """False: brokers leave out, without a word, groups this principal may not describe."""
    coordinators: tuple[CoordinatorState, ...]
    groups: tuple[GroupState, ...]

    @property
    def complete(self) -> bool:
        """Nothing failed or was hidden."""
        return (
            self.lists_all
            and all(one.part.outcome is ReadOutcome.OK for one in self.coordinators)
            and all(one.part.outcome is ReadOutcome.OK for one in self.groups)
        )

    def without_times(self) -> GroupsContent:
        """For comparing: two of these are equal if nothing but the instants of the answers differs."""
        return replace(
            self,
            coordinators=tuple(replace(one, part=one.part.without_time()) for one in self.coordinators),
            groups=tuple(one.without_time() for one in self.groups),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    node_id: int
    host: str
    port: int
    rack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """One topic of the cluster, backed up or not."""

    topic_id: TopicId
    name: str
    partitions: int
    internal: bool
    part: PartState
    """Of `configs`."""
    configs: Mapping[str, str]
    """Overrides set on the topic, without sensitive values."""


class Acl(NamedTuple):
    """One access control entry, in Kafka's own words; a number where we know no word for it."""

    resource_type: str
    resource_name: str
    pattern_type: str
    principal: str
    host: str
    operation: str
    permission: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Quotas of one entity: type (`user`, `client-id`, `ip`) → name, None for Kafka's default entity."""

    entity: Mapping[str, str | None]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterContent:
    """Brokers, topics with their configurations, ACLs and client quotas; each list in a fixed order."""

    brokers_part: PartState
    brokers: tuple[BrokerState, ...]
    topics_part: PartState
    """Of the list of topics; each has one of its own for its configuration."""
    topics: tuple[TopicState, ...]
    acls_part: PartState
    acls: tuple[Acl, ...]
    quotas_part: PartState
    quotas: tuple[Quota, ...]

    def without_times(self) -> ClusterContent:
        """As `GroupsContent.without_times`."""
        return replace(
            self,
            brokers_part=self.brokers_part.without_time(),
            topics_part=self.topics_part.without_time(),
            topics=tuple(replace(one, part=one.part.without_time()) for one in self.topics),
            acls_part=self.acls_part.without_time(),
            quotas_part=self.quotas_part.without_time(),
        )


Content = TypeVar("Content", GroupsContent, ClusterContent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Generic[Content]):
    """One stored snapshot."""

    identity: Identity
    key: str
    writer: str
    writer_epoch: int
    number: int
    asked_ms: int
    """When the round of questions began."""
    taken_ms: int
    """When its last answer was there; never decreasing within a writer epoch."""
    previous: ObjectRef | None
    """This writer's snapshot of the same kind before, of an earlier epoch too."""
    content: Content = field()

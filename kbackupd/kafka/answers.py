"""What brokers answer about groups, ACLs and quotas, as plain values. No aiokafka and no I/O in here."""

from __future__ import annotations

from dataclasses import dataclass

from kbackupd.model.snapshots import Acl, Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedGroup:
    """`type` is "" where the broker does not tell."""

    group_id: str
    protocol_type: str
    state: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedGroups:
    error_code: int
    groups: tuple[ListedGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """`node_id` is −1 where an `error_code` says why not."""

    error_code: int
    node_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    member_id: str
    client_id: str
    client_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMembers:
    """A group with who is in it; `state` is `Dead`, without an error, where nobody of that kind ever heard of it."""

    error_code: int
    state: str
    members: tuple[GroupMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedOffset:
    """`offset` is −1 where nothing is committed, or an `error_code` says why it is not told."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    error_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedOffsets:
    error_code: int
    offsets: tuple[FetchedOffset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """`may_describe`: this principal has Describe on the Cluster resource, so nothing is left out of lists."""

    error_code: int
    may_describe: bool
    may_alter: bool = False
    """It has Alter on it, which ACLs take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedAcl:
    """`detail` is the broker's own sentence, "" if it said none."""

    error_code: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedAcls:
    error_code: int
    detail: str
    acls: tuple[Acl, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedQuotas:
    error_code: int
    detail: str
    quotas: tuple[Quota, ...]

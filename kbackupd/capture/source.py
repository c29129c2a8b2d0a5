"""What capture asks of a Kafka cluster: the seam that the real rim and the tests' brokers both fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kbackupd.kafka.answers import (
    ClusterAccess,
    Coordinator,
    DescribedAcls,
    DescribedQuotas,
    FetchedOffsets,
    GroupMembers,
    ListedGroups,
)
from kbackupd.kafka.types import (
    ClusterMetadata,
    EpochEnd,
    FetchAnswer,
    FetchTarget,
    OffsetAnswer,
    OffsetToCommit,
    TopicConfigs,
    TopicPartition,
)
from kbackupd.model.positions import PartitionId


class Session(Protocol):
    """`kafka.fetch.FetchSession`, which documents the methods."""

    def want(self, id_: PartitionId, target: FetchTarget) -> None: ...

    def forget(self, id_: PartitionId) -> None: ...

    async def fetch(
        self, *, max_bytes: int, max_wait_ms: int, min_bytes: int = 1, timeout_seconds: float
    ) -> FetchAnswer: ...

    async def close(self, *, timeout_seconds: float = 2.0) -> None: ...


class Source(Protocol):
    """One cluster. Every method has a deadline of its own and raises KafkaUnavailableError or KafkaDeniedError."""

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata: ...

    async def list_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, OffsetAnswer]: ...

    async def epoch_end_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, EpochEnd]: ...

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]:
        """Overrides set on the topics; what is hidden has an error code."""

    def session(self, node_id: int) -> Session:
        """A new fetch session with its own connection to the broker."""


class ClusterQuestions(Protocol):
    """What snapshots ask of a cluster, on connections of their own: `kafka.groups.GroupQuestions` documents most of it.

    Every method has a deadline of its own and raises KafkaUnavailableError or KafkaDeniedError.
    """

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata: ...

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]: ...

    async def access(self) -> ClusterAccess: ...

    async def list_groups(self, node_id: int) -> ListedGroups: ...

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]: ...

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]: ...

    async def fetch_offsets(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, FetchedOffsets]: ...

    async def acls(self) -> DescribedAcls: ...

    async def quotas(self) -> DescribedQuotas: ...


class GroupPositions(Protocol):
    """The positions of one consumer group at its coordinator, as `kafka.groups.GroupQuestions` documents it.

    Every method has a deadline of its own and raises KafkaUnavailableError or KafkaDeniedError.
    """

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]: ...

    async def fetch_offsets(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, FetchedOffsets]: ...

    async def commit_offsets(
        self, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
    ) -> Mapping[TopicPartition, int]: ...

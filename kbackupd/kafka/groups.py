"""Asking about consumer groups, ACLs and quotas, and committing for a group: in parts, each with a deadline.

Error codes inside the answers are the caller's.

Who asks takes a lane: a group's answer may be megabytes, and on one connection everything else would wait behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kbackupd.kafka.answers import (
    ClusterAccess,
    Coordinator,
    DescribedAcls,
    DescribedQuotas,
    FetchedOffsets,
    GroupMembers,
    ListedGroups,
)
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.kafka.wire_cluster import DescribeAclsRequest, DescribeClusterRequest, DescribeQuotasRequest
from kbackupd.kafka.wire_group_admin import (
    DeleteGroupsRequest,
    DeleteOffsetsRequest,
    DescribeConsumerGroupsRequest,
)
from kbackupd.kafka.wire_groups import (
    CommitOffsetsRequest,
    DescribeGroupsRequest,
    FetchOffsetsRequest,
    FindCoordinatorsRequest,
    ListGroupsRequest,
    ListTypedGroupsRequest,
)
from kbackupd.model.errors import KafkaDeniedError

_GROUPS_PER_REQUEST = 500


class GroupQuestions:
    """One cluster, asked over connections of its own. All methods raise KafkaUnavailableError and KafkaDeniedError."""

    def __init__(self, connection: KafkaConnection, *, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self.lane = connection.new_lane()

    async def list_groups(self, node_id: int) -> ListedGroups:
        """The groups that broker coordinates, with their types where it knows types (Kafka 3.8)."""
        try:
            return await self._connection.send(
                node_id, ListTypedGroupsRequest(), timeout_seconds=self._timeout_seconds, lane=self.lane
            )
        except KafkaDeniedError as error:
            if error.code != KafkaErrorCode.UNSUPPORTED_VERSION:
                raise
        return await self._connection.send(
            node_id, ListGroupsRequest(), timeout_seconds=self._timeout_seconds, lane=self.lane
        )

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]:
        found: dict[str, Coordinator] = {}
        for part in _parts(group_ids):
            request = FindCoordinatorsRequest(group_ids=part)
            part_found = await self._connection.send_any(request, timeout_seconds=self._timeout_seconds, lane=self.lane)
            found.update(part_found)
        return found

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        """Classic groups that `node_id` coordinates, with their members."""
        request = DescribeGroupsRequest(group_ids=group_ids)
        return await self._connection.send(node_id, request, timeout_seconds=self._timeout_seconds, lane=self.lane)

    async def fetch_offsets(
        self, node_id: int, group_ids: Sequence[str], *, stable: bool = False
    ) -> Mapping[str, FetchedOffsets]:
        """All that groups have committed which `node_id` coordinates; topics that are hidden are left out silently.

        With `stable`, a position that an open transaction will commit or not is an error (88) instead.
        """
        request = FetchOffsetsRequest(group_ids=group_ids, stable=stable)
        return await self._connection.send(node_id, request, timeout_seconds=self._timeout_seconds, lane=self.lane)

    async def commit_offsets(
        self, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
    ) -> Mapping[TopicPartition, int]:
        """Commit for a group without members that `node_id` coordinates, in one request; error code per partition.

        With code 0 the position is replicated as the brokers' settings say. Cancelled, it is committed or not.
        """
        request = CommitOffsetsRequest(group_id=group_id, offsets=offsets)
        return await self._connection.send(node_id, request, timeout_seconds=self._timeout_seconds, lane=self.lane)

    async def describe_consumer_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        """Groups of the protocol of KIP-848 that `node_id` coordinates; none where the broker is older than that."""
        request = DescribeConsumerGroupsRequest(group_ids=group_ids)
        try:
            return await self._connection.send(node_id, request, timeout_seconds=self._timeout_seconds, lane=self.lane)
        except KafkaDeniedError as error:
            if error.code != KafkaErrorCode.UNSUPPORTED_VERSION:
                raise
        return {id: GroupMembers(error_code=KafkaErrorCode.GROUP_ID_NOT_FOUND, state="") for id in group_ids}

    async def delete_offsets(
        self, node_id: int, group_id: str, partitions: Sequence[TopicPartition]
    ) -> tuple[int, Mapping[TopicPartition, int]]:
        """Forget positions of a group that `node_id` coordinates: the group's error code, and one per partition.

        A position that is not there is deleted without an error. Durable as a commit is; cancelled, done or not.
        """
        request = DeleteOffsetsRequest(group_id=group_id, partitions=partitions)
        return await self._connection.send(node_id, request, timeout_seconds=self._timeout_seconds, lane=self.lane)

    async def delete_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, int]:
        """Delete groups without members, with all their positions; error code per group."""
        request = DeleteGroupsRequest(group_ids=group_ids)
        return await self._connection.send(node_id, request, timeout_seconds=self._timeout_seconds, lane=self.lane)

    async def access(self) -> ClusterAccess:
        """Whether lists are whole."""
        return await self._connection.send_any(
            DescribeClusterRequest(), timeout_seconds=self._timeout_seconds, lane=self.lane
        )

    async def acls(self) -> DescribedAcls:
        return await self._connection.send_any(
            DescribeAclsRequest(), timeout_seconds=self._timeout_seconds, lane=self.lane
        )

    async def quotas(self) -> DescribedQuotas:
        return await self._connection.send_any(
            DescribeQuotasRequest(), timeout_seconds=self._timeout_seconds, lane=self.lane
        )


def _parts(group_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(group_ids), _GROUPS_PER_REQUEST):
        yield group_ids[start : start + _GROUPS_PER_REQUEST]

"""A cluster's coordinators and configuration behind `capture.source.ClusterQuestions`, to be mistreated by tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.kafka.answers import (
    ClusterAccess,
    Coordinator,
    DescribedAcls,
    DescribedQuotas,
    FetchedOffset,
    FetchedOffsets,
    GroupMember,
    GroupMembers,
    ListedGroup,
    ListedGroups,
)
from kbackupd.kafka.types import (
    BrokerInfo,
    ClusterMetadata,
    KafkaErrorCode,
    OffsetToCommit,
    PartitionMetadata,
    TopicConfigs,
    TopicMetadata,
    TopicPartition,
)
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import Acl, Quota


@dataclass(slots=True)
class FakeGroup:
    coordinator: int
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    state: str = "Empty"
    type: str = "Classic"
    members: int = 0
    listed: bool = True
    error: int = 0
    """Of what is asked about it."""


@dataclass(slots=True)
class FakeTopic:
    topic_id: TopicId
    configs: dict[str, str] = field(default_factory=dict)
    hidden: bool = False
    """Permissions hide it: lists leave it out without a word, questions by name get error 29."""
    configs_error: int = 0


class FakeCoordinators:
    """Answers at once, as brokers do that are well; `down`, `loading` and the errors are the test's to set."""

    def __init__(self, clock: ManualClock, nodes: Sequence[int] = (1, 2)) -> None:
        self.clock = clock
        self.nodes = list(nodes)
        self.groups: dict[str, FakeGroup] = {}
        self.topics: dict[str, FakeTopic] = {}
        self.down: set[int] = set()
        self.loading: dict[int, int] = {}
        """Node → how many more questions it answers with "loading"."""
        self.not_coordinator: dict[str, int] = {}
        """Group → the node that really coordinates it; others say NOT_COORDINATOR."""
        self.commits: list[Mapping[TopicPartition, OffsetToCommit]] = []
        """Requests to commit that were not refused as a whole."""
        self.commit_errors: dict[str, int] = {}
        """Topic, or "" for the group → what commits are refused with."""
        self.on_commit: Callable[[], None] = lambda: None
        self.may_describe = True
        self.acls_answer = DescribedAcls(error_code=0, detail="", acls=())
        self.quotas_answer = DescribedQuotas(error_code=0, detail="", quotas=())
        self.metadata_error: Exception | None = None
        self.questions: list[str] = []

    def commit(self, group: str, topic: str, partition: int, offset: int, *, coordinator: int = 1) -> None:
        self.topics.setdefault(topic, FakeTopic(TopicId(topic.ljust(22, "A"))))
        self.groups.setdefault(group, FakeGroup(coordinator)).positions[topic, partition] = offset

    def set_acls(self, *acls: Acl, error_code: int = 0) -> None:
        self.acls_answer = DescribedAcls(error_code=error_code, detail="", acls=acls)

    def set_quotas(self, *quotas: Quota, error_code: int = 0) -> None:
        self.quotas_answer = DescribedQuotas(error_code=error_code, detail="", quotas=quotas)

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata:
        self.questions.append("metadata")
        if self.metadata_error is not None:
            raise self.metadata_error
        names = [name for name, topic in self.topics.items() if not topic.hidden] if topics is None else topics
        return ClusterMetadata(
            cluster_id="c",
            controller_id=1,
            brokers=tuple(BrokerInfo(node_id=node, host=f"b{node}", port=9092) for node in self.nodes),
            topics=tuple(self._row(name) for name in names),
        )

    def _row(self, name: str) -> TopicMetadata:
        topic = self.topics.get(name)
        code: int = KafkaErrorCode.NONE
        if topic is None:
            code = KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif topic.hidden:
            code = KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED
        told = topic is not None and not code
        row = PartitionMetadata(partition=0, leader_id=1, leader_epoch=0, replicas=(1,), isr=(1,), error_code=0)
        return TopicMetadata(
            name=name,
            topic_id=topic.topic_id if topic is not None and told else TopicId("A" * 22),
            internal=False,
            error_code=code,
            partitions=(row,) if told else (),
        )

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]:
        self.questions.append("configs")
        found = {}
        for name in topics:
            code = self.topics[name].configs_error
            found[name] = TopicConfigs(error_code=code, values={} if code else dict(self.topics[name].configs))
        return found

    async def access(self) -> ClusterAccess:
        return ClusterAccess(error_code=0, may_describe=self.may_describe)

    async def list_groups(self, node_id: int) -> ListedGroups:
        self.questions.append(f"list {node_id}")
        self._reach(node_id)
        code = self._loading(node_id)
        rows = [
            ListedGroup(group_id=id, protocol_type="consumer", state=group.state, type=group.type)
            for id, group in self.groups.items()
            if group.coordinator == node_id and group.listed
        ]
        return ListedGroups(error_code=code, groups=() if code else tuple(rows))

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]:
        self.questions.append("find")
        found = {}
        for id in group_ids:
            group = self.groups.get(id)
            node = self.not_coordinator.get(id, group.coordinator if group else self.nodes[0])
            lost = node in self.down
            code = KafkaErrorCode.COORDINATOR_NOT_AVAILABLE if lost else KafkaErrorCode.NONE
            found[id] = Coordinator(error_code=code, node_id=-1 if lost else node)
        return found

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        self._reach(node_id)
        return {
            id: GroupMembers(
                error_code=0,
                state=self.groups[id].state,
                members=(GroupMember(member_id="m", client_id="c", client_host="h"),) * self.groups[id].members,
            )
            for id in group_ids
        }

    async def fetch_offsets(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, FetchedOffsets]:
        self.questions.append(f"offsets {node_id}")
        self._reach(node_id)
        return {id: self._offsets(node_id, id) for id in group_ids}

    async def commit_offsets(
        self, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
    ) -> Mapping[TopicPartition, int]:
        self.questions.append(f"commit {node_id}")
        self._reach(node_id)
        group = self.groups.setdefault(group_id, FakeGroup(node_id))
        code = self.commit_errors.get("") or self._loading(node_id)
        if self.not_coordinator.get(group_id, group.coordinator) != node_id:
            code = KafkaErrorCode.NOT_COORDINATOR
        if group.members:
            code = KafkaErrorCode.UNKNOWN_MEMBER_ID
        if code:
            return dict.fromkeys(offsets, code)
        codes = {tp: self.commit_errors.get(tp.topic, 0) for tp in offsets}
        taken = {tp: one for tp, one in offsets.items() if not codes[tp]}
        group.positions.update({(tp.topic, tp.partition): one.offset for tp, one in taken.items()})
        self.commits.append(taken)
        self.on_commit()
        return codes

    def _offsets(self, node_id: int, group_id: str) -> FetchedOffsets:
        group = self.groups.get(group_id)
        if group is None:
            return FetchedOffsets(error_code=0, offsets=())
        code = group.error or self._loading(node_id)
        if self.not_coordinator.get(group_id, group.coordinator) != node_id:
            code = KafkaErrorCode.NOT_COORDINATOR
        rows = [
            FetchedOffset(topic=topic, partition=partition, offset=offset, leader_epoch=0, metadata="", error_code=0)
            for (topic, partition), offset in group.positions.items()
            if topic not in self.topics or not self.topics[topic].hidden
        ]
        return FetchedOffsets(error_code=code, offsets=() if code else tuple(rows))

    async def acls(self) -> DescribedAcls:
        return self.acls_answer

    async def quotas(self) -> DescribedQuotas:
        if self.quotas_answer.error_code == KafkaErrorCode.UNSUPPORTED_VERSION:
            raise KafkaDeniedError("the broker does not offer it", code=35)
        return self.quotas_answer

    def _reach(self, node_id: int) -> None:
        if node_id in self.down:
            raise KafkaUnavailableError(f"broker {node_id} does not answer")

    def _loading(self, node_id: int) -> int:
        left = self.loading.get(node_id, 0)
        self.loading[node_id] = max(0, left - 1)
        return KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS if left else KafkaErrorCode.NONE

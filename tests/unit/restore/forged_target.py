"""A cluster to restore into, made of dictionaries: it answers preflight and topic preparation as brokers do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from kbackupd.kafka.answers import ClusterAccess, Coordinator, CreatedAcl, DescribedAcls, DescribedQuotas
from kbackupd.kafka.brokers import DescribeBrokerConfigsRequest
from kbackupd.kafka.codec import WireRequest
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import (
    BrokerInfo,
    ClusterMetadata,
    KafkaErrorCode,
    OffsetAnswer,
    PartitionMetadata,
    TopicMetadata,
    TopicOperation,
)
from kbackupd.kafka.wire import InitProducerIdAnswer, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest
from kbackupd.kafka.wire_admin import (
    AlterTopicConfigsRequest,
    ConfigEntry,
    ConfigSource,
    CreateTopicRequest,
    DescribedTopic,
    DescribeTopicConfigsRequest,
    Outcome,
)
from kbackupd.kafka.wire_cluster import (
    CreateAclsRequest,
    DescribeAclsRequest,
    DescribeClusterRequest,
    DescribeQuotasRequest,
)
from kbackupd.kafka.wire_transactions import (
    FindTransactionCoordinatorRequest,
    InitTransactionsRequest,
    WriteMarkersRequest,
)
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import TopicId
from kbackupd.model.settings import SecuritySettings
from kbackupd.model.snapshots import Acl, Quota
from kbackupd.restore.configs import SAFE

T = TypeVar("T")
CODE = KafkaErrorCode
EVERYTHING = frozenset(TopicOperation)
SINCE_KAFKA_3_6 = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms")


@dataclass(slots=True, kw_only=True)
class ForgedTopic:
    partitions: int = 1
    records: int = 0
    replicas: int = 1
    in_sync: int = 1
    configs: dict[str, str] = field(default_factory=dict)


class ForgedTarget(KafkaConnection):
    """One broker; without arguments it has no authorizer and knows every configuration key.

    Args:
        operations: topic → what we may do with it; None: the broker does not tell. Others: everything.
        unknown_keys: configuration keys the broker is too old for.
        refuses: request type → error code it answers, whatever is asked of it.
        forbidden_keys: configuration keys that the cluster's policy has nobody set.
        broker: what it is configured with.
        min_insync_replicas: of topics that do not say; they are created with one replica.
        quotas: of clients.
        may_alter: we have Alter on the cluster.
        unwelcome: an ACL that is refused.
        settling: so many questions for offsets are answered as by a leader that does not know yet that it is one.
    """

    def __init__(
        self,
        *,
        topics: Mapping[str, ForgedTopic] | None = None,
        operations: Mapping[str, frozenset[TopicOperation] | None] | None = None,
        unknown_keys: Iterable[str] = (),
        refuses: Mapping[type[object], int] | None = None,
        forbidden_keys: Iterable[str] = (),
        broker: Mapping[str, str] | None = None,
        min_insync_replicas: int = 1,
        quotas: Sequence[Quota] = (),
        may_alter: bool = True,
        unwelcome: Acl | None = None,
        settling: int = 0,
    ) -> None:
        super().__init__(bootstrap_servers=(), security=SecuritySettings(), client_id="test", clock=SystemClock())
        self.topics = dict(topics or {})
        self.written: list[str] = []
        """What was changed, request by request; checks that change nothing are not in it."""
        self._operations = dict(operations or {})
        self._unknown = set(unknown_keys)
        self._refuses: Mapping[type[object], int] = refuses or {}
        self._forbidden = set(forbidden_keys)
        self._broker = dict(broker or {})
        self._min_insync_replicas = min_insync_replicas
        self._quotas = tuple(quotas)
        self._may_alter = may_alter
        self._unwelcome = unwelcome
        self._settling = settling
        self.acls: list[Acl] = []
        self.learn([BrokerInfo(node_id=1, host="127.0.0.1", port=1)])

    async def send_any(self, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0) -> T:
        return await self.send(1, request, timeout_seconds=timeout_seconds)

    async def send(
        self, node_id: int, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0
    ) -> T:
        return cast(T, self._answer(request, self._refuses.get(type(request), CODE.NONE)))

    def _answer(self, request: WireRequest[T], refused: int) -> object:
        match request:
            case MetadataRequest():
                return self._metadata(request)
            case ListOffsetsRequest():
                if self._settling > 0:
                    self._settling -= 1
                    refused = CODE.NOT_LEADER_OR_FOLLOWER
                return {
                    tp: OffsetAnswer(
                        error_code=refused, offset=0 if stamp == -2 else self.topics[tp.topic].records, leader_epoch=0
                    )
                    for tp, (stamp, _) in request.asked.items()
                }
            case DescribeBrokerConfigsRequest():
                told = {key: self._broker[key] for key in request.keys or () if key in self._broker}
                return {"1": DescribedTopic(error_code=refused, detail="", entries=_entries(told))}
            case DescribeAclsRequest():
                return DescribedAcls(error_code=refused, detail="", acls=tuple(self.acls))
            case DescribeClusterRequest():
                return ClusterAccess(error_code=refused, may_describe=True, may_alter=self._may_alter)
            case CreateAclsRequest():
                return tuple(self._set(acl) for acl in request.acls)
            case DescribeQuotasRequest():
                return DescribedQuotas(error_code=refused, detail="", quotas=() if refused else self._quotas)
            case DescribeTopicConfigsRequest():
                return {name: self._described(name, refused, request.keys) for name in request.topics}
            case AlterTopicConfigsRequest():
                tried = request.validate_only
                return {name: self._alter(name, changes, refused, tried) for name, changes in request.changes.items()}
            case CreateTopicRequest():
                return {request.name: self._create(request, refused)}
            case WriteMarkersRequest():
                code = refused or CODE.UNKNOWN_TOPIC_OR_PARTITION
                return {(marker.producer_id, marker.tp): code for marker in request.markers}
            case FindTransactionCoordinatorRequest():
                return Coordinator(error_code=refused, node_id=1)
            case InitTransactionsRequest():
                return InitProducerIdAnswer(error_code=refused, producer_id=4712, producer_epoch=0)
            case InitProducerIdRequest():
                return InitProducerIdAnswer(error_code=refused, producer_id=4711, producer_epoch=0)
            case _:
                raise AssertionError(f"nobody expects {request!r}")

    def _metadata(self, request: MetadataRequest) -> ClusterMetadata:
        return ClusterMetadata(
            cluster_id="target",
            controller_id=1,
            brokers=tuple(self.brokers.values()),
            topics=tuple(self._topic(name, asked=request.operations) for name in request.topics or ()),
        )

    def _topic(self, name: str, *, asked: bool) -> TopicMetadata:
        operations = self._operations.get(name, EVERYTHING)
        topic = self.topics.get(name)
        error = CODE.NONE if topic is not None else CODE.UNKNOWN_TOPIC_OR_PARTITION
        if operations is not None and TopicOperation.DESCRIBE not in operations:
            error, topic = CODE.TOPIC_AUTHORIZATION_FAILED, None
        replicas = tuple(range(1, 1 + (topic.replicas if topic else 0)))
        isr = tuple(range(1, 1 + (topic.in_sync if topic else 0)))
        return TopicMetadata(
            name=name,
            topic_id=_id_of(name),
            internal=False,
            error_code=error,
            partitions=tuple(
                PartitionMetadata(partition=n, leader_id=1, leader_epoch=0, replicas=replicas, isr=isr, error_code=0)
                for n in range(topic.partitions if topic is not None else 0)
            ),
            operations=operations if asked and error != CODE.TOPIC_AUTHORIZATION_FAILED else None,
        )

    def _described(self, name: str, refused: int, keys: Sequence[str] | None) -> DescribedTopic:
        if refused:
            return DescribedTopic(error_code=refused, detail="", entries=())
        configs = self.topics[name].configs
        own = _entries({key: value for key, value in configs.items() if keys is None or key in keys})
        if "min.insync.replicas" not in configs and (keys is None or "min.insync.replicas" in keys):
            own += _entries({"min.insync.replicas": str(self._min_insync_replicas)}, ConfigSource.DEFAULT_CONFIG)
        return DescribedTopic(error_code=0, detail="", entries=own)

    def _alter(self, name: str, changes: Mapping[str, str | None], refused: int, tried: bool) -> Outcome:
        if refused or self._unknown.intersection(changes):
            return Outcome(error_code=refused or CODE.INVALID_CONFIG, detail="")
        if forbidden := self._forbidden.intersection(changes):
            return Outcome(error_code=CODE.POLICY_VIOLATION, detail=f"{min(forbidden)} is ours")
        if tried:
            return Outcome(error_code=0, detail="")
        for key, value in changes.items():
            self.topics[name].configs.pop(key, None)
            if value is not None:
                self.topics[name].configs[key] = value
        self.written.append(f"alter {name}")
        return Outcome(error_code=0, detail="")

    def _set(self, acl: Acl) -> CreatedAcl:
        if acl == self._unwelcome:
            return CreatedAcl(error_code=CODE.INVALID_REQUEST, detail="unwelcome")
        self.acls.append(acl)
        self.written.append(f"acl on {acl.resource_name}")
        return CreatedAcl(error_code=0, detail="")

    def _create(self, request: CreateTopicRequest, refused: int) -> Outcome:
        if refused or self._unknown.intersection(request.configs):
            return Outcome(error_code=refused or CODE.INVALID_CONFIG, detail="")
        if forbidden := self._forbidden.intersection(request.configs):
            return Outcome(error_code=CODE.POLICY_VIOLATION, detail=f"{min(forbidden)} is ours")
        if not request.validate_only:
            self.topics[request.name] = ForgedTopic(partitions=request.partitions, configs=dict(request.configs))
            self.written.append(f"create {request.name}")
        return Outcome(
            error_code=0,
            detail="",
            topic_id=_id_of(request.name),
            replicas=1,
            min_insync_replicas=self._min_insync_replicas,
        )


def _entries(configs: Mapping[str, str], source: int = ConfigSource.DYNAMIC_TOPIC_CONFIG) -> tuple[ConfigEntry, ...]:
    return tuple(ConfigEntry(name=key, value=value, source=source, sensitive=False) for key, value in configs.items())


def _id_of(name: str) -> TopicId:
    return TopicId(name[:20].ljust(21, "x") + "A")


def left_behind(*, older: bool = False) -> ForgedTopic:
    """An empty topic as an interrupted restore leaves it, on a broker before Kafka 3.6 if `older`."""
    configs = {key: value for key, value in SAFE.items() if not older or key not in SINCE_KAFKA_3_6}
    return ForgedTopic(configs={**configs, "max.message.bytes": "1048588"})

"""What Kafka's answers say, as plain values: the vocabulary of this rim. No aiokafka and no I/O in here.

What is made once per partition of an answer is a named tuple, for those cost a third of a frozen dataclass to make
(docs/adr/0019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from kbackupd.model.positions import PartitionId, TopicId

EARLIEST_TIMESTAMP = -2
"""Asks `list_offsets` for the log start offset."""
LATEST_TIMESTAMP = -1
"""Asks `list_offsets` for the high watermark."""


class TopicPartition(NamedTuple):
    """A partition by its topic's name: how the older requests address it. Say `PartitionId` wherever it must last."""

    topic: str
    partition: int


class OffsetToCommit(NamedTuple):
    """`offset` is the next to be read; `leader_epoch` that of the record before it, -1 where it is not known;
    `metadata` is the client's own."""

    offset: int
    leader_epoch: int
    metadata: str = ""


class TransactionMarker(NamedTuple):
    """A control record as a transaction's coordinator has it appended; it takes one offset and nobody reads it.

    A partition refuses one whose producer epoch or coordinator epoch is below the last it saw of that producer id.
    """

    tp: TopicPartition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    committed: bool = False


class KafkaErrorCode(IntEnum):
    """The error codes kbackupd acts on, by Kafka's own names (org.apache.kafka.common.protocol.Errors).

    A code that is not listed stays a plain int wherever answers carry one: unknown is not "no error".
    """

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    REBALANCE_IN_PROGRESS = 27
    INVALID_COMMIT_OFFSET_SIZE = 28
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_CONFIG = 40
    NOT_CONTROLLER = 41
    INVALID_REQUEST = 42
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTION_COORDINATOR_FENCED = 52
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    REASSIGNMENT_IN_PROGRESS = 60
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    LISTENER_NOT_FOUND = 72
    TOPIC_DELETION_DISABLED = 73
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    OFFSET_NOT_AVAILABLE = 78
    PREFERRED_LEADER_NOT_AVAILABLE = 80
    FENCED_INSTANCE_ID = 82
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    THROTTLING_QUOTA_EXCEEDED = 89
    PRODUCER_FENCED = 90
    UNKNOWN_TOPIC_ID = 100
    INCONSISTENT_TOPIC_ID = 103
    FETCH_SESSION_TOPIC_ID_ERROR = 106
    OFFSET_MOVED_TO_TIERED_STORAGE = 109
    FENCED_MEMBER_EPOCH = 110
    STALE_MEMBER_EPOCH = 113

    @property
    def retriable(self) -> bool:
        """Whether the same request, perhaps to another broker after a metadata refresh, may yet succeed."""
        return self in _RETRIABLE


_RETRIABLE = frozenset(
    {
        KafkaErrorCode.CORRUPT_MESSAGE,
        KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        KafkaErrorCode.LEADER_NOT_AVAILABLE,
        KafkaErrorCode.NOT_LEADER_OR_FOLLOWER,
        KafkaErrorCode.REQUEST_TIMED_OUT,
        KafkaErrorCode.REPLICA_NOT_AVAILABLE,
        KafkaErrorCode.NETWORK_EXCEPTION,
        KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaErrorCode.COORDINATOR_NOT_AVAILABLE,
        KafkaErrorCode.NOT_COORDINATOR,
        KafkaErrorCode.NOT_ENOUGH_REPLICAS,
        KafkaErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaErrorCode.NOT_CONTROLLER,
        KafkaErrorCode.CONCURRENT_TRANSACTIONS,
        KafkaErrorCode.KAFKA_STORAGE_ERROR,
        KafkaErrorCode.REASSIGNMENT_IN_PROGRESS,
        KafkaErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        KafkaErrorCode.INVALID_FETCH_SESSION_EPOCH,
        KafkaErrorCode.LISTENER_NOT_FOUND,
        KafkaErrorCode.FENCED_LEADER_EPOCH,
        KafkaErrorCode.UNKNOWN_LEADER_EPOCH,
        KafkaErrorCode.OFFSET_NOT_AVAILABLE,
        KafkaErrorCode.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaErrorCode.UNSTABLE_OFFSET_COMMIT,
        KafkaErrorCode.THROTTLING_QUOTA_EXCEEDED,
        KafkaErrorCode.UNKNOWN_TOPIC_ID,
        KafkaErrorCode.INCONSISTENT_TOPIC_ID,
        KafkaErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
        KafkaErrorCode.OFFSET_MOVED_TO_TIERED_STORAGE,
    }
)


class TopicOperation(IntEnum):
    """What an ACL may allow on a topic (org.apache.kafka.common.acl.AclOperation)."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11

    @property
    def label(self) -> str:
        """As kafka-acls.sh spells it: "DescribeConfigs"."""
        return "".join(word.capitalize() for word in self.name.split("_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerInfo:
    """A broker as the listener we connected to advertises it; `rack` is "" where none is set."""

    node_id: int
    host: str
    port: int
    rack: str = ""


class PartitionMetadata(NamedTuple):
    """`leader_id` −1: no leader now (`error_code` then says LEADER_NOT_AVAILABLE); `leader_epoch` −1: not known."""

    partition: int
    leader_id: int
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    error_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMetadata:
    """One topic. With an `error_code` (29 not authorised, 3 no such topic) there are no partitions in it, and the
    topic id may be all zeros (`NO_TOPIC_ID`). `operations`: what this principal may do with it (KIP-430), also where
    it does not exist; None: not asked for, or not told."""

    name: str
    topic_id: TopicId
    internal: bool
    error_code: int
    partitions: tuple[PartitionMetadata, ...]
    operations: frozenset[TopicOperation] | None = None


NO_TOPIC_ID = TopicId("AAAAAAAAAAAAAAAAAAAAAA")
"""The all-zero topic id, Kafka's "none"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterMetadata:
    """`controller_id` is a broker that forwards to the controller (under KRaft any broker may be named); −1: none."""

    cluster_id: str
    controller_id: int
    brokers: tuple[BrokerInfo, ...]
    topics: tuple[TopicMetadata, ...]


class FetchTarget(NamedTuple):
    """What a fetch session asks for one partition.

    Args:
        offset: the first offset wanted; the answer may begin with a batch that starts before it.
        max_bytes: upper bound for this partition's records; the first batch is sent whole even if it is larger.
        current_leader_epoch: the leader epoch we believe in, −1 for no check. Wrong → 74 (ours is old) or 75 (ours
            is newer than the broker's).
        last_fetched_epoch: leader epoch of the last batch we hold, −1 for none. Makes the leader compare logs and
            answer `PartitionAnswer.diverging` where ours is not a prefix of its own.
    """

    offset: int
    max_bytes: int
    current_leader_epoch: int = -1
    last_fetched_epoch: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergingEpoch:
    """The leader's log leaves ours: `epoch` is the largest epoch both may share, and it ends at `end_offset` there."""

    epoch: int
    end_offset: int


class PartitionAnswer(NamedTuple):
    """One partition's part of a fetch answer.

    `records` are the broker's own batches, b"" if none (Kafka's null and empty mean the same here); the last batch
    may be cut off. Offsets are −1 where an `error_code` left them unknown. `preferred_read_replica` −1: stay here.
    `asked_offset` is the offset this answers: `want` may have named another one since.
    """

    id: PartitionId
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    diverging: DivergingEpoch | None
    preferred_read_replica: int
    records: bytes
    asked_offset: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchAnswer:
    """One answer of a fetch session.

    `full` False: an incremental answer; the partitions it leaves out have no new data, no error and unchanged high
    watermark and log start offset (the last stable offset may have moved). A throttled answer (`throttle_ms` > 0) may
    leave out anything, and then proves nothing about what it leaves out. `size_bytes`: the whole response.
    `sent_*` is before the request was written, `answered_*` after the response was read whole: monotonic seconds and
    epoch milliseconds of the injected clock.
    """

    throttle_ms: int
    full: bool
    partitions: tuple[PartitionAnswer, ...]
    size_bytes: int
    sent_monotonic: float
    answered_monotonic: float
    sent_ms: int
    answered_ms: int


class OffsetAnswer(NamedTuple):
    """`offset` and `leader_epoch` are −1 where an `error_code` left them unknown."""

    error_code: int
    offset: int
    leader_epoch: int


class EpochEnd(NamedTuple):
    """Where the largest epoch ≤ the asked one ends on the leader: `leader_epoch` that epoch, `end_offset` the offset
    after its last record; both −1 where the leader knows no such epoch or an `error_code` says why not."""

    error_code: int
    leader_epoch: int
    end_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceAnswer:
    """`base_offset` is where the batch begins in the log (for a repeated batch: where it began the first time, or −1
    when the broker remembers only that it is a duplicate). `log_append_time` −1 unless the topic stamps records."""

    error_code: int
    base_offset: int
    log_append_time: int
    log_start_offset: int
    error_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfigs:
    """A topic's configuration as the broker told it: `values` by key, or the `error_code` that hid it."""

    error_code: int
    values: Mapping[str, str]
    error_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedRecords:
    """`log_start_offset` is the partition's first offset now, −1 where an `error_code` says why not."""

    error_code: int
    log_start_offset: int

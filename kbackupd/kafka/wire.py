"""The requests aiokafka lacks, or has in versions without what we need: metadata, offsets, produce.

One class per request, in exactly one flexible version that Kafka 3.1 and everything later understands. Sources: the
message definitions (`*.json`) of Apache Kafka. `wire_fetch` has the fetch, `wire_admin` what changes a cluster.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.codec import (
    EMPTY_TAGS,
    Reader,
    WireRequest,
    array,
    boolean,
    by_topic,
    int8,
    int16,
    int32,
    int64,
    string,
    uvarint,
)
from kbackupd.kafka.types import (
    BrokerInfo,
    ClusterMetadata,
    EpochEnd,
    OffsetAnswer,
    PartitionMetadata,
    ProduceAnswer,
    TopicMetadata,
    TopicOperation,
    TopicPartition,
)
from kbackupd.model.positions import topic_id_from_uuid

_CONSUMER = -1
_DEBUGGING = -2
"""Sees a log to its end, replicated or not (org.apache.kafka.common.requests.ListOffsetsRequest)."""
_READ_UNCOMMITTED = 0
_NULL_UUID = bytes(16)
_PARTITION = struct.Struct(">hiii")  # error, index, leader, leader epoch


@dataclass(frozen=True, slots=True, repr=False)
class MetadataRequest(WireRequest[ClusterMetadata]):
    """`topics` None: all; empty: none, only the brokers. Never creates topics. `operations`: also what we may do."""

    API_KEY = 3
    API_VERSION = 12

    topics: Sequence[str] | None
    operations: bool = False

    def encode(self) -> bytes:
        topics = array(self.topics, lambda name: _NULL_UUID + string(name) + EMPTY_TAGS)
        return topics + boolean(False) + boolean(self.operations) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> ClusterMetadata:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        brokers = reader.array(lambda: self._broker(reader))
        cluster_id = reader.nullable_string()
        controller_id = reader.int32()
        topics = reader.array(lambda: self._topic(reader))
        return ClusterMetadata(
            cluster_id="" if cluster_id is None else cluster_id,
            controller_id=controller_id,
            brokers=brokers,
            topics=topics,
        )

    @staticmethod
    def _broker(reader: Reader) -> BrokerInfo:
        node_id, host, port = reader.int32(), reader.string(), reader.int32()
        rack = reader.nullable_string()
        reader.skip_tags()
        return BrokerInfo(node_id=node_id, host=host, port=port, rack="" if rack is None else rack)

    @staticmethod
    def _topic(reader: Reader) -> TopicMetadata:
        error_code = reader.int16()
        name = reader.nullable_string()
        topic_id = topic_id_from_uuid(uuid.UUID(bytes=reader.take(16)))
        internal = reader.boolean()
        partitions = reader.array(lambda: MetadataRequest._partition(reader))
        operations = _operations(reader.int32())
        reader.skip_tags()
        return TopicMetadata(
            name="" if name is None else name,
            topic_id=topic_id,
            internal=internal,
            error_code=error_code,
            partitions=partitions,
            operations=operations,
        )

    @staticmethod
    def _partition(reader: Reader) -> PartitionMetadata:
        # Ten thousand of these are read at every round of discovery.
        error_code, partition, leader_id, leader_epoch = reader.unpack(_PARTITION)
        replicas, isr = reader.int32_array(), reader.int32_array()
        reader.int32_array()  # offline replicas
        reader.skip_tags()
        return PartitionMetadata(
            partition=partition,
            leader_id=leader_id,
            leader_epoch=leader_epoch,
            replicas=replicas,
            isr=isr,
            error_code=error_code,
        )


def _operations(bits: int) -> frozenset[TopicOperation] | None:
    """The operations of a bit field.

    Whoever is told of a topic may describe it, so a field without that bit is no answer: Kafka's own "not asked for"
    (the smallest integer), and the zero of a broker that knows the field and nothing more.
    """
    allowed = frozenset(operation for operation in TopicOperation if bits >> operation & 1)
    return allowed if TopicOperation.DESCRIBE in allowed else None


@dataclass(frozen=True, slots=True, repr=False)
class ListOffsetsRequest(WireRequest[dict[TopicPartition, OffsetAnswer]]):
    """Asked: (timestamp, or −1 latest, −2 earliest; current leader epoch, −1 unchecked).

    `unreplicated`: "latest" is the end of the leader's log instead of the high watermark.
    """

    API_KEY = 2
    API_VERSION = 7

    asked: Mapping[TopicPartition, tuple[int, int]]
    unreplicated: bool = False

    def encode(self) -> bytes:
        def partition(row: tuple[int, tuple[int, int]]) -> bytes:
            index, (timestamp, epoch) = row
            return int32(index) + int32(epoch) + int64(timestamp) + EMPTY_TAGS

        rows = by_topic((tp.topic, tp.partition, value) for tp, value in self.asked.items())
        topics = array(rows, lambda topic: string(topic[0]) + array(topic[1], partition) + EMPTY_TAGS)
        return int32(_DEBUGGING if self.unreplicated else _CONSUMER) + int8(_READ_UNCOMMITTED) + topics + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[TopicPartition, OffsetAnswer]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        answers: dict[TopicPartition, OffsetAnswer] = {}
        for _ in range(reader.uvarint() - 1):
            topic = reader.string()
            for _ in range(reader.uvarint() - 1):
                index, error_code = reader.int32(), reader.int16()
                reader.int64()  # the timestamp found
                answers[TopicPartition(topic, index)] = OffsetAnswer(
                    error_code=error_code, offset=reader.int64(), leader_epoch=reader.int32()
                )
                reader.skip_tags()
            reader.skip_tags()
        return answers


@dataclass(frozen=True, slots=True, repr=False)
class OffsetForLeaderEpochRequest(WireRequest[dict[TopicPartition, EpochEnd]]):
    """Asked: (current leader epoch, −1 unchecked; the epoch whose end is wanted)."""

    API_KEY = 23
    API_VERSION = 4

    asked: Mapping[TopicPartition, tuple[int, int]]

    def encode(self) -> bytes:
        def partition(row: tuple[int, tuple[int, int]]) -> bytes:
            index, (current_leader_epoch, epoch) = row
            return int32(index) + int32(current_leader_epoch) + int32(epoch) + EMPTY_TAGS

        rows = by_topic((tp.topic, tp.partition, value) for tp, value in self.asked.items())
        topics = array(rows, lambda topic: string(topic[0]) + array(topic[1], partition) + EMPTY_TAGS)
        return int32(_CONSUMER) + topics + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[TopicPartition, EpochEnd]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        answers: dict[TopicPartition, EpochEnd] = {}
        for _ in range(reader.uvarint() - 1):
            topic = reader.string()
            for _ in range(reader.uvarint() - 1):
                error_code, index = reader.int16(), reader.int32()
                answers[TopicPartition(topic, index)] = EpochEnd(
                    error_code=error_code, leader_epoch=reader.int32(), end_offset=reader.int64()
                )
                reader.skip_tags()
            reader.skip_tags()
        return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class InitProducerIdAnswer:
    error_code: int
    producer_id: int
    producer_epoch: int


@dataclass(frozen=True, slots=True, repr=False)
class InitProducerIdRequest(WireRequest[InitProducerIdAnswer]):
    """A fresh idempotent producer: no transactional id."""

    API_KEY = 22
    API_VERSION = 2

    def encode(self) -> bytes:
        return string(None) + int32(-1) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> InitProducerIdAnswer:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        return InitProducerIdAnswer(
            error_code=reader.int16(), producer_id=reader.int64(), producer_epoch=reader.int16()
        )


@dataclass(frozen=True, slots=True, repr=False)
class ProduceRequest(WireRequest[dict[TopicPartition, ProduceAnswer]]):
    """One record batch per partition, acknowledged by all in-sync replicas."""

    API_KEY = 0
    API_VERSION = 9

    batches: Mapping[TopicPartition, bytes | bytearray]
    timeout_ms: int

    def encode(self) -> bytes:
        return b"".join(self.parts())

    def parts(self) -> list[bytes | memoryview]:
        """The body in pieces: views of the batches themselves, not copies of them, and what lies between."""
        topics = by_topic((tp.topic, tp.partition, batch) for tp, batch in self.batches.items())
        parts: list[bytes | memoryview] = []
        between = string(None) + int16(-1) + int32(self.timeout_ms) + uvarint(len(topics) + 1)
        for topic, rows in topics:
            between += string(topic) + uvarint(len(rows) + 1)
            for index, batch in rows:
                parts += (between + int32(index) + uvarint(len(batch) + 1), memoryview(batch))
                between = EMPTY_TAGS
            between += EMPTY_TAGS
        parts.append(between + EMPTY_TAGS)
        return parts

    def decode(self, buffer: bytes, position: int) -> dict[TopicPartition, ProduceAnswer]:
        reader = Reader(buffer, position)
        answers: dict[TopicPartition, ProduceAnswer] = {}
        for _ in range(reader.uvarint() - 1):
            topic = reader.string()
            for _ in range(reader.uvarint() - 1):
                tp = TopicPartition(topic, reader.int32())
                answers[tp] = self._answer(reader)
            reader.skip_tags()
        return answers

    @staticmethod
    def _answer(reader: Reader) -> ProduceAnswer:
        error_code, base_offset = reader.int16(), reader.int64()
        log_append_time, log_start_offset = reader.int64(), reader.int64()
        record_errors: list[str] = []
        for _ in range(reader.uvarint() - 1):
            index, message = reader.int32(), reader.nullable_string()
            reader.skip_tags()
            record_errors.append(f"record {index}: {message}")
        message = reader.nullable_string()
        reader.skip_tags()
        return ProduceAnswer(
            error_code=error_code,
            base_offset=base_offset,
            log_append_time=log_append_time,
            log_start_offset=log_start_offset,
            error_message="; ".join(([message] if message else []) + record_errors[:3]),
        )

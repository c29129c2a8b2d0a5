"""The requests that end transactions: a coordinator's own marker request, and a transactional producer's.

Sources: the message definitions (`*.json`) of Apache Kafka; one flexible version each, Kafka 3.1 and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kbackupd.kafka.answers import Coordinator
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
)
from kbackupd.kafka.types import TopicPartition, TransactionMarker
from kbackupd.kafka.wire import InitProducerIdRequest

_TRANSACTION = 1
"""Kafka's number for the coordinator type "transaction"."""


@dataclass(frozen=True, slots=True, repr=False)
class WriteMarkersRequest(WireRequest[dict[tuple[int, TopicPartition], int]]):
    """WriteTxnMarkers: what a transaction's coordinator has partition leaders append. Answered after the append.

    The answer has an error code by producer id and partition: of two markers with both in common only one is told.
    """

    API_KEY = 27
    API_VERSION = 1

    markers: Sequence[TransactionMarker]

    def encode(self) -> bytes:
        def marker(one: TransactionMarker) -> bytes:
            start = int64(one.producer_id) + int16(one.producer_epoch) + boolean(one.committed)
            topic = string(one.tp.topic) + array([one.tp.partition], int32) + EMPTY_TAGS
            return start + array([topic], bytes) + int32(one.coordinator_epoch) + EMPTY_TAGS

        return array(self.markers, marker) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[tuple[int, TopicPartition], int]:
        reader = Reader(buffer, position)
        answers: dict[tuple[int, TopicPartition], int] = {}
        for _ in range(reader.uvarint() - 1):
            producer_id = reader.int64()
            for _ in range(reader.uvarint() - 1):
                topic = reader.string()
                for _ in range(reader.uvarint() - 1):
                    tp = TopicPartition(topic, reader.int32())
                    answers[producer_id, tp] = reader.int16()
                    reader.skip_tags()
                reader.skip_tags()
            reader.skip_tags()
        return answers


@dataclass(frozen=True, slots=True, repr=False)
class FindTransactionCoordinatorRequest(WireRequest[Coordinator]):
    API_KEY = 10
    API_VERSION = 4

    transactional_id: str

    def encode(self) -> bytes:
        return int8(_TRANSACTION) + array([self.transactional_id], string) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> Coordinator:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        reader.uvarint()  # one id was asked for, one is answered
        reader.string()  # that id
        node_id = reader.int32()
        reader.string()  # host
        reader.int32()  # port
        return Coordinator(error_code=reader.int16(), node_id=node_id)


@dataclass(frozen=True, slots=True, repr=False)
class InitTransactionsRequest(InitProducerIdRequest):
    """InitProducerId for a transactional id: fences who used it before, and ends what they left open."""

    transactional_id: str
    transaction_timeout_ms: int

    def encode(self) -> bytes:
        return string(self.transactional_id) + int32(self.transaction_timeout_ms) + EMPTY_TAGS


@dataclass(frozen=True, slots=True, repr=False)
class AddPartitionsToTransactionRequest(WireRequest[dict[TopicPartition, int]]):
    """All or none are added."""

    API_KEY = 24
    API_VERSION = 3

    transactional_id: str
    producer_id: int
    producer_epoch: int
    partitions: Sequence[TopicPartition]

    def encode(self) -> bytes:
        rows = by_topic((tp.topic, tp.partition, None) for tp in self.partitions)
        topics = array(rows, lambda topic: string(topic[0]) + array(topic[1], lambda row: int32(row[0])) + EMPTY_TAGS)
        who = string(self.transactional_id) + int64(self.producer_id) + int16(self.producer_epoch)
        return who + topics + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[TopicPartition, int]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        answers: dict[TopicPartition, int] = {}
        for _ in range(reader.uvarint() - 1):
            topic = reader.string()
            for _ in range(reader.uvarint() - 1):
                tp = TopicPartition(topic, reader.int32())
                answers[tp] = reader.int16()
                reader.skip_tags()
            reader.skip_tags()
        return answers


@dataclass(frozen=True, slots=True, repr=False)
class EndTransactionRequest(WireRequest[int]):
    """The answer, an error code, comes when the decision is durable: before the markers are in the partitions."""

    API_KEY = 26
    API_VERSION = 3

    transactional_id: str
    producer_id: int
    producer_epoch: int
    committed: bool

    def encode(self) -> bytes:
        who = string(self.transactional_id) + int64(self.producer_id) + int16(self.producer_epoch)
        return who + boolean(self.committed) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> int:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        return reader.int16()

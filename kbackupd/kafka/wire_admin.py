"""The requests that describe and change a cluster: topics, partitions, configurations, deleted records.

Sources: the message definitions (`*.json`) of Apache Kafka; one flexible version each, Kafka 3.1 and later.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

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
from kbackupd.kafka.types import DeletedRecords, TopicPartition
from kbackupd.model.positions import TopicId, topic_id_from_uuid, topic_id_to_uuid

_TOPIC = 2
"""Kafka's number for the resource type "topic"."""


class ConfigSource(IntEnum):
    """Where a configuration value comes from (org.apache.kafka.common.requests.DescribeConfigsResponse)."""

    UNKNOWN = 0
    DYNAMIC_TOPIC_CONFIG = 1
    DYNAMIC_BROKER_CONFIG = 2
    DYNAMIC_DEFAULT_BROKER_CONFIG = 3
    STATIC_BROKER_CONFIG = 4
    DEFAULT_CONFIG = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one topic; `detail` is the broker's own sentence, "" if it said none."""

    error_code: int
    detail: str
    topic_id: TopicId | None = None
    replicas: int = -1
    """Of a topic that was, or would be, created; −1: not told."""
    min_insync_replicas: int | None = None
    """Likewise, in force with its configuration and the cluster's; None: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntry:
    name: str
    value: str | None
    source: int
    sensitive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedTopic:
    error_code: int
    detail: str
    entries: tuple[ConfigEntry, ...]


def _text(value: str | None) -> str:
    return "" if value is None else value


@dataclass(frozen=True, slots=True, repr=False)
class DescribeTopicConfigsRequest(WireRequest[dict[str, DescribedTopic]]):
    """`keys` None: all of them."""

    API_KEY = 32
    API_VERSION = 4

    topics: Sequence[str]
    keys: Sequence[str] | None

    def encode(self) -> bytes:
        keys = array(self.keys, string)
        resources = array(self.topics, lambda name: int8(_TOPIC) + string(name) + keys + EMPTY_TAGS)
        return resources + boolean(False) + boolean(False) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, DescribedTopic]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        described: dict[str, DescribedTopic] = {}
        for _ in range(reader.uvarint() - 1):
            error_code, detail = reader.int16(), _text(reader.nullable_string())
            reader.int8()  # resource type
            name = reader.string()
            entries = reader.array(lambda: self._entry(reader))
            reader.skip_tags()
            described[name] = DescribedTopic(error_code=error_code, detail=detail, entries=entries)
        return described

    @staticmethod
    def _entry(reader: Reader) -> ConfigEntry:
        name, value = reader.string(), reader.nullable_string()
        reader.boolean()  # read only
        source, sensitive = reader.int8(), reader.boolean()
        for _ in range(reader.uvarint() - 1):  # synonyms
            reader.nullable_string()
            reader.nullable_string()
            reader.int8()
            reader.skip_tags()
        reader.int8()  # type of the value
        reader.nullable_string()  # documentation
        reader.skip_tags()
        return ConfigEntry(name=name, value=value, source=source, sensitive=sensitive)


@dataclass(frozen=True, slots=True, repr=False)
class AlterTopicConfigsRequest(WireRequest[dict[str, Outcome]]):
    """Incremental: None puts a key back to its default; keys not named stay. `validate_only`: nothing is changed."""

    API_KEY = 44
    API_VERSION = 1

    changes: Mapping[str, Mapping[str, str | None]]
    validate_only: bool = False

    def encode(self) -> bytes:
        def entry(change: tuple[str, str | None]) -> bytes:
            key, value = change
            operation = 1 if value is None else 0  # DELETE, SET
            return string(key) + int8(operation) + string(value) + EMPTY_TAGS

        def topic(change: tuple[str, Mapping[str, str | None]]) -> bytes:
            name, entries = change
            return int8(_TOPIC) + string(name) + array(list(entries.items()), entry) + EMPTY_TAGS

        return array(list(self.changes.items()), topic) + boolean(self.validate_only) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, Outcome]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        outcomes: dict[str, Outcome] = {}
        for _ in range(reader.uvarint() - 1):
            error_code, detail = reader.int16(), _text(reader.nullable_string())
            reader.int8()  # resource type
            outcomes[reader.string()] = Outcome(error_code=error_code, detail=detail)
            reader.skip_tags()
        return outcomes


@dataclass(frozen=True, slots=True, repr=False)
class CreateTopicRequest(WireRequest[dict[str, Outcome]]):
    """`partitions` and `replication_factor` −1: the brokers' default. `validate_only`: nothing is created."""

    API_KEY = 19
    API_VERSION = 7

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str]
    timeout_ms: int
    validate_only: bool = False

    def encode(self) -> bytes:
        def entry(config: tuple[str, str]) -> bytes:
            return string(config[0]) + string(config[1]) + EMPTY_TAGS

        def topic(name: str) -> bytes:
            counts = int32(self.partitions) + int16(self.replication_factor)
            assignments = array([], int32)
            return string(name) + counts + assignments + array(list(self.configs.items()), entry) + EMPTY_TAGS

        return array([self.name], topic) + int32(self.timeout_ms) + boolean(self.validate_only) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, Outcome]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        outcomes: dict[str, Outcome] = {}
        for _ in range(reader.uvarint() - 1):
            name = reader.string()
            topic_id = topic_id_from_uuid(uuid.UUID(bytes=reader.take(16)))
            error_code, detail = reader.int16(), _text(reader.nullable_string())
            reader.int32()  # partitions
            replicas, min_insync_replicas = reader.int16(), None
            for _ in range(reader.uvarint() - 1):  # the configuration it got; none where we may not describe it
                key, value = reader.string(), reader.nullable_string()
                if key == "min.insync.replicas" and value is not None:
                    min_insync_replicas = int(value)
                reader.take(3)  # read only, source, sensitive
                reader.skip_tags()
            reader.skip_tags()
            outcomes[name] = Outcome(
                error_code=error_code,
                detail=detail,
                topic_id=topic_id,
                replicas=replicas,
                min_insync_replicas=min_insync_replicas,
            )
        return outcomes


@dataclass(frozen=True, slots=True, repr=False)
class DeleteTopicRequest(WireRequest[Outcome]):
    """By id, so that a re-created namesake is safe, or by name where `topic_id` is None."""

    API_KEY = 20
    API_VERSION = 6

    name: str
    topic_id: TopicId | None
    timeout_ms: int

    def encode(self) -> bytes:
        if self.topic_id is None:
            topic = string(self.name) + bytes(16)
        else:
            topic = string(None) + topic_id_to_uuid(self.topic_id).bytes
        return array([topic], lambda row: row + EMPTY_TAGS) + int32(self.timeout_ms) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> Outcome:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        reader.uvarint()  # one topic was asked for, one is answered
        reader.nullable_string()
        topic_id = topic_id_from_uuid(uuid.UUID(bytes=reader.take(16)))
        return Outcome(error_code=reader.int16(), detail=_text(reader.nullable_string()), topic_id=topic_id)


@dataclass(frozen=True, slots=True, repr=False)
class CreatePartitionsRequest(WireRequest[dict[str, Outcome]]):
    """`count` is the number of partitions the topic shall have afterwards."""

    API_KEY = 37
    API_VERSION = 2

    name: str
    count: int
    timeout_ms: int

    def encode(self) -> bytes:
        topic = string(self.name) + int32(self.count) + array(None, int32) + EMPTY_TAGS
        return array([topic], bytes) + int32(self.timeout_ms) + boolean(False) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, Outcome]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        outcomes: dict[str, Outcome] = {}
        for _ in range(reader.uvarint() - 1):
            name = reader.string()
            outcomes[name] = Outcome(error_code=reader.int16(), detail=_text(reader.nullable_string()))
            reader.skip_tags()
        return outcomes


@dataclass(frozen=True, slots=True, repr=False)
class DeleteRecordsRequest(WireRequest[dict[TopicPartition, DeletedRecords]]):
    """Everything before the given offsets; −1: everything there is."""

    API_KEY = 21
    API_VERSION = 2

    before: Mapping[TopicPartition, int]
    timeout_ms: int

    def encode(self) -> bytes:
        def partition(row: tuple[int, int]) -> bytes:
            return int32(row[0]) + int64(row[1]) + EMPTY_TAGS

        rows = by_topic((tp.topic, tp.partition, offset) for tp, offset in self.before.items())
        topics = array(rows, lambda topic: string(topic[0]) + array(topic[1], partition) + EMPTY_TAGS)
        return topics + int32(self.timeout_ms) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[TopicPartition, DeletedRecords]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        answers: dict[TopicPartition, DeletedRecords] = {}
        for _ in range(reader.uvarint() - 1):
            topic = reader.string()
            for _ in range(reader.uvarint() - 1):
                tp = TopicPartition(topic, reader.int32())
                answers[tp] = DeletedRecords(log_start_offset=reader.int64(), error_code=reader.int16())
                reader.skip_tags()
            reader.skip_tags()
        return answers

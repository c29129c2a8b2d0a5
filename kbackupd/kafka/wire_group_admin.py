"""The requests that look into consumer groups and take something away from them: members, deletions.

Sources: the message definitions (`*.json`) of Apache Kafka. OffsetDelete has one version only, which is not flexible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.answers import GroupMember, GroupMembers
from kbackupd.kafka.codec import (
    EMPTY_TAGS,
    PlainWireRequest,
    Reader,
    WireRequest,
    array,
    boolean,
    by_topic,
    int16,
    int32,
    string,
)
from kbackupd.kafka.types import TopicPartition

_TOPIC_ID_BYTES = 16


@dataclass(frozen=True, slots=True, repr=False)
class DescribeConsumerGroupsRequest(WireRequest[dict[str, GroupMembers]]):
    """Groups of the protocol of KIP-848 (Kafka 3.7); any other is GROUP_ID_NOT_FOUND."""

    API_KEY = 69
    API_VERSION = 0

    group_ids: Sequence[str]

    def encode(self) -> bytes:
        return array(self.group_ids, string) + boolean(False) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, GroupMembers]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        found: dict[str, GroupMembers] = {}
        for _ in range(reader.uvarint() - 1):
            error_code = reader.int16()
            reader.nullable_string()  # what it has to say about the error
            group_id, state = reader.string(), reader.string()
            reader.int32()  # group epoch
            reader.int32()  # assignment epoch
            reader.string()  # assignor
            members = reader.array(lambda: self._member(reader))
            reader.int32()  # authorized operations, not asked for
            reader.skip_tags()
            found[group_id] = GroupMembers(error_code=error_code, state=state, members=members)
        return found

    def _member(self, reader: Reader) -> GroupMember:
        member_id = reader.string()
        reader.nullable_string()  # group instance id
        reader.nullable_string()  # rack
        reader.int32()  # member epoch
        client_id, client_host = reader.string(), reader.string()
        reader.array(reader.string)  # subscribed topics
        reader.nullable_string()  # subscribed pattern
        self._skip_assignment(reader)
        self._skip_assignment(reader)  # the one it shall have
        reader.skip_tags()
        return GroupMember(member_id=member_id, client_id=client_id, client_host=client_host)

    @staticmethod
    def _skip_assignment(reader: Reader) -> None:
        for _ in range(reader.uvarint() - 1):
            reader.take(_TOPIC_ID_BYTES)
            reader.string()
            reader.int32_array()
            reader.skip_tags()
        reader.skip_tags()


@dataclass(frozen=True, slots=True, repr=False)
class DeleteGroupsRequest(WireRequest[dict[str, int]]):
    """Groups with all they have committed; to their coordinator, which refuses one that has members."""

    API_KEY = 42
    API_VERSION = 2

    group_ids: Sequence[str]

    def encode(self) -> bytes:
        return array(self.group_ids, string) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, int]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        codes: dict[str, int] = {}
        for _ in range(reader.uvarint() - 1):
            group_id = reader.string()
            codes[group_id] = reader.int16()
            reader.skip_tags()
        return codes


@dataclass(frozen=True, slots=True, repr=False)
class DeleteOffsetsRequest(PlainWireRequest[tuple[int, Mapping[TopicPartition, int]]]):
    """Single positions of a group without members (KIP-496); to its coordinator."""

    API_KEY = 47
    API_VERSION = 0

    group_id: str
    partitions: Sequence[TopicPartition]

    def encode(self) -> bytes:
        topics = by_topic((tp.topic, tp.partition, None) for tp in self.partitions)
        out = [_plain_string(self.group_id), int32(len(topics))]
        for topic, rows in topics:
            out += [_plain_string(topic), int32(len(rows)), *(int32(partition) for partition, _ in rows)]
        return b"".join(out)

    def decode(self, buffer: bytes, position: int) -> tuple[int, Mapping[TopicPartition, int]]:
        reader = Reader(buffer, position)
        error_code = reader.int16()
        reader.int32()  # throttle time
        codes: dict[TopicPartition, int] = {}
        for _ in range(reader.int32()):
            topic = reader.take(reader.int16()).decode()
            for _ in range(reader.int32()):
                partition = reader.int32()
                codes[TopicPartition(topic, partition)] = reader.int16()
        return error_code, codes


def _plain_string(value: str) -> bytes:
    encoded = value.encode()
    return int16(len(encoded)) + encoded

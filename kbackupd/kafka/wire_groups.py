"""The requests about consumer groups: who coordinates them, which there are, what they have committed.

Sources: the message definitions (`*.json`) of Apache Kafka; flexible versions that Kafka 3.1 and later understand, but
for the types of groups, which only later brokers tell (`ListGroupsRequest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kbackupd.kafka.answers import (
    Coordinator,
    FetchedOffset,
    FetchedOffsets,
    GroupMember,
    GroupMembers,
    ListedGroup,
    ListedGroups,
)
from kbackupd.kafka.codec import (
    EMPTY_TAGS,
    Reader,
    WireRequest,
    array,
    boolean,
    by_topic,
    int8,
    int32,
    int64,
    string,
)
from kbackupd.kafka.types import OffsetToCommit, TopicPartition

_GROUP = 0
"""Kafka's number for the coordinator type "group"."""


@dataclass(frozen=True, slots=True, repr=False)
class ListGroupsRequest(WireRequest[ListedGroups]):
    """The groups one broker coordinates, as far as they may be described; without types, as Kafka before 3.8 has it."""

    API_KEY = 16
    API_VERSION = 4

    def encode(self) -> bytes:
        return array([], string) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> ListedGroups:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        return ListedGroups(error_code=reader.int16(), groups=reader.array(lambda: self._group(reader)))

    def _group(self, reader: Reader) -> ListedGroup:
        group_id, protocol_type, state = reader.string(), reader.string(), reader.string()
        type_ = self._type(reader)
        reader.skip_tags()
        return ListedGroup(group_id=group_id, protocol_type=protocol_type, state=state, type=type_)

    def _type(self, reader: Reader) -> str:
        return ""


@dataclass(frozen=True, slots=True, repr=False)
class ListTypedGroupsRequest(ListGroupsRequest):
    """The same with the groups' types, `Classic`, `Consumer` and so on."""

    API_VERSION = 5

    def encode(self) -> bytes:
        return array([], string) + array([], string) + EMPTY_TAGS

    def _type(self, reader: Reader) -> str:
        return reader.string()


@dataclass(frozen=True, slots=True, repr=False)
class FindCoordinatorsRequest(WireRequest[dict[str, Coordinator]]):
    API_KEY = 10
    API_VERSION = 4

    group_ids: Sequence[str]

    def encode(self) -> bytes:
        return int8(_GROUP) + array(self.group_ids, string) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, Coordinator]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        found: dict[str, Coordinator] = {}
        for _ in range(reader.uvarint() - 1):
            group_id, node_id = reader.string(), reader.int32()
            reader.string()  # host
            reader.int32()  # port
            found[group_id] = Coordinator(error_code=reader.int16(), node_id=node_id)
            reader.nullable_string()  # what it has to say about the error
            reader.skip_tags()
        return found


@dataclass(frozen=True, slots=True, repr=False)
class DescribeGroupsRequest(WireRequest[dict[str, GroupMembers]]):
    """Classic groups only: others are answered for as if they did not exist."""

    API_KEY = 15
    API_VERSION = 5

    group_ids: Sequence[str]

    def encode(self) -> bytes:
        return array(self.group_ids, string) + boolean(False) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, GroupMembers]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        found: dict[str, GroupMembers] = {}
        for _ in range(reader.uvarint() - 1):
            error_code, group_id, state = reader.int16(), reader.string(), reader.string()
            reader.string()  # protocol type
            reader.string()  # assignor
            members = reader.array(lambda: self._member(reader))
            reader.int32()  # authorized operations, not asked for
            reader.skip_tags()
            found[group_id] = GroupMembers(error_code=error_code, state=state, members=members)
        return found

    @staticmethod
    def _member(reader: Reader) -> GroupMember:
        member_id = reader.string()
        reader.nullable_string()  # group instance id
        client_id, client_host = reader.string(), reader.string()
        reader.take(max(0, reader.uvarint() - 1))  # subscription
        reader.take(max(0, reader.uvarint() - 1))  # assignment
        reader.skip_tags()
        return GroupMember(member_id=member_id, client_id=client_id, client_host=client_host)


@dataclass(frozen=True, slots=True, repr=False)
class FetchOffsetsRequest(WireRequest[dict[str, FetchedOffsets]]):
    """Everything these groups have committed, as far as their topics may be described; asked of their coordinator."""

    API_KEY = 9
    API_VERSION = 8

    group_ids: Sequence[str]
    stable: bool = False
    """Positions that an open transaction is about to commit are answered with UNSTABLE_OFFSET_COMMIT (KIP-447)."""

    def encode(self) -> bytes:
        groups = array(self.group_ids, lambda group_id: string(group_id) + array(None, string) + EMPTY_TAGS)
        return groups + boolean(self.stable) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[str, FetchedOffsets]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        found: dict[str, FetchedOffsets] = {}
        for _ in range(reader.uvarint() - 1):
            group_id = reader.string()
            offsets: list[FetchedOffset] = []
            for _ in range(reader.uvarint() - 1):
                topic = reader.string()
                offsets.extend(reader.array(partial(self._offset, reader, topic)))
                reader.skip_tags()
            found[group_id] = FetchedOffsets(error_code=reader.int16(), offsets=tuple(offsets))
            reader.skip_tags()
        return found

    @staticmethod
    def _offset(reader: Reader, topic: str) -> FetchedOffset:
        partition, offset, leader_epoch = reader.int32(), reader.int64(), reader.int32()
        metadata, error_code = reader.nullable_string(), reader.int16()
        reader.skip_tags()
        return FetchedOffset(
            topic=topic,
            partition=partition,
            offset=offset,
            leader_epoch=leader_epoch,
            metadata="" if metadata is None else metadata,
            error_code=error_code,
        )


@dataclass(frozen=True, slots=True, repr=False)
class CommitOffsetsRequest(WireRequest[dict[TopicPartition, int]]):
    """Positions of a group without members, as one commits that uses Kafka for storage only; to its coordinator.

    Version 8 is what every broker from 3.1 on understands; 9 only adds what members of newer groups need.
    """

    API_KEY = 8
    API_VERSION = 8

    group_id: str
    offsets: Mapping[TopicPartition, OffsetToCommit]

    def encode(self) -> bytes:
        topics = by_topic((tp.topic, tp.partition, offset) for tp, offset in self.offsets.items())
        nobody = int32(-1) + string("") + string(None)  # no generation, no member, no static member
        rows = array(topics, lambda row: string(row[0]) + array(row[1], self._partition) + EMPTY_TAGS)
        return string(self.group_id) + nobody + rows + EMPTY_TAGS

    @staticmethod
    def _partition(row: tuple[int, OffsetToCommit]) -> bytes:
        partition, (offset, leader_epoch, metadata) = row
        return int32(partition) + int64(offset) + int32(leader_epoch) + string(metadata) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> dict[TopicPartition, int]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        codes: dict[TopicPartition, int] = {}
        for _ in range(reader.uvarint() - 1):
            topic = reader.string()
            for _ in range(reader.uvarint() - 1):
                partition = reader.int32()
                codes[TopicPartition(topic, partition)] = reader.int16()
                reader.skip_tags()
            reader.skip_tags()
        return codes

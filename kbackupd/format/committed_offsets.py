"""Records of `__consumer_offsets`: positions of groups, classic groups, and whatever else coordinators keep there.

The first two bytes of a key say what the record is; those of a value, its version. Source: `OffsetCommitKey`,
`OffsetCommitValue`, `GroupMetadataKey` and `GroupMetadataValue` among the message definitions of Apache Kafka's group
coordinator (0.9 to 4.3), KIP-915; docs/internal-topics.md.
"""

from __future__ import annotations

import struct
import uuid

from kbackupd.format.coordinator_fields import FieldReader, UnknownRecordError
from kbackupd.format.records import MalformedRecordError
from kbackupd.model.coordinators import (
    ClassicGroup,
    ClassicMember,
    CommittedPosition,
    GroupKey,
    OffsetKey,
    OtherKey,
)
from kbackupd.model.positions import TopicId, topic_id_from_uuid

OFFSET_KEY_VERSIONS = (0, 1)
"""Of a key; both have the same layout."""
GROUP_TYPES = {2: "classic", 3: "consumer", 11: "share", 17: "streams"}
"""Version of a key that names a group as such, and the group's type."""

_KEY_HEAD, _LENGTH, _INT32 = struct.Struct(">hh"), struct.Struct(">h"), struct.Struct(">i")
_TOPIC_ID_TAG = 0
_FLEXIBLE_FROM = 4
_NEWEST_OFFSET_VALUE = _NEWEST_GROUP_VALUE = 4


def decode_key(key: bytes) -> OffsetKey | GroupKey | OtherKey:
    """What a record of `__consumer_offsets` is about. A key version beyond all that are known is an `OtherKey`.

    Raises:
        MalformedRecordError: the bytes are no such key.
    """
    reader = FieldReader("key of __consumer_offsets", key)
    version = reader.int16()
    if version in OFFSET_KEY_VERSIONS:
        found = OffsetKey(reader.string(), reader.string(), reader.int32())
        reader.end()
        return found
    group_type = GROUP_TYPES.get(version)
    if group_type is None:
        return OtherKey(version)
    named = GroupKey(group_type, reader.string())
    reader.end()
    return named


def encode_offset_key(key: OffsetKey) -> bytes:
    """The inverse of `decode_key`, of version 1."""
    group, topic = key.group.encode(), key.topic.encode()
    return b"".join((_KEY_HEAD.pack(1, len(group)), group, _LENGTH.pack(len(topic)), topic, _INT32.pack(key.partition)))


def decode_position(value: bytes) -> CommittedPosition:
    """The value of an `OffsetKey`.

    Raises:
        MalformedRecordError: the bytes are no such value.
        UnknownRecordError: a version above 4.
    """
    reader, version = _opened("offset commit", value, _NEWEST_OFFSET_VALUE)
    offset = reader.int64()
    leader_epoch = reader.int32() if version >= 3 else -1
    metadata = reader.string()
    committed_ms = reader.int64()
    expire_ms = reader.int64() if version == 1 else -1
    topic_id = _topic_id(reader.tags().get(_TOPIC_ID_TAG))
    reader.end()
    return CommittedPosition(offset, leader_epoch, metadata, committed_ms, expire_ms, topic_id)


def decode_classic_group(value: bytes) -> ClassicGroup:
    """The value of a `GroupKey` of type `classic`.

    Raises:
        MalformedRecordError: the bytes are no such value.
        UnknownRecordError: a version above 4.
    """
    reader, version = _opened("classic group", value, _NEWEST_GROUP_VALUE)
    protocol_type = reader.string()
    generation = reader.int32()
    protocol, leader = reader.nullable_string(), reader.nullable_string()
    changed_ms = reader.int64() if version >= 2 else -1
    count = reader.array_length()
    if count is None:
        raise MalformedRecordError("classic group: null where members must be")
    members = tuple(_member(reader, version) for _ in range(count))
    reader.tags()
    reader.end()
    return ClassicGroup(
        protocol_type=protocol_type,
        generation=generation,
        protocol=protocol,
        leader=leader,
        changed_ms=changed_ms,
        members=members,
    )


def coordinator_partition(group: str, partitions: int) -> int:
    """Which partition of `__consumer_offsets`, of so many, holds a group: Java's hash of its name, as brokers take it.

    The same rule gives the partition of `__transaction_state` for a transactional id.
    """
    value = 0
    encoded = group.encode("utf-16-be", "surrogatepass")
    for at in range(0, len(encoded), 2):
        value = (31 * value + (encoded[at] << 8 | encoded[at + 1])) & 0xFFFFFFFF
    # The sign is dropped as Kafka does it: the least 32-bit number becomes 0, not its absolute value.
    signed = value - (1 << 32) if value >> 31 else value
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions


def _opened(what: str, value: bytes, newest: int) -> tuple[FieldReader, int]:
    reader = FieldReader(what, value)
    version = reader.int16()
    if version < 0:
        raise MalformedRecordError(f"{what}: senseless version {version}")
    if version > newest:
        raise UnknownRecordError(f"{what} version", version)
    reader.flexible = version >= _FLEXIBLE_FROM
    return reader, version


def _member(reader: FieldReader, version: int) -> ClassicMember:
    member_id = reader.string()
    instance_id = reader.nullable_string() if version >= 3 else None
    client_id, client_host = reader.string(), reader.string()
    rebalance_timeout_ms = reader.int32() if version >= 1 else -1
    session_timeout_ms = reader.int32()
    subscription, assignment = reader.blob(), reader.blob()
    reader.tags()
    return ClassicMember(
        member_id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms,
        session_timeout_ms,
        subscription,
        assignment,
    )


def _topic_id(content: bytes | None) -> TopicId | None:
    if content is None:
        return None
    if len(content) != 16:
        raise MalformedRecordError(f"offset commit: a topic id of {len(content)} bytes")
    found = uuid.UUID(bytes=content)
    return topic_id_from_uuid(found) if found.int else None

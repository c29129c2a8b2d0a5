"""Encodes coordinator records for tests, of every version that brokers ever wrote; independent of the decoders."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence

from kbackupd.model.coordinators import ClassicGroup, ClassicMember, CommittedPosition, OffsetKey, TransactionEntry


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))


class Dialect:
    """Lengths, strings and arrays, flexible or plain."""

    def __init__(self, *, flexible: bool, more_tags: Mapping[int, bytes] | None = None) -> None:
        self.flexible = flexible
        self._more_tags = dict(more_tags or {})

    def string(self, text: str | None) -> bytes:
        data = None if text is None else text.encode()
        return self._sized(data, ">h")

    def blob(self, data: bytes) -> bytes:
        return self._sized(data, ">i")

    def array(self, items: Sequence[object] | None, encode: Callable[[object], bytes]) -> bytes:
        count = -1 if items is None else len(items)
        head = uvarint(count + 1) if self.flexible else struct.pack(">i", count)
        return head + b"".join(map(encode, items or ()))

    def tags(self, known: Mapping[int, bytes] | None = None) -> bytes:
        if not self.flexible:
            return b""
        rows = sorted({**self._more_tags, **(known or {})}.items())
        return uvarint(len(rows)) + b"".join(uvarint(tag) + uvarint(len(data)) + data for tag, data in rows)

    def _sized(self, data: bytes | None, layout: str) -> bytes:
        length = -1 if data is None else len(data)
        head = uvarint(length + 1) if self.flexible else struct.pack(layout, length)
        return head + (data or b"")


def offset_key(key: OffsetKey, version: int = 1) -> bytes:
    plain = Dialect(flexible=False)
    return (
        struct.pack(">h", version)
        + plain.string(key.group)
        + plain.string(key.topic)
        + struct.pack(">i", key.partition)
    )


def group_key(group: str, version: int = 2) -> bytes:
    return struct.pack(">h", version) + Dialect(flexible=False).string(group)


def position_value(
    position: CommittedPosition, version: int = 4, more_tags: Mapping[int, bytes] | None = None
) -> bytes:
    told = Dialect(flexible=version >= 4, more_tags=more_tags)
    out = struct.pack(">hq", version, position.offset)
    if version >= 3:
        out += struct.pack(">i", position.leader_epoch)
    out += told.string(position.metadata) + struct.pack(">q", position.committed_ms)
    if version == 1:
        out += struct.pack(">q", position.expire_ms)
    topic_id = position.topic_id
    return out + told.tags({} if topic_id is None else {0: base64.urlsafe_b64decode(topic_id + "==")})


def classic_group_value(group: ClassicGroup, version: int = 3) -> bytes:
    told = Dialect(flexible=version >= 4)

    def member(one: object) -> bytes:
        assert isinstance(one, ClassicMember)
        out = told.string(one.member_id)
        if version >= 3:
            out += told.string(one.instance_id)
        out += told.string(one.client_id) + told.string(one.client_host)
        if version >= 1:
            out += struct.pack(">i", one.rebalance_timeout_ms)
        out += struct.pack(">i", one.session_timeout_ms)
        return out + told.blob(one.subscription) + told.blob(one.assignment) + told.tags()

    out = struct.pack(">h", version) + told.string(group.protocol_type) + struct.pack(">i", group.generation)
    out += told.string(group.protocol) + told.string(group.leader)
    if version >= 2:
        out += struct.pack(">q", group.changed_ms)
    return out + told.array(group.members, member) + told.tags()


def transactional_id_key(transactional_id: str, version: int = 0) -> bytes:
    return struct.pack(">h", version) + Dialect(flexible=False).string(transactional_id)


def transaction_value(entry: TransactionEntry, version: int = 1, more_tags: Mapping[int, bytes] | None = None) -> bytes:
    told = Dialect(flexible=version >= 1)
    by_topic: dict[str, list[int]] = {}
    for topic, number in entry.partitions:
        by_topic.setdefault(topic, []).append(number)

    def rows(one: object) -> bytes:
        assert isinstance(one, tuple)
        topic, numbers = one
        return told.string(topic) + told.array(numbers, lambda number: struct.pack(">i", number)) + told.tags()

    out = struct.pack(">hqhib", version, entry.producer_id, entry.producer_epoch, entry.timeout_ms, entry.state)
    out += told.array(list(by_topic.items()) if by_topic else None, rows)
    out += struct.pack(">qq", entry.updated_ms, entry.started_ms)
    tags = {
        0: (entry.previous_producer_id, -1, ">q"),
        1: (entry.next_producer_id, -1, ">q"),
        2: (entry.client_version, 0, ">h"),
        3: (entry.next_producer_epoch, -1, ">h"),
    }
    known = {tag: struct.pack(layout, value) for tag, (value, default, layout) in tags.items() if value != default}
    return out + Dialect(flexible=told.flexible, more_tags=more_tags).tags(known)

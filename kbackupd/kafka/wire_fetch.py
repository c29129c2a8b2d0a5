"""Fetch v13 (KIP-516 topic ids, KIP-227 sessions, KIP-595 epochs) by hand: this is the hot path's only protocol code.

Source: FetchRequest.json and FetchResponse.json of Apache Kafka. Records are sliced out of the answer whole, one copy,
no step per batch or record (invariant I1).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.codec import EMPTY_TAGS, WireError, WireRequest, int32, read_uvarint, string, uvarint
from kbackupd.kafka.types import DivergingEpoch, FetchTarget, PartitionAnswer
from kbackupd.model.positions import PartitionId, TopicId, topic_id_from_uuid, topic_id_to_uuid

_REQUEST_HEAD = struct.Struct(">iiiibii")  # replica, max wait, min bytes, max bytes, isolation, session id and epoch
_REQUEST_PARTITION = struct.Struct(">iiqiqiB")  # …, no tags
_RESPONSE_HEAD = struct.Struct(">ihi")  # throttle ms, error, session id
_RESPONSE_PARTITION = struct.Struct(">ihqqq")  # index, error, high watermark, last stable offset, log start offset
_INT32 = struct.Struct(">i")
_DIVERGING = struct.Struct(">iq")
_CONSUMER = -1
_READ_UNCOMMITTED = 0
_NO_LOG_START = -1
_DIVERGING_EPOCH_TAG = 0


@dataclass(frozen=True, slots=True)
class FetchResponse:
    throttle_ms: int
    error_code: int
    session_id: int
    partitions: list[PartitionAnswer]
    size_bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class FetchRequest(WireRequest[FetchResponse]):
    """A consumer's read-uncommitted fetch: the changed `targets` and the `forgotten`, out of all that is `asked` in
    this session, which must not change before the answer is decoded.

    Brokers before Kafka 3.1 do not offer version 13. An older dialect would be another class here; `fetch` is the
    only user.
    """

    API_KEY = 1
    API_VERSION = 13

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    session_id: int
    session_epoch: int
    targets: Sequence[tuple[PartitionId, FetchTarget]]
    forgotten: Sequence[PartitionId]
    asked: Mapping[PartitionId, FetchTarget]
    rack: str

    def encode(self) -> bytes:
        head = _REQUEST_HEAD.pack(
            _CONSUMER,
            self.max_wait_ms,
            self.min_bytes,
            self.max_bytes,
            _READ_UNCOMMITTED,
            self.session_id,
            self.session_epoch,
        )
        pack = _REQUEST_PARTITION.pack
        wanted = (
            (
                id_,
                pack(
                    id_.partition,
                    target.current_leader_epoch,
                    target.offset,
                    target.last_fetched_epoch,
                    _NO_LOG_START,
                    target.max_bytes,
                    0,
                ),
            )
            for id_, target in self.targets
        )
        forgotten = ((id_, int32(id_.partition)) for id_ in self.forgotten)
        return b"".join([head, *_topics(wanted), *_topics(forgotten), string(self.rack), EMPTY_TAGS])

    def decode(self, buffer: bytes | bytearray, position: int) -> FetchResponse:
        throttle_ms, error_code, session_id = _RESPONSE_HEAD.unpack_from(buffer, position)
        position += _RESPONSE_HEAD.size
        partitions: list[PartitionAnswer] = []
        topic_count, position = read_uvarint(buffer, position)
        for _ in range(topic_count - 1):
            topic_id = topic_id_from_uuid(uuid.UUID(bytes=bytes(buffer[position : position + 16])))
            partition_count, position = read_uvarint(buffer, position + 16)
            for _ in range(partition_count - 1):
                partition, position = _partition(buffer, position, topic_id, self.asked)
                partitions.append(partition)
            position = _skip_tags(buffer, position)
        return FetchResponse(throttle_ms, error_code, session_id, partitions, len(buffer))


def _topics(partitions: Iterable[tuple[PartitionId, bytes]]) -> list[bytes]:
    """The compact array of topics over already encoded partitions, in order of each topic's first appearance."""
    topics: dict[TopicId, list[bytes]] = {}
    for id_, encoded in partitions:
        rows = topics.get(id_.topic_id)
        if rows is None:
            topics[id_.topic_id] = [encoded]
        else:
            rows.append(encoded)
    parts = [uvarint(len(topics) + 1)]
    for topic_id, rows in topics.items():
        parts += (topic_id_to_uuid(topic_id).bytes, uvarint(len(rows) + 1), *rows, EMPTY_TAGS)
    return parts


def _partition(
    buffer: bytes | bytearray, position: int, topic_id: TopicId, asked: Mapping[PartitionId, FetchTarget]
) -> tuple[PartitionAnswer, int]:
    index, error_code, high_watermark, last_stable, log_start = _RESPONSE_PARTITION.unpack_from(buffer, position)
    position += _RESPONSE_PARTITION.size
    # Null or empty for a read-uncommitted fetch, but a broker that sends some must not shift everything after them.
    aborted_count, position = read_uvarint(buffer, position)
    for _ in range(aborted_count - 1):
        position = _skip_tags(buffer, position + 16)
    (preferred,) = _INT32.unpack_from(buffer, position)
    length, position = read_uvarint(buffer, position + 4)
    records = b""
    if length > 1:
        # A view first: of a bytearray even a slice would be a copy, and a second one made it bytes.
        records = bytes(memoryview(buffer)[position : position + length - 1])
        if len(records) != length - 1:
            raise WireError(f"{length - 1} bytes of records announced at {position}, {len(records)} came")
        position += length - 1
    diverging = None
    if buffer[position]:
        diverging, position = _partition_tags(buffer, position)
    else:
        position += 1
    id_ = PartitionId(topic_id, index)
    target = asked.get(id_)
    answer = PartitionAnswer(
        id=id_,
        error_code=error_code,
        high_watermark=high_watermark,
        last_stable_offset=last_stable,
        log_start_offset=log_start,
        diverging=diverging,
        preferred_read_replica=preferred,
        records=records,
        asked_offset=-1 if target is None else target.offset,
    )
    return answer, position


def _partition_tags(buffer: bytes | bytearray, position: int) -> tuple[DivergingEpoch | None, int]:
    diverging = None
    count, position = read_uvarint(buffer, position)
    for _ in range(count):
        tag, position = read_uvarint(buffer, position)
        size, position = read_uvarint(buffer, position)
        if tag == _DIVERGING_EPOCH_TAG:
            epoch, end_offset = _DIVERGING.unpack_from(buffer, position)
            diverging = DivergingEpoch(epoch=epoch, end_offset=end_offset)
        position += size
    return diverging, position


def _skip_tags(buffer: bytes | bytearray, position: int) -> int:
    count, position = read_uvarint(buffer, position)
    for _ in range(count):
        _, position = read_uvarint(buffer, position)
        size, position = read_uvarint(buffer, position)
        position += size
    return position

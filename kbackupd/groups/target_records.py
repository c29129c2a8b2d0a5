"""Single records of the target, read from an offset on: for comparing, not for copying."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.format.codecs import decompress_payload
from kbackupd.format.header import HEADER_BYTES
from kbackupd.format.records import iter_records
from kbackupd.groups.target import target_topics
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode, TopicPartition
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.positions import PartitionId

_FETCH_BYTES = 2 << 20
_MAX_WAIT_MS = 500
_TIMEOUT_SECONDS = 30.0
_TRIES = 20
_PAUSE_SECONDS = 0.25


class TargetRecord(NamedTuple):
    offset: int
    timestamp_ms: int
    body: bytes
    """From the key's length to the last header, as it stands in a batch."""


def decoded(data: bytes, from_offset: int) -> tuple[list[TargetRecord], int]:
    """The records of the whole batches in `data` from `from_offset` on, and the offset to go on at.

    Control batches hold none. Aborted transactions are not told apart: a restore leaves none in its target.

    Raises:
        PayloadError, UnknownCodecError, MalformedRecordError: a batch does not decode.
    """
    records: list[TargetRecord] = []
    position = from_offset
    scan = scan_batches(data, asked_offset=from_offset)
    for header, batch in iter_batches(memoryview(data)[: scan.good_bytes]):
        position = max(position, header.next_offset)
        if header.is_control:
            continue
        payload = decompress_payload(header.codec, batch[HEADER_BYTES:])
        for raw in iter_records(payload, header.record_count):
            offset = header.base_offset + raw.offset_delta
            stamp = header.max_timestamp if header.is_log_append_time else header.base_timestamp + raw.timestamp_delta
            if offset >= from_offset:
                records.append(TargetRecord(offset, stamp, raw.body))
    return records, position


class TargetRecords:
    """Reads one partition at a time. `close` at the end."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._sessions: dict[int, FetchSession] = {}

    async def read(self, tp: TopicPartition, offset: int) -> tuple[list[TargetRecord], int]:
        """Some records from `offset` on, at least one batch if there is one, and the offset to go on at.

        Raises:
            KafkaUnavailableError, KafkaDeniedError: the leader does not give them.
        """
        failure: Exception = KafkaUnavailableError(f"{tp.topic}/{tp.partition} has no leader")
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS)
            try:
                _, topics = await target_topics(self._connection, [tp.topic])
                topic = topics.get(tp.topic)
                leader = topic.leaders.get(tp.partition, -1) if topic else -1
                if topic is None or leader < 0:
                    continue
                return await self._fetch(leader, PartitionId(topic.topic_id, tp.partition), offset)
            except KafkaUnavailableError as error:
                failure = error
        raise failure

    async def _fetch(self, leader: int, id: PartitionId, offset: int) -> tuple[list[TargetRecord], int]:
        session = self._sessions.get(leader)
        if session is None:
            session = self._sessions[leader] = FetchSession(self._connection, leader, clock=self._connection.clock)
        session.want(id, FetchTarget(offset=offset, max_bytes=_FETCH_BYTES))
        try:
            answer = await session.fetch(
                max_bytes=_FETCH_BYTES, max_wait_ms=_MAX_WAIT_MS, timeout_seconds=_TIMEOUT_SECONDS
            )
        finally:
            session.forget(id)
        for part in answer.partitions:
            if part.id == id and part.error_code != KafkaErrorCode.NONE:
                raise error_for_code(part.error_code, f"reading offset {offset}")
            if part.id == id:
                return await asyncio.to_thread(decoded, part.records, offset)
        return [], offset

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

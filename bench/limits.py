"""What reading alone takes: every byte of a topic fetched, every batch's CRC-32C checked, nothing kept.

The other limit is what the archive's place takes for the bytes the daemon stored (`places`). A backup has to do both
and can overlap them, so the slower of the two is its limit.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import uvloop
from crc32c import crc32c

from bench.places import Cost
from kbackupd.capture.partition import FETCH_BYTES, SessionKind
from kbackupd.capture.request_size import REQUEST_BYTES
from kbackupd.capture.session_loop import MAX_WAIT_MS, TIMEOUT_SECONDS
from kbackupd.flow.freed_memory import keep_freed_memory
from kbackupd.format.header import CRC_COVERS_FROM, HEADER_BYTES, LENGTH_OVERHEAD
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import SecuritySettings

_WALKED = struct.Struct(">qi5xI2xi")
"""Of a batch's header: base offset, length, CRC, last offset delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    cost: Cost
    batches: int


def fetch_and_check(bootstrap: str, topic: str, *, request_bytes: int) -> Reading:
    """Read all of `topic` through the daemon's own fetch session, check every CRC and keep nothing.

    One thing after the other in one thread. With memory kept as the daemon keeps it: left to chance, that alone makes
    this twice as fast or slow.
    """
    keep_freed_memory()
    return uvloop.run(_fetch_all(bootstrap, topic, request_bytes))


async def _fetch_all(bootstrap: str, topic: str, request_bytes: int) -> Reading:
    clock = SystemClock()
    async with KafkaConnection(
        bootstrap_servers=[bootstrap], security=SecuritySettings(), client_id="bench", clock=clock
    ) as connection:
        metadata = await cluster_metadata(connection, [topic], timeout_seconds=TIMEOUT_SECONDS)
        leader_of = {
            PartitionId(found.topic_id, row.partition): row.leader_id
            for found in metadata.topics
            for row in found.partitions
        }
        leaders = set(leader_of.values())
        if len(leaders) != 1:
            raise KafkaUnavailableError(f"{topic} is led by {len(leaders)} brokers; this measures one")
        session = FetchSession(connection, leaders.pop(), clock=clock)
        per_partition = FETCH_BYTES[SessionKind.CATCHING_UP]
        for id_ in leader_of:
            session.want(id_, FetchTarget(offset=0, max_bytes=per_partition))
        left = set(leader_of)
        batches = 0
        started, cpu_before = time.perf_counter(), time.process_time()
        while left:
            answer = await session.fetch(
                max_bytes=min(REQUEST_BYTES[SessionKind.CATCHING_UP], request_bytes),
                max_wait_ms=MAX_WAIT_MS,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            for part in answer.partitions:
                if part.error_code != KafkaErrorCode.NONE:
                    raise KafkaUnavailableError(f"{topic}/{part.id.partition}: error {part.error_code}")
                next_offset, found = _checked(part.records)
                batches += found
                if found:
                    session.want(part.id, FetchTarget(offset=next_offset, max_bytes=per_partition))
                if (next_offset if found else part.asked_offset) >= part.high_watermark:
                    session.forget(part.id)
                    left.discard(part.id)
        cost = Cost(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu_before)
        await session.close()
        return Reading(cost=cost, batches=batches)


def _checked(records: bytes) -> tuple[int, int]:
    """Where the whole batches of `records` end, and how many there are, by the least that tells it."""
    view = memoryview(records)
    position = batches = next_offset = 0
    while len(view) - position >= HEADER_BYTES:
        base_offset, length, crc, last_offset_delta = _WALKED.unpack_from(view, position)
        end = position + LENGTH_OVERHEAD + length
        if end > len(view):
            break  # an answer may end in a partial batch
        if crc32c(view[position + CRC_COVERS_FROM : end]) != crc:
            raise KafkaUnavailableError(f"the batch at offset {base_offset} fails its CRC")
        position, next_offset = end, base_offset + last_offset_delta + 1
        batches += 1
    return next_offset, batches

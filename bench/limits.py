"""What the machine can do at all, measured with the same request and object sizes as the daemon's.

Two limits: fetching every byte of a topic and throwing it away, and writing the bytes that the daemon stored to the
same disk with an fsync per object. A backup has to do both and can overlap them, so the slower of the two is its limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from kbackupd.capture.partition import FETCH_BYTES, SessionKind
from kbackupd.capture.request_size import REQUEST_BYTES
from kbackupd.capture.session_loop import MAX_WAIT_MS, TIMEOUT_SECONDS
from kbackupd.daemon.memory import keep_freed_memory
from kbackupd.format.batch import iter_batches
from kbackupd.format.header import MalformedBatchError
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import SecuritySettings

WRITERS = 4
"""As many objects are written at once as the daemon uploads."""


def fetch_and_discard(bootstrap: str, topic: str, *, request_bytes: int) -> float:
    """Seconds to read all of `topic` through the daemon's own fetch session and keep nothing.

    With memory kept as the daemon keeps it: left to chance, that alone makes this twice as fast or slow.
    """
    keep_freed_memory()
    return uvloop.run(_fetch_all(bootstrap, topic, request_bytes))


async def _fetch_all(bootstrap: str, topic: str, request_bytes: int) -> float:
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
        started = time.perf_counter()
        while left:
            answer = await session.fetch(
                max_bytes=min(REQUEST_BYTES[SessionKind.CATCHING_UP], request_bytes),
                max_wait_ms=MAX_WAIT_MS,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            for part in answer.partitions:
                if part.error_code != KafkaErrorCode.NONE:
                    raise KafkaUnavailableError(f"{topic}/{part.id.partition}: error {part.error_code}")
                next_offset = _next_offset(part.records)
                if next_offset is not None:
                    session.want(part.id, FetchTarget(offset=next_offset, max_bytes=per_partition))
                if (next_offset or part.asked_offset) >= part.high_watermark:
                    session.forget(part.id)
                    left.discard(part.id)
        seconds = time.perf_counter() - started
        await session.close()
        return seconds


def _next_offset(records: bytes) -> int | None:
    """By the headers of the whole batches; none of their bytes is looked at."""
    next_offset = None
    try:
        for header, _ in iter_batches(records):
            next_offset = header.next_offset
    except MalformedBatchError:
        pass  # an answer may end in a partial batch
    return next_offset


def write_fsynced(directory: Path, sizes: Sequence[int]) -> float:
    """Seconds to write files of these sizes, each fsynced, several at once; they are removed afterwards."""
    directory.mkdir(parents=True)
    noise = os.urandom(max(sizes))

    def write(number: int) -> None:
        with (directory / str(number)).open("xb", buffering=0) as file:
            view = memoryview(noise)[: sizes[number]]
            while view:
                view = view[file.write(view) or 0 :]
            os.fsync(file.fileno())
            # As the daemon does: without it new pages, not the disk, are what a virtual machine waits for.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    started = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(len(sizes))))
    seconds = time.perf_counter() - started
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    return seconds

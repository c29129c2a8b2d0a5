"""Which batch each target partition's log ends with: read from the logs themselves. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode, TopicPartition
from kbackupd.model.errors import KafkaUnavailableError, KbackupError
from kbackupd.model.positions import PartitionId
from kbackupd.restore.content_digest import batch_digest
from kbackupd.restore.resume import NewestBatch

_FETCH_BYTES = 16 << 20
_PARTITION_BYTES = 2 << 20
_MAX_WAIT_MS = 100
_TIMEOUT_SECONDS = 30.0
_WITHOUT_NEWS = 20
"""Answers in a row that bring nothing, or errors, before it is given up."""


async def newest_batches(
    connection: KafkaConnection,
    node_id: int,
    ends: Mapping[TopicPartition, tuple[PartitionId, int]],
    *,
    needs_all: bool = True,
) -> dict[TopicPartition, NewestBatch]:
    """The batch that holds the last offset of each partition led by broker `node_id`.

    Args:
        ends: id and log end of each; none is empty.
        needs_all: what is not delivered is an error; else it is left out, and stands in nobody's way (principle P6).

    Raises:
        KafkaUnavailableError: the broker did not deliver them, or not one of them.
        KafkaDeniedError: it may not be read.
    """
    session = FetchSession(connection, node_id, clock=connection.clock)
    names = {id_: tp for tp, (id_, _) in ends.items()}
    for id_, log_end in ends.values():
        session.want(id_, FetchTarget(offset=log_end - 1, max_bytes=_PARTITION_BYTES))
    found: dict[TopicPartition, NewestBatch] = {}
    without_news = 0
    last_error: KbackupError | None = None
    try:
        while len(found) < len(ends):
            before = len(found)
            try:
                answer = await session.fetch(
                    max_bytes=_FETCH_BYTES, max_wait_ms=_MAX_WAIT_MS, timeout_seconds=_TIMEOUT_SECONDS
                )
                for part in answer.partitions:
                    if part.error_code != KafkaErrorCode.NONE:
                        last_error = error_for_code(part.error_code, f"reading the end of {names[part.id].topic}")
                    elif (newest := _newest(part.records, part.asked_offset)) is not None:
                        found[names[part.id]] = newest
                        session.forget(part.id)
            except KbackupError as error:
                last_error = error
            if last_error is not None and not last_error.retryable:
                raise last_error
            without_news = 0 if len(found) > before else without_news + 1
            if without_news >= _WITHOUT_NEWS:
                if found and not needs_all:
                    break
                raise last_error or KafkaUnavailableError(f"broker {node_id} does not deliver the ends of its logs")
            if len(found) == before:
                await asyncio.sleep(_MAX_WAIT_MS / 1000)
    finally:
        await session.close()
    return found


def _newest(records: bytes, asked_offset: int) -> NewestBatch | None:
    """The batch that holds `asked_offset`, which is the last one unless something was appended since."""
    scan = scan_batches(records, asked_offset=asked_offset)
    for header, batch in iter_batches(memoryview(records)[: scan.good_bytes]):
        if header.base_offset <= asked_offset < header.next_offset:
            return NewestBatch(header=header, digest=batch_digest(batch))
    return None

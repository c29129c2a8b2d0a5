"""Reading the target back: what lies in its logs is byte for byte what was produced, no less and no more.

Brokers keep an accepted batch's records as they came, so equal digests need no decompression on either side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import LATEST_TIMESTAMP, FetchTarget, KafkaErrorCode, PartitionAnswer, TopicPartition
from kbackupd.model.errors import KbackupError
from kbackupd.model.positions import PartitionId
from kbackupd.restore.content_digest import ContentDigest

_FETCH_BYTES = 8 << 20
_PARTITION_BYTES = 2 << 20
_MAX_WAIT_MS = 500
_TIMEOUT_SECONDS = 30.0
_TRIES = 40
"""Errors, or rounds without an answer, before a partition counts as unreadable."""
_IDLE_FETCHES = 10
"""In a row without anything new, until leaders are asked again; they cost as many tries."""
_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a target partition must hold from `first_offset` on, and nothing behind it."""

    id: PartitionId
    first_offset: int
    digest: ContentDigest
    log_end: int | None = None
    """Offsets are kept: there may be holes before and behind each batch, and the log ends here."""

    @property
    def has_holes(self) -> bool:
        return self.log_end is not None

    @property
    def next_offset(self) -> int:
        return self.first_offset + self.digest.records if self.log_end is None else self.log_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a target partition holds; `problem` is "" if that is exactly what was produced."""

    records: int
    log_end_offset: int
    digest: str
    problem: str = ""


@dataclass(slots=True)
class _Reading:
    expected: Expected
    position: int
    digest: ContentDigest = field(default_factory=ContentDigest)
    tries: int = 0
    problem: str = ""

    @property
    def done(self) -> bool:
        return bool(self.problem) or self.position >= self.expected.next_offset


async def verify_target(
    connection: KafkaConnection,
    expected: Mapping[TopicPartition, Expected],
    *,
    leaders: Callable[[], Awaitable[Mapping[TopicPartition, int]]],
    read: Callable[[int], None],
) -> dict[TopicPartition, Verified]:
    """Read every partition of `expected` to its end and compare. Nothing is written.

    Args:
        read: told the bytes read as they come, for progress.

    Returns:
        An answer for every partition; one that could not be read says so in its `problem`.
    """
    readings = {tp: _Reading(one, one.first_offset) for tp, one in expected.items()}
    for _ in range(_TRIES):
        left = {tp: one for tp, one in readings.items() if not one.done and one.tries < _TRIES}
        if not left:
            break
        by_leader: dict[int, dict[TopicPartition, _Reading]] = {}
        try:
            led = await leaders()
        except KbackupError:
            led = {}
        for tp, reading in left.items():
            if tp in led:
                by_leader.setdefault(led[tp], {})[tp] = reading
        async with asyncio.TaskGroup() as group:
            for node_id, partitions in by_leader.items():
                group.create_task(_read_from(connection, node_id, list(partitions.values()), read))
        if any(not reading.done for reading in left.values()):
            await asyncio.sleep(_PAUSE_SECONDS)
    ends = await _log_ends(connection, readings, leaders)
    return {tp: _judged(reading, ends.get(tp)) for tp, reading in readings.items()}


async def _read_from(
    connection: KafkaConnection, node_id: int, readings: list[_Reading], read: Callable[[int], None]
) -> None:
    """Read all of `readings` that `node_id` leads, until done or the broker has no more to say about them."""
    session = FetchSession(connection, node_id, clock=connection.clock)
    by_id = {reading.expected.id: reading for reading in readings}
    for reading in readings:
        session.want(reading.expected.id, _target(reading))
    idle = 0
    try:
        while session.wanted and idle < _IDLE_FETCHES:
            answer = await session.fetch(
                max_bytes=_FETCH_BYTES, max_wait_ms=_MAX_WAIT_MS, timeout_seconds=_TIMEOUT_SECONDS
            )
            read(answer.size_bytes)
            moved = False
            for part in answer.partitions:
                reading = by_id[part.id]
                before = reading.position
                if part.error_code:
                    _note_error(reading, part)
                    session.forget(part.id)
                    continue
                await asyncio.to_thread(_take, reading, part.records)
                moved = moved or reading.position > before
                if reading.done:
                    session.forget(part.id)
                elif reading.position > before:
                    session.want(part.id, _target(reading))
            idle = 0 if moved else idle + 1
        for reading in readings:
            reading.tries += idle
    except KbackupError as error:
        for reading in readings:
            reading.tries += 1
            if not reading.done and (not error.retryable or reading.tries >= _TRIES):
                reading.problem = f"could not be read back: {error.message}"
    finally:
        await session.close()


def _target(reading: _Reading) -> FetchTarget:
    return FetchTarget(offset=reading.position, max_bytes=_PARTITION_BYTES)


def _note_error(reading: _Reading, part: PartitionAnswer) -> None:
    error = error_for_code(part.error_code, "reading it back")
    reading.tries += 1
    if not error.retryable or reading.tries >= _TRIES:
        reading.problem = f"could not be read back: {error.message}"


def _take(reading: _Reading, records: bytes) -> None:
    """Add the whole batches of `records` to the reading's digest, as far as they are expected."""
    scan = scan_batches(records, asked_offset=reading.position)
    if scan.corrupt_bytes:
        reading.problem = f"the target serves damaged bytes from offset {scan.next_offset} on"
        return
    for header, batch in iter_batches(memoryview(records)[: scan.good_bytes]):
        if header.next_offset <= reading.position:
            continue
        if reading.expected.has_holes and header.base_offset >= reading.position:
            if not header.is_control:
                reading.digest.add(batch, header.record_count, base_offset=header.base_offset)
            reading.position = header.next_offset
            if reading.done:
                return
            continue
        if header.base_offset != reading.position or header.is_control:
            reading.problem = f"offset {reading.position} is not where the next batch begins ({header.base_offset} is)"
            return
        reading.digest.add(batch, header.record_count)
        reading.position = header.next_offset
        if reading.done:
            return


def _judged(reading: _Reading, log_end: int | None) -> Verified:
    expected = reading.expected
    problem = reading.problem
    if not problem and reading.position < expected.next_offset:
        problem = f"ends at offset {reading.position} instead of {expected.next_offset}"
    if not problem and reading.digest.hexdigest() != expected.digest.hexdigest():
        problem = "holds other content than what was produced"
    if not problem and log_end is None:
        problem = "does not tell where its log ends"
    if not problem and log_end != expected.next_offset:
        problem = f"its log ends at {log_end} instead of {expected.next_offset}: somebody else writes into it"
    return Verified(
        records=reading.digest.records,
        log_end_offset=-1 if log_end is None else log_end,
        digest=reading.digest.hexdigest(),
        problem=problem,
    )


async def _log_ends(
    connection: KafkaConnection,
    partitions: Mapping[TopicPartition, object],
    leaders: Callable[[], Awaitable[Mapping[TopicPartition, int]]],
) -> dict[TopicPartition, int]:
    """Where the logs end; asked again for a while where leaders just moved. What is never told is left out."""
    ends: dict[TopicPartition, int] = {}
    for _ in range(_TRIES):
        missing = [tp for tp in partitions if tp not in ends]
        if not missing:
            break
        try:
            by_leader: dict[int, list[TopicPartition]] = {}
            led = await leaders()
            for tp in missing:
                if tp in led:
                    by_leader.setdefault(led[tp], []).append(tp)
            for node_id, asked in by_leader.items():
                answers = await list_offsets(connection, node_id, dict.fromkeys(asked, (LATEST_TIMESTAMP, -1)))
                ends |= {tp: one.offset for tp, one in answers.items() if one.error_code == KafkaErrorCode.NONE}
        except KbackupError as error:
            if not error.retryable:
                break
        if len(ends) < len(partitions):
            await asyncio.sleep(_PAUSE_SECONDS)
    return ends

"""Thousands of partitions and an even load on them: topics made in batches, records produced by the request.

A client that keeps a queue per partition spends more on 10,000 of them than the daemon that is measured; here one
request carries the same one-record batch for hundreds of partitions.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from crc32c import crc32c

from kbackupd.format.codecs import ZSTD
from kbackupd.format.header import CRC_COVERS_FROM
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import KafkaErrorCode, TopicPartition
from kbackupd.kafka.wire import ProduceRequest
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings
from kbackupd.testbed.process import Deadline, ServerFailedError

TOPICS_PER_REQUEST = 20
PARTITIONS_PER_REQUEST = 500
VALUE_BYTES = 200
HEAVY_BATCH_RECORDS = 400
HEAVY_VALUE_BYTES = 500
_DEADLINE_SECONDS = 1200.0
_ANSWER_SECONDS = 30.0
_CODEC_NONE = 0
_CRC, _CRC_AT = struct.Struct(">I"), 17
_TIMESTAMPS, _TIMESTAMPS_AT = struct.Struct(">qq"), 27
_NOT_YET = frozenset({KafkaErrorCode.NOT_LEADER_OR_FOLLOWER, KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION})


def topic_names(count: int) -> list[str]:
    """Numbered as people number them: similar names are what a broker's by-name fetch sessions choke on."""
    return [f"bench.topic.{number:03}" for number in range(count)]


def create_topics(bootstrap: str, names: Sequence[str], *, partitions: int, replication_factor: int) -> None:
    """Create them, some per request, and wait until every partition has a leader.

    Raises:
        KafkaException: the cluster refused one.
        ServerFailedError: no leaders in time.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for first in range(0, len(names), TOPICS_PER_REQUEST):
        new = [
            NewTopic(name, num_partitions=partitions, replication_factor=replication_factor)
            for name in names[first : first + TOPICS_PER_REQUEST]
        ]
        for made in admin.create_topics(new, operation_timeout=120, request_timeout=150).values():
            made.result(_DEADLINE_SECONDS)
    deadline = Deadline(_DEADLINE_SECONDS)
    wanted = set(names)
    while not deadline.passed:
        found = admin.list_topics(timeout=60).topics
        led = {
            name
            for name in wanted & found.keys()
            if len(found[name].partitions) == partitions
            and all(row.leader >= 0 for row in found[name].partitions.values())
        }
        if led == wanted:
            return
        time.sleep(0.5)
    raise ServerFailedError(
        f"{len(wanted - led)} of {len(wanted)} topics have no leaders after {_DEADLINE_SECONDS:g} s"
    )


class Load:
    """Produces in a thread of its own until it is closed; entered, one record is in every partition.

    Args:
        light_period_seconds: every partition gets a record so often, the partitions evenly spread over the period.
        heavy_bytes_per_second: into the first `heavy_partitions` partitions, in zstd batches as producers make them.
    """

    def __init__(
        self,
        bootstrap: str,
        names: Sequence[str],
        *,
        partitions: int,
        light_period_seconds: float,
        heavy_partitions: int,
        heavy_bytes_per_second: int,
    ) -> None:
        self.light = threading.Event()
        self.heavy = threading.Event()
        self.produced = 0
        """Records so far."""
        self.late_seconds = 0.0
        """How far the light load fell behind its schedule, at worst: the producer or the brokers were too slow."""
        self._bootstrap = bootstrap.split(",")
        self._asked = [TopicPartition(name, number) for name in names for number in range(partitions)]
        self._period_seconds = light_period_seconds
        self._heavy_partitions = heavy_partitions
        self._heavy_bytes_per_second = heavy_bytes_per_second
        self._stop = threading.Event()
        self._seeded = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self._seeded.wait()
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raises whatever ended the load before its time."""
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as failure:  # noqa: BLE001  told by `check`, to the thread that asked for load
            self._failure = failure
        finally:
            self._seeded.set()

    async def _run(self) -> None:
        async with KafkaConnection(
            bootstrap_servers=self._bootstrap, security=SecuritySettings(), client_id="bench-load", clock=SystemClock()
        ) as connection:
            parts = await self._requests(connection)
            for node_id, part in parts:
                await self._send(connection, node_id, part, _one_record())
            self._seeded.set()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._light(connection, parts))
                both.create_task(self._heavy(connection, parts))

    async def _requests(self, connection: KafkaConnection) -> list[tuple[int, list[TopicPartition]]]:
        """All partitions, by leader and in handfuls that one request carries, leaders in turn."""
        leader = await self._leaders(connection)
        while not all(leader.get(asked, -1) >= 0 for asked in self._asked):  # brokers hear of new topics one by one
            await asyncio.sleep(0.2)
            leader = await self._leaders(connection)
        by_leader: dict[int, list[TopicPartition]] = defaultdict(list)
        for asked in self._asked:
            by_leader[leader[asked]].append(asked)
        columns = [
            [
                (node_id, rows[first : first + PARTITIONS_PER_REQUEST])
                for first in range(0, len(rows), PARTITIONS_PER_REQUEST)
            ]
            for node_id, rows in by_leader.items()
        ]
        return [part for turn in itertools.zip_longest(*columns) for part in turn if part is not None]

    async def _leaders(self, connection: KafkaConnection) -> dict[TopicPartition, int]:
        topics = (await cluster_metadata(connection)).topics
        return {TopicPartition(one.name, row.partition): row.leader_id for one in topics for row in one.partitions}

    async def _light(self, connection: KafkaConnection, parts: list[tuple[int, list[TopicPartition]]]) -> None:
        turns = itertools.cycle(parts)
        async for late_seconds in self._paced(self.light, self._period_seconds / len(parts)):
            self.late_seconds = max(self.late_seconds, late_seconds)
            node_id, part = next(turns)
            await self._send(connection, node_id, part, _one_record())
            self.produced += len(part)

    async def _heavy(self, connection: KafkaConnection, parts: list[tuple[int, list[TopicPartition]]]) -> None:
        targets = [(node_id, asked) for node_id, part in parts for asked in part][: self._heavy_partitions]
        gap = HEAVY_BATCH_RECORDS * HEAVY_VALUE_BYTES / max(1, self._heavy_bytes_per_second)
        turns = itertools.cycle(targets)
        batches = itertools.cycle(list(_heavy_batches()))
        lane = connection.new_lane()
        async for _ in self._paced(self.heavy, gap):
            node_id, asked = next(turns)
            await self._send(connection, node_id, [asked], _stamped(next(batches)), lane=lane)
            self.produced += HEAVY_BATCH_RECORDS

    async def _paced(self, wanted: threading.Event, gap_seconds: float) -> AsyncIterator[float]:
        """A turn every so often while `wanted` is set, until the load ends; yields how late each is, in seconds."""
        due = time.monotonic()
        while not self._stop.is_set():
            if not wanted.is_set():
                await asyncio.sleep(0.05)
                due = time.monotonic()
                continue
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield time.monotonic() - due
            due += gap_seconds

    async def _send(
        self, connection: KafkaConnection, node_id: int, part: Sequence[TopicPartition], batch: bytes, *, lane: int = 0
    ) -> None:
        left, deadline = list(part), Deadline(_DEADLINE_SECONDS)
        while left:
            request = ProduceRequest(batches=dict.fromkeys(left, batch), timeout_ms=round(_ANSWER_SECONDS * 1000))
            answers = await connection.send(node_id, request, timeout_seconds=_ANSWER_SECONDS + 5, lane=lane)
            codes = {asked: answer.error_code for asked, answer in answers.items()}
            left = [asked for asked, code in codes.items() if code != KafkaErrorCode.NONE]
            # Metadata names the leader of a partition just made before that broker itself has heard of it.
            if deadline.passed or any(codes[asked] not in _NOT_YET for asked in left):
                raise ServerFailedError(
                    f"broker {node_id} refused the load's records: error {sorted({codes[asked] for asked in left})}"
                )
            if left:
                await asyncio.sleep(0.2)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _one_record() -> bytes:
    value = f'{{"at":{time.time_ns()},"note":"'.encode() + b"x" * VALUE_BYTES
    return build_batch(
        [RawRecord(0, 0, 0, encode_body(b"key", value[: VALUE_BYTES - 2] + b'"}'))],
        codec=_CODEC_NONE,
        base_timestamp_ms=_now_ms(),
    )


def _heavy_batches() -> Iterable[bytes]:
    """Some, made once: zstd and a thousand steps of Python each would make the producer the busiest of all."""
    chance = random.Random(7)
    for _ in range(16):
        bodies = [
            encode_body(b"%d" % number, chance.randbytes(HEAVY_VALUE_BYTES // 5) * 5)
            for number in range(HEAVY_BATCH_RECORDS)
        ]
        yield build_batch(
            (RawRecord(0, 0, number, body) for number, body in enumerate(bodies)), codec=ZSTD, base_timestamp_ms=0
        )


def _stamped(batch: bytes) -> bytes:
    """The batch as if all its records were made now."""
    stamped = bytearray(batch)
    now = _now_ms()
    _TIMESTAMPS.pack_into(stamped, _TIMESTAMPS_AT, now, now)
    _CRC.pack_into(stamped, _CRC_AT, crc32c(memoryview(stamped)[CRC_COVERS_FROM:]))
    return bytes(stamped)

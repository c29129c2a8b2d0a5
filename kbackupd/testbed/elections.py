"""Who leads, and making somebody else lead; two of the requests that takes are not in librdkafka's admin client.

Sources: `AlterPartitionReassignments*.json` and `DescribeQuorum*.json` of Apache Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from kbackupd.kafka.codec import EMPTY_TAGS, Reader, WireRequest, array, int32, string
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings

_TIMEOUT_MS = 30_000
_QUORUM_TOPIC = "__cluster_metadata"


@dataclass(frozen=True, slots=True, repr=False)
class AlterPartitionReassignmentsRequest(WireRequest[tuple[int, ...]]):
    """The replicas a partition shall have, the first being the preferred leader; answers with every error code."""

    API_KEY = 45
    API_VERSION = 0

    topic: str
    replicas: Mapping[int, Sequence[int]]

    def encode(self) -> bytes:
        def partition(row: tuple[int, Sequence[int]]) -> bytes:
            return int32(row[0]) + array(row[1], int32) + EMPTY_TAGS

        rows = list(self.replicas.items())
        topics = array([self.topic], lambda name: string(name) + array(rows, partition) + EMPTY_TAGS)
        return int32(_TIMEOUT_MS) + topics + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> tuple[int, ...]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        code = reader.int16()
        reader.nullable_string()
        codes = [code]
        for _ in range(reader.uvarint() - 1):
            reader.string()
            for _ in range(reader.uvarint() - 1):
                reader.int32()
                codes.append(reader.int16())
                reader.nullable_string()
                reader.skip_tags()
            reader.skip_tags()
        return tuple(codes)


@dataclass(frozen=True, slots=True, repr=False)
class QuorumLeaderRequest(WireRequest[tuple[int, int]]):
    """DescribeQuorum, read as far as (error code, the active controller's node id; -1: none)."""

    API_KEY = 55
    API_VERSION = 0

    def encode(self) -> bytes:
        return (
            array([_QUORUM_TOPIC], lambda name: string(name) + array([0], lambda n: int32(n) + EMPTY_TAGS) + EMPTY_TAGS)
            + EMPTY_TAGS
        )

    def decode(self, buffer: bytes, position: int) -> tuple[int, int]:
        reader = Reader(buffer, position)
        code, leader_id = reader.int16(), -1
        if code == 0 and reader.uvarint() > 1:
            reader.string()
            if reader.uvarint() > 1:
                reader.int32()
                code, leader_id = reader.int16(), reader.int32()
        return code, leader_id


def _connection(bootstrap: str) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=bootstrap.split(","),
        security=SecuritySettings(),
        client_id="testbed",
        clock=SystemClock(),
    )


async def reassign(bootstrap: str, topic: str, replicas: Mapping[int, Sequence[int]]) -> None:
    """Give partitions these replicas; returns when the controller has taken it on, not when they are in sync.

    Raises:
        KafkaUnavailableError, KafkaDeniedError: refused, or nobody answered.
    """
    async with _connection(bootstrap) as connection:
        request = AlterPartitionReassignmentsRequest(topic, replicas)
        for code in await connection.send_any(request):
            if code:
                raise error_for_code(code, f"reassigning {topic}")


async def elect_preferred(bootstrap: str, topic: str, partition: int) -> bool:
    """Have the first of a partition's replicas elected; the controller has decided on return.

    False: for the controller that one is not in sync now, or not there.

    Raises:
        KafkaException: refused, or nobody answered.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    # Its own time-outs, of a minute: confluent-kafka 2.16.1 raises SystemError when it is given others.
    asked = admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, partition)])
    (error,) = (await asyncio.to_thread(asked.result)).values()
    if error is None or error.code() == KafkaError.ELECTION_NOT_NEEDED:  # it leads already
        return True
    if error.code() == KafkaError.PREFERRED_LEADER_NOT_AVAILABLE:
        return False
    raise KafkaException(error)


async def active_controller(bootstrap: str, *, deadline_seconds: float = 60.0) -> int:
    """Node id of the controller that leads the quorum now.

    Raises:
        TimeoutError: none was elected in time, or nobody answered.
    """
    async with asyncio.timeout(deadline_seconds), _connection(bootstrap) as connection:
        while True:
            code, leader_id = await connection.send_any(QuorumLeaderRequest())
            if code == 0 and leader_id >= 0:
                return leader_id
            await asyncio.sleep(0.1)

"""Brokers of a few lines on 127.0.0.1, each with one way to disappoint a client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Mapping

from kbackupd.kafka.codec import array, int16, int32, int64, string, uvarint
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.types import FetchTarget
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import PartitionId, topic_id_from_uuid
from kbackupd.model.settings import SecuritySettings
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.proxy import reset

MODERN = {1: (4, 17), 3: (0, 13), 2: (1, 10), 22: (0, 5)}
FETCH = 1
_API_VERSIONS = 18
_METADATA = 3
_TOPIC = uuid.UUID(int=7)

Respond = Callable[[int, bytes], bytes | None]
"""Given the API key and the request, the answer's body after the correlation id; None: silence; b"": hang up."""


class FakeBroker:
    """Answers ApiVersions with `versions`, Metadata with itself as node 1, and leaves the rest to `respond`."""

    def __init__(self, versions: Mapping[int, tuple[int, int]], respond: Respond) -> None:
        self.port = 0
        self.requests: list[int] = []
        self.accepted = 0
        self.closed = asyncio.Event()
        self._versions = versions
        self._respond = respond
        self._writers: list[asyncio.StreamWriter] = []

    def hang_up(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            reset(writer)

    def say_goodbye(self) -> None:
        """Close every connection in good order, as a broker does with those it finds idle."""
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(size)
                key, _, correlation_id = struct.unpack_from(">hhi", request)
                self.requests.append(key)
                body = self._answer(key, request)
                if body == b"":
                    return
                if body is not None:
                    writer.write(struct.pack(">ii", len(body) + 4, correlation_id) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()

    def _answer(self, key: int, request: bytes) -> bytes | None:
        if key == _API_VERSIONS:
            rows = b"".join(struct.pack(">hhh", api, low, high) for api, (low, high) in self._versions.items())
            return int16(0) + int32(len(self._versions)) + rows
        answer = self._respond(key, request)
        if key == _METADATA and answer is None:
            itself = int32(1) + string("127.0.0.1") + int32(self.port) + string(None) + b"\0"
            return b"\0" + int32(0) + array([itself], bytes) + string("cluster") + int32(1) + array([], int32) + b"\0"
        return answer


@contextlib.asynccontextmanager
async def fake_broker(
    versions: Mapping[int, tuple[int, int]] = MODERN,
    respond: Respond = lambda _key, _request: None,
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[FakeBroker]:
    broker = FakeBroker(versions, respond)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=tls)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()


def connection_to(
    *ports: int, security: SecuritySettings | None = None, connect_timeout_seconds: float = 60.0
) -> KafkaConnection:
    """Not made before it is used; with time-outs that no slow machine meets."""
    return KafkaConnection(
        bootstrap_servers=[f"127.0.0.1:{port}" for port in ports],
        security=SecuritySettings() if security is None else security,
        client_id="test",
        clock=SystemClock(),
        request_timeout_seconds=60.0,
        connect_timeout_seconds=connect_timeout_seconds,
    )


def session_over(connection: KafkaConnection) -> FetchSession:
    """Which wants partition 0 of the topic that `fetch_answer` is of."""
    session = FetchSession(connection, 1, clock=SystemClock())
    session.want(PartitionId(topic_id_from_uuid(_TOPIC), 0), FetchTarget(offset=0, max_bytes=1 << 20))
    return session


async def fetched(session: FetchSession) -> list[bytes]:
    """The records of the next answer."""
    answer = await session.fetch(max_bytes=1 << 20, max_wait_ms=1, timeout_seconds=60.0)
    return [part.records for part in answer.partitions]


def fetch_answer(records: bytes) -> bytes:
    """Of one partition, behind the correlation id: no tags, no throttling, no error, session 0."""
    partition = int32(0) + int16(0) + int64(9) * 2 + int64(0) + b"\x01" + int32(-1)
    partition += uvarint(len(records) + 1) + records + b"\0"
    topic = _TOPIC.bytes + uvarint(2) + partition + b"\0"
    return b"\0" + int32(0) + int16(0) + int32(0) + uvarint(2) + topic + b"\0"


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A port that takes connections and never says anything."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: held.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in held:
            writer.close()


def refusing_port() -> int:
    """A port nobody listens on, and that the kernel gives to nobody who does not name it."""
    (port,) = free_ports(1)
    return port

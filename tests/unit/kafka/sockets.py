"""Brokers of a few lines on 127.0.0.1, each with one way to disappoint a client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping

from kbackupd.kafka.codec import array, int16, int32, int64, string, uvarint
from kbackupd.model.positions import TopicId, topic_id_to_uuid
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.proxy import reset

MODERN = {1: (4, 17), 3: (0, 13), 2: (1, 10), 22: (0, 5)}
_API_VERSIONS = 18
_METADATA = 3

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


def fetch_answer(topic_id: TopicId, records: bytes) -> bytes:
    """Of partition 0, behind the correlation id: no tags, no throttling, no error, session 0."""
    partition = int32(0) + int16(0) + int64(9) * 2 + int64(0) + b"\x01" + int32(-1)
    partition += uvarint(len(records) + 1) + records + b"\0"
    topic = topic_id_to_uuid(topic_id).bytes + uvarint(2) + partition + b"\0"
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

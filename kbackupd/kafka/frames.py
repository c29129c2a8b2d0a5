"""A connection's frames: answers received where they stay, by one copy out of the kernel; batches sent by one into it.

aiokafka reads through an `asyncio.StreamReader`: every byte is copied into a block of its own, from there into the
stream's buffer, and from there into the frame, and its reader task wakes for every block. For fetch answers of
megabytes that was the largest thing capture did beside checksums. Here a frame's memory is made when its length is
known and the event loop receives straight into it. There is never more of it than has been announced, and no more is
made at once than `GROW_BYTES` beyond what came: a nonsensical length costs no memory. Of a frame that nobody waits for
any more nothing is kept: what was reserved for it has been given back by then.

Of what it sends aiokafka makes one piece, by three copies. Batches that are produced are handed over as they are: they
must not change before they are answered.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

from kbackupd.kafka.codec import RawResponse
from kbackupd.kafka.wire import ProduceRequest
from kbackupd.kafka.wire_fetch import FetchRequest

GROW_BYTES = 32 << 20
"""A larger frame's memory grows by so much as it comes."""
_IGNORED_BYTES = 16 << 10
"""Received at once of what comes after the end, to be thrown away."""
_LENGTH = struct.Struct(">i")
_PLAIN_HEADER = struct.Struct(">iB")
"""Correlation id, and how many tagged fields follow."""


class FrameReader(asyncio.BufferedProtocol):
    """Cuts what comes into frames; stands in for both the protocol and the stream reader of an aiokafka connection.

    Args:
        before: the connection's protocol so far; it goes on being told of everything but data.
    """

    def __init__(self, before: asyncio.StreamReaderProtocol) -> None:
        self._before = before
        self._length = bytearray(_LENGTH.size)
        self._frame: bytearray | None = None
        """Being received; None while its length is."""
        self._frame_bytes = 0
        self._filled = 0
        self._whole: list[bytearray] = []
        self._failure: Exception | None = None
        self._changed: asyncio.Future[None] | None = None

    def at_eof(self) -> bool:
        return self._failure is not None and not self._whole

    def exception(self) -> Exception | None:
        """Of the connection, as `asyncio.StreamWriter.drain` asks for it."""
        return None if isinstance(self._failure, EOFError) else self._failure

    async def frame(self) -> bytearray:
        """The next frame, without its length; for one task at a time.

        Raises:
            EOFError, OSError: the connection ended before it was whole.
        """
        while not self._whole:
            if self._failure is not None:
                raise self._failure
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
        return self._whole.pop(0)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._failure is not None:
            return memoryview(bytearray(_IGNORED_BYTES))
        if self._frame is None:
            return memoryview(self._length)[self._filled :]
        if self._filled == len(self._frame):
            self._frame += bytes(min(self._frame_bytes - self._filled, GROW_BYTES))
        return memoryview(self._frame)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._failure is not None:
            return
        self._filled += nbytes
        if self._frame is None:
            if self._filled < _LENGTH.size:
                return
            (self._frame_bytes,) = _LENGTH.unpack(self._length)
            if self._frame_bytes < 0:
                self._end(EOFError(f"a frame of {self._frame_bytes} bytes was announced"))
                return
            self._frame, self._filled = bytearray(min(self._frame_bytes, GROW_BYTES)), 0
        if self._filled == self._frame_bytes:
            self._whole.append(self._frame)
            self._frame, self._filled = None, 0
            self._wake()

    def discard(self) -> None:
        """Nobody wants a frame any more: keep none, and none of what is still to come.

        A transport that is being closed lives on, and over TLS goes on delivering, until the other side has agreed.
        """
        self._end(EOFError("the connection was given up"))
        self._whole.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or EOFError("the connection was closed"))
        self._before.connection_lost(exc)

    def eof_received(self) -> bool | None:
        self._end(EOFError("the connection was closed by the other side"))
        return self._before.eof_received()

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()

    def _end(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        # The failure that is raised and this reader refer to each other: what it held of a frame would stay until
        # somebody looks for such garbage, which may take minutes.
        self._frame = None
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


class FramedConnection(AIOKafkaConnection):  # type: ignore[misc]
    """aiokafka's connection, which once it stands receives through a `FrameReader` and sends batches uncopied.

    Its handshake (versions, SASL) is aiokafka's, stream reader and all; no answer is outstanding when that is over.
    """

    _reader: Any
    _read_task: asyncio.Task[None]

    async def connect(self) -> Any:
        stream, writer = await super().connect()
        transport = writer.transport
        if self._reader is None or stream.at_eof() or transport.is_closing():
            # An end that the old reader was told of, nobody would tell the new one.
            self.close()
            raise ConnectionResetError("the broker closed the connection after the handshake")
        reader = FrameReader(self._protocol)
        self._read_task.cancel()
        # Paused, because uvloop goes on as it began where the kind of protocol changes under it.
        transport.pause_reading()
        transport.set_protocol(reader)
        self._reader = reader
        self._read_task = self._create_reader_task()
        transport.resume_reading()
        return reader, writer

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """As aiokafka's. What batches a request has must not change until it is answered, or its connection closed.

        Returns:
            A future of the answer; given up, the answer is read and thrown away when it comes.

        Raises:
            KafkaConnectionError: it is closed already, or breaks.
            KafkaDeniedError: the broker does not know this version of the request.
        """
        if not isinstance(request, ProduceRequest) or self._writer is None:
            return super().send(request, expect_response)
        request.check(self._versions)
        correlation_id = self._next_correlation_id()
        header = request.build_request_header(correlation_id=correlation_id, client_id=self._client_id).encode()
        parts = request.parts()
        length = len(header) + sum(map(len, parts))
        try:
            self._writer.writelines([_LENGTH.pack(length), header, *parts])
        except OSError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._requests.append((correlation_id, request, answered))
        return answered

    def close(self, reason: Any = None, exc: Any = None) -> Any:
        if isinstance(self._reader, FrameReader):
            self._reader.discard()
        return super().close(reason=reason, exc=exc)

    @staticmethod
    async def _read(self_ref: Any) -> None:
        self = self_ref()
        if self is None:
            return
        if not isinstance(self._reader, FrameReader):
            del self
            await AIOKafkaConnection._read(self_ref)
            return
        reader = self._reader
        while True:
            # Not held while waiting: a connection nobody refers to any more shall go, and no answer outlive its use.
            del self
            frame = await reader.frame()
            self = self_ref()
            if self is None:
                return
            self._handle_frame(frame)
            del frame

    def _handle_frame(self, frame: bytes | bytearray) -> None:
        if self._requests and len(frame) >= _PLAIN_HEADER.size:
            correlation_id, request, answered = self._requests[0]
            if isinstance(request, FetchRequest) and _PLAIN_HEADER.unpack_from(frame) == (correlation_id, 0):
                if not answered.done():
                    answered.set_result(RawResponse(frame, _PLAIN_HEADER.size))
                self._last_action = time.monotonic()
                self._requests.popleft()
                return
        super()._handle_frame(bytes(frame))

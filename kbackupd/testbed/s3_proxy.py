"""A real S3 server seen through bad weather: an HTTP proxy that does to chosen requests what networks and servers do.

Bytes pass unchanged in both directions, the Host header included: it is part of what clients sign, so a client is
simply given `S3Proxy.endpoint` instead of the server's. Every connection of a client has one of its own to the server.
Runs in a thread, so that tests may block; rules may be added and lifted from any thread at any time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never
from urllib.parse import unquote

from kbackupd.testbed.proxy import HOST, CutAnswer, FaultRule, LocalProxy, LoseAnswer, Reset, reset

_HEAD_BYTES_MAX = 64 << 10
_PIECE_BYTES = 64 << 10
_SENDS_PER_SECOND = 10


@dataclass(frozen=True, slots=True)
class Stall:
    """The request is taken in whole and kept. Once its rule is lifted it goes on its way, even if its client is long
    dead: a request that the network delivers late. The answer is withheld until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An error instead of the server's answer; the server never hears of the request."""

    status: int = 503
    code: str = "SlowDown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutUpload:
    """Both connections are reset after so many bytes of the request's body: a torn upload."""

    after_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """Request and answer arrive whole, but no faster than this: a link that is all but dead."""

    bytes_per_second: int


Fault: TypeAlias = Stall | Answer | Reset | LoseAnswer | CutAnswer | CutUpload | Trickle


class Rule(FaultRule[str]):
    """A fault and the requests it strikes, of which `struck` lists the targets; made by `S3Proxy.strike`.

    Args:
        method: of the request; empty: any.
        key_part: what the unquoted target (path and query) must contain; empty: anything.
        share: of the requests that match, how large a part is struck, by chance.
        seed: of that chance.
        times: how many requests it strikes; None: all until it is lifted.
    """

    def __init__(
        self, fault: Fault, *, method: str, key_part: str, times: int | None, share: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(times=times, share=share, chance=random.Random(seed))
        self.fault = fault
        self._method = method
        self._key_part = key_part

    def meets(self, method: str, target: str) -> bool:
        """Whether this request is struck; counts it if so."""
        return self._method in ("", method) and self._key_part in target and self._strikes(target)


class S3Proxy(LocalProxy[Rule]):
    """Before one S3 server; see `LocalProxy`."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._seen: Counter[str] = Counter()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def seen(self) -> Counter[str]:
        """How many requests of each method have arrived so far, struck ones included: what a hot loop would show in."""
        with self._rules_lock:
            return Counter(self._seen)

    def strike(
        self,
        fault: Fault,
        *,
        method: str = "",
        key_part: str = "",
        times: int | None = None,
        share: float = 1.0,
        seed: int = 0,
    ) -> Rule:
        """Do this to the requests a rule meets, see `Rule`; of several rules the one made first counts."""
        return self._add(Rule(fault, method=method, key_part=key_part, times=times, share=share, seed=seed))

    def _rule_for(self, head: _Head) -> Rule | None:
        with self._rules_lock:
            self._seen[head.method] += 1
            return next((rule for rule in self._rules if rule.meets(head.method, head.target)), None)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Side(reader, writer)
        server: _Side | None = None
        try:
            server = _Side(*await asyncio.open_connection(HOST, self.server_port, limit=_HEAD_BYTES_MAX))
            while (head := await client.head()) is not None:
                rule = self._rule_for(head)
                if head.expects_continue:
                    # Asked for by us, so that a body can be taken in whose request the server never sees.
                    await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                await _exchange(head, client, server, rule)
        except (OSError, _Broken):
            client.reset()
        finally:
            client.writer.close()
            if server is not None:
                server.writer.close()


class _Broken(Exception):
    """One of the two connections is at its end; so is the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Start line and headers of a request or of an answer."""

    raw: bytes
    words: tuple[str, ...]
    headers: dict[str, str]

    @property
    def method(self) -> str:
        return self.words[0]

    @property
    def target(self) -> str:
        return unquote(self.words[1])

    @property
    def status(self) -> int:
        return int(self.words[1])

    @property
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


class _Side:
    """One connection, to the client or to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> _Head | None:
        """The next request or answer up to its empty line; None where the connection ends between two."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _Broken from error
            return None
        lines = raw.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        return _Head(raw=raw, words=tuple(lines[0].split(" ", 2)), headers=headers)

    async def body(self, head: _Head, *, until_end: bool = False) -> AsyncIterator[bytes]:
        """The raw bytes that follow `head`, framing of chunks included.

        Args:
            until_end: what to believe of a message that states no length: all until the connection ends, or nothing.
        """
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                line = await self.reader.readuntil(b"\r\n")
                yield line
                size = int(line.split(b";")[0], 16)
                if size:
                    yield await self._exactly(size + 2)
                else:
                    while line != b"\r\n":
                        line = await self.reader.readuntil(b"\r\n")
                        yield line
                    return
        elif (length := head.headers.get("content-length")) is not None:
            left = int(length)
            while left:
                piece = await self._exactly(min(left, _PIECE_BYTES))
                left -= len(piece)
                yield piece
        elif until_end:
            while piece := await self.reader.read(_PIECE_BYTES):
                yield piece

    async def _exactly(self, count: int) -> bytes:
        try:
            return await self.reader.readexactly(count)
        except asyncio.IncompleteReadError as error:
            raise _Broken from error

    async def send(self, data: bytes, *, rate: int | None = None) -> None:
        """All of it; `rate`: no more bytes a second than that, None: at once."""
        piece_bytes = max(1, len(data) if rate is None else rate // _SENDS_PER_SECOND)
        for first in range(0, len(data), piece_bytes):
            self.writer.write(data[first : first + piece_bytes])
            await self.writer.drain()
            if rate is not None:
                await asyncio.sleep(1 / _SENDS_PER_SECOND)

    def reset(self) -> None:
        """End the connection with RST: the other side gets an error, not an orderly end."""
        reset(self.writer)


async def _exchange(head: _Head, client: _Side, server: _Side, rule: Rule | None) -> None:
    """One request and its answer. Raises _Broken or OSError when the connections are of no use any more."""
    fault = rule.fault if rule is not None else None
    match fault:
        case None:
            await _pass_on(head, client, server)
        case Stall():
            assert rule is not None
            body = b"".join([piece async for piece in client.body(head)])
            await rule.lifted()
            await server.send(head.raw + body)
            await _relay_answer(head, server, client)
        case Answer():
            async for _ in client.body(head):
                pass
            text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
            start = f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\n"
            start += f"Content-Length: {len(text)}\r\n\r\n"
            await client.send(start.encode() + (b"" if head.method == "HEAD" else text))
        case Reset():
            raise _Broken
        case LoseAnswer():
            body = b"".join([piece async for piece in client.body(head)])
            await server.send(head.raw + body)
            await _relay_answer(head, server, None)
            raise _Broken
        case CutAnswer(after_bytes=count):
            await _pass_on(head, client, server, answer_bytes=count)
            client.writer.close()
            raise _Broken
        case CutUpload(after_bytes=count):
            await server.send(head.raw)
            async for piece in client.body(head):
                await server.send(piece[:count])
                count -= len(piece)
                if count <= 0:
                    break
            server.reset()
            raise _Broken
        case Trickle(bytes_per_second=rate):
            await _pass_on(head, client, server, rate=rate)
        case _:
            assert_never(fault)


async def _pass_on(
    head: _Head, client: _Side, server: _Side, *, answer_bytes: int | None = None, rate: int | None = None
) -> None:
    """The request to the server while its answer comes back: a server may refuse before it has read everything."""

    async def upwards() -> None:
        await server.send(head.raw)
        async for piece in client.body(head):
            await server.send(piece, rate=rate)

    sending = asyncio.create_task(upwards())
    try:
        await _relay_answer(head, server, client, limit=answer_bytes, rate=rate)
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _relay_answer(
    request: _Head, server: _Side, client: _Side | None, *, limit: int | None = None, rate: int | None = None
) -> None:
    """The server's answer to `client` (None: to nobody), at most `limit` bytes of its body."""
    while (answer := await server.head()) is not None and answer.status < 200:
        pass  # "100 Continue", which the client was told already
    if answer is None:
        raise _Broken
    if client is not None:
        await client.send(answer.raw)
    if request.method == "HEAD" or answer.status in (204, 304):
        return
    sent = 0
    async for piece in server.body(answer, until_end=True):
        if client is not None:
            await client.send(piece if limit is None else piece[: limit - sent], rate=rate)
        sent += len(piece)
        if limit is not None and sent >= limit:
            return
    if "content-length" not in answer.headers and "transfer-encoding" not in answer.headers:
        raise _Broken  # its end was the connection's end

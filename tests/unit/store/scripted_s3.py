"""A server on 127.0.0.1 that answers S3 requests with what a test wrote down, torn and lying answers included."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from kbackupd.model.settings import S3Settings, Secret

MODIFIED = "Mon, 23 Nov 2026 20:00:00 GMT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `announced_bytes` may lie about the body; `then` says what becomes of the connection."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    announced_bytes: int | None = None
    then: Literal["keep", "close", "silence"] = "keep"

    def encoded(self) -> bytes:
        length = len(self.body) if self.announced_bytes is None else self.announced_bytes
        lines = [f"HTTP/1.1 {self.status} Said", f"Content-Length: {length}", f"Last-Modified: {MODIFIED}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def fault(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>scripted</Message></Error>"
    return Answer(status=status, body=body.encode())


HANG_UP = Answer(status=0, then="close")
"""Closes the connection without a word."""
SILENCE = Answer(status=0, then="silence")
"""Never answers."""


class ScriptedS3:
    """Gives the scripted answers in order of arrival, whatever is asked; remembers what was asked."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self._answers = list(answers)
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def settings(self) -> S3Settings:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return S3Settings(
            bucket="bucket",
            prefix="prefix",
            region="us-east-1",
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id=Secret("key"),
            secret_access_key=Secret("secret"),
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if "expect" in headers:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Request(method=method, target=target, headers=headers, body=body))
        self.asked.set()
        answer = self._answers.pop(0) if self._answers else fault(501, "ScriptEnded")
        if answer.then == "silence":
            await reader.read()
            return False
        if answer is not HANG_UP:
            encoded = answer.encoded()
            # An answer to HEAD announces a body and has none.
            writer.write(encoded[: encoded.index(b"\r\n\r\n") + 4] if method == "HEAD" else encoded)
            await writer.drain()
        return answer.then == "keep"

"""The client of the control socket: `docs/control.md` from the other side, with errors a person can act on."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import msgspec

from kbackupd.model.errors import (
    ArchiveInvalidError,
    DeniedError,
    FencedError,
    IncompleteError,
    KbackupError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from kbackupd.model.status import CheckpointReport, FlushReport, PauseReport, ReloadReport, StatusReport
from kbackupd.server.answers import ErrorAnswer
from kbackupd.server.control import SECONDS

Answer = TypeVar("Answer", StatusReport, FlushReport, CheckpointReport, PauseReport, ReloadReport)

MAX_ANSWER_BYTES: Final = 64 << 20
"""A status of 10,000 topics is about 4 MB; more than this is not a kbackupd."""
GRACE_SECONDS: Final = 5.0
"""What the client waits beyond the daemon's own limit, so that the daemon's explanation wins."""

_BY_EXIT_CODE: dict[int, type[KbackupError]] = {
    2: UsageError,
    3: ArchiveInvalidError,
    4: UnreachableError,
    5: RefusedError,
    6: IncompleteError,
    7: FencedError,
}


class ControlClient:
    """Talks to the daemon behind `path`. Use as an async context manager.

    Every method raises:
        UnreachableError: no socket, nobody listening, or no answer in time.
        DeniedError: no permission to use the socket.
        KbackupError: what the daemon answered, as the class of its exit code, with its own message and hint.

    Args:
        path: of the socket.
        seconds: how long to wait for any answer, instead of a little longer than the daemon itself allows.
    """

    def __init__(self, path: Path, *, seconds: float | None = None) -> None:
        self._path = path
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=os.fspath(self._path)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def status(self) -> StatusReport:
        return await self._ask("GET", "/v1/status", None, StatusReport)

    async def flush(self, topics: str) -> FlushReport:
        """What the report covers is durable on return. Cancelled, the flush goes on without us."""
        return await self._ask("POST", "/v1/flush", topics, FlushReport)

    async def checkpoint(self) -> CheckpointReport:
        """A checkpoint over what was captured is durable on return. Cancelled, it goes on without us."""
        return await self._ask("POST", "/v1/checkpoint", None, CheckpointReport)

    async def pause(self, topics: str) -> PauseReport:
        return await self._ask("POST", "/v1/pause", topics, PauseReport)

    async def resume(self, topics: str) -> PauseReport:
        return await self._ask("POST", "/v1/resume", topics, PauseReport)

    async def reload(self) -> ReloadReport:
        """What the report calls applied is in force on return. UsageError: the configuration is wrong."""
        return await self._ask("POST", "/v1/reload", None, ReloadReport)

    async def _ask(self, method: str, path: str, topics: str | None, kind: type[Answer]) -> Answer:
        assert self._session is not None, "enter the client before asking"
        seconds = self._seconds if self._seconds is not None else SECONDS[path] + GRACE_SECONDS
        params = {} if topics is None else {"topic": topics}
        try:
            async with asyncio.timeout(seconds):
                async with self._session.request(method, f"http://kbackupd{path}", params=params) as response:
                    status = response.status
                    body = bytearray()
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > MAX_ANSWER_BYTES:
                            raise UnreachableError(f"the answer from {self._path} is longer than any of kbackupd's")
        except TimeoutError as error:
            raise UnreachableError(
                f"no answer from {self._path} within {seconds:g} s",
                hint="the daemon may be stopping or overloaded; its log says more",
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error.os_error) from error
        except aiohttp.ClientError as error:
            raise UnreachableError(
                f"the connection to {self._path} broke: {error or type(error).__name__}",
                hint="the daemon may have stopped while it answered; its log says more",
            ) from error
        return self._decode(body, status, kind)

    def _decode(self, body: bytearray, status: int, kind: type[Answer]) -> Answer:
        try:
            if status == 200:
                return msgspec.json.decode(body, type=kind)
            refusal = msgspec.json.decode(body, type=ErrorAnswer)
        except msgspec.DecodeError as error:
            raise UnreachableError(
                f"what answers on {self._path} is no kbackupd this client understands (HTTP {status}: {error})",
                hint="is another program using the path, or is the daemon of another version?",
            ) from error
        raise _BY_EXIT_CODE.get(refusal.exit_code, KbackupError)(refusal.error, hint=refusal.hint)

    def _unreachable(self, error: OSError) -> KbackupError:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                return UnreachableError(
                    f"there is no socket {self._path}",
                    hint="is kbackupd running here? pass its control.socket with --socket",
                )
            case errno.EACCES | errno.EPERM:
                return DeniedError(
                    f"no permission to use {self._path}",
                    hint="only the daemon's user and root may: sudo -u <daemon's user> kbackupd ctl …",
                )
            case errno.ECONNREFUSED | errno.ENOTSOCK if self._path.exists() and not self._path.is_socket():
                return UnreachableError(
                    f"{self._path} is no socket", hint="pass the daemon's control.socket with --socket"
                )
            case errno.ECONNREFUSED | errno.ENOTSOCK:
                return UnreachableError(
                    f"nobody listens on {self._path}",
                    hint="the daemon that made it is gone: systemctl status kbackupd",
                )
            case _:
                return UnreachableError(f"cannot connect to {self._path}: {error.strerror or error}")

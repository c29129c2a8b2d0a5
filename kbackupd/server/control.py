"""The control socket: HTTP over a UNIX socket, as `docs/control.md` specifies it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from kbackupd.model.errors import UsageError
from kbackupd.observe.events import SERVER_STARTED, SERVER_STOPPED
from kbackupd.server.answers import answering_errors, error_answer, json_answer, runner_of
from kbackupd.server.protocol import ControlledDaemon
from kbackupd.server.unix import bind_private

SECONDS: Final = {
    "/v1/status": 10.0,
    "/v1/flush": 300.0,
    "/v1/checkpoint": 120.0,
    "/v1/pause": 60.0,
    "/v1/resume": 60.0,
    "/v1/reload": 30.0,
}
"""How long the daemon may take, by path."""
PATHS: Final = tuple(SECONDS)
MAX_REQUESTS: Final = 16
MAX_GLOB_CHARACTERS: Final = 1024

Ask = Callable[[web.Request], Awaitable[object]]


class ControlServer:
    """Serves one daemon on one socket. Owns the socket file between `start` and `stop`.

    Args:
        daemon: what answers.
        path: of the socket; its directory must exist.
        seconds: other limits than `SECONDS`, by path.
    """

    def __init__(self, daemon: ControlledDaemon, path: Path, *, seconds: dict[str, float] | None = None) -> None:
        self._daemon = daemon
        self._path = path
        self._seconds = {**SECONDS, **(seconds or {})}
        self._serving = 0
        self._runner: web.AppRunner | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen. On return the socket exists with mode 0600 and answers.

        Raises:
            ConfigurationError: the path cannot be a socket: no directory, no permission, too long.
            RefusedError: somebody answers on the socket, or the path is another kind of file.
        """
        listening = bind_private(self._path)
        try:
            found = os.stat(self._path)
            self._inode = (found.st_dev, found.st_ino)
            app = web.Application(
                middlewares=[
                    answering_errors(
                        "control",
                        lambda request: self._seconds.get(request.path, 10.0),
                        hint=f"GET {PATHS[0]}, or POST {', '.join(PATHS[1:])}: docs/control.md",
                    )
                ]
            )
            app.router.add_get("/v1/status", self._verb(self._status, takes_topic=False))
            app.router.add_post("/v1/flush", self._verb(lambda request: self._daemon.flush(_glob(request))))
            checkpoint = self._verb(lambda _: self._daemon.checkpoint(), takes_topic=False)
            app.router.add_post("/v1/checkpoint", checkpoint)
            app.router.add_post("/v1/pause", self._verb(lambda request: self._daemon.pause(_glob(request))))
            app.router.add_post("/v1/resume", self._verb(lambda request: self._daemon.resume(_glob(request))))
            reload = self._verb(lambda _: self._daemon.reload(), takes_topic=False)
            app.router.add_post("/v1/reload", reload)
            self._runner = runner_of(app)
            await self._runner.setup()
            await web.SockSite(self._runner, listening).start()
        except BaseException:
            listening.close()
            await self._close()
            raise
        structlog.get_logger().info(SERVER_STARTED, server="control", socket=str(self._path))

    async def stop(self) -> None:
        """Stop answering, at most a second later, and remove the socket if it is still ours. May be called twice."""
        if await self._close():
            structlog.get_logger().info(SERVER_STOPPED, server="control")

    async def _close(self) -> bool:
        """True if there was something to stop."""
        runner, self._runner = self._runner, None
        inode, self._inode = self._inode, None
        if inode is not None:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(self._path)
                # A daemon that took over has put its own socket here; removing that would make it unreachable.
                if (found.st_dev, found.st_ino) == inode:
                    os.unlink(self._path)
        if runner is not None:
            await runner.cleanup()
        return runner is not None

    async def _status(self, _request: web.Request) -> object:
        return self._daemon.status()

    def _verb(self, ask: Ask, *, takes_topic: bool = True) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            unknown = sorted(set(request.query) - ({"topic"} if takes_topic else set()))
            if unknown:
                raise UsageError(
                    f"{request.path} has no parameter {unknown[0]!r}",
                    hint="it takes topic=GLOB" if takes_topic else "it takes none",
                )
            if request.can_read_body:
                hint = "pass topic=GLOB in the URL" if takes_topic else "it takes no parameters either"
                raise UsageError("the control protocol takes no request body", hint=hint)
            if self._serving >= MAX_REQUESTS:
                return error_answer(
                    f"{MAX_REQUESTS} requests are being served already",
                    hint="try again when some have been answered",
                    exit_code=4,
                    status=503,
                )
            self._serving += 1
            try:
                return json_answer(await ask(request))
            finally:
                self._serving -= 1

        return handler


def _glob(request: web.Request) -> str:
    given = request.query.getall("topic", ["*"])
    if len(given) > 1:
        raise UsageError("topic is given more than once", hint="ask once per glob")
    if not given[0]:
        raise UsageError("topic is empty", hint="leave it out to mean all topics, or write topic=*")
    if len(given[0]) > MAX_GLOB_CHARACTERS:
        raise UsageError(f"topic is longer than {MAX_GLOB_CHARACTERS} characters")
    return given[0]

"""The observability port: /metrics for Prometheus, /livez /readyz /healthz, /status. Read-only, for the whole network.

Only /livez may restart a daemon: it says that the event loop turns, which the answer itself proves. A missed RPO target
turns /healthz red, and a restart would make that worse.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.status import HealthReport
from kbackupd.observe.events import SERVER_STARTED, SERVER_STOPPED
from kbackupd.observe.metrics import CONTENT_TYPE
from kbackupd.server.answers import answering_errors, json_answer, runner_of
from kbackupd.server.protocol import ControlledDaemon

ANSWER_SECONDS = 10.0
HINT = (
    "here are /metrics, /status, /livez, /readyz and /healthz, to be read with GET; "
    "kbackupd ctl steers the daemon, over its control socket"
)


class ObservabilityServer:
    """Serves one daemon's figures on one TCP port.

    Args:
        daemon: what answers.
        host: to listen on; `0.0.0.0` or `::` for all addresses.
        port: 0 lets the system choose; `port` says which it became.
    """

    def __init__(self, daemon: ControlledDaemon, *, host: str, port: int) -> None:
        self._daemon = daemon
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The one listened on, once started."""
        return self._port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        app = web.Application(middlewares=[answering_errors("observability", lambda _: ANSWER_SECONDS, hint=HINT)])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status", self._status)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._probe(lambda health: health.ready))
        app.router.add_get("/healthz", self._probe(lambda health: health.ready and health.healthy))
        runner = runner_of(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port}: {_plainly(error)}",
                hint="another kbackupd on this host? give each its own observability.listen",
                where="observability.listen",
            ) from error
        self._runner = runner
        self._port = int(runner.addresses[0][1])
        structlog.get_logger().info(SERVER_STARTED, server="observability", host=self._host, port=self._port)

    async def stop(self) -> None:
        """Stop answering, at most a second later. May be called twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
            structlog.get_logger().info(SERVER_STOPPED, server="observability")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._daemon.render_metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, _request: web.Request) -> web.Response:
        return json_answer(self._daemon.status())

    async def _live(self, _request: web.Request) -> web.Response:
        # Asks the daemon nothing: a fault in what health is judged by would otherwise have it restarted for ever.
        return json_answer({"ok": True, "reasons": []})

    def _probe(self, passes: Callable[[HealthReport], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(_request: web.Request) -> web.Response:
            health = self._daemon.health()
            ok = passes(health)
            return json_answer({"ok": ok, "reasons": [] if ok else health.reasons}, status=200 if ok else 503)

        return handler


def _plainly(error: OSError) -> str:
    """What went wrong without asyncio's `[Errno 98] error while attempting to bind on address …` around it."""
    # From Python 3.13 on asyncio swallows this one error and says, without a number, that no address could be bound.
    return os.strerror(error.errno or errno.EADDRNOTAVAIL).lower()

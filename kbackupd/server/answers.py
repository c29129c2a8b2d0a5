"""JSON on both servers: reports as they are, errors with their hint and exit code, deadlines and limits around both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from kbackupd.model.errors import (
    DeniedError,
    FencedError,
    IncompleteError,
    KbackupError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from kbackupd.observe.events import REQUEST_FAILED


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is not a report; its fields are those of `docs/control.md`."""

    error: str
    hint: str
    exit_code: int


def json_answer(value: object, *, status: int = 200) -> web.Response:
    """`value` (a report or any JSON-able data), readable without a formatter: people use curl."""
    body = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return web.Response(body=body + b"\n", status=status, content_type="application/json", charset="utf-8")


def error_answer(error: str, *, hint: str = "", exit_code: int, status: int) -> web.Response:
    return json_answer(ErrorAnswer(error, hint, exit_code), status=status)


def status_of(error: KbackupError) -> int:
    """HTTP status for an error of ours; the exit code in the body is what counts."""
    match error:
        case UsageError():
            return 400
        case RefusedError() | FencedError():
            return 409
        case UnreachableError() | DeniedError() | IncompleteError():
            return 502
        case _:
            return 500


def answering_errors(what: str, seconds_for: Callable[[web.Request], float], *, hint: str) -> Middleware:
    """Middleware: every failure becomes a JSON error within the request's time; none ends the server.

    Args:
        what: names the server in the log.
        seconds_for: how long the request may take. When the time is over the handler is cancelled, and what
            that leaves behind is the daemon's promise (`ControlledDaemon`).
        hint: for whoever asks for what is not there.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        seconds = seconds_for(request)
        try:
            async with asyncio.timeout(seconds) as limit:
                return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return error_answer(
                f"{request.method} {request.path}: {error.reason}",
                hint=hint,
                exit_code=2,
                status=error.status,
            )
        except KbackupError as error:
            return error_answer(error.message, hint=error.hint, exit_code=error.exit_code, status=status_of(error))
        except TimeoutError:
            if not limit.expired():
                return _unexpected(what, request)
            return error_answer(
                f"{request.path} was not done within {seconds:g} s",
                hint="what was asked for goes on; kbackupd ctl status shows what holds it up",
                exit_code=4,
                status=504,
            )
        except Exception:  # noqa: BLE001  the border of the server: logged with its traceback, answered as a fault
            return _unexpected(what, request)

    return middleware


def runner_of(app: web.Application) -> web.AppRunner:
    """A runner whose connections are bounded in header size and idle time, and which stops within a second."""
    return web.AppRunner(
        app,
        handle_signals=False,
        shutdown_timeout=1.0,
        access_log=None,
        keepalive_timeout=75.0,
        lingering_time=1.0,
        max_line_size=8190,
        max_field_size=8190,
    )


def _unexpected(what: str, request: web.Request) -> web.Response:
    structlog.get_logger().exception(REQUEST_FAILED, server=what, method=request.method, path=request.path)
    return error_answer(
        "the daemon failed to answer",
        hint=f"its log has the traceback under {REQUEST_FAILED}",
        exit_code=1,
        status=500,
    )

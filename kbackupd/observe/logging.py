"""structlog, set up once: JSON or console lines through a writer that never blocks the event loop (hazard 49).

Libraries that use the standard `logging` (aiokafka, botocore, aiohttp, asyncio) come out of the same writer as the
event `library.logged`, from WARNING on and rate-limited. Values under names that sound like secrets are masked.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from kbackupd.model.clock import SystemClock
from kbackupd.observe.events import LIBRARY_LOGGED, LINES_DROPPED
from kbackupd.observe.repeats import RepeatLimiter
from kbackupd.observe.writer import LineWriter

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
MASK = "**********"
_SECRET_NAME = re.compile(r"passw|secret|credential|(^|_)token|access_key|sasl_plain|authorization", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    r"(?P<keep>://[^/\s:@]*:)[^\s@/]+(?=@)"
    r"|(?P<name>(?:X-Amz-(?:Signature|Security-Token|Credential)|password|secret(?:_access_key)?)=)[^\s&@\"',;]+",
    re.IGNORECASE,
)


class _LineLogger:
    """What structlog calls with a finished line, whatever the level."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, line: str) -> None:
        self._writer.write(line)

    debug = info = warning = error = critical = exception = fatal = log = msg


class _LibraryHandler(logging.Handler):
    """Hands standard log records to structlog, each message of each logger once a minute with a count."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._repeats = RepeatLimiter(SystemClock())

    def emit(self, record: logging.LogRecord) -> None:
        count = self._repeats.admit((record.name, record.levelno, record.msg if isinstance(record.msg, str) else ""))
        if count is None:
            return
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        level = "error" if record.levelno >= logging.ERROR else "warning"
        extra: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        log = structlog.get_logger()
        getattr(log, level)(LIBRARY_LOGGED, logger=record.name, message=message, count=count, **extra)


def configure_logging(*, format: LogFormat, level: LogLevel, fd: int = 1) -> LineWriter:
    """Send everything logged from now on to the file descriptor `fd`.

    Returns the writer: the caller closes it last of all, which writes what is queued, and exposes its `dropped` count.
    May be called again; the earlier writer stays the earlier caller's to close.
    """
    renderer: structlog.typing.Processor = (
        # structlog's own choice of traceback prints every frame's local variables, passwords included.
        structlog.dev.ConsoleRenderer(colors=os.isatty(fd), exception_formatter=structlog.dev.plain_traceback)
        if format == "console"
        else structlog.processors.JSONRenderer()
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
        renderer,
    ]

    def lost(count: int) -> str:
        event: MutableMapping[str, Any] = {"event": LINES_DROPPED, "count": count, "level": "warning"}
        line = renderer(None, "warning", event)
        return line if isinstance(line, str) else str(line)

    writer = LineWriter(fd, lost=lost)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _LineLogger(writer),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    root.setLevel(logging.WARNING)
    return writer


def set_level(level: LogLevel) -> None:
    """Another least severe level from now on; everything else stays as it was configured."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: no value whose name or text looks like a secret leaves the process."""
    for name, value in event.items():
        if _SECRET_NAME.search(name):
            event[name] = MASK
        elif isinstance(value, str):
            event[name] = mask_text(value)
        elif isinstance(value, dict):
            event[name] = mask_secrets(None, "", dict(value))
    return event


def mask_text(text: str) -> str:
    """Passwords in URLs, signatures in presigned ones and `password=…` pairs replaced by the mask."""
    return _SECRET_IN_TEXT.sub(lambda match: f"{match['keep'] or match['name']}{MASK}", text)

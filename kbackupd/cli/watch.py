"""`kbackupd ctl status --watch`: the status again and again, over restarts of the daemon, until somebody leaves.

Every look is a connection of its own: what was learnt of a daemon that is gone must not outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from kbackupd.cli.output import OutputFormat, stdout_console
from kbackupd.cli.status_text import of_topics, print_status, status_page
from kbackupd.model.errors import DeniedError, KbackupError
from kbackupd.model.status import StatusReport
from kbackupd.model.units import format_duration
from kbackupd.server.answers import ErrorAnswer
from kbackupd.server.client import ControlClient

Look = StatusReport | KbackupError
"""What the daemon said, or why nothing came of asking."""
View = Callable[[Look], None]


def watch_status(socket: Path, *, topic: str, format: OutputFormat, interval_seconds: float) -> None:
    """Show the status every `interval_seconds` until Ctrl-C or SIGTERM, then return.

    Raises:
        DeniedError: no permission to use the socket: waiting does not change that.
    """
    console = stdout_console()
    with _view(console, format, topic) as view:
        try:
            # On Ctrl-C asyncio cancels the task, which leaves the terminal as it was found, and raises afterwards.
            with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
                asyncio.run(_look_on(socket, view, interval_seconds))
        except BrokenPipeError:
            # `… --watch | head`: the reader has seen enough. Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _look_on(socket: Path, view: View, interval_seconds: float) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    while True:
        view(await _look(socket))
        await asyncio.sleep(interval_seconds)


async def _look(socket: Path) -> Look:
    try:
        async with ControlClient(socket) as client:
            return await client.status()
    except DeniedError:
        raise
    except KbackupError as error:
        return error


@contextlib.contextmanager
def _view(console: Console, format: OutputFormat, topic: str) -> Iterator[View]:
    if format is OutputFormat.JSON:
        yield lambda look: _print_line(look, topic)
    elif console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            yield _Page(console, live, topic)
    else:
        yield _Blocks(console, topic)


def _print_line(look: Look, topic: str) -> None:
    """The report, or the body that every error has (docs/control.md), on one line."""
    said: object
    if isinstance(look, KbackupError):
        said = ErrorAnswer(look.message, look.hint, look.exit_code)
    else:
        said = of_topics(look, topic)
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


class _Blocks:
    """One status after the other, for a file or a pipe."""

    def __init__(self, console: Console, topic: str) -> None:
        self._console = console
        self._topic = topic
        self._first = True

    def __call__(self, look: Look) -> None:
        if not self._first:
            sys.stdout.write("---\n")
        self._first = False
        if isinstance(look, KbackupError):
            sys.stdout.write(f"not answering: {look.message}\n")
            if look.hint:
                sys.stdout.write(f"  → {look.hint}\n")
        else:
            print_status(self._console, look, topic=self._topic)
        sys.stdout.flush()


class _Page:
    """A terminal's whole screen, redrawn in place."""

    def __init__(self, console: Console, live: Live, topic: str) -> None:
        self._console = console
        self._topic = topic
        self._live = live
        self._last: StatusReport | None = None
        self._answered = time.monotonic()

    def __call__(self, look: Look) -> None:
        if isinstance(look, KbackupError):
            self._live.update(self._silence(look), refresh=True)
            return
        self._last, self._answered = look, time.monotonic()
        self._live.update(self._page(look, self._console.height), refresh=True)

    def _silence(self, error: KbackupError) -> RenderableType:
        """Why nothing is known now, above what was last."""
        parts: list[RenderableType] = [Text(f"not answering: {error.message}", "bold red")]
        if error.hint:
            parts.append(Text(f"→ {error.hint}", "cyan"))
        if self._last is not None:
            ago = format_duration(time.monotonic() - self._answered)
            parts += ["", Text(f"what it said {ago} ago:", "bold")]
            used = len(self._console.render_lines(Group(*parts), pad=False))
            parts.append(self._page(self._last, self._console.height - used))
        return Group(*parts)

    def _page(self, report: StatusReport, lines: int) -> RenderableType:
        return status_page(self._console, report, lines=lines, topic=self._topic)

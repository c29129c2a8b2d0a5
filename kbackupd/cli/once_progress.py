"""How a running `--once` shows itself on stderr: two lines that live on a terminal, events in the log elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from kbackupd.capture.once_progress import OncePhase, OnceProgress
from kbackupd.model.clock import Clock
from kbackupd.model.units import format_bytes, format_duration
from kbackupd.observe import events

_LIVE_SECONDS = 0.25
_LOG_SECONDS = 10.0
_BAR_COLUMNS = 24

log = structlog.get_logger()


async def logged(running: Coroutine[None, None, None], progress: OnceProgress, clock: Clock) -> None:
    """Await `running`, and log how far it is now and then."""
    saying = asyncio.create_task(_log_now_and_then(progress, clock), name="once-progress")
    try:
        await running
    finally:
        saying.cancel()
        await asyncio.wait([saying])


@contextmanager
def log_above(progress: OnceProgress, clock: Clock) -> Iterator[int]:
    """Show `progress` on the terminal; lines written to the descriptor that this yields appear above it.

    The log comes from a thread that writes whenever it likes: written to the terminal itself, half of its lines would
    be overwritten by the next picture.
    """
    reading, writing = os.pipe()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    lines = threading.Thread(target=_print_lines, args=(reading, console), name="log-above", daemon=True)
    picture = _Picture(progress, clock)
    with Live(picture, console=console, refresh_per_second=1 / _LIVE_SECONDS, transient=True):
        lines.start()
        try:
            yield writing
        finally:
            os.close(writing)
            lines.join(timeout=2.0)


def _print_lines(reading: int, console: Console) -> None:
    with open(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            console.print(Text(line.rstrip("\n")))


class _Picture:
    """Drawn anew by rich, from its own thread: it only reads counters."""

    def __init__(self, progress: OnceProgress, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self._spinner = Spinner("dots")

    def __rich__(self) -> RenderableType:
        now = self._clock.monotonic()
        self._spinner.update(text=headline(self._progress, now))
        if self._progress.phase not in (OncePhase.CAPTURING, OncePhase.DRAINING):
            return self._spinner
        first = Table.grid(padding=(0, 2, 0, 0))
        first.add_row(self._spinner, ProgressBar(total=1.0, completed=self._progress.share, width=_BAR_COLUMNS))
        return Group(first, Text(f"  {details(self._progress, now)}", overflow="ellipsis", no_wrap=True))


def headline(progress: OnceProgress, now: float) -> str:
    """What it does, how far it is, and how long it will take."""
    took = format_duration(now - progress.began_at)
    if progress.phase is OncePhase.VALIDATING and progress.bodies_bytes:
        read = f"{format_bytes(progress.bodies_read_bytes)} of {format_bytes(progress.bodies_bytes)}"
        return f"{progress.phase}: {read}  {took}"
    if progress.phase is not OncePhase.CAPTURING or not progress.offsets:
        return f"{progress.phase}  {took}"
    eta = progress.eta_seconds(now)
    left = f"ETA {format_duration(eta)}" if eta is not None else "ETA unknown"
    return f"{progress.phase} {_percent(progress)} %  {took}  {left}"


def details(progress: OnceProgress, now: float) -> str:
    """How much, in one line."""
    line = (
        f"{progress.partitions_done:,} of {progress.partitions:,} partitions, {progress.records:,} records,"
        f" {format_bytes(progress.bytes)}"
    )
    if progress.phase is OncePhase.CAPTURING:
        line += f", {format_bytes(progress.rate_bytes_per_second(now))}/s"
    held_up = ", ".join(f"{count:,} {state}" for state, count in sorted(progress.held_up.items()))
    return f"{line}; {held_up}" if held_up else line


def _percent(progress: OnceProgress) -> int:
    return int(100 * progress.share)


async def _log_now_and_then(progress: OnceProgress, clock: Clock) -> None:
    while True:
        await asyncio.sleep(_LOG_SECONDS)
        _log(progress, clock.monotonic())


def _log(progress: OnceProgress, now: float) -> None:
    eta = progress.eta_seconds(now)
    log.info(
        events.CAPTURE_PROGRESSED,
        phase=progress.phase.value,
        partitions=progress.partitions,
        partitions_done=progress.partitions_done,
        offsets=progress.offsets,
        offsets_done=progress.offsets_done,
        records=progress.records,
        bytes=progress.bytes,
        bytes_per_second=round(progress.rate_bytes_per_second(now)),
        eta_seconds=None if eta is None else round(eta, 1),
        held_up=dict(progress.held_up),
    )

"""How a running restore shows itself on stderr: a bar on a terminal, a line every few seconds when piped."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kbackupd.model.clock import Clock
from kbackupd.model.units import format_bytes, format_duration
from kbackupd.restore.progress import Phase, RestoreProgress

_BAR_SECONDS = 0.2
_LINE_SECONDS = 5.0
_NOTE_SECONDS = 0.1


@asynccontextmanager
async def showing(progress: RestoreProgress, clock: Clock) -> AsyncIterator[None]:
    """Show `progress` while the context is open."""
    show = _bar(progress, clock) if sys.stderr.isatty() else _lines(progress, clock)
    task = asyncio.create_task(show, name="restore-progress")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def progress_line(progress: RestoreProgress, now: float) -> str:
    """Where the restore is, in one line."""
    took = format_duration(now - progress.began_at)
    if progress.phase not in (Phase.RESTORING, Phase.VERIFYING):
        return f"{took}  {progress.phase}"
    eta = progress.eta_seconds(now)
    return (
        f"{took}  {progress.phase}: {format_bytes(progress.done_bytes)} of {format_bytes(progress.expected_bytes)}"
        f" ({_percent(progress)} %), {format_bytes(progress.rate_bytes_per_second(now))}/s,"
        f" {'ETA ' + format_duration(eta) if eta is not None else 'ETA unknown'},"
        f" {progress.acknowledged_records:,} records,"
        f"{_filled(progress)}"
        f" {progress.partitions_done} of {progress.partitions} partitions"
    )


def _filled(progress: RestoreProgress) -> str:
    if not progress.to_fill_offsets or progress.phase is not Phase.RESTORING:
        return ""
    return f" {progress.filled_offsets:,} of {progress.to_fill_offsets:,} or more empty offsets filled,"


def _percent(progress: RestoreProgress) -> int:
    """Never 100 before it is over: the last batches may be read and not yet acknowledged."""
    if not progress.expected_bytes:
        return 0
    return min(99, 100 * progress.done_bytes // progress.expected_bytes)


async def _lines(progress: RestoreProgress, clock: Clock) -> None:
    """Notes as soon as there are some, for they may be a reason to stop it; where it is only now and then."""
    told, next_line_at = 0, clock.monotonic() + _LINE_SECONDS
    console = Console(stderr=True, soft_wrap=True, emoji=False)
    try:
        while True:
            await asyncio.sleep(_NOTE_SECONDS)
            told = _tell(progress, told, console)
            if clock.monotonic() >= next_line_at:
                print(progress_line(progress, clock.monotonic()), file=sys.stderr, flush=True)
                next_line_at += _LINE_SECONDS
    finally:
        _tell(progress, told, console)


def _tell(progress: RestoreProgress, told: int, console: Console) -> int:
    """Print the notes behind the first `told`; how many there are."""
    for note in progress.notes[told:]:
        console.print(note, markup=False, highlight=False)
    return len(progress.notes)


async def _bar(progress: RestoreProgress, clock: Clock) -> None:
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    told, console = 0, Console(stderr=True, emoji=False)
    try:
        with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
            task = bar.add_task("", total=None)
            while True:
                told = _tell(progress, told, console)
                bar.update(
                    task,
                    total=max(progress.expected_bytes, 1),
                    completed=progress.done_bytes,
                    description=progress_line(progress, clock.monotonic()),
                )
                bar.refresh()
                await asyncio.sleep(_BAR_SECONDS)
    finally:
        _tell(progress, told, console)

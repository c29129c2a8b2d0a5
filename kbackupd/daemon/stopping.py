"""Signals: the first has a life drain within its time, the second ends it at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

from kbackupd.daemon.life import DaemonLife
from kbackupd.model.errors import IncompleteError, KbackupError
from kbackupd.observe import events

log = structlog.get_logger()


class Aborted(KbackupError):
    """A second signal: left at once. What was durable stays, what was not is fetched again by the next life."""

    exit_code = 6


async def until_stopped(life: DaemonLife, shutdown_timeout: Callable[[], float]) -> None:
    """Live; the first signal drains within the timeout, the second leaves at once."""
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    running = asyncio.create_task(life.run(), name="life")
    try:
        await _first_of(running, first)
        if not running.done():
            shutdown_timeout_seconds = shutdown_timeout()
            log.info(events.DAEMON_STOPPING, timeout_seconds=shutdown_timeout_seconds)
            life.stop()
            await _drained(life, running, second, shutdown_timeout_seconds)
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _drained(
    life: DaemonLife, running: asyncio.Task[None], second: asyncio.Event, timeout_seconds: float
) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await _first_of(running, second)
    except TimeoutError as error:
        reasons = [f"{problem.subject}: {problem.message}" for problem in life.problems.current()]
        raise IncompleteError(
            "; ".join(
                (f"the last flush did not finish within backup.shutdown_timeout ({timeout_seconds:.0f} s)", *reasons)
            ),
            hint="the archive is as of the last stored segment; the next start goes on from there. See the log for why "
            "the store or the brokers were slow",
        ) from error
    if not running.done():
        raise Aborted(
            "aborted by a second signal before the last flush was durable",
            hint="nothing acknowledged is lost; the next start fetches the rest again",
        )


async def _first_of(running: asyncio.Task[None], event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()

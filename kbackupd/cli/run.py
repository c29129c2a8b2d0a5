"""`kbackupd run`: the daemon, or with `--once` one life of it that ends by itself."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Final, Literal

import structlog
import typer
import uvloop

from kbackupd.capture.once_progress import OnceProgress
from kbackupd.cli.instants import duration
from kbackupd.cli.once_progress import log_above, logged
from kbackupd.cli.once_text import print_report
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.daemon.once import OnceErrand
from kbackupd.daemon.once_report import OnceReport
from kbackupd.daemon.run import run_daemon
from kbackupd.daemon.systemd import ServiceManager
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import FencedError, IncompleteError, UsageError, principal
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe import events
from kbackupd.observe.logging import configure_logging
from kbackupd.observe.writer import LineWriter
from kbackupd.settings.load import load_daemon_settings

PATIENCE: Final = "5m"


def command(
    config: Annotated[
        Path, typer.Option("--config", envvar="KBACKUPD_CONFIG", metavar="FILE", help="The daemon's configuration.")
    ],
    once: Annotated[
        bool,
        typer.Option("--once", help="Back up what there is now, validate the archive, report on stdout, and leave."),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help="With --once: end with what it has after so long."),
    ] = None,
    patience: Annotated[
        str | None,
        typer.Option(
            "--patience",
            metavar="DURATION",
            help=f"With --once: wait so long for what fails, once all else is done. [default: {PATIENCE}]",
        ),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="With --once: validation reads every byte.")] = False,
    output: Annotated[
        OutputFormat | None, typer.Option("--format", help="With --once: the report, text (the default) or json.")
    ] = None,
) -> None:
    """Back up continuously until told to stop (SIGTERM drains; a second signal aborts).

    With --once, exit codes: 0 complete · 3 the archive is not valid · 4 Kafka or the store unreachable · 6 something is
    missing, or gone for good and declared so · 7 fenced by another start.
    """
    load = functools.partial(load_daemon_settings, config, os.environ)
    settings = load()
    if once:
        limit = None if timeout is None else duration("--timeout", timeout)
        report = _once(
            settings,
            timeout_seconds=limit,
            patience_seconds=duration("--patience", PATIENCE if patience is None else patience),
            deep=deep,
        )
        if output is OutputFormat.JSON:
            print_json(report)
        else:
            print_report(stdout_console(), report)
        raise typer.Exit(report.exit_code)
    of_once = {"--timeout": timeout, "--patience": patience, "--deep": deep or None, "--format": output}
    if given := [name for name, value in of_once.items() if value is not None]:
        raise UsageError(f"{given[0]} is of --once: a daemon runs until it is stopped")
    observability = settings.observability
    writer = configure_logging(format=observability.log_format, level=observability.log_level)
    _run(writer, lambda manager: run_daemon(settings, load=load, dropped_lines=lambda: writer.dropped, manager=manager))


def _once(
    settings: DaemonSettings, *, timeout_seconds: float | None, patience_seconds: float, deep: bool
) -> OnceReport:
    """Run it with its progress and its log on stderr.

    Raises:
        IncompleteError: it was stopped before it had taken the archive over.
    """
    clock = SystemClock()
    progress = OnceProgress(began_at=clock.monotonic())
    errand = OnceErrand(
        settings,
        clock=clock,
        progress=progress,
        timeout_seconds=timeout_seconds,
        patience_seconds=patience_seconds,
        deep=deep,
    )
    observability = settings.observability
    if sys.stderr.isatty():
        with log_above(progress, clock) as fd:
            # What a log says at INFO, the two lines on the terminal show.
            level: Literal["warning", "error"] = "error" if observability.log_level == "error" else "warning"
            writer = configure_logging(format="console", level=level, fd=fd)
            _run(writer, lambda manager: _ending(settings, writer, manager, errand))
    else:
        writer = configure_logging(format=observability.log_format, level=observability.log_level, fd=2)
        _run(writer, lambda manager: logged(_ending(settings, writer, manager, errand), progress, clock))
    if errand.report is None:
        raise IncompleteError("stopped before the archive was taken over: nothing was captured")
    return errand.report


async def _ending(settings: DaemonSettings, writer: LineWriter, manager: ServiceManager, errand: OnceErrand) -> None:
    await run_daemon(settings, dropped_lines=lambda: writer.dropped, manager=manager, errand=errand)


def _run(writer: LineWriter, life: Callable[[ServiceManager], Coroutine[None, None, None]]) -> None:
    manager = ServiceManager.from_environment(os.environ)
    try:
        uvloop.run(life(manager))
    except Exception as error:
        # stderr has it in plain words; whoever collects the log must find there too why it ends.
        cause = principal(error)
        event = events.WRITER_FENCED if isinstance(cause, FencedError) else events.DAEMON_FAILED
        structlog.get_logger().error(event, error=str(cause), kind=type(cause).__name__)
        raise
    finally:
        manager.close()
        writer.close()

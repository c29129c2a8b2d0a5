"""`kbackupd run`: the daemon."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from kbackupd.daemon.run import run_daemon
from kbackupd.daemon.systemd import ServiceManager
from kbackupd.model.errors import FencedError, principal
from kbackupd.observe import events
from kbackupd.observe.logging import configure_logging
from kbackupd.settings.load import load_daemon_settings


def command(
    config: Annotated[
        Path, typer.Option("--config", envvar="KBACKUPD_CONFIG", metavar="FILE", help="The daemon's configuration.")
    ],
) -> None:
    """Back up continuously until told to stop (SIGTERM drains; a second signal aborts)."""
    load = functools.partial(load_daemon_settings, config, os.environ)
    settings = load()
    observability = settings.observability
    writer = configure_logging(format=observability.log_format, level=observability.log_level)
    manager = ServiceManager.from_environment(os.environ)
    try:
        uvloop.run(run_daemon(settings, load=load, dropped_lines=lambda: writer.dropped, manager=manager))
    except Exception as error:
        # stderr has it in plain words; whoever collects the log must find there too why it ends.
        cause = principal(error)
        event = events.WRITER_FENCED if isinstance(cause, FencedError) else events.DAEMON_FAILED
        structlog.get_logger().error(event, error=str(cause), kind=type(cause).__name__)
        raise
    finally:
        manager.close()
        writer.close()

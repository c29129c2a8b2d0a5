"""`kbackupd run` with a wrong clock, or with little patience for its store; everything else is the real thing.

A program of its own, so that signals, exit codes and messages are those of a process.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvloop

from kbackupd.cli.main import explain
from kbackupd.daemon.run import run_daemon
from kbackupd.model.clock import SystemClock
from kbackupd.observe.logging import configure_logging
from kbackupd.settings.load import load_daemon_settings
from kbackupd.store.retrying import RetryPolicy


class WrongClock(SystemClock):
    """The system's clock as it would be had somebody set it wrong by `wrong_seconds`."""

    def __init__(self, wrong_seconds: int) -> None:
        self._wrong_ms = wrong_seconds * 1000

    def now_ms(self) -> int:
        return super().now_ms() + self._wrong_ms


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--clock-wrong-seconds", type=int, default=0)
    parser.add_argument("--patience-seconds", type=float, default=60.0)
    options = parser.parse_args()
    settings = load_daemon_settings(options.config, os.environ)
    writer = configure_logging(format=settings.observability.log_format, level=settings.observability.log_level)
    retries = RetryPolicy(
        attempt_seconds=options.patience_seconds,
        total_seconds=options.patience_seconds,
        slowest_bytes_per_second=1 << 40,
    )
    try:
        uvloop.run(run_daemon(settings, clock=WrongClock(options.clock_wrong_seconds), retries=retries))
    except BaseException as error:  # noqa: BLE001  as the command line does it
        return explain(error)
    finally:
        writer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

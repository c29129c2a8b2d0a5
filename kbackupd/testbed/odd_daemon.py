"""`kbackupd run [--once]` with a clock that is wrong or stepped, little patience for its store, or small figures (pages
of listings, roll-ups, how long an answer to a fetch is waited for, the pause before the next try of a partition that
fails, the interval of questions for topics' configuration).

`python -m kbackupd.testbed.odd_daemon --config FILE [--clock-file FILE] …`: a program of its own, so that signals, exit
codes and messages are those of a process. Everything else is the real thing. What `ClockFile` holds
is what the daemon's wall clock is wrong by; whoever writes it anew steps that clock, as NTP or an operator would, while
the daemon runs. Monotonic time stays true, as the kernel's does.
"""

from __future__ import annotations

import argparse
import mmap
import os
import struct
import sys
from pathlib import Path

import uvloop

from kbackupd.capture import discovery, partition, session_loop
from kbackupd.capture.once_progress import OnceProgress
from kbackupd.daemon.once import OnceErrand
from kbackupd.daemon.run import run_daemon
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KbackupError, principal
from kbackupd.observe.logging import configure_logging
from kbackupd.settings.load import load_daemon_settings
from kbackupd.store import s3
from kbackupd.store.retrying import RetryPolicy

_WRONG_BY = struct.Struct("=q")


class ClockFile:
    """Eight bytes that two processes see at once; made, right, by the one that steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(_WRONG_BY.pack(0))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), _WRONG_BY.size)

    @property
    def wrong_ms(self) -> int:
        (wrong_ms,) = _WRONG_BY.unpack_from(self._bytes)
        return int(wrong_ms)

    def step_to(self, wrong_seconds: float) -> None:
        """The clock is wrong by this from now on; 0 puts it right."""
        _WRONG_BY.pack_into(self._bytes, 0, round(wrong_seconds * 1000))


class WrongClock(SystemClock):
    """The system's clock as it would be had somebody set it wrong, once and for all or again and again."""

    def __init__(self, wrong_seconds: int, file: ClockFile | None) -> None:
        self._wrong_ms = wrong_seconds * 1000
        self._file = file

    def now_ms(self) -> int:
        stepped_ms = 0 if self._file is None else self._file.wrong_ms
        return super().now_ms() + self._wrong_ms + stepped_ms


def odd_command(*options: str) -> list[str]:
    """The command line that runs it; `--config FILE` is the caller's to add."""
    return [sys.executable, "-m", "kbackupd.testbed.odd_daemon", *options]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--clock-wrong-seconds", type=int, default=0)
    parser.add_argument("--clock-file", type=Path)
    parser.add_argument("--patience-seconds", type=float)
    parser.add_argument("--try-seconds", type=float, help="of each request to the store, as patient as ever in all")
    parser.add_argument("--list-page-keys", type=int, default=s3.LIST_PAGE_KEYS)
    parser.add_argument("--rollup-segments", type=int, help="so many make a roll-up, and twice that in one of level 2")
    parser.add_argument("--fetch-timeout-seconds", type=float, default=session_loop.TIMEOUT_SECONDS)
    parser.add_argument("--topic-configs-seconds", type=float, default=discovery.CONFIGS_INTERVAL_SECONDS)
    parser.add_argument("--partition-pause-max-seconds", type=float, default=partition.BACKOFF_MAX_SECONDS)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    s3.LIST_PAGE_KEYS = options.list_page_keys
    discovery.CONFIGS_INTERVAL_SECONDS = options.topic_configs_seconds
    session_loop.TIMEOUT_SECONDS = options.fetch_timeout_seconds
    partition.BACKOFF_MAX_SECONDS = options.partition_pause_max_seconds
    settings = load_daemon_settings(options.config, os.environ)
    writer = configure_logging(format=settings.observability.log_format, level=settings.observability.log_level)
    file = ClockFile(options.clock_file) if options.clock_file is not None else None
    clock = WrongClock(options.clock_wrong_seconds, file)
    progress = OnceProgress(began_at=clock.monotonic())
    errand = OnceErrand(settings, clock=clock, progress=progress) if options.once else None
    try:
        uvloop.run(
            run_daemon(
                settings,
                clock=clock,
                retries=_retries(options.patience_seconds, options.try_seconds),
                dropped_lines=lambda: writer.dropped,
                errand=errand,
                rollup_limits=_small_rollups(options.rollup_segments),
            )
        )
    except BaseException as error:  # noqa: BLE001  as the command line does it
        return _explain(error)
    finally:
        writer.close()
    return 0 if errand is None or errand.report is None else errand.report.exit_code


def _small_rollups(segments: int | None) -> dict[str, int]:
    return {} if segments is None else {"segments": segments, "fan_in": 2, "unsettled": 1, "between": segments}


def _retries(patience_seconds: float | None, try_seconds: float | None) -> RetryPolicy | None:
    if patience_seconds is not None:
        return RetryPolicy(
            attempt_seconds=patience_seconds, total_seconds=patience_seconds, slowest_bytes_per_second=1 << 40
        )
    if try_seconds is not None:
        return RetryPolicy(attempt_seconds=try_seconds, slowest_bytes_per_second=8 << 20)
    return None


def _explain(error: BaseException) -> int:
    """In the words of the command line, which nothing may import; the exit code."""
    cause = principal(error)
    if not isinstance(cause, KbackupError):
        raise error
    print(f"error: {cause.message}", file=sys.stderr)
    if cause.hint:
        print(f"hint: {cause.hint}", file=sys.stderr)
    return cause.exit_code


if __name__ == "__main__":
    sys.exit(main())

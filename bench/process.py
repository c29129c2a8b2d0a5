"""What a command cost that ran to its end, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbackupd.testbed.server import LocalServer
from kbackupd.testbed.usage import cpu_seconds, peak_rss_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ran to its end."""

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def run_measured(command: Sequence[str], *, output: Path, environment: Mapping[str, str]) -> Ended:
    """Run it to its end, its output into a file; what it cost is the kernel's own account of the child.

    Its peak memory is looked at every 20 ms: what `wait4` says of it counts the process that it was forked from.
    """
    began = time.monotonic()
    peak = 0
    with output.open("wb") as file:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=dict(environment))
        while not (waited := os.wait4(child.pid, os.WNOHANG))[0]:
            with contextlib.suppress(OSError):  # it has ended just now
                peak = peak_rss_bytes(child.pid)
            time.sleep(0.02)
        _, status, usage = waited
        child.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        exit_code=child.returncode,
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=peak,
    )


def spent(server: LocalServer) -> Callable[[], float]:
    """Asked later, it tells the processor seconds that the running server has taken since now."""
    pid = server.pid
    if pid is None:
        raise RuntimeError("the server does not run")
    before = cpu_seconds(pid)
    return lambda: cpu_seconds(pid) - before

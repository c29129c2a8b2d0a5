"""What a command cost that ran to its end, as the kernel counts it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ran to its end."""

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def run_measured(command: Sequence[str], *, output: Path, environment: Mapping[str, str]) -> Ended:
    """Run it to its end, its output into a file; what it cost is the kernel's own account of the child."""
    began = time.monotonic()
    with output.open("wb") as file:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=dict(environment))
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        exit_code=child.returncode,
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss << 10,
    )

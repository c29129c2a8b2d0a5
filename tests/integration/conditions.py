"""Waiting for what must become true: conditions with deadlines, a log that is being written, a process that ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120.0
"""Long enough for two JVMs and a busy neighbour on one small machine; only a failure waits for it."""


async def reaches(condition: Callable[[], bool], what: str = "", *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return when `condition()` holds; AssertionError when it still does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.05)


def log_entries(log: Path, *, since: int = 0) -> list[dict[str, Any]]:
    """Events of a daemon's log from byte `since` on; the line that is being written is not there yet."""
    whole = log.read_bytes()[since:].decode(errors="replace").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


def runs(pid: int) -> bool:
    """The process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False

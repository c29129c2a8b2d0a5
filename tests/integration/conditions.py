"""Waiting for what must become true: conditions with deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 120.0
"""Long enough for two JVMs and a busy neighbour on one small machine; only a failure waits for it."""


async def reaches(condition: Callable[[], bool], what: str = "", *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return when `condition()` holds; AssertionError when it still does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.05)

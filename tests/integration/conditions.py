"""Waiting for what must become true: conditions with deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def reaches(condition: Callable[[], bool], seconds: float = 60.0, what: str = "") -> None:
    """Return when `condition()` holds; AssertionError when it still does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.05)

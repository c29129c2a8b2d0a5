"""How much memory the process has, and how much of it may hold data (invariant I9)."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

from kbackupd.flow.collector import only_young_searched
from kbackupd.model.errors import ConfigurationError
from kbackupd.model.units import format_bytes

RESERVE_BYTES = 48 << 20
"""Grows after start and is not data: codec contexts, connections, checkpoints, allocator slack."""
SMALLEST_BUDGET_BYTES = 32 << 20
GARBAGE_SECONDS = 600.0
"""Between two searches through everything for garbage that refers to itself."""


def rss_bytes() -> int:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def collect_seldom() -> None:
    """Have only young objects searched for garbage, and all of them every ten minutes; runs until cancelled.

    With ten thousand partitions all of them were searched once or twice per flush, and each time the event loop stood
    still for a tenth of a second, to find nothing: what is given up here dies by its reference count.
    """
    with only_young_searched():
        while True:
            await asyncio.sleep(GARBAGE_SECONDS)
            gc.collect()


def budget_bytes(memory_limit_bytes: int) -> int:
    """What is left of the limit for data, once the process stands as it will: call it when recovery is done.

    What stands by then (modules, settings, recovered state) is taken out of the garbage collector's sight: it is not
    garbage, and looking through it again and again took a tenth of a backup's processor time.

    Raises:
        ConfigurationError: too little to work with.
    """
    gc.collect()
    gc.freeze()
    return left_for_data(memory_limit_bytes)


def left_for_data(memory_limit_bytes: int) -> int:
    """What would be left of the limit for data now.

    Raises:
        ConfigurationError: too little to work with.
    """
    resident = rss_bytes()
    budget = memory_limit_bytes - resident - RESERVE_BYTES
    if budget < SMALLEST_BUDGET_BYTES:
        raise ConfigurationError(
            f"backup.memory_limit {format_bytes(memory_limit_bytes)} leaves {format_bytes(max(0, budget))} for data: "
            f"the process itself takes {format_bytes(resident)}, and {format_bytes(RESERVE_BYTES)} are kept in reserve",
            hint=f"set it to {format_bytes(resident + RESERVE_BYTES + 4 * SMALLEST_BUDGET_BYTES)} or more",
        )
    return budget

"""What the C library does with large blocks that were given back."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""As glibc's malloc.h has them."""


def keep_freed_memory() -> bool:
    """Have the C library keep the blocks we free for the next answer instead of giving them back and asking again.

    Every page that comes anew from the kernel is cleared and mapped first. By default glibc returns blocks of this
    size as they are freed, so each fetched byte paid for that (figures: docs/performance.md). The budget does not
    change by it.

    Returns:
        False where the C library has no such switch: nothing changes there.
    """
    return _set((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 256 << 20))


def share_freed_memory() -> bool:
    """Have all threads take their blocks from one heap; for a process whose threads hand large ones to each other.

    By default each thread has its own. What one of them has decompressed and another one gives back then waits where
    only the first looks for it: a restore was a third larger than all it held (figures: docs/performance.md). Call it
    before threads are started; a thread keeps the heap it has.

    Returns:
        False where the C library has no such switch: nothing changes there.
    """
    return _set((_M_ARENA_MAX, 1))


def _set(*switches: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all(mallopt(switch, value) for switch, value in switches)

"""Large blocks that were given back are kept for the next one, and for every thread."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from kbackupd.flow.freed_memory import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"

TELL_HEAPS = """
import ctypes, sys, threading
from kbackupd.flow.freed_memory import share_freed_memory

if sys.argv[1] == "shared":
    print(share_freed_memory())
started = threading.Barrier(4)

def take() -> None:
    block = bytes(100_000)
    started.wait(30)

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
sys.stdout.flush()
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""


def test_freed_memory_is_kept_where_the_c_library_knows_how() -> None:
    assert keep_freed_memory() == GLIBC


@pytest.mark.parametrize("whose", ["shared", "each its own"])
def test_threads_take_their_blocks_from_one_heap_if_told_to(whose: str) -> None:
    """A process of its own: what is set stays set, for every test that follows."""
    told = subprocess.run(
        [sys.executable, "-c", TELL_HEAPS, whose], capture_output=True, text=True, timeout=60, check=GLIBC
    ).stdout
    if whose == "shared":
        assert told.startswith(str(GLIBC))
    if GLIBC:
        assert (told.count("<heap nr=") == 1) == (whose == "shared")


COUNT_THREADS = """
import threading
from kbackupd.cli import restore
from kbackupd.cli.main import main

restore.share_freed_memory = lambda: print(threading.active_count())
main(["restore", "--config", "nowhere.yaml"])
"""


def test_a_restore_shares_its_heap_before_it_has_a_thread_that_would_keep_its_own() -> None:
    told = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (told.stdout, told.returncode) == ("1\n", 2)

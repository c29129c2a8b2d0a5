"""Footers are decoded by several threads, and the first ones of a process at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.format.test_golden import KEYS, V1

_AT_ONCE = """
import sys, threading
from pathlib import Path
from kbackupd.format.segment import open_footer

key, data = sys.argv[1], Path(sys.argv[2]).read_bytes()
failures, together = [], threading.Barrier(16)
sys.setswitchinterval(1e-6)  # no thread gets far without another

def decode():
    together.wait()
    try:
        open_footer(key, data, len(data), None)
    except BaseException as error:
        failures.append(error)

threads = [threading.Thread(target=decode) for _ in range(together.parties)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(f"{failures}" if failures else 0)
"""


@pytest.mark.parametrize("attempt", range(5))
def test_the_first_footers_of_a_process_may_be_decoded_at_the_same_time(attempt: int) -> None:
    """Threads that met a type for the first time at once ended the process with SIGSEGV, six times of ten like this."""
    call = [sys.executable, "-c", _AT_ONCE, KEYS["segment.kbs"], str(V1 / "segment.kbs")]
    done = subprocess.run(call, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")

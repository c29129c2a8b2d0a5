"""`python -m kbackupd.daemon.rollup_child PARENT`: the process that rolls up what segments say, for a daemon.

A process of its own, because it decodes rows by the million: in the daemon's loop that would be seconds in which no
broker is answered, and its memory would have to come out of the budget for data. It must neither outlive its daemon nor
be the reason that the daemon is killed, and gives way to it; before anything else is imported it sees to that.

Reads a request from standard input; answers on standard output, and what is for people goes to standard error. Exit
codes: 0 answered with `RollupMade` · 4 answered with `RollupFailed` · anything else: a fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

NICENESS = 10
FIRST_TO_GO = 1000
"""Of /proc/self/oom_score_adj: where memory is short, the kernel takes this process and not the daemon."""
_PR_SET_PDEATHSIG = 1
"""As Linux's prctl.h has it."""


def depend_on(parent: int) -> bool:
    """Be killed when the process `parent` ends, in whatever way; False if it already has.

    It fires when the *thread* that started us ends: the daemon starts us in its main thread.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def give_way() -> None:
    """Less processor time than the daemon, and first to go when memory is short; where that is permitted."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{FIRST_TO_GO}\n", encoding="ascii")


def main() -> int:
    if not depend_on(int(sys.argv[1])):
        return 1
    give_way()
    # Only now what takes a second to import: until here there was nothing that could outlive anybody.
    from kbackupd.daemon.rollup_work import answer

    code, said = answer(sys.stdin.buffer.read())
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())

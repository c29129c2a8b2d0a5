"""One child server process, started so that nothing of it can outlive this interpreter.

Owns a process group of its own. A guard, one sleeping shell in that group, holds the reading end of a pipe whose
writing end only this interpreter has: when the interpreter ends in whatever way, SIGKILL included, the kernel closes
the pipe and the guard kills the whole group. (PR_SET_PDEATHSIG would fire when the *thread* that started the child
ends, which under asyncio's thread pool is any time.) Ctrl-C in a terminal does not reach the group: its owner decides.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kbackupd.model.errors import UnreachableError

LOG_TAIL_LINES = 25
LOG_TELLING_LINES = 10
_TELLING = re.compile(r"ERROR|FATAL|Exception|Caused by|panic|^[EF][0-9]{4} ")

# The guard is forked by the very shell that then becomes the server: there is no instant at which the server runs
# unguarded, and while the guard lives the group's id cannot be given to strangers.
_GUARDED_EXEC = (
    'exec 3<&0; (read word <&3; [ "$word" = keep ] || kill -KILL 0) </dev/null >/dev/null 2>&1 & '
    'exec "$@" </dev/null 3<&-'
)


class ServerFailedError(UnreachableError):
    """A testbed server died, or was not ready in time; the message shows what its log says about it."""


class GuardedProcess:
    """A running child; one object per life of the server.

    Args:
        log: its output is appended here, standard error too unless `errors` names another file.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        errors: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output, (errors or log).open("ab") as error_output:
            self._log_start = output.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED_EXEC, name, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=error_output,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the server, and id of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` has it (negative: killed by that signal); None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send to the server alone, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def stop(self, *, deadline_seconds: float) -> bool:
        """SIGTERM, then SIGKILL if it did not end within the deadline; True if it ended by itself."""
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._release()
        return True

    def kill(self) -> None:
        """SIGKILL the whole group and wait until the server is gone; harmless if it is gone already."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._release()

    def keep(self) -> None:
        """Let the server outlive this interpreter: the guard leaves without killing anything. There is no way back."""
        if self._process.stdin is not None:
            self._process.stdin.write(b"keep\n")
            self._process.stdin.close()

    def _release(self) -> None:
        """Let the guard go: closing the pipe makes it kill what is left of the group, itself included."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def failure(self, what: str) -> ServerFailedError:
        """An error that says `what` happened and shows what this life of the server wrote about it."""
        ended = "" if self.alive else f" (exit status {self._process.returncode})"
        told = excerpt(self.log, since=self._log_start)
        return ServerFailedError(f"{self.name} {what}{ended}; from its log:\n{told}", hint=f"see {self.log}")


def excerpt(log: Path, *, since: int = 0) -> str:
    """The first lines that speak of an error, then the last lines; only of what was written after byte `since`.

    A dying broker logs its reason first and an orderly shutdown of everything else after it: the end alone hides it.
    """
    try:
        with log.open("rb") as file:
            file.seek(since)
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    end = lines[-LOG_TAIL_LINES:]
    telling = [line for line in lines[:-LOG_TAIL_LINES] if _TELLING.search(line)][:LOG_TELLING_LINES]
    return "\n".join((*telling, "…", *end) if telling else end)


def group_members(group: int) -> list[int]:
    """Ids of the live processes (zombies left out) of a process group, from /proc; empty where there is no /proc."""
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The command's name stands in parentheses and may hold anything, so fields are counted from its end.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        state, process_group = fields[0], int(fields[2])
        if process_group == group and state not in ("Z", "X"):
            members.append(int(entry.name))
    return members


class Deadline:
    """A point in monotonic time; `remaining` never goes below zero."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        return max(0.0, self._at - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.remaining == 0.0

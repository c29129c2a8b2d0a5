"""Starting the process that rolls up, and waiting for it: within a deadline, and never longer than the daemon lives."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from kbackupd.daemon.rollup_messages import (
    FAILED,
    RollupFailed,
    RollupMade,
    RollupRequest,
    decode_failed,
    decode_made,
    encode,
)
from kbackupd.model.settings import StorageSettings
from kbackupd.model.units import format_duration

MODULE = "kbackupd.daemon.rollup_child"
DEADLINE_SECONDS = 6 * 3600.0
"""As the timer's unit has it: the first run over a year of segments takes long, and one that hangs must end."""
ANSWER_BYTES = 64 << 10
COMPLAINT_BYTES = 2000
"""Of the end of what it says to people: a traceback ends with what happened."""
_PIECE_BYTES = 64 << 10


class RollupProcess:
    """Runs one after the other for a life of the daemon.

    Args:
        limits: fields of `RollupLimits` that are not to be the defaults.
        command: what is started, before the daemon's process id.
    """

    def __init__(
        self,
        storage: StorageSettings,
        backup_id: str,
        *,
        limits: dict[str, int] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        command: tuple[str, ...] = (sys.executable, "-P", "-m", MODULE),
    ) -> None:
        self._request = encode(RollupRequest.of(storage, backup_id, limits or {}))
        self._deadline_seconds = deadline_seconds
        self._command = command
        self.pid: int | None = None
        """Of the one that runs now."""

    async def run(self) -> RollupMade | RollupFailed:
        """Roll up all that is due. Whatever happens, no process is left on return.

        Cancelled it kills the process at once, and returns when that is gone; what it made by then is whole.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                # It finds the modules that we found, whatever lies in the working directory.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                # Ctrl-C in a terminal is the daemon's, which ends it.
                start_new_session=True,
            )
        except OSError as error:
            return RollupFailed(
                message=f"the process that rolls up could not be started: {error}",
                hint="look at the limits of processes and memory (TasksMax=, MemoryMax=, --pids-limit, --memory)",
            )
        self.pid = process.pid
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._outcome(process)
        except TimeoutError:
            return RollupFailed(
                message=f"the process that rolls up was ended after {format_duration(self._deadline_seconds)}",
                hint="what it made is kept and the next run goes on from there; if that ends so too, see how slow the "
                "store is: kbackupd rollup tells of each object it makes",
                timed_out=True,
            )
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            self.pid = None

    async def _outcome(self, process: asyncio.subprocess.Process) -> RollupMade | RollupFailed:
        assert process.stdout is not None
        assert process.stderr is not None
        _, said, complained = await asyncio.gather(
            self._ask(process), _first(process.stdout, ANSWER_BYTES), _last(process.stderr, COMPLAINT_BYTES)
        )
        code = await process.wait()
        try:
            if code == 0:
                return decode_made(said)
            if code == FAILED:
                return decode_failed(said)
        except msgspec.DecodeError:
            pass
        if code < 0:
            return RollupFailed(
                message=f"the process that rolls up was killed by signal {-code}",
                hint="it needs up to 210 MiB beside memory_limit: raise MemoryMax= or --memory, or switch "
                "backup.rollup_interval off and run kbackupd rollup elsewhere",
            )
        lines = complained.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return RollupFailed(
            message=f"the process that rolls up failed with code {code}: {lines[-1]}",
            hint="kbackupd rollup --config FILE shows it again; if not: was another version installed meanwhile?",
        )

    async def _ask(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.write(self._request)
        try:
            await process.stdin.drain()
        except ConnectionError:
            return  # it ended before it had read; its exit code says more
        finally:
            process.stdin.close()


async def _first(stream: asyncio.StreamReader, size_bytes: int) -> bytes:
    """Its beginning; the rest is read, or whoever writes would wait for ever, and dropped."""
    kept = b""
    while piece := await stream.read(_PIECE_BYTES):
        kept += piece[: size_bytes - len(kept)]
    return kept


async def _last(stream: asyncio.StreamReader, size_bytes: int) -> bytes:
    kept = b""
    while piece := await stream.read(_PIECE_BYTES):
        kept = (kept + piece)[-size_bytes:]
    return kept

"""A server of the testbed as a thing with a life: its process and directory, and how that life is ended and begun anew.

What is started, and when it counts as ready, is the subclasses' (`kafka.py`, `s3.py`). Methods block; `start`, `stop`,
`kill` and `restart` have twins with the prefix `a` that leave the event loop free.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from kbackupd.testbed.process import GuardedProcess


class LocalServer(ABC):
    """Owns `directory`, which `close` removes. Entered, it is started; left, it is closed."""

    stop_deadline_seconds: ClassVar[float]

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: GuardedProcess | None = None

    @abstractmethod
    def start(self) -> None:
        """Return when it answers."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.alive else None

    def stop(self, *, deadline_seconds: float | None = None) -> None:
        """SIGTERM; SIGKILL if it takes longer than the deadline. Data and ports are kept."""
        if self._process is not None:
            self.thaw()
            seconds = self.stop_deadline_seconds if deadline_seconds is None else deadline_seconds
            self._process.stop(deadline_seconds=seconds)
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would; returns when it is gone. Data and ports are kept."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, like a hung machine."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def keep(self) -> None:
        """Let it run on after this interpreter ends; who asks for that also says how it is stopped (`pid`)."""
        if self._process is not None:
            self._process.keep()

    def restart(self) -> None:
        """Stop gracefully and start again on the same data and ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill it and remove its directory; nothing of it is left."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def astart(self) -> None:
        await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        await asyncio.to_thread(self.stop)

    async def akill(self) -> None:
        await asyncio.to_thread(self.kill)

    async def arestart(self) -> None:
        await asyncio.to_thread(self.restart)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

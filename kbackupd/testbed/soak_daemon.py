"""The daemon under test as systemd would run it: started again whenever it ends, unless nothing explains why it did."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from kbackupd.model.errors import KbackupError
from kbackupd.server.client import ControlClient
from kbackupd.testbed.daemon import READY_DEADLINE_SECONDS, Daemon
from kbackupd.testbed.process import Deadline, ServerFailedError
from kbackupd.testbed.usage import peak_rss_bytes

Verb = Literal["flush", "pause", "resume"]


class SupervisedDaemon:
    """A daemon that may be killed, stopped and frozen while it is steered; every method returns at once.

    Args:
        name: for people.
        weather: whether something outside is broken now, or was a moment ago: only then may it end by itself with code
            4 (the store or the brokers unreachable at its start), or with 6 when it is told to stop.
    """

    def __init__(self, name: str, daemon: Daemon) -> None:
        self.name = name
        self.daemon = daemon
        self.weather = False
        self.starts = 0
        self.exits: Counter[str] = Counter()
        self.verbs: Counter[str] = Counter()
        self.peak_rss_bytes = 0
        self.slowest_start_seconds = 0.0
        self._wanted = False
        self._lives = False
        self._stopping = False
        self._frozen = False
        self._launched_at = 0.0
        self.was_ready = False
        """This life of it has been seen ready."""
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix=f"ctl-{name}")
        self._asked: list[Future[None]] = []

    def launch(self) -> None:
        self._wanted, self._lives = True, True
        self._stopping = self._frozen = self.was_ready = False
        self._launched_at = time.monotonic()
        self.daemon.launch()
        self.starts += 1

    def come(self) -> None:
        """Launch it, or have it launched as soon as it has left."""
        self._wanted = True
        if not self._lives:
            self.launch()

    def kill(self) -> None:
        self._note_memory()
        self.exits["SIGKILL"] += 1
        self.daemon.kill()
        self.launch()

    def terminate(self) -> None:
        """SIGTERM; it is started again when it has left. One that leaves already is let be: a second would abort it."""
        if self.daemon.running and not self._stopping:
            self._stopping = True
            self.daemon.signal(signal.SIGTERM)

    def retire(self) -> None:
        """SIGTERM, and that was it."""
        self._wanted = False
        self.terminate()

    @property
    def lives(self) -> bool:
        """Launched, and `look` has not yet met its end."""
        return self._lives

    def freeze(self) -> None:
        self._frozen = True
        self.daemon.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._frozen = False
        self.daemon.signal(signal.SIGCONT)

    def ask(self, verb: Verb, topics: str = "*") -> None:
        """One verb of the control socket; how it went is counted. A daemon that is away is no fault."""
        self._asked = [one for one in self._asked if not one.done()]
        self._asked.append(self._threads.submit(self._ask, verb, topics))

    def look(self) -> None:
        """Start it again if it has ended and was not retired.

        Raises:
            ServerFailedError: nothing explains that it ended, or how.
        """
        self._note_memory()
        if self._lives and not self.was_ready and not self._frozen and self.daemon.ready:
            self.was_ready = True
            self.slowest_start_seconds = max(self.slowest_start_seconds, time.monotonic() - self._launched_at)
        if not self._lives or self.daemon.running:
            return
        self._lives = False
        exit_code = self.daemon.wait()
        self.exits[str(exit_code)] += 1
        allowed = {0, 6} if self._stopping and self.weather else {0} if self._stopping else set()
        if self.weather:
            allowed |= {4}
        if self._stopping and not self.was_ready:
            allowed |= {-signal.SIGTERM}  # it was still being loaded, and nothing of it had begun
        if exit_code not in allowed:
            told = "\n".join(self.log_tail(30))
            why = "after SIGTERM" if self._stopping else "by itself"
            raise ServerFailedError(f"{self.name} ended {why} with exit code {exit_code}; its last words:\n{told}")
        if self._wanted:
            self.launch()

    def settle(self, deadline_seconds: float = 2 * READY_DEADLINE_SECONDS) -> None:
        """Return when it is ready, in a life that nobody has told to end, and has answered all that it was asked.

        Raises:
            ServerFailedError: it is not, or it ended.
        """
        deadline = Deadline(deadline_seconds)
        self.look()
        while not self.was_ready or self._stopping:
            self.look()
            if deadline.passed:
                status = self.daemon.get("/healthz")[1].decode() if self.daemon.running else ""
                raise ServerFailedError(f"{self.name} is not ready after {deadline_seconds:g} s: {status}")
            time.sleep(0.1)
        for one in self._asked:
            one.result()

    def stop(self) -> int:
        """SIGTERM, no new start; its exit code."""
        self._note_memory()
        self._wanted = self._lives = False
        return self.daemon.stop()

    def close(self) -> None:
        self._wanted = self._lives = False
        self.daemon.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def log_tail(self, lines: int) -> list[str]:
        with self.daemon.log.open("rb") as file:
            file.seek(max(0, self.daemon.log.stat().st_size - 64_000))
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def _ask(self, verb: Verb, topics: str) -> None:
        try:
            asyncio.run(self._asked_of(verb, topics))
        except KbackupError as error:
            self.verbs[f"{verb}: {type(error).__name__}"] += 1
        else:
            self.verbs[f"{verb}: done"] += 1

    async def _asked_of(self, verb: Verb, topics: str) -> None:
        async with ControlClient(self.daemon.socket, seconds=30.0) as client:
            if verb == "flush":
                await client.flush(topics)
            elif verb == "pause":
                await client.pause(topics)
            else:
                await client.resume(topics)

    def _note_memory(self) -> None:
        if (pid := self.daemon.pid) is not None:
            with contextlib.suppress(OSError):  # it has just ended
                self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes(pid))

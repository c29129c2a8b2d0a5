"""What systemd is told, by the protocol of sd_notify(3): that we began, are well, are leaving.

`READY=1` is sent when positions are recovered and following begins. That is earlier than a green /readyz, which waits
for every partition's first answer: one broker that is down at the start must not make systemd kill the backup of all
others (P6). Until then, and while a drain is within its own time, every beat asks for a little more, so neither a long
recovery nor a long `backup.shutdown_timeout` meets a time-out of the unit file. The beat is a task of the event loop: a
loop that is wedged sends nothing, and systemd ends the process (`WatchdogSec=`, `TimeoutStartSec=`, `TimeoutStopSec=`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import structlog

from kbackupd.model.clock import Clock
from kbackupd.model.status import HealthReport
from kbackupd.observe import events

BEAT_SECONDS: Final = 10.0
"""Between two beats where no watchdog wants them closer: what `systemctl status` shows is at most so old."""
EXTENSION_SECONDS: Final = 4 * BEAT_SECONDS
"""What a beat adds to the time a start or a stop may take, from now on: some beats may come late."""
STATUS_CHARACTERS: Final = 400

log = structlog.get_logger()


class ServiceManager:
    """The socket of whoever started us and wants to be told; silent where nobody does.

    Args:
        address: `NOTIFY_SOCKET`: a path, or `@name` for Linux's abstract namespace; empty: nobody listens.
        watchdog_seconds: without a beat for so long we are killed; None: no watchdog.
    """

    def __init__(self, address: str = "", *, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self._failing = False
        if self._socket is not None:
            # systemd that does not read must not stop the loop which it is told about.
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServiceManager:
        """As systemd describes itself to its service. `WATCHDOG_PID` of somebody else is none of ours."""
        usec = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = ours and usec.isdecimal() and int(usec) > 0
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_seconds=int(usec) / 1e6 if watched else None)

    @property
    def listens(self) -> bool:
        return self._socket is not None

    def tell(self, *assignments: str) -> bool:
        """Send `NAME=value` assignments as one datagram; False if it was not taken: say it again with the next beat."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto("\n".join(assignments).encode(errors="replace"), self._address)
        except OSError as error:
            # Never the end of a backup. systemd, where it is there at all, will say itself that it heard nothing.
            if not self._failing:
                log.warning(events.MANAGER_MISSED, address=self._address.replace("\0", "@"), error=str(error))
            self._failing = True
            return False
        self._failing = False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


class Heartbeat:
    """One service's beats, from before the archive is taken over to after the drain.

    Args:
        health: asked at every beat, for the line that `systemctl status` shows.
    """

    def __init__(self, manager: ServiceManager, *, health: Callable[[], HealthReport], clock: Clock) -> None:
        self._manager = manager
        self._health = health
        self._clock = clock
        self._unsaid: list[str] = []
        """What must arrive once; kept until it was taken."""
        self._starting = True
        self._drain_deadline: float | None = None

    def began(self) -> None:
        """Positions are recovered and following begins."""
        self._starting = False
        self._say("READY=1")

    def stopping(self, *, within_seconds: float) -> None:
        """The drain has begun; it ends itself after `within_seconds`, and until then systemd shall wait. Idempotent."""
        if self._drain_deadline is not None:
            return
        self._starting = False
        self._drain_deadline = self._clock.monotonic() + within_seconds
        self._say("STOPPING=1")

    def reloading(self) -> None:
        """The configuration is read again; `reloaded` must follow. What Type=notify-reload waits for, too."""
        if not self._starting and self._drain_deadline is None:
            self._say(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")

    def reloaded(self) -> None:
        """Whatever came of it: following goes on."""
        if not self._starting and self._drain_deadline is None:
            self._say("READY=1")

    async def run(self) -> None:
        """Beat until cancelled."""
        if not self._manager.listens:
            return
        watchdog = self._manager.watchdog_seconds
        pause = BEAT_SECONDS if watchdog is None else min(BEAT_SECONDS, watchdog / 3)
        while True:
            self._beat()
            await asyncio.sleep(pause)

    def _say(self, assignment: str) -> None:
        self._unsaid.append(assignment)
        self._beat()

    def _beat(self) -> None:
        draining = self._drain_deadline is not None and self._clock.monotonic() < self._drain_deadline
        extension = [f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1e6:.0f}"] if self._starting or draining else []
        if self._manager.tell(*self._unsaid, f"STATUS={self._status()}", *extension, "WATCHDOG=1"):
            self._unsaid.clear()

    def _status(self) -> str:
        doing = "draining" if self._drain_deadline is not None else "starting" if self._starting else "following"
        try:
            reasons = self._health().reasons
        except Exception as error:  # noqa: BLE001  a line for people must neither end a backup nor stop the beats
            return f"{doing}: how it is cannot be told: {error!r}"[:STATUS_CHARACTERS]
        return f"{doing}: {'; '.join(reasons)}".replace("\n", " ")[:STATUS_CHARACTERS] if reasons else doing


@contextlib.asynccontextmanager
async def beating(heart: Heartbeat) -> AsyncIterator[None]:
    """Beat while the block runs."""
    task = asyncio.create_task(heart.run(), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

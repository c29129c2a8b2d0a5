"""Reading the configuration again while the daemon runs: `kbackupd ctl reload` and SIGHUP (docs/control.md).

What is wrong changes nothing and is said in the words of `kbackupd config check`. What is right is applied between two
turns of the event loop, all that a running daemon can obey of it; the rest keeps its running value, by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

import structlog

from kbackupd.daemon.systemd import Heartbeat
from kbackupd.model.errors import ConfigurationError, RefusedError, UnreachableError
from kbackupd.model.settings import DaemonSettings
from kbackupd.model.status import ReloadReport
from kbackupd.observe import events
from kbackupd.observe.problems import Problems
from kbackupd.settings.changes import compare

SUBJECT = "configuration"

log = structlog.get_logger()


def no_configuration() -> NoReturn:
    """What a daemon reads that has nothing to read again."""
    raise RefusedError(
        "this daemon reads its configuration only once",
        hint="it ends by itself (run --once), or a program gave it its settings: start it anew",
    )


class Reloader:
    """Owns which settings are in force.

    Args:
        settings: those of the start.
        load: reads and judges the configuration; in a thread, for its file may be on a slow disk.
    """

    def __init__(
        self, *, settings: DaemonSettings, load: Callable[[], DaemonSettings], heart: Heartbeat, problems: Problems
    ) -> None:
        self.settings = settings
        self._load = load
        self._heart = heart
        self._problems = problems
        self._apply: Callable[[DaemonSettings], None] | None = None
        self._stopping = False
        self._began = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def began(self, apply: Callable[[DaemonSettings], None]) -> None:
        """From now on there is something that can obey; `apply` must do all of it at once and not fail."""
        self._apply = apply
        self._began.set()

    def stopping(self) -> None:
        """The drain has begun: what it stores is decided."""
        self._stopping = True

    async def reload(self) -> ReloadReport:
        """Read the configuration and obey what a running daemon can obey of it.

        All that the report calls applied is in force on return, or nothing is: cancelled before the file was read it
        changes nothing, and afterwards it cannot be.

        Raises:
            ConfigurationError: it is wrong; nothing has changed. A problem says so until a good one was read.
            UnreachableError: the daemon is still starting, or draining.
            RefusedError: it has none to read.
        """
        async with self._one_at_a_time:
            self._ready()
            self._heart.reloading()
            try:
                try:
                    wanted = await asyncio.to_thread(self._load)
                except ConfigurationError as error:
                    self._refused(error)
                    raise
                # Meanwhile a signal may have come: into a drain no event may be told any more.
                return self._obey(wanted, self._ready())
            finally:
                self._heart.reloaded()

    def _ready(self) -> Callable[[DaemonSettings], None]:
        """What obeys; raises UnreachableError if nothing does now."""
        if self._apply is None or self._stopping:
            doing = "stopping" if self._stopping else "still starting"
            raise UnreachableError(f"the daemon is {doing}", hint="a start reads the configuration by itself")
        return self._apply

    def _refused(self, error: ConfigurationError) -> None:
        log.error(events.CONFIGURATION_REFUSED, error=error.message, hint=error.hint)
        self._problems.report(
            SUBJECT,
            f"what was read again is wrong, the old one stays in force: {error.message}",
            hint=f"{error.hint}; a restart would fail with it: correct it and reload again".removeprefix("; "),
        )

    def _obey(self, wanted: DaemonSettings, apply: Callable[[DaemonSettings], None]) -> ReloadReport:
        changes = compare(self.settings, wanted)
        if changes.applied:
            apply(changes.effective)
            self.settings = changes.effective
        self._problems.clear(SUBJECT)
        self._problems.withdraw(SUBJECT)
        waiting = [one.key for one in changes.needs_restart]
        if waiting:
            self._problems.note(
                SUBJECT,
                f"changed, and not in force before a restart: {', '.join(waiting)}",
                hint="kbackupd ctl reload says why, and which values are in force",
            )
        log.info(
            events.CONFIGURATION_RELOADED,
            applied={one.key: one.after for one in changes.applied},
            needs_restart=waiting,
        )
        return ReloadReport(applied=changes.applied, needs_restart=changes.needs_restart, unchanged=changes.unchanged)

    async def serve(self, wanted: asyncio.Event) -> None:
        """Reload whenever `wanted` is set, from the moment that can be obeyed; runs until cancelled."""
        while True:
            await wanted.wait()
            await self._began.wait()
            wanted.clear()
            try:
                # Wrong: said in the log and in status by now. Draining: nobody asks any more.
                with contextlib.suppress(ConfigurationError, UnreachableError):
                    await self.reload()
            except RefusedError as error:
                log.warning(events.CONFIGURATION_REFUSED, error=error.message, hint=error.hint)


@contextlib.asynccontextmanager
async def reloading_on_hangup(reloader: Reloader) -> AsyncIterator[None]:
    """While the block runs SIGHUP is a reload, and not the end of the process; one that comes too early waits."""
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, wanted.set)
    task = asyncio.create_task(reloader.serve(wanted), name="reload")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

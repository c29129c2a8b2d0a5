"""The narrow view of the daemon that the servers have: what they can ask, and nothing else."""

from __future__ import annotations

from typing import Protocol

from kbackupd.model.status import (
    CheckpointReport,
    FlushReport,
    HealthReport,
    PauseReport,
    ReloadReport,
    StatusReport,
)


class ControlledDaemon(Protocol):
    """What stands behind the control socket and the observability port.

    All methods are called on the daemon's event loop. The plain ones must answer from memory, at once.
    """

    def status(self) -> StatusReport:
        """Everything an operator asks first."""

    def health(self) -> HealthReport:
        """What /readyz and /healthz answer."""

    async def flush(self, topics: str) -> FlushReport:
        """Seal and store what the partitions matching the glob `topics` hold now.

        On return everything the report covers is durable. Cancellation leaves the flush running: sealed segments are
        uploaded all the same, only the answer is lost.

        Raises:
            UsageError: the glob matches no topic of the backup.
            UnreachableError: the store did not take the segments in time; they are kept and tried again.
        """

    async def checkpoint(self) -> CheckpointReport:
        """Store what is held in memory and a checkpoint over it.

        On return both are durable. Cancelled, the checkpoint is there or not, and uploads go on.

        Raises:
            UnreachableError, DeniedError: the store did not take it; it is tried again at the interval.
        """

    async def pause(self, topics: str) -> PauseReport:
        """Stop fetching the topics matching the glob; the report says whether a restart would remember.

        Raises:
            UsageError: the glob matches no topic of the backup.
        """

    async def resume(self, topics: str) -> PauseReport:
        """Undo `pause` for the topics matching the glob."""

    async def reload(self) -> ReloadReport:
        """Read the configuration again and obey what a running daemon can obey of it, all of that or nothing.

        Raises:
            ConfigurationError: it is wrong; nothing has changed.
        """

    def render_metrics(self) -> bytes:
        """The Prometheus text exposition of this moment."""

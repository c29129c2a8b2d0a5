"""How far a restore is: counters that the restore moves and whoever shows them reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    OPENING = "reading the archive's index"
    CONNECTING = "connecting to the target"
    PREFLIGHT = "looking at the target"
    PREPARING = "preparing topics"
    RESTORING = "restoring"
    VERIFYING = "verifying"
    CONFIGURING = "applying configuration"
    DONE = "done"


@dataclass(slots=True, kw_only=True)
class RestoreProgress:
    """Mutable and of one event loop. Seconds are monotonic, of the restore's clock."""

    began_at: float
    phase: Phase = Phase.OPENING
    phase_began_at: float = 0.0
    total_bytes: int = 0
    """To read through, after the archive's own compression."""
    read_bytes: int = 0
    queued_bytes: int = 0
    """Rebuilt and handed to the producer."""
    acknowledged_bytes: int = 0
    acknowledged_records: int = 0
    partitions: int = 0
    partitions_done: int = 0
    to_fill_offsets: int = 0
    """At least: those without a record, where offsets are kept, and those before the log starts."""
    filled_offsets: int = 0
    to_verify_bytes: int = 0
    verified_bytes: int = 0
    touched: dict[str, None] = field(default_factory=dict)
    """Target topics that are no longer as they were."""
    appends: bool = False
    """Some of them may hold records of others."""
    notes: list[str] = field(default_factory=list)
    """What to know of it while it runs; grows."""

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.phase_began_at = phase, now

    @property
    def done_bytes(self) -> int:
        if self.phase is Phase.VERIFYING:
            return self.verified_bytes
        # What is read and waits for the target is not done: at a slow target it would make the end look near.
        return max(self.read_bytes - (self.queued_bytes - self.acknowledged_bytes), 0)

    @property
    def expected_bytes(self) -> int:
        return self.to_verify_bytes if self.phase is Phase.VERIFYING else self.total_bytes

    def rate_bytes_per_second(self, now: float) -> float:
        """Mean of this phase."""
        elapsed = now - self.phase_began_at
        return self.done_bytes / elapsed if elapsed > 0 else 0.0

    def eta_seconds(self, now: float) -> float | None:
        """Until the end of this phase at its present pace; None: not known."""
        rate = self.rate_bytes_per_second(now)
        if self.phase not in (Phase.RESTORING, Phase.VERIFYING) or rate <= 0:
            return None
        seconds = max(self.expected_bytes - self.done_bytes, 0) / rate
        unfilled = self.to_fill_offsets - self.filled_offsets
        if self.phase is not Phase.RESTORING or unfilled <= 0:
            return seconds
        if not self.filled_offsets:
            return None
        # Records and holes take turns: whichever is the further from its end tells when both are.
        return max(seconds, unfilled * (now - self.phase_began_at) / self.filled_offsets)

"""How far a run that ends by itself has come: counters that it moves and whoever shows them reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class OncePhase(StrEnum):
    TAKING_OVER = "taking over the archive"
    NOTING = "asking where logs end"
    CAPTURING = "capturing"
    DRAINING = "storing the rest"
    VALIDATING = "validating"
    DONE = "done"


@dataclass(slots=True, kw_only=True)
class OnceProgress:
    """Mutable and of one event loop. Seconds are monotonic, of the run's clock."""

    began_at: float
    phase: OncePhase = OncePhase.TAKING_OVER
    capturing_since: float = 0.0
    partitions: int = 0
    partitions_done: int = 0
    offsets: int = 0
    """To capture, between what was held at the start and the ends noted then. About as many records, or fewer."""
    offsets_done: int = 0
    records: int = 0
    """Captured, durable or not; those above the ends included."""
    bytes: int = 0
    """Of record batches, as the brokers sent them."""
    bodies_bytes: int = 0
    """That validation reads; 0 unless it reads every byte."""
    bodies_read_bytes: int = 0
    held_up: Mapping[str, int] = field(default_factory=dict)
    """State → partitions that are not there and are not being fetched."""

    def enter(self, phase: OncePhase, now: float) -> None:
        self.phase = phase
        if phase is OncePhase.NOTING:
            self.capturing_since = now

    @property
    def share(self) -> float:
        """Of the offsets, 0 … 1; never 1 before all is durable."""
        if not self.offsets:
            return 0.0
        share = self.offsets_done / self.offsets
        return share if self.phase in (OncePhase.VALIDATING, OncePhase.DONE) else min(share, 0.999)

    def rate_bytes_per_second(self, now: float) -> float:
        """Mean since the archive was taken over."""
        elapsed = now - self.capturing_since
        return self.bytes / elapsed if elapsed > 0 else 0.0

    def eta_seconds(self, now: float) -> float | None:
        """Until the last end is captured, at the mean pace so far; None: not known."""
        elapsed = now - self.capturing_since
        if self.phase is not OncePhase.CAPTURING or elapsed <= 0 or not self.offsets_done:
            return None
        return max(self.offsets - self.offsets_done, 0) * elapsed / self.offsets_done

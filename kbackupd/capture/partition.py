"""One partition's life in capture: where it is, what it holds open, in which condition, and when to try again.

Pure: no I/O, time is passed in. Owns the rule that a position moves only over what was handed to a segment or declared
as a gap (invariant I6), and that every condition is a visible state.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum

from kbackupd.archive.partition_state import PartitionState as DurableState
from kbackupd.archive.partition_state import add_epochs, cut_epochs
from kbackupd.capture.log_start import LogStartPace
from kbackupd.capture.proof import Proof
from kbackupd.kafka.types import DivergingEpoch, FetchTarget
from kbackupd.model.events import Gap, GapCause, Truncated
from kbackupd.model.path import MarkerSeen, RecordBatches, TransactionBegun
from kbackupd.model.positions import PartitionId
from kbackupd.model.status import PartitionState

BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 15.0
QUARANTINE_AFTER_FAILURES = 8
CORRUPT_ATTEMPTS = 3
"""How often a batch that fails its CRC is fetched again before its bytes are kept as they are."""


class SessionKind(StrEnum):
    FOLLOWING = "following"
    CATCHING_UP = "catching-up"

    # The enum's own runs Python code at every look-up by kind, several per partition and answer.
    __hash__ = str.__hash__


FETCH_BYTES = {SessionKind.FOLLOWING: 1 << 20, SessionKind.CATCHING_UP: 8 << 20}
"""Records asked for per partition and request."""


@dataclass(slots=True, kw_only=True)
class PartitionCapture:
    """The live side of a partition. `position` is the next offset to fetch, -1 until it is known."""

    id: PartitionId
    topic: str
    system: bool
    tier: str
    leader_id: int = -1
    leader_epoch: int = -1
    position: int = -1
    unseen_from: int = -1
    """Lowest offset stored by a life whose record of its first sight is lost; -1: none."""
    begins_at: int = -1
    """Where what is captured of this log begins, as long as no batch is held from there on; else -1."""
    branch: int = 0
    next_branch: int = 1
    leader_epochs: list[tuple[int, int]] = field(default_factory=list)
    check_epoch: int = -1
    """Leader epoch of the batch before `position`, -1 where none is held: lets the broker report a diverged log."""
    open_transactions: dict[int, tuple[int, int]] = field(default_factory=dict)
    kind: SessionKind = SessionKind.CATCHING_UP
    paused: bool = False
    closed: bool = False
    excluded: bool = False
    """Closed because configuration leaves its topic out; it goes on where it was should that change."""
    failures: int = 0
    reason: str = ""
    corrupt_attempts: int = 0
    unexplained: int = 0
    """How often in a row its leader called the position out of range and named a range that holds it."""
    behind_answers: int = 0
    fetch_bytes: int = 0
    """Raised above the session's default for a batch larger than it."""
    answered_sent: float = float("-inf")
    """Monotonic time at which the request was sent whose answer last told where this log ends; where its session
    forgets it, also by leaving it out. Nobody has told that of a log that was just cut."""
    log_start_offset: int = -1
    last_stable_offset: int = -1
    proof: Proof = field(default_factory=Proof)
    log_start_pace: LogStartPace = field(default_factory=LogStartPace)

    @classmethod
    def resumed(cls, durable: DurableState, *, topic: str, system: bool, tier: str) -> PartitionCapture:
        """A partition as the archive knows it: everything below `durable.next_offset` is safe."""
        return cls(
            id=durable.id,
            topic=topic,
            system=system,
            tier=tier,
            position=durable.next_offset if durable.seen else -1,
            unseen_from=-1 if durable.seen else durable.first_offset,
            begins_at=durable.next_offset if durable.next_offset == durable.first_offset else -1,
            branch=durable.branch,
            next_branch=durable.next_branch,
            leader_epochs=list(durable.leader_epochs),
            check_epoch=durable.leader_epoch,
            open_transactions=dict(durable.open_transactions),
        )

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.id.partition}"

    @property
    def state(self) -> PartitionState:
        if self.closed:
            return PartitionState.CLOSED
        if self.paused:
            return PartitionState.PAUSED
        if self.failures:
            quarantined = self.failures >= QUARANTINE_AFTER_FAILURES
            return PartitionState.QUARANTINED if quarantined else PartitionState.RETRYING
        if self.position < 0 or self.proof.high_watermark < 0:
            return PartitionState.STARTING
        return PartitionState.FOLLOWING if self.kind is SessionKind.FOLLOWING else PartitionState.CATCHING_UP

    @property
    def fetchable(self) -> bool:
        return self.position >= 0 and self.leader_id >= 0 and not self.paused and not self.closed

    def target(self) -> FetchTarget:
        return FetchTarget(
            offset=self.position,
            current_leader_epoch=self.leader_epoch,
            last_fetched_epoch=self.check_epoch,
            max_bytes=max(self.fetch_bytes, FETCH_BYTES[self.kind]),
        )

    def failed(self, reason: str) -> float:
        """Count a failure; returns the seconds to wait before the next try (exponential, jittered)."""
        self.failures += 1
        self.reason = reason
        ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(self.failures - 1, 10))
        return ceiling * random.uniform(0.5, 1.0)

    def recovered(self) -> None:
        self.failures = self.unexplained = 0
        self.reason = ""

    @property
    def overtaken(self) -> bool:
        """Branches beyond ours were used by a life we cannot join, because a segment in between is lost.

        Readers take the newest branch: what is captured from here on must be it, or they would not see it.
        """
        return self.next_branch > self.branch + 1

    def reopened(self) -> None:
        """Its topic was not gone after all, or is included again: go on where we were.

        No position was given up when it was closed, nor a branch number: both may be ahead of what is durable.
        """
        self.closed = self.excluded = False
        self.leader_id = self.leader_epoch = -1
        self.recovered()

    def took(self, batches: RecordBatches) -> None:
        """`batches` went into the open segment: move on."""
        scan = batches.scan
        self.position = scan.next_offset
        self.begins_at = -1
        self.corrupt_attempts = 0
        if scan.leader_epochs:
            add_epochs(self.leader_epochs, scan.leader_epochs)
            self.check_epoch = scan.leader_epochs[-1][0]
        if scan.flags.legacy:
            self.check_epoch = -1
        if not scan.begun and not scan.markers:
            return
        steps: list[TransactionBegun | MarkerSeen] = [*scan.begun, *scan.markers]
        for step in sorted(steps, key=lambda step: step.offset):
            if isinstance(step, MarkerSeen):
                self.open_transactions.pop(step.producer_id, None)
            else:
                self.open_transactions.setdefault(step.producer_id, (step.producer_epoch, step.offset))

    def skip_to(self, offset: int, cause: GapCause, at_ms: int) -> Gap:
        """Leave `[position, offset)` out, with its cause. The batch before `offset` is not held: no epoch to check."""
        gap = Gap(
            id=self.id, branch=self.branch, first_offset=self.position, next_offset=offset, cause=cause, at_ms=at_ms
        )
        self.position = offset
        self.check_epoch = -1
        self.corrupt_attempts = 0
        return gap

    def diverged(self, at: DivergingEpoch, *, at_ms: int) -> Truncated:
        """The leader's log is not ours beyond `at`: go on where both may still agree, on a new branch.

        The offset is where the largest epoch that both know ends, on whichever side it ends first (KIP-320, as a
        follower truncates); if it is not the common one yet, the leader says so at the next fetch.
        """
        common = [(epoch, start) for epoch, start in self.leader_epochs if epoch <= at.epoch]
        later = [start for epoch, start in self.leader_epochs if epoch > at.epoch]
        ours_end = later[0] if later else self.position
        if not common:
            offset = min(at.end_offset, ours_end) if later else at.end_offset
        else:
            offset = min(at.end_offset, ours_end) if common[-1][0] == at.epoch else ours_end
        return self.cut_to(max(0, min(offset, self.position)), at_ms=at_ms)

    def cut_to(self, offset: int, *, at_ms: int) -> Truncated:
        """Open a new branch at `offset`; what was captured beyond stays on the old one."""
        cut = Truncated(
            id=self.id,
            branch=self.next_branch,
            parent=self.branch,
            offset=offset,
            leader_epoch=self.leader_epoch,
            at_ms=at_ms,
        )
        self.branch = self.next_branch
        self.next_branch += 1
        self.position = offset
        cut_epochs(self.leader_epochs, offset)
        self.check_epoch = self.leader_epochs[-1][0] if self.leader_epochs else -1
        self.begins_at = -1 if self.leader_epochs else offset
        for producer_id, (_, first) in list(self.open_transactions.items()):
            if first >= offset:
                del self.open_transactions[producer_id]
        self.proof.forget()
        self.answered_sent = float("-inf")
        self.corrupt_attempts = 0
        return cut

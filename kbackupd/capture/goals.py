"""How far a run that ends by itself must bring each partition, which are there, and when waiting has no sense any more.

Pure: no I/O, time is passed in. A goal is the end that a partition's leader told at the start. It is reached when that
leader, asked once more, agreed with the log we hold, and everything below the end has been captured or declared a gap.
What cannot be reached ends too, with its reason: nothing that a source, an operator or an election does keeps a run
waiting for ever (docs/once.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from kbackupd.model.positions import PartitionId
from kbackupd.model.status import PartitionState


class Fate(StrEnum):
    """What became of a goal."""

    COMPLETE = "complete"
    PAUSED = "paused"
    """An operator paused it; no leader was asked whether the archive still agrees with its log."""
    DELETED = "deleted"
    """Its topic was deleted before its end was captured."""
    CUT = "cut"
    """An election took what had been there at the start before it was captured."""
    STUCK = "stuck"
    """It failed, or had no leader, until the run ended."""
    UNFINISHED = "unfinished"
    """It was still being captured when the run ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a partition is now. Seconds are monotonic."""

    branch: int
    position: int
    """The next offset to capture; -1: not known yet."""
    high_watermark: int
    """As of the last answer on this branch; -1: none yet."""
    heard: float
    """When the last request was sent whose answer told where the log of this branch ends."""
    state: PartitionState
    reason: str = ""
    """Why it is not being fetched; empty while it is."""


GONE = Standing(branch=0, position=-1, high_watermark=-1, heard=float("-inf"), state=PartitionState.CLOSED)
"""Of a partition whose topic was deleted before capture had met it."""


@dataclass(slots=True, kw_only=True)
class Goal:
    """One partition's. Offsets are -1 while they are not known."""

    id: PartitionId
    topic: str
    listed: bool
    """The cluster described it at the start; else only the archive knew it, and permissions may hide it."""
    moved_at: float
    first_offset: int = -1
    """Where its log began when the end was noted."""
    end_offset: int = -1
    """Everything below belongs to this run: the high watermark at the start, or what an election left of it."""
    noted_end: int = -1
    """That high watermark."""
    noted_at: float = float("inf")
    begin_offset: int = -1
    """From where on this run had to capture."""
    position: int = -1
    branch: int = -1
    """On which the end is meant; -1 until the leader agreed with the log we hold."""
    reached: bool = False
    lost_from: int = -1
    """An election cut the log when so far was captured: what the old one had from there on to its end is lost."""
    recap: bool = False
    """It was cut, and the new log's end is not known yet."""
    empty_from: int = -1
    """The leader, asked for this partition alone, had no batch from here on."""
    short: bool = False
    """Its leader's log ends below the end that was noted."""
    state: PartitionState = PartitionState.STARTING
    reason: str = ""
    unknown: str = ""
    """Why its leader did not tell its end, when it was asked last."""

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.id.partition}"

    @property
    def noted(self) -> bool:
        return self.end_offset >= 0

    @property
    def offsets(self) -> int:
        """How many this run had to capture."""
        return max(0, self.end_offset - self.begin_offset) if self.noted else 0

    @property
    def offsets_done(self) -> int:
        return self.offsets if self.reached else min(self.offsets, max(0, self.position - self.begin_offset))

    @property
    def captured_to(self) -> int:
        """Below this offset of `branch` everything is captured or a gap, if the goal was reached."""
        return self.empty_from if 0 <= self.empty_from < self.end_offset else self.end_offset

    @property
    def waiting(self) -> bool:
        """Not there, and it may come to be."""
        return not self.reached and self.state not in (PartitionState.PAUSED, PartitionState.CLOSED)

    def observe(self, now: float, at: Standing | None) -> None:
        """Take in how it stands now; None: capture has not met the partition yet."""
        if self.reached or at is None:
            return
        self.state, self.reason = at.state, at.reason
        if at.state is PartitionState.CLOSED:
            # Nothing was in it, and nothing will be: there is nothing that could be missing.
            self.reached = self.noted and self.first_offset == self.end_offset
            return
        if self.noted and self.branch < 0 and at.heard >= self.noted_at:
            # Only now: an archived position beyond the end, or below it, may be that of a log which was lost since.
            self.branch, self.moved_at = at.branch, now
        elif 0 <= self.branch != at.branch:
            self.branch, self.moved_at = at.branch, now
            if self.lost_from < 0:
                self.lost_from = self.position
            self.empty_from = -1
            self.recap = True
        elif at.position > self.position:
            self.moved_at = now
        self.position = at.position
        # Not by the high watermark alone: an elected leader that shows less than is held has told no end yet.
        if self.recap and at.high_watermark >= 0 and at.heard >= self.noted_at:
            self.end_offset, self.recap = min(self.end_offset, at.high_watermark), False
        if self.branch >= 0 and not self.recap:
            self.reached = at.position >= self.end_offset or (0 <= self.empty_from == at.position)
        # Never trusted at once: a leader that was just elected learns only by and by how much all replicas have.
        self.short = not self.reached and 0 <= at.high_watermark <= at.position < self.end_offset
        if self.short and not self.reason:
            self.reason = f"its leader's log ends at {at.high_watermark} now; an election took the rest"

    @property
    def fate(self) -> Fate:
        if self.reached:
            return Fate.COMPLETE if self.lost_from < 0 else Fate.CUT
        if self.short:
            return Fate.CUT
        match self.state:
            case PartitionState.PAUSED:
                return Fate.PAUSED
            case PartitionState.CLOSED:
                return Fate.DELETED
            case PartitionState.FOLLOWING | PartitionState.CATCHING_UP if not self.reason:
                return Fate.UNFINISHED
            case _:
                return Fate.STUCK


class Goals:
    """All of them. One task owns it.

    Args:
        patience_seconds: how long what does not move may keep the run waiting once nothing else moves either.
    """

    def __init__(self, *, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._all: dict[PartitionId, Goal] = {}
        self._open: dict[PartitionId, Goal] = {}
        self._offsets_done = 0
        """Of those that are reached."""
        self.offsets = 0
        """Of all."""

    def __iter__(self) -> Iterator[Goal]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, id: PartitionId) -> bool:
        return id in self._all

    def add(self, id: PartitionId, topic: str, *, listed: bool, now: float) -> None:
        """A partition that was there at the start; its end is not known yet."""
        self._all[id] = self._open[id] = Goal(id=id, topic=topic, listed=listed, moved_at=now)

    def note(self, id: PartitionId, *, first_offset: int, end_offset: int, held_to: int, now: float) -> None:
        """Its leader told where its log begins and ends; of it everything below `held_to` (-1: nothing) is held."""
        goal = self._all[id]
        goal.first_offset, goal.end_offset, goal.noted_end, goal.noted_at = first_offset, end_offset, end_offset, now
        goal.begin_offset = min(max(first_offset, held_to), end_offset)
        goal.moved_at = now
        self.offsets += goal.offsets

    def not_told(self, id: PartitionId, reason: str) -> None:
        """Its leader could not be asked, or did not tell; it is asked again."""
        self._all[id].unknown = reason

    def empty(self, id: PartitionId, *, branch: int, offset: int, high_watermark: int) -> None:
        """Its leader, asked for it alone, had no batch between the two: the rest was compacted away."""
        goal = self._open.get(id)
        if goal is not None and (goal.branch, goal.position) == (branch, offset) and high_watermark >= goal.end_offset:
            goal.empty_from = offset

    def observe(self, now: float, standing_of: Callable[[PartitionId], Standing | None]) -> None:
        """Look at every goal that is not reached yet."""
        for id, goal in list(self._open.items()):
            offsets = goal.offsets
            goal.observe(now, standing_of(id))
            self.offsets += goal.offsets - offsets
            if not goal.listed and not goal.noted and goal.state is PartitionState.CLOSED:
                # The cluster did not have it when the run began: what became of it is not this run's to tell.
                del self._all[id], self._open[id]
            elif goal.reached:
                del self._open[id]
                self._offsets_done += goal.offsets

    @property
    def open(self) -> Iterator[Goal]:
        """Those that are not reached."""
        return iter(self._open.values())

    @property
    def reached_count(self) -> int:
        return len(self._all) - len(self._open)

    @property
    def offsets_done(self) -> int:
        return self._offsets_done + sum(goal.offsets_done for goal in self.open)

    def over(self, now: float) -> bool:
        """Nothing is left to wait for: each is reached, cannot be, or has not moved, like all others, for too long."""
        waiting = [goal.moved_at for goal in self.open if goal.waiting]
        return not waiting or now - max(waiting) >= self._patience_seconds

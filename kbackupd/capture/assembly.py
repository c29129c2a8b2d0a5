"""The open segment: batches, samples and ledger events that came in since the last one was closed.

Holds references to the fetched bytes, never copies them. One task (the event loop's callbacks) owns it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kbackupd.capture.roll import OpenFacts
from kbackupd.format.segment import RunDraft
from kbackupd.model.events import Gap, GapCause, LedgerEvent, PartitionSeen, Truncated
from kbackupd.model.path import RecordBatches
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import OpenTransaction, Sample, TransactionOutcome

SAMPLES_MAX = 5_000
"""Beyond this many, a partition's newest sample replaces the one before instead of joining it."""
SAMPLE_SPACING_MS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedSegment:
    """What goes into one segment; nothing is added any more."""

    runs: tuple[RunDraft, ...]
    outcomes: tuple[TransactionOutcome, ...]
    open_transactions: tuple[OpenTransaction, ...]
    samples: tuple[Sample, ...]
    events: tuple[LedgerEvent, ...]
    next_offsets: Mapping[PartitionId, int]
    """Where each partition is covered to once this segment and all before it are durable."""
    cuts: Mapping[PartitionId, int]
    """How many truncations of a partition are among the events."""
    held_bytes: int
    charged_bytes: int
    """Of the memory budget; given back when the segment is durable."""
    oldest_user: float | None = None
    """When its oldest user batch, ledger event or round of samples came in, in monotonic seconds."""


class OpenSegment:
    def __init__(self) -> None:
        self.facts = OpenFacts()
        self._runs: list[RunDraft] = []
        self._last: dict[PartitionId, RunDraft] = {}
        self._outcomes: list[TransactionOutcome] = []
        self._samples: dict[PartitionId, list[Sample]] = {}
        self._sample_count = 0
        self._events: list[LedgerEvent] = []
        self._next_offsets: dict[PartitionId, int] = {}
        self._cuts: dict[PartitionId, int] = {}
        self._charged_bytes = 0

    def add(self, batches: RecordBatches, *, now: float) -> None:
        """Take batches in; the caller charges the budget (`charge`)."""
        draft = self._last.get(batches.id)
        if draft is not None and draft.accepts(batches):
            draft.append(batches)
        else:
            draft = RunDraft.of(batches)
            self._runs.append(draft)
            self._last[batches.id] = draft
        if not batches.scan.flags.corrupt:
            self._next_offsets[batches.id] = batches.scan.next_offset
        for marker in batches.scan.markers:
            self._outcomes.append(
                TransactionOutcome(
                    id=batches.id,
                    offset=marker.offset,
                    producer_id=marker.producer_id,
                    producer_epoch=marker.producer_epoch,
                    committed=marker.committed,
                )
            )
        self.facts.held_bytes += len(batches.chunk)
        self._touch(system=batches.system, now=now)

    def charge(self, count: int) -> None:
        self._charged_bytes += count

    def event(self, event: LedgerEvent, *, now: float) -> None:
        self._events.append(event)
        match event:
            case Gap(cause=GapCause.TOPIC_DELETED):
                # Moves nothing: should the topic prove alive after all, it is these offsets that must be fetched.
                self._last.pop(event.id, None)
            case Gap():
                self._next_offsets[event.id] = event.next_offset
                self._last.pop(event.id, None)
            case Truncated():
                self._cuts[event.id] = self._cuts.get(event.id, 0) + 1
                self._next_offsets[event.id] = event.offset
                self._last.pop(event.id, None)
            case PartitionSeen():
                self._next_offsets.setdefault(event.id, event.first_offset)
            case _:
                pass
        self._touch(system=False, now=now)

    def sample(self, sample: Sample) -> None:
        """Keep a leader's word. What answers tell on their way causes no segment; a round does (`sampled`)."""
        kept = self._samples.setdefault(sample.id, [])
        crowded = self._sample_count >= SAMPLES_MAX
        if kept and (crowded or sample.answered_ms - kept[-1].answered_ms < SAMPLE_SPACING_MS) and len(kept) > 1:
            kept[-1] = sample
            return
        kept.append(sample)
        self._sample_count += 1

    def sampled(self, samples: Iterable[Sample], *, now: float) -> None:
        """Keep a round of samples: whatever else comes, it is sealed within the flush interval."""
        for sample in samples:
            self.sample(sample)
            self._touch(system=False, now=now)

    def close(self, open_transactions: Iterable[OpenTransaction]) -> ClosedSegment:
        return ClosedSegment(
            runs=tuple(self._runs),
            outcomes=tuple(self._outcomes),
            open_transactions=tuple(open_transactions),
            samples=tuple(sample for kept in self._samples.values() for sample in kept),
            events=tuple(self._events),
            next_offsets=dict(self._next_offsets),
            cuts=dict(self._cuts),
            held_bytes=self.facts.held_bytes,
            charged_bytes=self._charged_bytes,
            oldest_user=self.facts.oldest_user,
        )

    @property
    def charged_bytes(self) -> int:
        """Of the memory budget, so far."""
        return self._charged_bytes

    @property
    def partitions(self) -> Iterable[PartitionId]:
        """Partitions with runs in it."""
        return self._last.keys() | {run.id for run in self._runs}

    def _touch(self, *, system: bool, now: float) -> None:
        if system:
            if self.facts.oldest_system is None:
                self.facts.oldest_system = now
        elif self.facts.oldest_user is None:
            self.facts.oldest_user = now

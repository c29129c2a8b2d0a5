"""How far one partition's log went at an instant, by what its leader said then.

Pure. A sample is an interval: its high watermark was true at a moment between request and answer. So a cut has one too:
what was acknowledged before it began is below the cut, what was sent after it ended is not, and between them nobody can
tell (docs/internal-topics.md, "An instant").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kbackupd.archive.history import PartitionEvidence
from kbackupd.archive.lineage import ROOT_BRANCH, root_of
from kbackupd.model.events import Truncated
from kbackupd.model.segment import Sample

_TAKEN_IN_WITHIN_MS = 10_000
"""Between an answer that tells of a cut log, whose time its sample bears, and the event that notes it."""

_NEW_LEADER_SETTLES_MS = 60_000
"""Twice the brokers' default `replica.lag.time.max.ms`: a follower that has not fetched by then is none any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Records below `next_offset` on `branch` are those that were there at a moment within [sent_ms, answered_ms]."""

    branch: int
    next_offset: int
    stable_offset: int
    """Below it no transaction was open then; −1: not told."""
    log_start_offset: int
    """What lies below the source had deleted by then."""
    sent_ms: int
    answered_ms: int
    held_until_ms: int
    """Up to then, at least, nothing came: later samples say the same. Not below `sent_ms`."""
    grown_ms: int | None
    """When a leader first answered that there is more; None: no later sample says so. What was captured before then
    cannot have been compacted in favour of a record that is not below the cut."""

    def exact_at(self, at_ms: int) -> bool:
        """The log at `at_ms` is known to be the log below the cut."""
        return self.held_until_ms >= at_ms


def cut_at(evidence: PartitionEvidence, at_ms: int | None) -> Cut | None:
    """By the last sample that was received at or before `at_ms` (None: by the last one); None if there is none.

    An answer without a high watermark (−1) says nothing.
    """
    told = (sample for sample in evidence.samples if sample.high_watermark >= 0)
    in_time = sorted(told, key=lambda sample: sample.answered_ms)
    heard = [sample for sample in in_time if at_ms is None or sample.answered_ms <= at_ms]
    if not heard:
        return None
    chosen = heard[-1]
    held_until_ms = chosen.sent_ms
    grown_ms = None
    for sample in in_time[len(heard) :]:
        if _log_end(sample) != _log_end(chosen):
            grown_ms = sample.answered_ms
            break
        held_until_ms = max(held_until_ms, sample.sent_ms)
    return Cut(
        branch=_branch_of(chosen, evidence.truncations),
        next_offset=chosen.high_watermark,
        stable_offset=chosen.last_stable_offset,
        log_start_offset=max(chosen.log_start_offset, 0),
        sent_ms=chosen.sent_ms,
        answered_ms=chosen.answered_ms,
        held_until_ms=held_until_ms,
        grown_ms=grown_ms,
    )


def told_after(evidence: PartitionEvidence, at_ms: int) -> Sample | None:
    """The first answer to a question of after `at_ms`: below its high watermark lies all that was in the log then.

    A new leader's high watermark lags behind that of the old one for a moment: it is given time. None: no such answer.
    """
    told = sorted(
        (sample for sample in evidence.samples if sample.high_watermark >= 0), key=lambda sample: sample.answered_ms
    )
    leads_since_ms: dict[int, int] = {}
    for sample in told:
        first_of_all = not leads_since_ms
        since_ms = -_NEW_LEADER_SETTLES_MS if first_of_all else sample.answered_ms
        settled_ms = leads_since_ms.setdefault(sample.leader_epoch, since_ms) + _NEW_LEADER_SETTLES_MS
        if sample.sent_ms >= max(at_ms, settled_ms):
            return sample
    return None


def _log_end(sample: Sample) -> tuple[int, int]:
    return sample.high_watermark, sample.leader_epoch


def _branch_of(sample: Sample, truncations: Sequence[Truncated]) -> int:
    """The newest branch that was open when the sample was taken; a branch that nobody can place is none."""
    origins = {event.branch: event for event in truncations}
    opened = [
        event.branch
        for event in truncations
        if root_of(event.branch, origins) == ROOT_BRANCH
        and (
            event.leader_epoch < sample.leader_epoch
            or (event.leader_epoch == sample.leader_epoch and event.at_ms <= sample.answered_ms + _TAKEN_IN_WITHIN_MS)
        )
    ]
    return max(opened, default=ROOT_BRANCH)

"""What a run of `--once` says when it is over: as of when the archive is complete, what is missing (docs/once.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from kbackupd.capture.goals import Fate, Goal
from kbackupd.capture.once import Once
from kbackupd.model.errors import ArchiveInvalidError, IncompleteError
from kbackupd.model.events import GAP_MEANING, GapCause
from kbackupd.model.positions import TopicId
from kbackupd.validate.report import ValidationReport


class OnceVerdict(StrEnum):
    COMPLETE = "complete"
    DECLARED_GAPS = "complete, with declared gaps"
    INCOMPLETE = "incomplete"
    NOT_VALID = "not valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingPart:
    """Something of the cluster as it was at the start that is not in the archive. Offsets are -1 where not known."""

    what: str
    """`partition`, `topic` or `snapshot`."""
    name: str
    fate: str
    """`paused`, `deleted`, `cut`, `stuck`, `unfinished`; of topics and snapshots `unread`."""
    first_offset: int = -1
    next_offset: int = -1
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredGap:
    """Offsets below a noted end that this run found gone for good, and declared so."""

    name: str
    first_offset: int
    next_offset: int
    cause: GapCause
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicCaptured:
    topic: str
    partitions: int
    records: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceReport:
    """`bytes` are record batches as the brokers sent them, `stored_bytes` the segments' objects."""

    verdict: OnceVerdict
    location: str
    backup_id: str
    cluster_id: str
    writer: str
    writer_epoch: int
    began_ms: int
    complete_as_of_ms: int | None
    """Everything the leaders had at this instant is in the archive, but for `missing` and `gaps`; null: no end was
    noted."""
    interrupted: bool
    timed_out: bool
    total_seconds: float
    validate_seconds: float
    partitions: int
    """There at the start."""
    partitions_complete: int
    records: int
    bytes: int
    segments: int
    stored_bytes: int
    snapshots_hidden: tuple[str, ...]
    """Parts of the cluster's state of which permissions hide something."""
    topics: tuple[TopicCaptured, ...]
    missing: tuple[MissingPart, ...]
    gaps: tuple[DeclaredGap, ...]
    validation: ValidationReport | None
    """Null: not done, because the run was interrupted."""

    @property
    def exit_code(self) -> int:
        match self.verdict:
            case OnceVerdict.COMPLETE:
                return 0
            case OnceVerdict.NOT_VALID:
                return ArchiveInvalidError.exit_code
            case _:
                return IncompleteError.exit_code


def verdict_of(
    validation: ValidationReport | None,
    missing: Collection[MissingPart],
    gaps: Collection[DeclaredGap],
    *,
    cut_short: bool,
) -> OnceVerdict:
    """The worst of what is the matter."""
    if validation is not None and not validation.valid:
        return OnceVerdict.NOT_VALID
    if cut_short or missing:
        return OnceVerdict.INCOMPLETE
    return OnceVerdict.DECLARED_GAPS if gaps else OnceVerdict.COMPLETE


def missing_partitions(goals: Iterable[Goal]) -> Iterator[MissingPart]:
    """Every goal that is not complete; what was captured of it is durable by now."""
    for goal in goals:
        if goal.fate is Fate.COMPLETE:
            continue
        cut = goal.lost_from >= 0
        held = goal.lost_from if cut else goal.position if goal.position >= 0 else goal.first_offset
        yield MissingPart(
            what="partition",
            name=goal.name,
            fate=goal.fate.value,
            first_offset=min(held, goal.noted_end),
            next_offset=goal.noted_end,
            reason=_reason(goal),
            hint=_HINTS.get(goal.fate, ""),
        )


def _reason(goal: Goal) -> str:
    match goal.fate:
        case Fate.CUT if goal.lost_from >= 0:
            return "an election cut its log before this was captured; what followed is captured on a new branch"
        case Fate.DELETED:
            return "its topic was deleted before this was captured"
        case Fate.CUT | Fate.PAUSED:
            return goal.reason
        case _:
            if goal.reason:
                return goal.reason
            if not goal.noted:
                return goal.unknown or "its leader never told where its log ends"
            return f"{goal.state.value} when the run ended"


_LATER = "a later run goes on where this one came to"
_HINTS = {
    Fate.PAUSED: "kbackupd ctl resume, while kbackupd run is up; the next --once captures it",
    Fate.STUCK: _LATER,
    Fate.UNFINISHED: _LATER,
}


def declared_gaps(once: Once) -> Iterator[DeclaredGap]:
    """Of this run, below noted ends. What earlier runs declared they have told; `describe` lists it."""
    goals = {goal.id: goal for goal in once.goals}
    for gap in once.tally.gaps:
        goal = goals.get(gap.id)
        if goal is not None and goal.noted and gap.first_offset < goal.noted_end:
            yield DeclaredGap(
                name=goal.name,
                first_offset=gap.first_offset,
                next_offset=gap.next_offset,
                cause=gap.cause,
                meaning=GAP_MEANING[gap.cause],
            )


def missing_topics(once: Once, literals: Iterable[str]) -> Iterator[MissingPart]:
    for name, why in sorted(once.unreadable.items()):
        yield MissingPart(what="topic", name=name, fate="unread", reason=f"the brokers answer {why} for it")
    if once.noted_ms is None:
        yield MissingPart(
            what="topic", name="*", fate="unread", reason="the run ended before leaders had told where logs end"
        )
        return
    for name in literals:
        if name not in once.names:
            yield MissingPart(
                what="topic",
                name=name,
                fate="unread",
                reason="included by name in source.topics.include, but the cluster has no such topic (or hides it)",
                hint="create it, grant Describe on it, or remove it from the configuration",
            )


def topics_captured(once: Once, names: Callable[[TopicId], str]) -> tuple[TopicCaptured, ...]:
    """What this run stored, by topic; topics with nothing new are left out."""
    counts: dict[TopicId, int] = {}
    for goal in once.goals:
        counts[goal.id.topic_id] = counts.get(goal.id.topic_id, 0) + 1
    rows = [
        TopicCaptured(
            topic=names(topic_id), partitions=counts.get(topic_id, 0), records=held.records, bytes=held.raw_bytes
        )
        for topic_id, held in once.tally.topics.items()
    ]
    return tuple(sorted(rows, key=lambda row: row.topic))

"""Is everything there that was expected: topics, partitions (empty ones too), and the time between two instants?

Expected is what each writer's newest checkpoint knew, what `--expect-topic` names, `--from`/`--to`, and the ends that a
run of `--once` noted and says it has reached.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kbackupd.archive.archive import ArchivedTopic
from kbackupd.archive.history import PartitionEvidence, PartitionHistory, build_history
from kbackupd.model.clock import iso
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Checkpoint
from kbackupd.model.units import format_duration
from kbackupd.validate.report import Code, Finding, Severity

DEFAULT_TOLERANCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedEnd:
    """Everything of a partition's `branch` from `first_offset` to `next_offset` is stored, or a gap with a cause."""

    topic: str
    branch: int
    first_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What somebody outside the archive says must be in it."""

    topics: tuple[str, ...] = ()
    """Names; each must be there, with every partition it was seen with."""
    from_ms: int | None = None
    to_ms: int | None = None
    """The window `[from, to)` that must be covered; either end may be left open."""
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS
    """How long nobody may have looked at a partition inside the window."""
    ends: Mapping[PartitionId, ExpectedEnd] = field(default_factory=dict)

    @property
    def window(self) -> bool:
        return self.from_ms is not None or self.to_ms is not None


def coverage_findings(
    topics: Mapping[TopicId, ArchivedTopic],
    evidence: Mapping[PartitionId, PartitionEvidence],
    newest: Iterable[Checkpoint],
    expected: Expected,
) -> Iterator[Finding]:
    """Compare the archive with what was expected of it."""
    checkpoints = tuple(newest)
    if not checkpoints and evidence:
        yield Finding(
            severity=Severity.INFORMATION,
            code=Code.COVERAGE_UNCHECKED,
            message="no readable checkpoint: which topics and partitions to expect is known from segments alone",
            action="name those you care about with --expect-topic",
        )
    for checkpoint in checkpoints:
        yield from _known_to(checkpoint, topics, evidence)
    names = {topic.name for topic in topics.values()}
    for name in expected.topics:
        if name not in names:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.COVERAGE_TOPIC,
                message="expected, and not in the archive",
                action="is it excluded by source.topics, misspelt, or created after the last flush?",
                topic=name,
            )
    for topic in topics.values():
        yield from _unseen_partitions(topic, evidence, expected)
        if expected.window and not topic.internal and (not expected.topics or topic.name in expected.topics):
            yield from _topic_window(topic, evidence, expected)
    for id, end in expected.ends.items():
        yield from _below_end(id, end, evidence.get(id))


def _below_end(id: PartitionId, end: ExpectedEnd, held: PartitionEvidence | None) -> Iterator[Finding]:
    begun, reached = end.next_offset, end.first_offset
    if held is not None:
        # No segment that can be read speaks of the branch: nothing of it is held.
        with contextlib.suppress(KeyError):
            history = build_history(held, end.branch)
            begun, reached = history.first_offset, history.contiguous_next_offset
    if held is None or begun > end.first_offset or reached < end.next_offset:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.COVERAGE_PARTITION if held is None else Code.COVERAGE_END,
            message="was captured to its end at the start of the run, and the archive does not hold all of that",
            action="run it again; if this stays, something deletes or hides objects of the archive",
            topic=end.topic,
            topic_id=id.topic_id,
            partition=id.partition,
            branch=end.branch,
            first_offset=end.first_offset if begun > end.first_offset else reached,
            next_offset=min(begun, end.next_offset) if begun > end.first_offset else end.next_offset,
        )


def _known_to(
    checkpoint: Checkpoint, topics: Mapping[TopicId, ArchivedTopic], evidence: Mapping[PartitionId, PartitionEvidence]
) -> Iterator[Finding]:
    names = {topic.id: topic.name for topic in checkpoint.topics}
    for row in checkpoint.topics:
        if row.id not in topics:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.COVERAGE_TOPIC,
                message="a checkpoint knows the topic, no readable segment speaks of it",
                action="put the missing or damaged segment back from a copy of the archive",
                object=checkpoint.key,
                topic=row.name,
                topic_id=row.id,
            )
    for partition in checkpoint.partitions:
        if partition.id not in evidence:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.COVERAGE_PARTITION,
                message="a checkpoint knows the partition, no readable segment speaks of it",
                action="put the missing or damaged segment back from a copy of the archive",
                object=checkpoint.key,
                topic=names.get(partition.id.topic_id, partition.id.topic_id),
                topic_id=partition.id.topic_id,
                partition=partition.id.partition,
                first_offset=partition.first_offset,
                next_offset=max(partition.first_offset, partition.next_offset),
            )


def _unseen_partitions(
    topic: ArchivedTopic, evidence: Mapping[PartitionId, PartitionEvidence], expected: Expected
) -> Iterator[Finding]:
    """Metadata counted a partition that was never looked into: a leader it never had, or a daemon killed too soon."""
    if topic.deleted_ms is not None or topic.excluded_ms is not None:
        return
    for id in topic.partition_ids:
        if id not in evidence:
            wanted = topic.name in expected.topics
            yield Finding(
                severity=Severity.ERROR if wanted else Severity.INFORMATION,
                code=Code.COVERAGE_PARTITION,
                message="exists at the source, and nothing was captured of it yet",
                action="has it a leader? the daemon's status names what it waits for",
                topic=topic.name,
                topic_id=topic.topic_id,
                partition=id.partition,
            )


def _topic_window(
    topic: ArchivedTopic, evidence: Mapping[PartitionId, PartitionEvidence], expected: Expected
) -> Iterator[Finding]:
    for id in topic.partition_ids:
        held = evidence.get(id)
        if held is None:
            problems = never_looked_at(topic, id, expected)
        else:
            problems = window_problems(held, build_history(held), topic, expected)
        for message in problems:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.COVERAGE_TIME,
                message=message,
                action="restore from another archive for this time, or accept it with a larger --tolerance",
                topic=topic.name,
                topic_id=topic.topic_id,
                partition=id.partition,
            )


def looked_at_ms(evidence: PartitionEvidence, history: PartitionHistory) -> list[int]:
    """Instants at which the archive is known to have kept up, ascending.

    A sample proves its instant if everything below its high watermark is held; a run proves that it was looked at.
    """
    reached = history.contiguous_next_offset
    proven = [one.sent_ms for one in evidence.samples if one.high_watermark <= reached]
    captured = [one.run.captured_ms for one in evidence.runs if not one.corrupt]
    return sorted(proven + captured)


def never_looked_at(topic: ArchivedTopic, id: PartitionId, expected: Expected) -> Iterator[str]:
    """Of a partition that nothing was ever captured of: whether it existed within the window, one sentence if so."""
    counted_ms = topic.counted_ms(id.partition)
    begin = counted_ms if expected.from_ms is None else max(counted_ms, expected.from_ms)
    ends = [end for end in (expected.to_ms, _ended_ms(topic)) if end is not None]
    if not ends or min(ends) - begin > round(expected.tolerance_seconds * 1000):
        yield f"never looked at, and known to exist since {iso(counted_ms)}"


def _ended_ms(topic: ArchivedTopic) -> int | None:
    return topic.deleted_ms if topic.deleted_ms is not None else topic.excluded_ms


def window_problems(
    evidence: PartitionEvidence, history: PartitionHistory, topic: ArchivedTopic, expected: Expected
) -> Iterator[str]:
    """Why the partition does not span the window, one sentence each."""
    tolerance_ms = round(expected.tolerance_seconds * 1000)
    instants = looked_at_ms(evidence, history)
    first_seen_ms = min((one.at_ms for one in evidence.seen), default=topic.first_seen_ms)
    begin, end = first_seen_ms, max(instants, default=first_seen_ms)
    if expected.from_ms is not None:
        begin = max(begin, expected.from_ms)
        # From offset 0 on nothing older ever existed, whenever the backup began to look.
        all_of_it = history.first_offset == 0 and not (history.gaps and history.gaps[0].first_offset == 0)
        if first_seen_ms - expected.from_ms > tolerance_ms and not all_of_it:
            since = f"captured only since {iso(first_seen_ms)} (from offset {history.first_offset} on)"
            yield f"{since}; {iso(expected.from_ms)} was asked for"
    if expected.to_ms is not None:
        end = expected.to_ms
    if (ended_ms := _ended_ms(topic)) is not None:
        end = min(end, ended_ms)
    at = begin
    for instant in instants[bisect_right(instants, begin) :]:
        if at >= end:
            return
        if min(instant, end) - at > tolerance_ms:
            yield f"not looked at for {_span(at, instant)}"
        at = instant
    if end - at > tolerance_ms:
        yield f"not known to be up to date after {iso(at)}; {iso(end)} was asked for"


def _span(first_ms: int, next_ms: int) -> str:
    return f"{format_duration((next_ms - first_ms) / 1000)}, from {iso(first_ms)} to {iso(next_ms)}"

"""What a restore leaves out because nobody asked for it, in words: for the plan before and the report after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kbackupd.model.clock import iso
from kbackupd.model.scope import RecordPatterns, RecordsOf, TimeWindow
from kbackupd.restore.plan import PlannedCut, RestorePlan, TopicPlan
from kbackupd.restore.report import RestoreReport, TopicReport


def cut_in_words(cut: PlannedCut) -> Iterator[str]:
    """A line for each thing that was asked for; none if that was everything."""
    if cut.as_of_ms is not None:
        yield f"everything as of {iso(cut.as_of_ms)}; of transactions those that were decided by then, complete"
        if cut.without_coordinators:
            yield (
                "__transaction_state of then is not in the archive: a transaction counts as decided where one of its"
                " markers had been heard of"
            )
    if cut.window:
        yield f"record timestamps {_window(cut.window)}"
    if cut.filters:
        yield f"records with {_patterns(cut.filters)}; every batch is decoded to find them"
    if cut.visibility is RecordsOf.UNCOMMITTED:
        yield "records of aborted, undecided and open transactions too"
    if cut.provenance_headers:
        yield "source topic, partition and offset are added as headers; every batch is rebuilt for it"


def choice_in_words(topic: TopicPlan) -> Iterator[str]:
    """What was chosen within the topic."""
    if topic.goes_first:
        yield f"{topic.source} is restored before the other topics"
    if topic.newer_incarnations:
        newer = _some(topic.newer_incarnations)
        yield f"{topic.source}: incarnation {topic.topic_id} is restored; newer, and not restored: {newer}"
    left_out = [partition.partition for partition in topic.partitions if partition.left_out]
    yield from _partitions(topic.source, topic.target, len(topic.partitions), topic.target_partitions, left_out)
    for partition in topic.partitions:
        if partition.asked_offsets:
            yield f"{topic.source}-{partition.partition}: only the offsets {partition.asked_offsets}"


def instant_in_words(topic: TopicPlan | TopicReport) -> Iterator[str]:
    """How near the instant the topic comes, by its worst partition, and what of it is in doubt."""
    states = [(one.partition, one.as_of) for one in topic.partitions if one.as_of is not None and not one.left_out]
    known = [(number, state) for number, state in states if state.known]
    loose = [(number, state) for number, state in known if not state.exact]
    if known and not loose:
        yield f"{topic.source}: exact, no partition had more at that instant"
    elif loose:
        number, worst = min(loose, key=lambda one: (one[1].held_until_ms, one[0]))
        some = f", {len(known) - len(loose)} of {len(known)} partitions are exact" if len(known) > 1 else ""
        yield (
            f"{topic.source}: achieved between {iso(worst.sent_ms)} and {iso(worst.answered_ms)} (partition"
            f" {number}, the farthest from it{some})"
        )
    for number, state in states:
        if state.compacted_since:
            yield (
                f"{topic.source}-{number}: inexact, it was captured after it had been compacted for later records: some"
                " that were there may be missing"
            )
        for one in state.ambiguous:
            yield (
                f"{topic.source}-{number}: not restored, though it may have been committed by then: transaction of"
                f" producer {one.producer_id}, epoch {one.producer_epoch}, committed at offset {one.marker_offset}:"
                f" {one.reason}"
            )


def what_came_of_it(topic: TopicReport) -> Iterator[str]:
    """As `choice_in_words`, afterwards and in numbers."""
    left_out = [partition.partition for partition in topic.partitions if partition.left_out]
    yield from _partitions(topic.source, topic.target, len(topic.partitions), topic.target_partitions, left_out)
    for partition in topic.partitions:
        where = f"{topic.source}-{partition.partition}"
        if partition.asked_offsets:
            yield f"{where}: only the offsets {partition.asked_offsets}"
        if partition.records_restored_aborted:
            yield f"{where}: {partition.records_restored_aborted:,} records of aborted transactions were restored"


def is_cut(of: RestorePlan | RestoreReport) -> bool:
    """Whether records can be left out that are there and committed."""
    bounded = any(partition.asked_offsets for topic in of.topics for partition in topic.partitions)
    return bounded or bool(of.cut.window) or bool(of.cut.filters) or of.cut.as_of_ms is not None


def _partitions(source: str, target: str, recorded: int, wanted: int, left_out: Sequence[int]) -> Iterator[str]:
    if left_out:
        kept = [number for number in range(recorded) if number not in set(left_out)]
        yield f"{source}: only partitions {_some(kept)}; the other {len(left_out)} exist in {target} and stay empty"
    if wanted > recorded:
        yield f"{target} has {wanted} partitions; those from {recorded} on stay empty"


def _window(window: TimeWindow) -> str:
    first = "" if window.start_ms is None else f"from {iso(window.start_ms)} (inclusive)"
    following = "" if window.end_ms is None else f"before {iso(window.end_ms)}"
    return " and ".join(part for part in (first, following) if part)


def _patterns(patterns: RecordPatterns) -> str:
    parts = [
        f"a {name} in which {pattern!r} is found"
        for name, pattern in (("key", patterns.key), ("value", patterns.value))
        if pattern is not None
    ]
    parts += [
        f"a header {header.name!r}" + ("" if header.value is None else f" in which {header.value!r} is found")
        for header in patterns.headers
    ]
    return " and ".join(parts)


def _some(items: Sequence[object]) -> str:
    shown = ", ".join(map(str, items[:10]))
    return shown if len(items) <= 10 else f"{shown} and {len(items) - 10} more"

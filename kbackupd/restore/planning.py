"""From an opened archive and the options to a plan. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.history import PartitionEvidence, PartitionHistory, build_history
from kbackupd.archive.lineage import ROOT_BRANCH
from kbackupd.archive.plain import RunSums
from kbackupd.model.positions import OffsetRange, PartitionId
from kbackupd.model.scope import OffsetBounds, RecordsOf
from kbackupd.model.settings import KeepOffsets, RestoreOptions, RestoreSettings
from kbackupd.restore.choice import GO_FIRST, ChosenTopic, choose_topics, not_there
from kbackupd.restore.history_facts import not_in_archive, outcomes_of, runs_read
from kbackupd.restore.instant import Instant, PartitionAsOf, history_at, partition_as_of
from kbackupd.restore.plan import (
    PLAN_FORMAT,
    DamagedInArchive,
    NotInArchive,
    PartitionPlan,
    PinnedEpoch,
    PlannedCut,
    PlannedTransaction,
    RestorePlan,
    TopicPlan,
)
from kbackupd.restore.preserve import preserved_offsets, total_seconds
from kbackupd.restore.recovery_point import recovery_point_at, recovery_point_ms

NEVER_SEEN = "it existed at the source and was never looked into: it had no leader, or the daemon was killed too soon"

UNHEARD = "it existed at that instant, and no leader had told of it by then: what it held nobody knows"

BEYOND = "asked for, and beyond the archive, which holds {held}"


def make_plan(archive: Archive, settings: RestoreSettings, instant: Instant | None = None) -> RestorePlan:
    """The plan for what `settings` select of `archive`.

    Args:
        instant: what `read_instant` tells of these options and this archive.

    Raises:
        UsageError: nothing is selected, something named is not in the archive, or two topics would become one; all at
            once.
    """
    options = settings.options
    chosen = choose_topics(archive, options)
    cut = PlannedCut(
        window=options.scope.window,
        visibility=options.scope.records_of,
        filters=options.scope.patterns,
        provenance_headers=options.provenance_headers,
        as_of_ms=options.scope.as_of_ms,
        without_coordinators=instant is not None and not instant.coordinators_known,
    )
    if (instant is None) != (options.scope.as_of_ms is None):
        raise ValueError("an instant is to be read where one is asked for, and nowhere else")
    # In the order in which the archive holds their rows: it has a few of them at hand.
    in_order = sorted(chosen, key=lambda one: one.topic.topic_id)
    plans = {one.topic.topic_id: _topic_plan(archive, one, options, cut, instant) for one in in_order}
    topics = tuple(plans[one.topic.topic_id] for one in chosen)
    preserved = (partition.preserved for topic in topics for partition in topic.partitions)
    return RestorePlan(
        format=PLAN_FORMAT,
        archive=archive.location,
        backup_id=archive.document.backup_id,
        archive_id=archive.document.archive_id,
        source_cluster_id=archive.document.cluster_id,
        pinned=tuple(
            PinnedEpoch(writer=writer, writer_epoch=epoch, sequences=sequences)
            for (writer, epoch), sequences in sorted(archive.pinned.items())
        ),
        target=settings.target.bootstrap_servers,
        retention_after=options.retention_after,
        cut=cut,
        offsets=options.offsets,
        append=options.append,
        fill_seconds=total_seconds(one for one in preserved if one is not None),
        topics=topics,
        not_there=tuple(not_there(archive, options)),
        damaged=(
            *(DamagedInArchive(key=one.key, reason=one.reason) for one in archive.damaged),
            *(DamagedInArchive(key=one.key, reason=one.reason) for one in archive.lost),
        ),
    )


def planned_history(archive: Archive, topic: TopicPlan, partition: PartitionPlan) -> PartitionHistory:
    """What is read of the partition, as far as the instant lets it. Takes as long as `Archive.evidence`."""
    id = topic.id_of(partition)
    if partition.as_of is None:
        return archive.history(id, partition.branch)
    return history_at(archive.evidence(id), partition.branch, partition.as_of)


def _topic_plan(
    archive: Archive, chosen: ChosenTopic, options: RestoreOptions, cut: PlannedCut, instant: Instant | None
) -> TopicPlan:
    topic = chosen.topic
    latest = archive.topic(topic.topic_id) or topic
    return TopicPlan(
        source=topic.name,
        target=chosen.target,
        topic_id=topic.topic_id,
        deleted_at_source_ms=latest.deleted_ms,
        earlier_incarnations=chosen.earlier,
        newer_incarnations=chosen.newer,
        configs=dict(topic.configs),
        target_partitions=chosen.target_partitions,
        partitions=tuple(_partition_plan(archive, topic, id, options, cut, instant) for id in topic.partition_ids),
    )


def _keeps_offsets(options: RestoreOptions, source: str) -> bool:
    if options.offsets is KeepOffsets.AUTO:
        return source in GO_FIRST and not options.append
    return options.offsets is KeepOffsets.PRESERVE


class _Read(NamedTuple):
    """What a partition's plan is made of."""

    history: PartitionHistory
    wanted: RunSums
    """Of the runs that are read."""
    skipped: int
    """Runs in which nothing can be that is wanted."""
    as_of: PartitionAsOf | None = None
    never_seen: bool = False
    """Metadata counted the partition, and that is all: whether it was empty nobody knows."""


def _partition_plan(
    archive: Archive,
    topic: ArchivedTopic,
    id: PartitionId,
    options: RestoreOptions,
    cut: PlannedCut,
    instant: Instant | None,
) -> PartitionPlan:
    scope = options.scope
    branch, asked = scope.branches.get((topic.name, id.partition)), scope.offsets_of(topic.name, id.partition)
    left_out = not scope.takes(topic.name, id.partition)
    preserves = not left_out and _keeps_offsets(options, topic.name)
    read = None
    if not preserves and branch in (None, ROOT_BRANCH):
        read = _read_in_sums(archive, id, cut, asked, instant, left_out=left_out)
    if read is None:
        read = _read_by_runs(archive, id, branch, cut, asked, instant, left_out=left_out)
    present = topic.deleted_ms is None and topic.excluded_ms is None
    return _plan_of(read, cut, asked, left_out=left_out, never_seen=present and read.never_seen, preserves=preserves)


def _read_in_sums(
    archive: Archive,
    id: PartitionId,
    cut: PlannedCut,
    asked: OffsetBounds,
    instant: Instant | None,
    *,
    left_out: bool,
) -> _Read | None:
    """Of a partition of which sums tell all: no value is made for a run."""
    plain = archive.plain(id)
    if plain is None:
        return None
    if instant is None:
        history, as_of = build_history(plain.evidence), None
    elif plain.has_holes:
        return None  # which of its runs were compacted before the instant, and which since, they must tell themselves
    else:
        then, as_of = instant.cuts[id], partition_as_of(instant, plain.evidence)
        history = history_at(plain.evidence, ROOT_BRANCH if then is None else then.branch, as_of)
    held = OffsetRange(history.first_offset, history.next_offset)
    wanted = RunSums() if left_out else plain.sums(held, asked, cut.window.start_ms)
    return _Read(
        history=history,
        wanted=wanted,
        skipped=plain.sums(held).runs - wanted.runs if left_out or not cut.of(asked, None).needs_all else 0,
        as_of=as_of,
        never_seen=plain.unheard_of,
    )


def _read_by_runs(
    archive: Archive,
    id: PartitionId,
    branch: int | None,
    cut: PlannedCut,
    asked: OffsetBounds,
    instant: Instant | None,
    *,
    left_out: bool,
) -> _Read:
    evidence = archive.evidence(id)
    if instant is None:
        history, as_of = build_history(evidence, branch), None
    else:
        then, as_of = instant.cuts[id], partition_as_of(instant, evidence)
        history = history_at(evidence, ROOT_BRANCH if then is None else then.branch, as_of)
    needed = cut.of(asked, as_of).needed(history)
    wanted = RunSums() if left_out else RunSums.of(runs_read(needed))
    held = wanted.runs if needed is history and not left_out else sum(1 for _ in runs_read(history))
    return _Read(
        history=history,
        wanted=wanted,
        skipped=held - wanted.runs,
        as_of=as_of,
        never_seen=evidence == PartitionEvidence(id=id),
    )


def _plan_of(
    read: _Read, cut: PlannedCut, asked: OffsetBounds, *, left_out: bool, never_seen: bool, preserves: bool
) -> PartitionPlan:
    history, wanted, as_of = read.history, read.wanted, read.as_of
    unheard = as_of is not None and not as_of.known
    return PartitionPlan(
        partition=history.id.partition,
        branch=history.branch,
        offsets=OffsetRange(history.first_offset, history.next_offset),
        asked_offsets=asked,
        left_out=left_out,
        runs=wanted.runs,
        runs_skipped=read.skipped,
        batches=wanted.batches,
        records=wanted.records,
        download_bytes=wanted.stored_bytes,
        raw_bytes=wanted.raw_bytes,
        largest_read_bytes=wanted.largest_read_bytes,
        largest_batch_bytes=wanted.largest_batch_bytes,
        log_append_time=wanted.log_append_time,
        legacy=wanted.legacy,
        not_in_archive=() if left_out else tuple(_lacking(history, asked, never_seen=never_seen, unheard=unheard)),
        open_transactions=() if left_out else tuple(_open_transactions(history, asked, cut.visibility)),
        preserved=preserved_offsets(history, records=wanted.records) if preserves else None,
        as_of=as_of,
        recovery_point_ms=recovery_point_ms(history)
        if as_of is None or cut.as_of_ms is None
        else recovery_point_at(history, as_of, cut.as_of_ms),
    )


def _lacking(
    history: PartitionHistory, asked: OffsetBounds, *, never_seen: bool, unheard: bool
) -> Iterator[NotInArchive]:
    """What is not in the archive of the offsets asked for, ascending."""
    if never_seen:
        yield NotInArchive(offsets=OffsetRange(0, 0), cause=None, meaning=NEVER_SEEN)
        return
    if unheard:
        yield NotInArchive(offsets=OffsetRange(0, 0), cause=None, meaning=UNHEARD)
        return
    held = OffsetRange(history.first_offset, history.next_offset)
    if asked.first_offset is not None and asked.first_offset < held.first_offset:
        below = OffsetRange(asked.first_offset, held.first_offset)
        yield NotInArchive(offsets=below, cause=None, meaning=BEYOND.format(held=held))
    for one in not_in_archive(history):
        first = max(one.offsets.first_offset, asked.first_offset or 0)
        following = one.offsets.next_offset
        if asked.next_offset is not None:
            following = min(following, asked.next_offset)
        if first < following:
            yield replace(one, offsets=OffsetRange(first, following))
    if asked.next_offset is not None and asked.next_offset > held.next_offset:
        above = OffsetRange(held.next_offset, asked.next_offset)
        yield NotInArchive(offsets=above, cause=None, meaning=BEYOND.format(held=held))


def _open_transactions(
    history: PartitionHistory, asked: OffsetBounds, visibility: RecordsOf
) -> Iterator[PlannedTransaction]:
    if not history.open_transactions:
        return
    outcomes = outcomes_of(history)
    for row in history.open_transactions:
        if asked.next_offset is None or row.first_offset < asked.next_offset:
            outcome = outcomes.of_batch(row.producer_id, row.first_offset)
            yield PlannedTransaction(
                producer_id=row.producer_id,
                producer_epoch=row.producer_epoch,
                first_offset=row.first_offset,
                outcome=outcome,
                restored=outcome.kept or visibility is RecordsOf.UNCOMMITTED,
            )

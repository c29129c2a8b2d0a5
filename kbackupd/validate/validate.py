"""Validation on one page: survey, judge, read every byte if asked to, report.

Raises nothing about the archive's content: that is what findings are for. What the store cannot say for certain is an
error (I5), so that an archive nobody could read is never reported as valid, nor as damaged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from kbackupd.archive.archive import archived_topics, no_archive
from kbackupd.archive.evidence import gather_evidence
from kbackupd.archive.losses import LOOKS_MAX, any_appeared
from kbackupd.format import keys
from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.positions import TopicId
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore
from kbackupd.validate.content import OnBytes, content_findings
from kbackupd.validate.continuity import Continuity
from kbackupd.validate.coverage import Expected, coverage_findings
from kbackupd.validate.listing import checkpoint_totals, listing_findings
from kbackupd.validate.report import Checked, Finding, Severity, ValidationReport, ordered
from kbackupd.validate.rollups import rollup_content_findings, rollup_findings
from kbackupd.validate.survey import Survey, survey

OnTotal = Callable[[int], None]


async def validate(
    store: ObjectStore,
    backup_id: str,
    *,
    deep: bool = False,
    expected: Expected = Expected(),
    clock: Clock | None = None,
    on_total: OnTotal = lambda _: None,
    on_bytes: OnBytes = lambda _: None,
) -> ValidationReport:
    """Check the archive `backup_id` under `store` (the `--path`); nothing is written.

    Args:
        deep: read every byte of every segment; without it no body is read.
        expected: what must be in it besides what it says of itself.
        on_total: hears once how many bytes of bodies will be read.
        on_bytes: hears of every piece read.

    Raises:
        ObjectMissingError: there is not a single object.
        KbackupError: the store could not be read for certain.
    """
    clock = SystemClock() if clock is None else clock
    started_ms, started = clock.now_ms(), clock.monotonic()
    scoped = ScopedStore(store, backup_id)
    found = await _settled(scoped)
    if not found.catalog.objects:
        raise no_archive(scoped.location)
    segments = found.catalog.segments
    findings, names, checked = await asyncio.to_thread(_judge, found, backup_id, expected)
    body_bytes = 0

    def count(read: int) -> None:
        nonlocal body_bytes
        body_bytes += read
        on_bytes(read)

    if deep:
        on_total(sum(segment.footer.body_bytes for segment in segments))
        findings += await content_findings(scoped, segments, names, count)
        findings += await rollup_content_findings(scoped, found)
    kept = ordered(findings)
    errors = sum(one.severity is Severity.ERROR for one in kept)
    document = found.catalog.document
    return ValidationReport(
        location=scoped.location,
        backup_id=backup_id,
        archive_id=document.archive_id if document else None,
        cluster_id=document.cluster_id if document else None,
        deep=deep,
        started_ms=started_ms,
        duration_seconds=round(clock.monotonic() - started, 3),
        checked=replace(checked, body_bytes=body_bytes),
        valid=not errors,
        errors=errors,
        informations=len(kept) - errors,
        findings=kept,
    )


async def _settled(scoped: ObjectStore) -> Survey:
    """A survey that no running daemon has made contradict itself.

    A listing takes time: a page may have passed the place of a segment that landed before one which a later page shows.
    What is then missing is there when asked again; only what stays missing was lost.
    """
    found = await survey(scoped)
    for _ in range(LOOKS_MAX - 1):
        judgements = found.judgements()
        lost = [keys.segment_seq_prefix(one.writer, one.writer_epoch, seq) for one in judgements for seq, _ in one.lost]
        if not await any_appeared(scoped, lost):
            break
        found = await survey(scoped)
    return found


def _judge(
    found: Survey, backup_id: str, expected: Expected
) -> tuple[list[Finding], Callable[[TopicId], str], Checked]:
    """Everything that follows from the survey; pure, and long enough for a thread of its own."""
    segments = found.catalog.segments
    judgements = found.judgements()
    evidence = gather_evidence(segments)
    topics = {topic.topic_id: topic for topic in archived_topics(segments)}
    newest = tuple(found.newest.values())
    continuity = Continuity(segments, evidence, judgements, newest)
    findings = list(listing_findings(found, judgements, backup_id=backup_id))
    findings += rollup_findings(found)
    findings += continuity.findings()
    for checkpoint in newest:
        findings += checkpoint_totals(found, checkpoint)
    findings += coverage_findings(topics, evidence, newest, expected)
    runs = [run for segment in segments for run in segment.footer.runs]
    checked = Checked(
        objects=len(found.catalog.objects),
        segments=len(segments),
        checkpoints=len(found.checkpoints),
        snapshots=len(found.snapshots),
        rollups=len(found.rollups),
        topics=len(topics),
        partitions=len(evidence),
        runs=len(runs),
        batches=sum(run.batches for run in runs),
        records=sum(run.records for run in runs),
    )
    return findings, continuity.name, checked

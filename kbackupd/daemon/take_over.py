"""Taking an archive over: whose it is, which life of the writer this is, where it goes on and where new logs begin.

Also the one place that decides what `start: latest` leaves out: what each log held at the moment the archive was
created, as `backup.json` has it. No writer's own past is asked: one that was renamed, or killed before anything was
durable, has none, and what was appended since belongs to the backup.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from kbackupd.archive.identity import claim_epoch, identity_of, open_or_create
from kbackupd.archive.other_writers import refuse_hidden_start
from kbackupd.archive.recovery import recover
from kbackupd.capture.log_ends import log_ends
from kbackupd.capture.pipeline import Resume
from kbackupd.capture.source import Source
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe import events
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore

KAFKA_PATIENCE_SECONDS = 60.0
"""For so long a start waits for a first broker to answer; the last try begins no later."""
KAFKA_WAIT_MAX_SECONDS = 5.0
KAFKA_AWAITED = "kafka"
"""Subject of the problem meanwhile."""

log = structlog.get_logger()


async def take_over(
    settings: DaemonSettings, *, store: ObjectStore, source: Source, clock: Clock, problems: Problems | None = None
) -> tuple[ArchiveDocument, Resume]:
    """Check whose archive this is, become its writer, find out where the last life ended.

    `store` is scoped to the archive. On return the claim is durable: earlier lives of the writer are fenced. Cancelled
    in between it leaves the archive's identity or a claim at most.

    Args:
        problems: are told what the start waits for.

    Raises:
        KafkaUnavailableError: no broker said within a minute who the cluster is.
        KafkaDeniedError: one of them refuses us.
        ForeignArchiveError: the archive is another cluster's.
        RefusedError: another writer's branches would hide what this one stores.
        KbackupError: the store could not say for certain what is there.
    """
    cluster_id = await _cluster_id(source, clock=clock, problems=problems)
    document, created = await open_or_create(
        store,
        backup_id=settings.backup_id,
        cluster_id=cluster_id,
        start=settings.backup.start,
        clock=clock,
        ends=lambda: log_ends(source),
    )
    identity = identity_of(document)
    log.info(events.ARCHIVE_CREATED if created else events.ARCHIVE_OPENED, location=store.location)
    epoch = await claim_epoch(store, writer=settings.writer, identity=identity, clock=clock)
    log.info(events.WRITER_CLAIMED, writer=settings.writer, epoch=epoch)
    started = clock.monotonic()
    recovery = await recover(store, writer=settings.writer, writer_epoch=epoch, identity=identity)
    await refuse_hidden_start(store, recovery.state, identity=identity)
    for key in recovery.damaged:
        log.error(
            events.OBJECT_DAMAGED, key=key, consequence="its offsets are captured again where the source has them"
        )
    log.info(
        events.POSITIONS_RECOVERED,
        partitions=len(recovery.state.partitions),
        footers_read=recovery.footers_read,
        seconds=round(clock.monotonic() - started, 3),
    )
    return document, Resume(identity=identity, writer_epoch=epoch, recovery=recovery, left_out=document.ends)


async def _cluster_id(source: Source, *, clock: Clock, problems: Problems | None) -> str:
    """Brokers that restart with us, as after an outage of the whole place, get the minute that the store gets."""
    until = clock.monotonic() + KAFKA_PATIENCE_SECONDS
    attempt = 0
    while True:
        try:
            cluster_id = (await source.metadata([])).cluster_id
        except KafkaUnavailableError as error:
            attempt += 1
            left_seconds = until - clock.monotonic()
            if left_seconds <= 0:
                raise
            if problems is not None:
                problems.report(KAFKA_AWAITED, error.message, hint=error.hint)
            say = log.warning if attempt == 1 else log.debug
            say(events.CLUSTER_AWAITED, error=error.message, attempt=attempt, patience_seconds=KAFKA_PATIENCE_SECONDS)
            wait_seconds = min(KAFKA_WAIT_MAX_SECONDS, 0.5 * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
            await asyncio.sleep(min(wait_seconds, left_seconds))
        else:
            if problems is not None:
                problems.clear(KAFKA_AWAITED)
            return cluster_id

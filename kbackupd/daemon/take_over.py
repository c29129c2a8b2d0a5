"""Taking an archive over: whose it is, which life of the writer this is, where it goes on and where new logs begin.

Also the one place that decides what `start: latest` leaves out: what each log held at the moment the archive was
created, as `backup.json` has it. No writer's own past is asked: one that was renamed, or killed before anything was
durable, has none, and what was appended since belongs to the backup.
"""

from __future__ import annotations

import structlog

from kbackupd.archive.identity import claim_epoch, identity_of, open_or_create
from kbackupd.archive.other_writers import refuse_hidden_start
from kbackupd.archive.recovery import recover
from kbackupd.capture.log_ends import log_ends
from kbackupd.capture.pipeline import Resume
from kbackupd.capture.source import Source
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.clock import Clock
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe import events
from kbackupd.store.protocol import ObjectStore

log = structlog.get_logger()


async def take_over(
    settings: DaemonSettings, *, store: ObjectStore, source: Source, clock: Clock
) -> tuple[ArchiveDocument, Resume]:
    """Check whose archive this is, become its writer, find out where the last life ended.

    `store` is scoped to the archive. On return the claim is durable: earlier lives of the writer are fenced. Cancelled
    in between it leaves the archive's identity or a claim at most.

    Raises:
        KafkaUnavailableError, KafkaDeniedError: the cluster could not be asked who it is.
        ForeignArchiveError: the archive is another cluster's.
        RefusedError: another writer's branches would hide what this one stores.
        KbackupError: the store could not say for certain what is there.
    """
    cluster_id = (await source.metadata([])).cluster_id
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

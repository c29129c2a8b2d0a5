"""Archives of real topics, made from the broker's own log files, and their restore into the same broker."""

from __future__ import annotations

from kbackupd.archive.archive import Archive, archive_identity
from kbackupd.format.header import parse_header
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import TopicId
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.as_of import read_instant
from kbackupd.restore.course import Course
from kbackupd.restore.planning import make_plan
from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.restore import RestoreMemory, execute
from kbackupd.restore.stored import StoredRestores
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.truth import raw_log, split_batches
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, SourceLog


def mirror_log(log: SourceLog, raw: bytes) -> None:
    """Give `log` the batches of a broker's log files, open transactions included."""
    for batch in split_batches(raw):
        header = parse_header(batch.data, 0)
        if header.is_control:
            log._open.pop(header.producer_id, None)
        elif header.is_transactional:
            log._open.setdefault(header.producer_id, header.base_offset)
        log.add(batch.data)


def mirror_topic(
    built: ArchiveBuilder, server: KafkaServer, name: str, *, partitions: int, configs: dict[str, str] | None = None
) -> TopicId:
    """The real topic `name` as a topic of the builder's source cluster."""
    topic_id = built.topic(name, partitions=partitions, configs=configs)
    for number in range(partitions):
        mirror_log(built.log(topic_id, number), raw_log(server, name, number))
    return topic_id


async def restore(
    built: ArchiveBuilder,
    settings: RestoreSettings,
    *,
    memory: RestoreMemory | None = None,
    progress: RestoreProgress | None = None,
) -> RestoreReport:
    """Restore a built archive."""
    return await restore_archive(built.store, settings, memory=memory, progress=progress)


async def restore_archive(
    store: ObjectStore,
    settings: RestoreSettings,
    *,
    memory: RestoreMemory | None = None,
    progress: RestoreProgress | None = None,
) -> RestoreReport:
    """Plan and carry out, as the command does."""
    clock = SystemClock()
    async with KafkaConnection(
        bootstrap_servers=settings.target.bootstrap_servers,
        security=settings.target.security,
        client_id="restore-test",
        clock=clock,
    ) as connection:
        scoped = ScopedStore(store, BACKUP_ID)
        course = await Course.read(StoredRestores(scoped), await archive_identity(scoped), clock)
        await course.find(connection, settings.options)
        archive = await Archive.open(store, BACKUP_ID, pinned=course.pinned)
        return await execute(
            make_plan(archive, settings, await read_instant(archive, settings.options)),
            settings=settings,
            archive=archive,
            connection=connection,
            progress=progress or RestoreProgress(began_at=clock.monotonic()),
            course=course,
            memory=memory,
        )

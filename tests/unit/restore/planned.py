"""Plans made from built archives, and the settings that ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kbackupd.archive.archive import Archive
from kbackupd.archive.pins import Pins
from kbackupd.archive.plain import PlainPartition
from kbackupd.format.batch import iter_batches
from kbackupd.format.stored_records import records_of as decoded
from kbackupd.model.positions import PartitionId
from kbackupd.model.scope import RecordsOf, RestoreScope
from kbackupd.model.settings import (
    FilesystemSettings,
    KeepOffsets,
    RestoreOptions,
    RestoreSettings,
    RestoreSource,
    RestoreTarget,
    RetentionAfter,
    StorageSettings,
    TopicMapping,
    TopicSelection,
)
from kbackupd.restore.as_of import read_instant
from kbackupd.restore.cut import EVERYTHING, PartitionCut
from kbackupd.restore.history_facts import outcomes_of
from kbackupd.restore.plan import PartitionPlan, RestorePlan, TopicPlan
from kbackupd.restore.planning import make_plan, planned_history
from kbackupd.restore.produce_batch import ProducerIdentity
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.source import Chunk, read_partition
from kbackupd.restore.tally import Tally
from tests.archive_builder import BACKUP_ID, ArchiveBuilder


def settings_for(
    bootstrap: str,
    mapping: Mapping[str, str],
    *,
    retention_after: RetentionAfter = RetentionAfter.AUTO,
    verify: bool = True,
    rate_limit_bytes_per_second: int | None = None,
    scope: RestoreScope | None = None,
    provenance_headers: bool = False,
    offsets: KeepOffsets = KeepOffsets.AUTO,
    append: bool = False,
) -> RestoreSettings:
    """Restore settings whose storage nobody opens: the archive is handed over."""
    return RestoreSettings(
        source=RestoreSource(
            path="memory:",
            backup_id=BACKUP_ID,
            storage=StorageSettings(backend=FilesystemSettings(path=Path("/nowhere"))),
        ),
        target=RestoreTarget(bootstrap_servers=tuple(bootstrap.split(","))),
        options=RestoreOptions(
            topics=TopicSelection(include=tuple(mapping) or ("*",)),
            topic_mapping=tuple(TopicMapping(source=source, target=target) for source, target in mapping.items()),
            retention_after=retention_after,
            offsets=offsets,
            append=append,
            rate_limit_bytes_per_second=rate_limit_bytes_per_second,
            verify=verify,
            scope=scope or RestoreScope(),
            provenance_headers=provenance_headers,
        ),
    )


async def archive_everything(built: ArchiveBuilder) -> None:
    """One daemon's life that captures every topic of the builder to its end."""
    life = await built.start()
    for topic_id, topic in built.topics.items():
        life.see(topic_id)
        for number in range(topic.partitions):
            life.capture(topic_id, number)
    await life.flush()


class ByRuns(Archive):
    """One that sums nothing up: a value is made for every run."""

    def plain(self, id: PartitionId) -> PlainPartition | None:
        return None


async def plan_of(built: ArchiveBuilder, settings: RestoreSettings, pinned: Pins | None = None) -> RestorePlan:
    """The plan, which is the same whether it is made of sums or of runs."""
    archive = await Archive.open(built.store, BACKUP_ID, pinned=pinned)
    instant = await read_instant(archive, settings.options)
    plan = make_plan(archive, settings, instant)
    by_runs = await ByRuns.open(built.store, BACKUP_ID, pinned=pinned)
    assert await read_instant(by_runs, settings.options) == instant
    assert make_plan(by_runs, settings, instant) == plan
    return plan


async def rewritten(
    built: ArchiveBuilder,
    topic: TopicPlan,
    partition: PartitionPlan,
    cut: PartitionCut = EVERYTHING,
    records_of: RecordsOf = RecordsOf.COMMITTED,
) -> tuple[list[bytes], Tally]:
    """The bodies of the records that a restore of the partition would produce, in order, and its counts."""
    archive = await Archive.open(built.store, BACKUP_ID)
    history = planned_history(archive, topic, partition)
    into = PartitionRewriter(
        outcomes=outcomes_of(history),
        producer=ProducerIdentity(1, 0),
        max_batch_bytes=1 << 20,
        cut=cut,
        records_of=records_of,
    )
    bodies = []
    async for chunk in read_partition(archive, cut.needed(history), read_ahead_bytes=1 << 20):
        assert isinstance(chunk, Chunk), chunk
        for batch in chunk.batches:
            for produced in into.rewrite(batch):
                ((header, data),) = iter_batches(produced.data)
                bodies += [record.body for record in decoded(header, data)]
    return bodies, into.tally

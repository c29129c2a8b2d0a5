"""Invariant I3 to its end: an archive that has lost every checkpoint restores to the same records."""

from __future__ import annotations

from collections.abc import Callable

from kbackupd.restore.report import PartitionReport, Verdict
from kbackupd.store.open import open_store
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Outcome, Truth, read_topic
from kbackupd.testbed.workload import RecordMaker, produce, produce_transaction
from tests.integration.capture.backup import Backup, flush
from tests.integration.restore.mirror import restore_archive
from tests.unit.restore.planned import settings_for

Names = Callable[[], str]


async def restored(backup: Backup, source: str, target: str) -> list[PartitionReport]:
    """A restore that must be complete: what it says of each partition."""
    store = await open_store(backup.storage)
    try:
        report = await restore_archive(store, settings_for(backup.kafka.bootstrap, {source: target}))
    finally:
        await store.close()
    assert report.verdict is Verdict.COMPLETE
    [topic] = report.topics
    return list(topic.partitions)


async def test_with_every_checkpoint_deleted_the_restore_is_the_same(backup: Backup, unique_topic: Names) -> None:
    source, truth = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2), Truth()
    daemon = backup.daemon(source)
    for life in range(2):
        daemon.start()
        maker = RecordMaker(f"life {life}")
        produce(backup.kafka.bootstrap, truth, source, (maker.draft(number) for number in (0, 1) for _ in range(50)))
        for outcome in (Outcome.COMMITTED, Outcome.ABORTED):
            drafts = ((source, maker.draft(0)) for _ in range(20))
            produce_transaction(backup.kafka.bootstrap, truth, drafts, outcome=outcome)
        await flush(daemon)
        assert daemon.stop() == 0
    with_them, without_them = unique_topic(), unique_topic()
    before = await restored(backup, source, with_them)

    assert len(backup.objects("checkpoints/")) >= 2
    for key in backup.objects("checkpoints/"):
        backup.delete(key)
    after = await restored(backup, source, without_them)

    assert after == before
    records = read_topic(backup.kafka.bootstrap, without_them)
    assert records == read_topic(backup.kafka.bootstrap, with_them)
    assert {number: [record.value for record in found] for number, found in records.items()} == {
        number: [record.value for record in found]
        for number, found in read_topic(backup.kafka.bootstrap, source).items()
    }

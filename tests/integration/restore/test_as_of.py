"""Restores to random instants of a cluster under transactional load, against what its clients were told."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.cut import cut_at
from kbackupd.archive.group_history import coordinator_topic_at
from kbackupd.format.committed_offsets import coordinator_partition
from kbackupd.model.clock import SystemClock
from kbackupd.model.coordinators import TRANSACTION_STATE
from kbackupd.model.scope import RestoreScope
from kbackupd.restore.report import Verdict
from kbackupd.store.open import open_store
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.archive_builder import BACKUP_ID
from tests.integration.capture.backup import Backup
from tests.integration.coordinator_story import PATIENCE_SECONDS, transactional
from tests.integration.restore.live_load import LiveLoad, back_up_under, instants_between, writing
from tests.integration.restore.mirror import restore_archive
from tests.integration.restore.test_outcomes import values
from tests.unit.restore.planned import settings_for

Names = Callable[[], str]
INSTANTS = 30
PARTITIONS, WRITERS, SPREAD, TRANSACTIONS = 12, 4, 3, 25
"""Each transaction has a record in `SPREAD` partitions; each writer ends at least so many."""
CLOCK = SystemClock()


@dataclass(slots=True)
class Written:
    """A transaction of the model, in milliseconds of the clock that the daemon has too."""

    partitions: tuple[int, ...]
    committed: bool
    asked_ms: int
    acknowledged_ms: int


@dataclass(slots=True)
class Load(LiveLoad):
    written: dict[str, list[Written]] = field(default_factory=lambda: defaultdict(list))

    def keep_writing(self, kafka: KafkaServer, name: str) -> None:
        producer, dice = transactional(kafka, name), random.Random(name)
        while not self.stop.is_set():
            partitions = tuple(dice.sample(range(PARTITIONS), SPREAD))
            number, commit = len(self.written[name]), dice.random() < 0.75
            producer.begin_transaction()
            for partition in partitions:
                producer.produce(self.topic, f"{name}/{number}".encode(), partition=partition)
            assert producer.flush(PATIENCE_SECONDS) == 0
            asked_ms = CLOCK.now_ms()
            (producer.commit_transaction if commit else producer.abort_transaction)(PATIENCE_SECONDS)
            self.written[name].append(Written(partitions, commit, asked_ms, CLOCK.now_ms()))

    def fewest(self) -> int:
        return min(map(len, list(self.written.values()))) if len(self.written) == WRITERS else 0


@pytest.fixture
def load(kafka: KafkaServer, unique_topic: Names) -> Iterator[Load]:
    made = Load(unique_topic())
    yield from writing(
        made, *(partial(made.keep_writing, kafka, f"{made.topic}-tx-{number}") for number in range(WRITERS))
    )


@pytest.mark.timeout(1800)
async def test_hazard_38_at_random_instants_every_transaction_is_whole_and_those_that_were_acknowledged_are_there(
    backup: Backup, load: Load
) -> None:
    kafka, topic = backup.kafka, load.topic
    create_topic(kafka.bootstrap, topic, partitions=PARTITIONS)
    await asyncio.to_thread(transactional, kafka, f"{topic}-first")  # makes __transaction_state, if nobody did
    daemon = backup.daemon(topic, internal_topics=True)
    daemon.start()
    marks = await back_up_under(load, daemon, times=TRANSACTIONS)

    whole = 0
    store = await open_store(backup.storage)
    try:
        archive = await Archive.open(store, BACKUP_ID)
        for number, at_ms in enumerate(instants_between(marks, INSTANTS)):
            target = f"{topic}-at-{number}"
            settings = settings_for(kafka.bootstrap, {topic: target}, scope=RestoreScope(as_of_ms=at_ms))
            report = await restore_archive(store, settings)
            assert report.verdict in (Verdict.COMPLETE, Verdict.INCOMPLETE), report
            restored = await asyncio.to_thread(values, kafka, target)
            found: dict[bytes, set[int]] = defaultdict(set)
            for partition, rows in restored.items():
                for value in rows:
                    assert value is not None
                    assert partition not in found[value], "a record came back twice"
                    found[value].add(partition)
            for name, written in load.written.items():
                told_ms = _log_sent_ms(archive, name, at_ms)
                for count, one in enumerate(written):
                    there = found.pop(f"{name}/{count}".encode(), set())
                    assert there in (set(), set(one.partitions)), (name, count, at_ms, "split")
                    whole += bool(there)
                    if not one.committed or one.asked_ms > at_ms:
                        assert not there, (name, count, at_ms)
                    elif one.acknowledged_ms < told_ms:
                        assert there, (name, count, at_ms)
            assert not found
    finally:
        await store.close()
    assert whole > INSTANTS


def _log_sent_ms(archive: Archive, transactional_id: str, at_ms: int) -> int:
    """What was acknowledged before that is decided by what the coordinator's log told last."""
    topic = coordinator_topic_at(archive, TRANSACTION_STATE, at_ms)
    if topic is None:
        return 0
    cut = cut_at(
        archive.evidence(topic.partition_ids[coordinator_partition(transactional_id, topic.partitions)]), at_ms
    )
    return 0 if cut is None else cut.sent_ms

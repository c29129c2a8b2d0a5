"""A plan made of sums is the plan that the runs make, whatever is cut, and whatever the archive is read through."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive import rollup_rows
from kbackupd.archive.archive import Archive
from kbackupd.archive.catalog import load_catalog
from kbackupd.archive.evidence import gather_evidence
from kbackupd.archive.history import PartitionEvidence
from kbackupd.archive.plain import PlainPartition
from kbackupd.model.errors import UsageError
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.model.scope import OffsetBounds, RecordsOf, RestoreScope, TimeWindow
from kbackupd.restore.as_of import read_instant
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.planning import make_plan
from kbackupd.restore.restore import reading_order
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life
from tests.unit.archive.test_rollups import rolled_up
from tests.unit.restore.planned import ByRuns, archive_everything, plan_of, settings_for


class ByFooters(Archive):
    """As a reader sees it who reads every footer and keeps a value for each row."""

    rows: dict[PartitionId, PartitionEvidence]

    def evidence(self, id: PartitionId) -> PartitionEvidence:
        return self.rows.get(id) or PartitionEvidence(id=id)

    def told(self, id: PartitionId) -> PartitionEvidence:
        return self.evidence(id)

    def plain(self, id: PartitionId) -> PlainPartition | None:
        return None


class Source:
    """Three topics: one that is captured in order, one of transactions, and one to which everything happens."""

    def __init__(self, built: ArchiveBuilder, rng: random.Random) -> None:
        self.built, self.rng = built, rng
        self.quiet = built.topic("quiet", partitions=2)
        self.paid = built.topic("paid", partitions=2)
        self.wild = built.topic("wild")
        built.topic("never", partitions=2)

    async def live(self, steps: int) -> None:
        rng, built = self.rng, self.built
        life = await built.start()
        for topic in built.topics:
            (life.see if topic in (self.quiet, self.paid, self.wild) else life.know)(topic)
        for _ in range(steps):
            self._pay(life)
            for topic, partition in ((self.quiet, 0), (self.quiet, 1), (self.wild, 0)):
                log = built.log(topic, partition)
                if rng.random() < 0.4:
                    continue
                stamp = rng.randrange(1_000)
                log.append([b"value"] * rng.randrange(1, 4), timestamp_ms=stamp, log_append_time=rng.random() < 0.05)
                if topic == self.wild and rng.random() < 0.2:
                    log.truncate(max(log.log_start_offset, log.next_offset - 2))
                    life.follow_cut(topic, partition)
                if rng.random() < 0.1 and life.position(topic, partition) == log.next_offset:
                    log.next_offset += 3
                    life.gap(topic, partition, log.next_offset, GapCause.LOG_START_MOVED)
                    log.log_start_offset = log.next_offset
                life.capture(topic, partition)
                if rng.random() < 0.1:
                    log.log_start_offset = log.next_offset  # the source deletes what was captured
                if rng.random() < 0.5:
                    life.sample(topic, partition)
            if rng.random() < 0.1:
                life.seal()  # it never lands: the next life captures that again
                return
            await life.flush()
        await life.checkpoint()

    def _pay(self, life: Life) -> None:
        """A transaction over two partitions; an instant may lie where only one of them is known to have its marker."""
        logs = [self.built.log(self.paid, number) for number in range(2)]
        producer = len(logs[0].batches)
        for log in logs:
            log.append([b"paid"], transactional=True, producer_id=producer, timestamp_ms=self.rng.randrange(1_000))
        if self.rng.random() < 0.5:
            life.sample(self.paid, 1)
        committed = self.rng.random() < 0.7
        for log in logs:
            log.end_transaction(producer, committed=committed)
        life.sample(self.paid, 0)
        for number in range(2):
            life.capture(self.paid, number)

    def scope(self) -> RestoreScope:
        rng = self.rng
        first, following = sorted(rng.randrange(40) for _ in range(2))
        bounds = OffsetBounds(
            first_offset=rng.choice((None, first)), next_offset=rng.choice((None, max(following, first + 1)))
        )
        now_ms = self.built.clock.now_ms()
        return RestoreScope(
            as_of_ms=rng.choice((None, now_ms, now_ms - rng.randrange(8_000))),
            window=TimeWindow(
                start_ms=rng.choice((None, rng.randrange(1_100))), end_ms=rng.choice((None, rng.randrange(1_100)))
            ),
            records_of=rng.choice(tuple(RecordsOf)),
            offsets={("quiet", 0): bounds} if bounds else {},
            partitions=rng.choice(({}, {"quiet": frozenset({1})})),
        )


async def planned(archive: Archive, scope: RestoreScope) -> RestorePlan | str:
    asked = settings_for("kafka:9092", {}, scope=scope)
    try:
        return make_plan(archive, asked, await read_instant(archive, asked.options))
    except UsageError as error:
        return error.message


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 12))
def test_a_plan_made_of_sums_is_the_plan_that_the_runs_make(seed: int, lives: int, steps: int) -> None:
    async def play() -> None:
        rng = random.Random(seed)
        built = await ArchiveBuilder.create()
        source = Source(built, rng)
        for _ in range(lives):
            await source.live(steps)
            if rng.random() < 0.7:
                await rolled_up(built)
        by_footers = await ByFooters.open(built.store, BACKUP_ID, through_rollups=False)
        assert isinstance(by_footers, ByFooters)
        by_footers.rows = gather_evidence((await load_catalog(built.scoped, through_rollups=False)).segments)
        archives = [
            await Archive.open(built.store, BACKUP_ID),
            await Archive.open(built.store, BACKUP_ID, through_rollups=False),
            await ByRuns.open(built.store, BACKUP_ID),
        ]
        for scope in (RestoreScope(), *(source.scope() for _ in range(6))):
            expected = await planned(by_footers, scope)
            for archive in archives:
                assert await planned(archive, scope) == expected

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rollup_rows, "BLOCK_ROWS", 3)
        asyncio.run(play())


async def test_no_value_is_made_for_a_run_where_sums_tell_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything, a window, a range, and an instant: of a log that was captured once and in order."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    life.see(orders)
    for stamp in range(20):
        built.log(orders, 0).append([b"value"], timestamp_ms=stamp)
        life.capture(orders, 0)
        life.sample(orders, 0)
        await life.flush()
    await rolled_up(built)
    archive = await Archive.open(built.store, BACKUP_ID)

    def refuse(self: Archive, id: PartitionId) -> PartitionEvidence:
        raise AssertionError(f"values for the runs of {id}")

    monkeypatch.setattr(Archive, "evidence", refuse)
    then = built.clock.now_ms() - 10_000
    bounds = {("orders", 0): OffsetBounds(first_offset=4, next_offset=8)}
    for scope, runs, skipped in (
        (RestoreScope(), 20, 0),
        (RestoreScope(window=TimeWindow(start_ms=15)), 5, 15),
        (RestoreScope(as_of_ms=then), 11, 0),
        (RestoreScope(as_of_ms=then, window=TimeWindow(start_ms=4)), 7, 4),
        (RestoreScope(partitions={"orders": frozenset({0})}), 20, 0),
        (RestoreScope(partitions={"orders": frozenset()}), 0, 20),
    ):
        plan = await planned(archive, scope)
        assert isinstance(plan, RestorePlan)
        [topic] = plan.topics
        assert (topic.partitions[0].runs, topic.partitions[0].runs_skipped) == (runs, skipped)
    monkeypatch.undo()  # whether a range that is asked for is there at all is seen by the runs
    plan = await planned(archive, RestoreScope(offsets=bounds))
    assert isinstance(plan, RestorePlan)
    assert (plan.topics[0].partitions[0].runs, plan.topics[0].partitions[0].runs_skipped) == (4, 16)


async def test_the_largest_partitions_begin_first_and_those_about_as_large_as_the_archive_holds_them() -> None:
    built = await ArchiveBuilder.create()
    small, large = built.topic("small", partitions=4), built.topic("large", partitions=2)
    for number in range(4):
        built.log(small, number).append([bytes(20_000 + number)])
    for number in range(2):
        built.log(large, number).append([bytes(100_000 << number)])
    await archive_everything(built)
    plan = await plan_of(built, settings_for("kafka:9092", {}))
    begun = [(topic.source, partition.partition) for topic, partition in reading_order(plan.topics)]
    assert begun == [("large", 1), ("large", 0), *(("small", number) for number in range(4))]


async def test_partitions_that_are_a_small_part_of_the_whole_are_begun_as_their_runs_lie_whatever_their_sizes() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders", partitions=300)
    for number in range(300):
        built.log(topic, number).append([bytes(1_000 + 37 * number % 1_000)])
    built.log(topic, 299).append([bytes(100_000)])
    await archive_everything(built)
    plan = await plan_of(built, settings_for("kafka:9092", {}))
    begun = [partition.partition for _, partition in reading_order(plan.topics)]
    assert begun == [299, *range(299)]

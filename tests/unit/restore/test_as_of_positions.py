"""A group's position that is part of a transaction: records and position come back together, or neither (hazard 38).

Else a consumer that goes on from there makes the output a second time, or never.
"""

from __future__ import annotations

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.groups import groups_at
from kbackupd.model.coordinators import CONSUMER_OFFSETS, CommittedPosition, OffsetKey, TransactionState
from kbackupd.model.scope import RestoreScope
from kbackupd.restore.as_of import read_instant
from kbackupd.restore.planning import make_plan
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, SourceLog
from tests.coordinator_logs import append, transaction
from tests.unit.format.coordinator_bytes import offset_key, position_value
from tests.unit.restore.planned import settings_for
from tests.unit.restore.test_as_of import restored
from tests.unit.restore.transactional_source import TransactionalSource

PRODUCER = 7


class Application:
    """Reads, processes, and writes into orders-0 of the source, its own position in the same transaction."""

    def __init__(self, source: TransactionalSource) -> None:
        self.source = source
        self.offsets_topic = source.built.topic(CONSUMER_OFFSETS, internal=True)
        source.life.see(self.offsets_topic)
        self.output: SourceLog = source.built.log(source.orders, 0)
        self.positions: SourceLog = source.built.log(self.offsets_topic, 0)
        self.coordinators: SourceLog = source.built.log(source.coordinators, 0)
        self.number = 0
        self.began_ms = 0

    @property
    def _epoch(self) -> int:
        return self.number if self.source.own_epochs else 0

    def work(self) -> None:
        """A transaction with one record, the position behind what it came from; not ended."""
        self.number += 1
        self.source.tick()
        self.began_ms = self.source.now()
        self._log(TransactionState.ONGOING, self._epoch)
        self.output.append(
            [b"out-%d" % self.number], producer_id=PRODUCER, producer_epoch=self._epoch, transactional=True
        )
        position = CommittedPosition(self.number, -1, "", self.began_ms, -1, None)
        row = (offset_key(OffsetKey("app", "input", 0)), position_value(position))
        append(self.positions, [row], producer_id=PRODUCER, producer_epoch=self._epoch)

    def prepare(self, *, commit: bool = True) -> None:
        self.source.tick()
        state = TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT
        self._log(state, self._epoch + self.source.own_epochs)

    def mark(self, log: SourceLog, *, commit: bool = True) -> None:
        self.source.tick()
        log.end_transaction(PRODUCER, committed=commit, producer_epoch=self._epoch + self.source.own_epochs)

    def complete(self, *, commit: bool = True) -> None:
        self.source.tick()
        state = TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT
        self._log(state, self._epoch + self.source.own_epochs)

    def whole(self, *, commit: bool = True) -> None:
        self.work()
        self.prepare(commit=commit)
        self.mark(self.output, commit=commit)
        self.mark(self.positions, commit=commit)
        self.complete(commit=commit)

    def hear(self, *logs: SourceLog) -> None:
        for log in logs:
            self.source.tick()
            self.source.life.capture(log.id.topic_id, log.id.partition)

    def hear_all(self) -> None:
        self.hear(*[self.coordinators] * self.source.logged, self.positions, self.output)

    def _log(self, state: TransactionState, epoch: int) -> None:
        completed = state in (TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT)
        if self.source.logged:
            transaction(
                self.coordinators,
                "app",
                state,
                producer_id=PRODUCER,
                producer_epoch=epoch,
                partitions=[] if completed else [("orders", 0), (CONSUMER_OFFSETS, 0)],
                started_ms=self.began_ms,
                updated_ms=self.source.now(),
                client_version=2 if self.source.own_epochs else 0,
            )


async def found_at(built: ArchiveBuilder, at_ms: int) -> tuple[int, int]:
    """How many records came back, and where the group stands."""
    settings = settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms))
    archive = await Archive.open(built.store, BACKUP_ID)
    instant = await read_instant(archive, settings.options)
    assert instant is not None
    plan = make_plan(archive, settings, instant)
    records = await restored(built, plan)
    report = await groups_at(built.store, BACKUP_ID, at_ms, "app", pinned=archive.pinned, decided=instant.positions)
    positions = [one.offset for group in report.groups for one in group.positions]
    return len(records[0]), max(positions, default=0)


async def application(*, own_epochs: bool, logged: bool = True) -> Application:
    source = await TransactionalSource.create(1, own_epochs=own_epochs, logged=logged)
    made = Application(source)
    made.whole()
    made.whole()
    made.hear_all()
    return made


@pytest.mark.parametrize("heard", ["positions", "output", "coordinators", "nothing"])
@pytest.mark.parametrize(("own_epochs", "logged"), [(True, True), (False, True), (True, False)])
async def test_whatever_tells_of_the_decision_records_and_position_are_of_the_same_moment(
    heard: str, own_epochs: bool, logged: bool
) -> None:
    app = await application(own_epochs=own_epochs, logged=logged)
    app.work()
    app.prepare()
    app.mark(app.positions)
    app.mark(app.output)
    if heard != "nothing" and (logged or heard != "coordinators"):
        app.hear({"positions": app.positions, "output": app.output, "coordinators": app.coordinators}[heard])
    at_ms = app.source.now()
    app.complete()
    app.whole()
    app.hear_all()
    await app.source.life.flush()

    done = 2 if heard == "nothing" or (heard == "coordinators" and not logged) else 3
    assert await found_at(app.source.built, at_ms) == (done, done)


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_position_whose_marker_was_never_captured_counts_with_its_records(own_epochs: bool) -> None:
    app = await application(own_epochs=own_epochs)
    app.work()
    app.prepare()
    app.hear_all()
    app.mark(app.output)
    app.hear(app.output)
    at_ms = app.source.now()
    await app.source.life.flush()

    assert await found_at(app.source.built, at_ms) == (3, 3)


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_position_of_an_aborted_transaction_or_of_one_that_was_open_does_not_count(own_epochs: bool) -> None:
    app = await application(own_epochs=own_epochs)
    app.whole(commit=False)
    app.work()
    app.hear_all()
    at_ms = app.source.now()
    app.prepare()
    app.mark(app.positions)
    app.mark(app.output)
    app.complete()
    app.hear_all()
    await app.source.life.flush()

    assert await found_at(app.source.built, at_ms) == (2, 2)
    assert await found_at(app.source.built, app.source.now()) == (3, 4)


async def test_a_restore_that_has_begun_puts_no_group_beyond_the_records_it_knew_of() -> None:
    """Answers of before the instant that are stored later tell of a position whose output is not restored."""
    app = await application(own_epochs=True)
    await app.source.life.flush()
    at_ms = app.source.now() + 10_000
    settings = settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms))
    archive = await Archive.open(app.source.built.store, BACKUP_ID)
    instant = await read_instant(archive, settings.options)
    assert instant is not None
    app.whole()
    app.hear_all()
    await app.source.life.flush()

    pinned = await groups_at(
        app.source.built.store, BACKUP_ID, at_ms, "app", pinned=archive.pinned, decided=instant.positions
    )

    assert [one.offset for group in pinned.groups for one in group.positions] == [2]
    later = await groups_at(app.source.built.store, BACKUP_ID, at_ms, "app")
    assert [one.offset for group in later.groups for one in group.positions] == [3]

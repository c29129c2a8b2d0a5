"""Which transaction was decided when, and over what, by the captured log of its coordinator (hazard 38)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.coordinator_items import CoordinatorBatch, CoordinatorRecord, LostRange
from kbackupd.archive.group_history import coordinator_topic_at
from kbackupd.archive.transaction_fold import Decision, LoggedTransaction, TransactionFold
from kbackupd.archive.transaction_history import TransactionsOfPartition, transactions_of
from kbackupd.archive.transaction_owners import TransactionOwners
from kbackupd.model.coordinators import TRANSACTION_STATE, TransactionState
from kbackupd.model.events import GapCause
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, SourceLog
from tests.coordinator_logs import append, transaction

COORDINATORS = Path(__file__).parents[2] / "golden" / "coordinators"
VERSIONS = sorted(path.stem for path in COORDINATORS.iterdir())
EMPTY, ONGOING = TransactionState.EMPTY, TransactionState.ONGOING
PREPARE_COMMIT, PREPARE_ABORT = TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT
COMPLETE_COMMIT, COMPLETE_ABORT = TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT
ORDERS, PAYMENTS = ("orders", 0), ("payments", 1)


async def transactions(
    built: ArchiveBuilder, at_ms: int | None = None, *, since_ms: int | None = None, until_ms: int | None = None
) -> TransactionsOfPartition:
    archive = await Archive.open(built.store, BACKUP_ID, wanted=lambda name: name == TRANSACTION_STATE)
    topic = coordinator_topic_at(archive, TRANSACTION_STATE, at_ms)
    assert topic is not None
    (id,) = topic.partition_ids
    return await transactions_of(archive, id, at_ms, since_ms=since_ms, until_ms=until_ms)


async def captured(log: SourceLog, built: ArchiveBuilder) -> TransactionsOfPartition:
    """Capture all that is in the log at once, and read it."""
    life = await built.start()
    life.capture(log.id.topic_id, 0)
    await life.flush()
    return await transactions(built)


@pytest.fixture
async def built() -> ArchiveBuilder:
    return await ArchiveBuilder.create()


@pytest.fixture
def log(built: ArchiveBuilder) -> SourceLog:
    return built.log(built.topic(TRANSACTION_STATE, internal=True), 0)


async def test_a_transaction_is_told_with_its_partitions_and_the_records_that_decided_it(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    transaction(log, "a", EMPTY, started_ms=-1)
    transaction(log, "a", ONGOING, partitions=[ORDERS], updated_ms=101)
    transaction(log, "a", ONGOING, partitions=[ORDERS, PAYMENTS], updated_ms=102)
    transaction(log, "a", PREPARE_COMMIT, partitions=[ORDERS, PAYMENTS], updated_ms=103)
    transaction(log, "a", COMPLETE_COMMIT, updated_ms=104)
    (one,) = (await captured(log, built)).transactions
    assert (one.transactional_id, one.producer_id, one.producer_epoch, one.marker_epoch) == ("a", 7, 0, 0)
    assert one.partitions == {ORDERS, PAYMENTS}
    assert one.partitions_known
    assert one.begun == (1, 101)
    assert one.decided == (3, 103)
    assert one.completed == (4, 104)
    assert one.decision is Decision.COMMITTED
    assert [one.decision_at(offset) for offset in (1, 3, 4, 5)] == [
        Decision.OPEN,
        Decision.OPEN,
        Decision.COMMITTED,
        Decision.COMMITTED,
    ]


async def test_transactions_of_one_producer_id_and_epoch_are_told_apart(built: ArchiveBuilder, log: SourceLog) -> None:
    """Clients before transaction version 2 keep both as long as they live."""
    for number, ending in enumerate(((PREPARE_COMMIT, COMPLETE_COMMIT), (PREPARE_ABORT, COMPLETE_ABORT))):
        transaction(log, "a", ONGOING, partitions=[ORDERS], started_ms=number)
        for state in ending:
            transaction(log, "a", state, partitions=[ORDERS] if state is ending[0] else [], started_ms=number)
    transaction(log, "a", ONGOING, partitions=[PAYMENTS], started_ms=9)
    found = (await captured(log, built)).transactions
    assert [one.decision for one in found] == [Decision.COMMITTED, Decision.ABORTED, Decision.OPEN]
    assert len({(one.producer_id, one.producer_epoch) for one in found}) == 1
    assert not any(one.has_its_own_epoch for one in found)
    assert found[2].partitions == {PAYMENTS}


async def test_with_version_2_each_transaction_has_an_epoch_of_its_own_and_ends_with_the_next(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    for epoch in range(2):
        where = {"partitions": [ORDERS], "started_ms": epoch, "client_version": 2}
        transaction(log, "a", ONGOING, producer_epoch=epoch, **where)  # type: ignore[arg-type]
        transaction(log, "a", PREPARE_COMMIT, producer_epoch=epoch + 1, **where)  # type: ignore[arg-type]
        transaction(log, "a", COMPLETE_COMMIT, producer_epoch=epoch + 1, started_ms=epoch, client_version=2)
    found = (await captured(log, built)).transactions
    assert [(one.producer_epoch, one.marker_epoch) for one in found] == [(0, 1), (1, 2)]
    assert all(one.has_its_own_epoch and one.decision is Decision.COMMITTED for one in found)
    assert [one.writes_with(7, 1) for one in found] == [False, True]
    assert not found[1].writes_with(8, 1)


async def test_where_epochs_run_out_the_transaction_keeps_the_producer_id_it_wrote_with(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    most = 2**15 - 1
    transaction(log, "a", ONGOING, producer_epoch=most - 1, partitions=[ORDERS], client_version=2)
    transaction(log, "a", PREPARE_COMMIT, producer_epoch=most, partitions=[ORDERS], client_version=2)
    transaction(log, "a", COMPLETE_COMMIT, producer_id=8, producer_epoch=0, client_version=2, previous_producer_id=7)
    (one,) = (await captured(log, built)).transactions
    assert (one.producer_id, one.producer_epoch, one.marker_epoch) == (7, most - 1, most)


async def test_a_fenced_transaction_is_aborted_by_markers_of_the_next_epoch(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    transaction(log, "a", ONGOING, partitions=[ORDERS])
    transaction(log, "a", PREPARE_ABORT, producer_epoch=1, partitions=[ORDERS], client_version=2)
    transaction(log, "a", COMPLETE_ABORT, producer_epoch=1, client_version=2)
    transaction(log, "a", EMPTY, producer_epoch=2, started_ms=-1)
    (one,) = (await captured(log, built)).transactions
    assert (one.producer_epoch, one.marker_epoch, one.decision) == (0, 1, Decision.ABORTED)


async def test_a_commit_decided_beyond_the_cut_was_open_at_the_instant(built: ArchiveBuilder, log: SourceLog) -> None:
    life = await built.start()
    transaction(log, "a", ONGOING, partitions=[ORDERS])
    life.capture(log.id.topic_id, 0)
    await life.flush()
    instant = built.clock.now_ms()
    built.clock.advance(60)
    transaction(log, "a", PREPARE_COMMIT, partitions=[ORDERS])
    life.capture(log.id.topic_id, 0)
    await life.flush()
    found = await transactions(built, instant)
    assert found.cut is not None
    (one,) = found.transactions
    assert one.decision is Decision.COMMITTED
    assert one.decision_at(found.cut.next_offset) is Decision.OPEN
    later = await transactions(built)
    assert later.cut is not None
    assert later.transactions[0].decision_at(later.cut.next_offset) is Decision.COMMITTED


async def test_a_transaction_of_which_only_the_end_is_left_says_what_it_does_not_know(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    """The log was compacted before capture began."""
    transaction(log, "prepared", PREPARE_COMMIT, partitions=[ORDERS], producer_epoch=3, client_version=2)
    transaction(log, "aborting", PREPARE_ABORT, partitions=[ORDERS], producer_epoch=3)
    transaction(log, "completed", COMPLETE_COMMIT, producer_epoch=3)
    transaction(log, "rotated", COMPLETE_COMMIT, producer_id=8, producer_epoch=0, previous_producer_id=7)
    found = {one.transactional_id: one for one in (await captured(log, built)).transactions}
    prepared, aborting, completed = found["prepared"], found["aborting"], found["completed"]
    assert (prepared.producer_epoch, prepared.marker_epoch, prepared.partitions_known) == (2, 3, True)
    assert (aborting.producer_epoch, aborting.marker_epoch) == (-1, 3)
    assert [aborting.writes_with(7, epoch) for epoch in (1, 2, 3, 4)] == [False, True, True, False]
    assert (completed.producer_epoch, completed.partitions, completed.partitions_known) == (3, frozenset(), False)
    assert (completed.decision_at(2), completed.decision_at(3)) == (Decision.UNKNOWN, Decision.COMMITTED)
    assert (found["rotated"].producer_id, found["rotated"].producer_epoch) == (7, -1)


async def test_a_transaction_whose_end_fell_into_a_gap_is_unknown_and_not_open(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    life = await built.start()
    for name in ("ended", "going on", "silent"):
        transaction(log, name, ONGOING, partitions=[ORDERS], started_ms=1)
    life.capture(log.id.topic_id, 0)
    transaction(log, "ended", PREPARE_COMMIT, partitions=[ORDERS], started_ms=1)
    life.gap(log.id.topic_id, 0, log.next_offset, GapCause.LOG_START_MOVED)
    transaction(log, "ended", ONGOING, partitions=[PAYMENTS], started_ms=2)
    transaction(log, "going on", PREPARE_COMMIT, partitions=[ORDERS, PAYMENTS], started_ms=1)
    life.capture(log.id.topic_id, 0)
    await life.flush()
    found = await transactions(built)
    assert [(one.transactional_id, one.started_ms, one.decision) for one in found.transactions] == [
        ("ended", 1, Decision.UNKNOWN),
        ("going on", 1, Decision.COMMITTED),
        ("silent", 1, Decision.UNKNOWN),
        ("ended", 2, Decision.OPEN),
    ]
    assert found.transactions[1].partitions == {ORDERS, PAYMENTS}
    assert [one.partitions_known for one in found.transactions] == [False, True, False, True]
    assert [(one.first_offset, one.next_offset) for one in found.lost] == [(3, 4)]


async def test_a_reading_between_two_instants_tells_of_what_was_decided_between_them(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    life = await built.start()
    instants = []
    for number in range(3):
        transaction(log, f"over {number}", ONGOING, partitions=[ORDERS])
        transaction(log, f"over {number}", PREPARE_COMMIT, partitions=[ORDERS])
        transaction(log, f"over {number}", COMPLETE_COMMIT)
        if number == 0:
            transaction(log, "long", ONGOING, partitions=[ORDERS], producer_id=9)
        if number == 1:
            transaction(log, "long", PREPARE_COMMIT, partitions=[ORDERS, PAYMENTS], producer_id=9)
        life.capture(log.id.topic_id, 0)
        await life.flush()
        instants.append(built.clock.now_ms())
        built.clock.advance(60)
    found = await transactions(built, instants[1], since_ms=instants[0], until_ms=instants[1])
    assert [one.transactional_id for one in found.transactions] == ["over 1", "long"]
    long = found.transactions[1]
    assert long.partitions == {ORDERS, PAYMENTS}
    assert (long.producer_id, long.partitions_known) == (9, True)
    assert long.decision is Decision.COMMITTED
    assert found.lost == ()


async def test_where_only_the_last_record_of_each_id_is_looked_at_what_was_not_over_is_told_the_same(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    for number in range(4):
        for name, producer_id in (("a", 7), ("b", 8)):
            started_ms = 100 * number + producer_id
            for partitions in ([ORDERS], [ORDERS, PAYMENTS]):
                transaction(log, name, ONGOING, partitions=partitions, producer_id=producer_id, started_ms=started_ms)
        for name, producer_id in (("b", 8), ("a", 7)):
            started_ms = 100 * number + producer_id
            prepared, completed = (PREPARE_ABORT, COMPLETE_ABORT) if number == 2 else (PREPARE_COMMIT, COMPLETE_COMMIT)
            both = [ORDERS, PAYMENTS]
            transaction(log, name, prepared, partitions=both, producer_id=producer_id, started_ms=started_ms)
            transaction(log, name, completed, producer_id=producer_id, started_ms=started_ms)
    life = await built.start()
    life.capture(log.id.topic_id, 0)
    await life.flush()
    archive = await Archive.open(built.store, BACKUP_ID)
    whole = (await transactions_of(archive, log.id, None)).transactions
    assert len(whole) == 8

    for settled_below in range(log.next_offset + 1):
        found = (await transactions_of(archive, log.id, None, settled_below=settled_below)).transactions
        wanted = [one for one in whole if one.completed is None or one.completed.offset >= settled_below]
        not_over = [one for one in found if one.completed is None or one.completed.offset >= settled_below]
        assert list(map(but_for_beginnings, not_over)) == list(map(but_for_beginnings, wanted))


def but_for_beginnings(one: LoggedTransaction) -> LoggedTransaction:
    """Of one that is heard of by its end: where it began, and, if it was aborted, which epoch its data had."""
    aborted = one.decision is Decision.ABORTED
    return replace(one, begun=None, producer_epoch=-1 if aborted else one.producer_epoch)


async def test_an_expired_id_and_records_of_the_future_end_no_reading(built: ArchiveBuilder, log: SourceLog) -> None:
    transaction(log, "a", COMPLETE_COMMIT)
    transaction(log, "a", None)
    append(log, [(b"\0\x05future", b""), (b"", None)])
    transaction(log, "b", ONGOING, partitions=[ORDERS])
    found = await captured(log, built)
    assert [one.transactional_id for one in found.transactions] == ["a", "b"]
    assert found.unreadable == 2


async def test_a_marker_is_of_the_transaction_that_was_being_ended_when_it_was_written(
    built: ArchiveBuilder, log: SourceLog
) -> None:
    """One producer id and epoch for both transactions: time tells, and says by how much."""
    for at_ms in (100, 200):
        transaction(log, "a", ONGOING, partitions=[ORDERS], started_ms=at_ms, updated_ms=at_ms)
        transaction(log, "a", PREPARE_COMMIT, partitions=[ORDERS], started_ms=at_ms, updated_ms=at_ms + 10)
        transaction(log, "a", COMPLETE_COMMIT, started_ms=at_ms, updated_ms=at_ms + 20)
    transaction(log, "a", ONGOING, partitions=[ORDERS, PAYMENTS], started_ms=300, updated_ms=300)
    transaction(log, "a", PREPARE_ABORT, partitions=[ORDERS, PAYMENTS], started_ms=300, updated_ms=310)
    first, second, third = (await captured(log, built)).transactions
    owners = TransactionOwners([first, second, third])

    def about(
        partition: tuple[str, int], at_ms: int, *, committed: bool = True, epoch: int = 0
    ) -> list[tuple[int, LoggedTransaction]]:
        return owners.about(7, epoch, partition, committed=committed, timestamp_ms=at_ms)

    assert about(ORDERS, 115) == [(0, first), (95, second)]
    assert about(ORDERS, 160) == [(40, first), (50, second)]
    assert about(ORDERS, 212) == [(0, second), (92, first)]
    assert about(ORDERS, 400, committed=False) == [(0, third)]
    assert about(PAYMENTS, 400) == []
    assert about(ORDERS, 115, epoch=3) == []
    assert list(owners.of_data(7, 0, ORDERS)) == [first, second, third]
    assert list(owners.of_data(7, 0, PAYMENTS)) == [third]
    assert list(owners.of_data(7, 1, ORDERS)) == []


async def test_a_marker_with_an_epoch_of_its_own_needs_no_time(built: ArchiveBuilder, log: SourceLog) -> None:
    for epoch in range(3):
        transaction(log, "a", ONGOING, producer_epoch=epoch, partitions=[ORDERS], started_ms=epoch, client_version=2)
        transaction(
            log, "a", PREPARE_COMMIT, producer_epoch=epoch + 1, partitions=[ORDERS], started_ms=epoch, client_version=2
        )
        transaction(log, "a", COMPLETE_COMMIT, producer_epoch=epoch + 1, started_ms=epoch, client_version=2)
    found = (await captured(log, built)).transactions
    [(_, owner)] = TransactionOwners(found).about(7, 2, ORDERS, committed=True, timestamp_ms=0)
    assert owner == found[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_records_of_real_brokers_tell_the_transactions_that_were_made(version: str) -> None:
    rows = json.loads((COORDINATORS / f"{version}.json").read_text())["transaction_state"]
    fold = TransactionFold(0)
    found: list[LoggedTransaction] = []
    for row in rows:
        record = CoordinatorRecord(row["offset"], 0, bytes.fromhex(row["key"]), bytes.fromhex(row["value"]))
        batch = CoordinatorBatch(
            first_offset=row["offset"],
            next_offset=row["offset"] + 1,
            producer_id=-1,
            producer_epoch=-1,
            captured_ms=0,
            compacted=False,
            records=(record,),
        )
        found += fold.feed(batch)
    found += fold.still_open()
    mine = [one for one in found if one.transactional_id == "payments"]
    assert [one.decision for one in mine] == [Decision.COMMITTED, Decision.ABORTED, Decision.OPEN]
    offsets = ("__consumer_offsets", 0)
    assert mine[0].partitions == {("orders", 0), ("orders", 1), ("orders", 2), offsets}
    assert mine[1].partitions == {("orders", 0), offsets}
    assert mine[2].partitions == {("orders", 1)}
    (slow,) = [one for one in found if one.transactional_id == "slow"]
    (fenced,) = [one for one in found if one.transactional_id == "fenced"]
    for aborted in (slow, fenced):
        assert aborted.decision is Decision.ABORTED
        assert (aborted.producer_epoch, aborted.marker_epoch) == (0, 1)
    java = [one for one in found if one.transactional_id == "java"]
    assert len({one.producer_epoch for one in java}) == len(java)
    assert all(one.has_its_own_epoch and one.marker_epoch == one.producer_epoch + 1 for one in java)
    assert all(one.decision is Decision.COMMITTED for one in java)
    assert (len(java) > 1) == (version == "kafka-4.3.1")


def test_a_loss_of_everything_leaves_nothing_but_the_loss() -> None:
    fold = TransactionFold(0)
    assert list(fold.feed(LostRange(first_offset=0, next_offset=9, reason="why"))) == []
    assert (list(fold.still_open()), len(fold.lost)) == ([], 1)

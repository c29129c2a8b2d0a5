"""Sequences that were thought up to have an instant split a transaction, lose one or double one (hazard 38).

Those of a random source are in test_as_of.py; here each has a story.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.history import PartitionEvidence
from kbackupd.model.coordinators import TransactionState
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.model.scope import RestoreScope
from kbackupd.restore import as_of
from kbackupd.restore.as_of import read_instant
from kbackupd.restore.decided import Decisions
from kbackupd.restore.instant import AmbiguousTransaction
from kbackupd.restore.resume import plan_digest
from kbackupd.restore.told import Marker
from tests.archive_builder import BACKUP_ID
from tests.coordinator_logs import append, transaction
from tests.unit.format.coordinator_bytes import transactional_id_key
from tests.unit.restore.planned import plan_of, settings_for
from tests.unit.restore.test_as_of import plan_at, restored
from tests.unit.restore.transactional_source import TransactionalSource

HOUR_SECONDS = 3_600
MINUTE_SECONDS = 60
Found = tuple[dict[int, list[bytes]], list[AmbiguousTransaction]]


async def found_at(source: TransactionalSource, at_ms: int) -> Found:
    """What comes back, and what nobody could tell."""
    plan = await plan_at(source.built, RestoreScope(as_of_ms=at_ms))
    [topic] = plan.topics
    ambiguous = [one for partition in topic.partitions if partition.as_of for one in partition.as_of.ambiguous]
    return await restored(source.built, plan), ambiguous


async def comes_back(source: TransactionalSource, at_ms: int, *, records: list[int]) -> None:
    """What was there then, no more and no less, so many records in each partition; and nothing is in doubt."""
    values, ambiguous = await found_at(source, at_ms)

    assert values == source.state(at_ms)
    assert [len(rows) for rows in values.values()] == records
    assert ambiguous == []


def end(source: TransactionalSource, producer: int, *, commit: bool = True) -> None:
    """Every step of the transaction's end."""
    open_ones = [one for one in source.transactions if one.producer == producer and not one.completed]
    while any(not one.completed for one in open_ones):
        source.tick()
        source.go_on(producer, commit=commit)


def whole(source: TransactionalSource, producer: int, *partitions: int, commit: bool = True) -> None:
    for partition in partitions:
        source.tick()
        source.write(producer, partition)
    end(source, producer, commit=commit)


def hear_all(source: TransactionalSource) -> None:
    for number in range(-1, source.partitions):
        source.tick()
        source.hear(number, capture=True)


@pytest.mark.parametrize("pause_seconds", [30, 90, HOUR_SECONDS])
@pytest.mark.parametrize("pinned", [False, True])
async def test_a_producer_that_pauses_over_the_instant_has_nothing_that_nobody_can_tell(
    pause_seconds: int, pinned: bool
) -> None:
    """One epoch for all its transactions; another's open transaction may hold the last stable offset back."""
    source = await TransactionalSource.create(2, own_epochs=False)
    if pinned:
        source.write(8, 0)
        source.write(8, 1)
    whole(source, 7, 0, 1)
    hear_all(source)
    source.tick()
    at_ms = source.now()
    hear_all(source)
    source.built.clock.advance(pause_seconds)
    whole(source, 7, 0, 1)
    await source.end()

    values, ambiguous = await found_at(source, at_ms)

    assert values == source.state(at_ms)
    assert ambiguous == []


async def test_a_transaction_that_the_coordinators_log_lost_to_compaction_is_not_taken_for_the_one_before() -> None:
    """Capture was away after the instant for so long that the log was compacted: of B nothing is left there."""
    source = await TransactionalSource.create(2, own_epochs=False)
    whole(source, 7, 0, 1)
    hear_all(source)
    source.tick()
    at_ms = source.now()
    first = source.built.log(source.coordinators, 0).next_offset
    whole(source, 7, 0, 1)
    second = source.built.log(source.coordinators, 0).next_offset
    source.built.clock.advance(5)
    whole(source, 7, 0, 1)
    third = source.built.log(source.coordinators, 0).next_offset
    source.built.log(source.coordinators, 0).compact([*range(first), *range(second, third)])
    await source.end()

    values, ambiguous = await found_at(source, at_ms)

    assert values == source.state(at_ms)
    assert {one.marker_offset for one in ambiguous} == {3}, "the next one's; the log told it once, and nobody else does"


@pytest.mark.parametrize("late_seconds", [10, 2 * HOUR_SECONDS])
@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_marker_that_comes_hours_late_ends_its_own_transaction_and_no_later_one(
    own_epochs: bool, late_seconds: int
) -> None:
    """One partition had no leader. Another producer's open transaction holds the last stable offsets back."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    for number in (0, 1):
        source.write(8, number)
    for number in (0, 1):
        source.write(7, number)
    hear_all(source)
    for _ in range(2):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)
    source.hear(-1, capture=True)
    source.tick()
    at_ms = source.now()
    source.tick()
    source.hear(0, capture=True)
    source.built.clock.advance(late_seconds)
    end(source, 7)
    source.built.clock.advance(1)
    whole(source, 7, 0, 1)
    await source.end()

    await comes_back(source, at_ms, records=[1, 1])


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_coordinators_log_that_was_cut_back_before_the_instant_is_read_from_where_it_was_cut(
    own_epochs: bool,
) -> None:
    """It was farther once: what lies below that is not long over."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    log = source.built.log(source.coordinators, 0)
    kept = log.next_offset
    for _ in range(5):
        append(log, [(transactional_id_key("of another"), None)])
    hear_all(source)
    source.built.clock.advance(5 * MINUTE_SECONDS)
    log.truncate(kept)
    source.life.follow_cut(source.coordinators, 0)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    source.tick()
    source.go_on(7, commit=True)
    source.tick()
    source.hear(-1, capture=True)
    at_ms = source.now()
    end(source, 7)
    await source.end()

    values, _ = await found_at(source, at_ms)

    assert [len(rows) for rows in values.values()] == [1, 1]


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_decision_that_the_coordinators_log_lost_after_the_instant_is_one(own_epochs: bool) -> None:
    """Markers had been written, and the log that went on is shorter than that of then."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    log = source.built.log(source.coordinators, 0)
    kept = log.next_offset
    source.tick()
    source.go_on(7, commit=True)
    source.tick()
    source.hear(-1, capture=True)
    source.tick()
    at_ms = source.now()
    for _ in range(2):
        source.tick()
        source.go_on(7, commit=True)
    log.truncate(kept)
    source.life.follow_cut(source.coordinators, 0)
    for _ in range(4):
        source.built.clock.advance(MINUTE_SECONDS)
        source.hear(-1, capture=True)
    await source.end()

    await comes_back(source, at_ms, records=[1, 1])


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_decision_whose_coordinator_was_away_for_an_hour_before_the_markers_is_one(own_epochs: bool) -> None:
    """Every partition had a leader and was heard of meanwhile."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    whole(source, 7, 0, 1)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    source.tick()
    source.go_on(7, commit=True)
    hear_all(source)
    for _ in range(6):
        source.built.clock.advance(10 * MINUTE_SECONDS)
        hear_all(source)
    source.tick()
    at_ms = source.now()
    source.tick()
    end(source, 7)
    whole(source, 7, 0, 1)
    await source.end()

    await comes_back(source, at_ms, records=[2, 2])


@pytest.mark.parametrize("minutes", [-30, 30])
async def test_brokers_whose_clocks_are_wrong_by_half_an_hour_change_nothing(minutes: int) -> None:
    source = await TransactionalSource.create(2, own_epochs=False, brokers_ahead_ms=minutes * 60_000)
    for _ in range(3):
        whole(source, 7, 0, 1)
        source.built.clock.advance(1)
    hear_all(source)
    source.write(7, 0)
    source.write(7, 1)
    for _ in range(2):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)
    at_ms = source.now()
    end(source, 7)
    source.built.clock.advance(1)
    whole(source, 7, 0, 1)
    await source.end()

    await comes_back(source, at_ms, records=[4, 4])


async def test_an_unclean_election_between_cut_and_marker_loses_nothing_that_was_decided_by_then() -> None:
    """The marker was in the tail that the partition lost, or never came: the coordinators' log has the decision."""
    source = await TransactionalSource.create(2, own_epochs=False)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    await source.life.flush()
    for _ in range(2):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)
    source.hear(-1, capture=True)
    at_ms = source.now()
    source.built.clock.advance(60)
    log = source.built.log(source.orders, 1)
    log.truncate(0)
    source.life.follow_cut(source.orders, 1)
    source.write_plain(1)
    await source.end()

    values, ambiguous = await found_at(source, at_ms)

    assert [[value.split(b"-")[0] for value in rows] for rows in values.values()] == [[b"tx"], [b"tx"]]
    assert ambiguous == []


async def test_an_unclean_election_soon_after_capture_loses_nothing_that_was_decided_by_then() -> None:
    """The same within one segment: its footer knows the log as it was after the cut, and no open transaction."""
    source = await TransactionalSource.create(2, own_epochs=False)
    await source.life.flush()
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    for _ in range(2):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)
    source.hear(-1, capture=True)
    at_ms = source.now()
    source.tick()
    log = source.built.log(source.orders, 1)
    log.truncate(0)
    source.life.follow_cut(source.orders, 1)
    source.write_plain(1)
    await source.end()

    values, ambiguous = await found_at(source, at_ms)

    assert [[value.split(b"-")[0] for value in rows] for rows in values.values()] == [[b"tx"], [b"tx"]]
    assert ambiguous == []


async def test_what_is_stored_later_of_answers_from_before_the_instant_changes_no_restore_that_has_begun() -> None:
    """Answers are stored with the next segment: a later run could know more of the instant than the first one did."""
    source = await TransactionalSource.create(2)
    whole(source, 7, 0, 1)
    hear_all(source)
    await source.life.flush()
    at_ms = source.now() + 10_000
    before = await plan_at(source.built, RestoreScope(as_of_ms=at_ms))
    pinned = {(one.writer, one.writer_epoch): one.sequences for one in before.pinned}
    whole(source, 7, 0, 1)
    hear_all(source)
    await source.end()

    later = await plan_of(
        source.built, settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms)), pinned=pinned
    )

    assert plan_digest(later) == plan_digest(before)
    assert plan_digest(await plan_at(source.built, RestoreScope(as_of_ms=at_ms))) != plan_digest(before)


async def test_of_a_transaction_whose_end_alone_is_known_nobody_believes_that_it_was_in_a_partition() -> None:
    """The log was compacted before capture began: of what was over, Complete is left, and it names no partitions."""
    source = await TransactionalSource.create(2, own_epochs=False)
    whole(source, 7, 0)
    coordinators = source.built.log(source.coordinators, 0)
    coordinators.compact([coordinators.next_offset - 1])
    hear_all(source)
    source.write(7, 1)
    hear_all(source)
    source.tick()
    at_ms = source.now()
    await source.end()

    await comes_back(source, at_ms, records=[1, 0])  # what was begun in partition 1 is open


async def test_a_last_marker_by_a_slow_clock_does_not_make_its_own_transaction_that_of_what_follows() -> None:
    source = await TransactionalSource.create(1, own_epochs=False)
    source.write(7, 0)
    source.tick()
    source.go_on(7, commit=True)
    source.built.log(source.orders, 0).end_transaction(7, committed=True, timestamp_ms=source.now() - 500)
    source.transactions[0].markers[0] = 1
    end(source, 7)
    source.built.clock.advance(5)
    source.write(7, 0)
    hear_all(source)
    source.tick()
    at_ms = source.now()
    await source.end()

    values, _ = await found_at(source, at_ms)

    assert values == source.state(at_ms)
    assert [len(rows) for rows in values.values()] == [1]


async def test_what_is_open_at_the_end_of_capture_is_not_taken_for_what_was_decided_long_before_it() -> None:
    """Partition 1 was not heard of for an hour after the instant: all of it may have been begun by then."""
    source = await TransactionalSource.create(2, own_epochs=False)
    whole(source, 7, 0, 1)
    hear_all(source)
    source.tick()
    at_ms = source.now()
    source.tick()
    source.hear(-1, capture=True)
    source.hear(0, capture=True)
    source.built.clock.advance(2 * MINUTE_SECONDS)
    source.hear(-1, capture=True)
    source.built.clock.advance(HOUR_SECONDS)
    whole(source, 7, 0, 1)
    source.write(7, 1)
    await source.end()

    await comes_back(source, at_ms, records=[1, 1])


@pytest.mark.parametrize("commit", [True, False])
async def test_without_the_log_a_marker_elsewhere_decides_data_of_the_same_epoch_whose_own_was_never_captured(
    commit: bool,
) -> None:
    source = await TransactionalSource.create(3, logged=False)
    whole(source, 7, 0, 1)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    await source.life.flush()
    end(source, 7, commit=commit)
    source.tick()
    source.hear(0, capture=True)
    source.hear(1, capture=False)
    at_ms = source.now()
    await source.life.flush()

    await comes_back(source, at_ms, records=[1 + commit, 1 + commit, 0])


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_an_election_long_before_the_instant_is_no_reason_to_look_at_all_that_came_after_it(
    own_epochs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Marker] = []
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    source.write_plain(1)
    source.write_plain(1)
    hear_all(source)
    source.built.log(source.orders, 1).truncate(1)
    source.plain[1].pop()
    source.life.follow_cut(source.orders, 1)
    hear_all(source)
    whole(source, 7, 0, 1)
    hear_all(source)
    source.built.clock.advance(MINUTE_SECONDS)
    source.tick()
    at_ms = source.now()
    source.built.clock.advance(MINUTE_SECONDS)
    hear_all(source)
    for _ in range(20):
        whole(source, 7, 0, 1)
    await source.end()

    class Watched(Decisions):
        def __init__(self, beyond: list[Marker], *more: Any, **named: Any) -> None:
            looked_at.extend(beyond)
            super().__init__(beyond, *more, **named)

    monkeypatch.setattr(as_of, "Decisions", Watched)
    values, ambiguous = await found_at(source, at_ms)

    assert values == source.state(at_ms)
    assert ambiguous == []
    assert looked_at == []


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("own_epochs", [True, False])
async def test_where_capture_was_behind_and_never_caught_up_the_coordinators_log_decides(
    own_epochs: bool, commit: bool
) -> None:
    """The marker was there at the instant, and lies among what the archive lacks."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    end(source, 7, commit=commit)
    source.tick()
    source.hear(0, capture=True)
    source.hear(1, capture=False)
    source.hear(-1, capture=True)
    at_ms = source.now()
    await source.life.flush()

    plan = await plan_at(source.built, RestoreScope(as_of_ms=at_ms))

    assert await restored(source.built, plan) == source.state(at_ms)
    assert [len(one.not_in_archive) for one in plan.topics[0].partitions] == [0, 1]


@pytest.mark.parametrize("heard", [0, 1, 2])
async def test_a_fenced_producers_transaction_is_nowhere_and_its_successors_everywhere_or_nowhere(heard: int) -> None:
    """The successor has the producer id and a later epoch; the coordinator ended the transaction with one between."""
    source = await TransactionalSource.create(2, own_epochs=False)
    logs = [source.built.log(source.orders, number) for number in (0, 1)]
    coordinators = source.built.log(source.coordinators, 0)
    both = [("orders", 0), ("orders", 1)]

    def told(state: TransactionState, epoch: int, started_ms: int) -> None:
        source.tick()
        transaction(
            coordinators, "tx-7", state, producer_id=7, producer_epoch=epoch, partitions=both,
            started_ms=started_ms, updated_ms=source.now(),
            # What a coordinator ends by itself it writes down like that, whatever the client's version is.
            client_version=2 if state in (TransactionState.PREPARE_ABORT, TransactionState.COMPLETE_ABORT) else 0,
        )  # fmt: skip

    def life(epoch: int, *, commit: bool, marker_epoch: int) -> None:
        began_ms = source.now()
        told(TransactionState.ONGOING, epoch, began_ms)
        for log in logs:
            log.append([b"%d" % epoch], producer_id=7, producer_epoch=epoch, transactional=True)
        told(TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT, marker_epoch, began_ms)
        for number, log in enumerate(logs):
            source.tick()
            log.end_transaction(7, committed=commit, producer_epoch=marker_epoch)
            if heard == marker_epoch and number == 0:
                source.hear(0, capture=True)
                moments.append(source.now())
        told(TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT, marker_epoch, began_ms)

    moments: list[int] = []
    hear_all(source)
    life(0, commit=True, marker_epoch=0)
    life(0, commit=False, marker_epoch=1)
    life(2, commit=True, marker_epoch=2)
    await source.end()

    values, ambiguous = await found_at(source, moments[0])

    wanted = {0: [b"0"], 1: [b"0"], 2: [b"0", b"2"]}[heard]
    assert values == {0: wanted, 1: wanted}
    assert ambiguous == []


async def test_markers_that_a_new_coordinator_writes_a_second_time_double_nothing() -> None:
    source = await TransactionalSource.create(2, own_epochs=False)
    hear_all(source)
    source.write(7, 0)
    source.write(7, 1)
    for _ in range(3):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)
    at_ms = source.now()
    source.tick()
    for number in (0, 1):
        source.built.log(source.orders, number).end_transaction(7, committed=True)
    end(source, 7)
    whole(source, 7, 0, 1)
    await source.end()

    await comes_back(source, at_ms, records=[1, 1])


async def test_records_that_the_coordinators_log_lacks_make_a_doubt_and_no_split() -> None:
    """A gap in the captured log of coordinators swallowed a whole transaction."""
    source = await TransactionalSource.create(2, own_epochs=False)
    whole(source, 7, 0, 1)
    hear_all(source)
    at_ms = source.now()
    whole(source, 7, 0, 1)
    log = source.built.log(source.coordinators, 0)
    source.life.gap(source.coordinators, 0, log.next_offset, GapCause.LOG_START_MOVED)
    source.built.clock.advance(5)
    whole(source, 7, 0, 1)
    await source.end()

    values, ambiguous = await found_at(source, at_ms)

    assert values == source.state(at_ms)
    assert {one.marker_offset for one in ambiguous} == {3}, "the next one's, in both partitions"


@pytest.mark.parametrize("own_epochs", [True, False])
async def test_a_decision_that_the_coordinators_log_lacks_is_a_doubt_and_not_passed_over(own_epochs: bool) -> None:
    """A gap swallowed the decision alone: it came by then, and of it only the end is told, from later."""
    source = await TransactionalSource.create(2, own_epochs=own_epochs)
    source.write(7, 0)
    source.write(7, 1)
    hear_all(source)
    source.tick()
    source.go_on(7, commit=True)
    log = source.built.log(source.coordinators, 0)
    source.life.gap(source.coordinators, 0, log.next_offset, GapCause.LOG_START_MOVED)
    source.tick()
    source.hear(-1, capture=True)
    source.tick()
    at_ms = source.now()
    end(source, 7)
    await source.end()

    values, ambiguous = await found_at(source, at_ms)

    assert values == {0: [], 1: []}
    assert [one.marker_offset for one in ambiguous] == [1, 1], "in both partitions"


async def test_a_new_leader_whose_high_watermark_lags_hides_no_transaction_that_was_decided() -> None:
    """For a moment after an election a leader tells less than the one before did, and than it soon will."""
    source = await TransactionalSource.create(2, own_epochs=True)
    hear_all(source)
    for _ in range(3):
        whole(source, 7, 0, 1)
    source.tick()
    source.hear(0, capture=True)
    at_ms = source.now()
    source.built.clock.advance(1)
    log = source.built.log(source.orders, 1)
    log.epochs.append((1, log.next_offset))
    ends, log.next_offset = log.next_offset, 1
    source.life.sample(source.orders, 1)
    log.next_offset = ends
    source.built.clock.advance(1)
    await source.end()

    await comes_back(source, at_ms, records=[3, 3])


async def test_what_leaders_told_of_a_partition_is_not_made_anew_for_each_of_its_producers() -> None:
    source = await TransactionalSource.create(2)
    producers = range(30, 60)
    for _ in range(2):
        for producer in producers:
            for partition in range(2):
                source.tick()
                source.write(producer, partition)
            for _ in range(4):
                source.tick()
                source.go_on(producer, commit=True)
        for number in (0, 1, -1):
            source.tick()
            source.hear(number, capture=True)
    at_ms = source.heard[2][1] + 1
    await source.end()
    asked: Counter[PartitionId] = Counter()

    class Asked(Archive):
        def told(self, id: PartitionId) -> PartitionEvidence:
            asked[id] += 1
            return super().told(id)

    archive = await Asked.open(source.built.store, BACKUP_ID)
    instant = await read_instant(archive, settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms)).options)

    assert instant is not None
    assert len(asked) == 3
    assert max(asked.values()) <= 3

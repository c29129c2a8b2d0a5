"""Markers against a partition that loses, delays and repeats requests: every offset of a hole is taken exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.batch import iter_batches
from kbackupd.kafka.types import KafkaErrorCode, TopicPartition, TransactionMarker
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import IncompleteError, KafkaDeniedError, KafkaUnavailableError, KbackupError
from kbackupd.restore.filler import filler_batches
from kbackupd.restore.holes import TransactionFiller
from kbackupd.restore.markers import ATTEMPTS, RUNS, WINDOW, Hole, HoleSchedule, marker_for
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, ProducerIdentity
from kbackupd.restore.send_queue import Patience

CODE = KafkaErrorCode
TP = TopicPartition("orders", 0)
PATIENCE = Patience(first_pause_seconds=1.0, give_up_seconds=100.0)


@dataclass
class Log:
    """A partition that judges markers as Kafka's ProducerAppendInfo does."""

    end: int = 0
    epochs: dict[int, tuple[int, int]] = field(default_factory=dict)

    def append(self, marker: TransactionMarker) -> int:
        producer_epoch, coordinator_epoch = self.epochs.get(marker.producer_id, (-1, -1))
        if marker.producer_epoch < producer_epoch:
            return CODE.INVALID_PRODUCER_EPOCH
        if marker.coordinator_epoch < coordinator_epoch:
            return CODE.TRANSACTION_COORDINATOR_FENCED
        self.epochs[marker.producer_id] = (marker.producer_epoch, marker.coordinator_epoch)
        self.end += 1
        return CODE.NONE

    def take(self, markers: Sequence[TransactionMarker]) -> dict[int, int]:
        return {marker.producer_id: self.append(marker) for marker in markers}


def hole(first_offset: int, next_offset: int, *, run: int = 0) -> Hole:
    return Hole(tp=TP, first_offset=first_offset, next_offset=next_offset, run=run, patience=PATIENCE)


attempts = st.tuples(st.integers(0, RUNS - 1), st.integers(0, ATTEMPTS - 1))


@given(offset=st.integers(0, 1 << 50), one=attempts, other=attempts)
def test_of_two_attempts_at_one_offset_a_log_takes_whichever_comes_first(
    offset: int, one: tuple[int, int], other: tuple[int, int]
) -> None:
    markers = [marker_for(TP, offset, run=run, attempt=attempt) for run, attempt in (one, other)]
    log = Log()
    codes = [log.append(marker) for marker in markers]

    assert codes[0] == CODE.NONE
    assert (codes[1] == CODE.NONE) == (one == other)
    assert all(0 <= marker.producer_epoch < 1 << 15 for marker in markers)


@given(offset=st.integers(0, 1 << 50), one=attempts, other=attempts, windows=st.integers(1, 100))
def test_a_higher_offset_is_never_refused_because_of_a_lower_one(
    offset: int, one: tuple[int, int], other: tuple[int, int], windows: int
) -> None:
    log = Log()
    log.append(marker_for(TP, offset, run=one[0], attempt=one[1]))

    assert log.append(marker_for(TP, offset + windows * WINDOW, run=other[0], attempt=other[1])) == CODE.NONE
    assert log.append(marker_for(TP, offset + 1, run=other[0], attempt=other[1])) == CODE.NONE


@given(
    first=st.integers(0, 3 * WINDOW),
    size=st.integers(1, 3 * WINDOW),
    faults=st.lists(st.sampled_from(["", "lost", "late", "lost answer", "part", "not leader", "dies"]), max_size=30),
    data=st.data(),
)
def test_a_hole_is_filled_exactly_whatever_becomes_of_requests_and_answers(
    first: int, size: int, faults: list[str], data: st.DataObject
) -> None:
    log, now, run = Log(end=first), 0.0, 0
    late: list[list[TransactionMarker]] = []
    one = hole(first, first + size)
    pending = iter(faults)
    while not one.filled:
        assert one.failed is None
        now += 1_000.0  # beyond every pause
        one.failing_since = None
        for request in list(late):
            if data.draw(st.booleans()):
                late.remove(request)
                log.take(request)
        if one.wants_log_end:
            one.log_ends_at(log.end, log.end, now)
            continue
        markers = one.markers()
        fault = next(pending, "")
        if fault == "dies":
            run += 1
            late.append(markers)
            one = hole(log.end, first + size, run=run % RUNS)
        elif fault in ("lost", "late", "lost answer"):
            if fault == "late":
                late.append(markers)
            elif fault == "lost answer":
                log.take(markers)
            one.unanswered(KafkaUnavailableError("gone"), now)
        elif fault == "part":
            told = log.take(markers[1::2])
            one.answered({**told, **{marker.producer_id: CODE.NOT_LEADER_OR_FOLLOWER for marker in markers[::2]}}, now)
        elif fault == "not leader":
            one.answered({marker.producer_id: CODE.NOT_LEADER_OR_FOLLOWER for marker in markers}, now)
        else:
            one.answered(log.take(markers), now)
    for request in late:
        log.take(request)

    assert log.end == first + size


def test_what_is_written_and_not_yet_replicated_is_waited_for_and_not_written_again() -> None:
    log, one = Log(), hole(0, 3)
    log.take(one.markers())
    one.unanswered(KafkaUnavailableError("gone"), 0.0)
    one.answered(log.take(one.markers()), 1.0)
    assert one.wants_log_end

    filled = []
    for high_watermark in (1, 3):
        one.log_ends_at(3, high_watermark, 2.0)
        filled.append(one.filled)

    assert filled == [False, True]
    assert log.end == 3


def test_a_log_that_somebody_else_writes_to_is_not_filled_any_further() -> None:
    log, one = Log(), hole(0, 3)
    log.take(one.markers())
    one.unanswered(KafkaUnavailableError("gone"), 0.0)
    one.answered(log.take(one.markers()), 1.0)
    one.log_ends_at(4, 4, 2.0)

    assert isinstance(one.failed, IncompleteError)
    assert "the log ends at offset 4 instead of 3" in str(one.failed)


def test_a_permission_that_is_taken_away_ends_the_hole_at_once_with_its_remedy() -> None:
    one = hole(0, 2)
    one.answered({marker.producer_id: CODE.CLUSTER_AUTHORIZATION_FAILED for marker in one.markers()}, 0.0)

    assert isinstance(one.failed, IncompleteError)
    assert one.failed.hint == "grant Alter or ClusterAction on the cluster"


def test_a_refused_login_ends_the_hole_and_silence_only_after_the_patience() -> None:
    refused, silent = hole(0, 2), hole(0, 2)
    refused.unanswered(KafkaDeniedError("no"), 0.0)
    silent.unanswered(KafkaUnavailableError("gone"), 0.0)
    given_up = []
    for beyond in (0, 1):
        silent.give_up_if_due(PATIENCE.give_up_seconds + beyond)
        given_up.append(silent.failed is not None)

    assert given_up == [False, True]
    assert isinstance(refused.failed, KafkaDeniedError)
    assert isinstance(silent.failed, IncompleteError)
    assert "took no markers for 100 s, to fill offsets [0, 2): gone" in str(silent.failed)


def test_holes_of_one_broker_share_a_request_and_each_broker_has_one_under_way() -> None:
    schedule = HoleSchedule(patience=PATIENCE)
    tps = [TopicPartition("orders", number) for number in range(4)]
    schedule.leaders_are({tp: tp.partition % 2 for tp in tps}, 0.0)
    for tp in tps:
        schedule.add(Hole(tp=tp, first_offset=0, next_offset=10, run=0, patience=PATIENCE))
    requests = {request.node_id: request for request in schedule.requests(0.0)}

    assert {node: [one.tp.partition for one in request.holes] for node, request in requests.items()} == {
        0: [0, 2],
        1: [1, 3],
    }
    assert list(schedule.requests(0.0)) == []
    schedule.answered(requests[0], {(marker.producer_id, marker.tp): 0 for marker in requests[0].markers}, 0.0)
    assert {one.tp.partition for one in schedule.ended()} == {0, 2}


def test_leaders_are_asked_again_when_a_request_had_no_answer_or_told_of_another_leader() -> None:
    schedule = HoleSchedule(patience=PATIENCE)
    schedule.add(hole(0, 1))
    assert schedule.leaders_due(0.0)
    schedule.leaders_are({TP: 1}, 0.0)
    assert not schedule.leaders_due(100.0)
    [request] = schedule.requests(100.0)
    schedule.unanswered(request, KafkaUnavailableError("gone"), 100.0)

    assert schedule.leaders_due(100.0)
    assert list(schedule.requests(100.0)) == []
    assert schedule.nap_seconds(100.0) == pytest.approx(1.0)


class Coordinator:
    """One whose transactions leave as many markers as they are told to, in order; and the log they are left in."""

    def __init__(self, *markers: int) -> None:
        self.markers = list(markers)
        self.end = 0
        self.opened = 0
        self.failing: list[KbackupError] = []

    async def open(self, *, timeout_seconds: float = 60.0) -> None:
        self.opened += 1

    async def end_one(self, partitions: Sequence[TopicPartition], *, timeout_seconds: float = 60.0) -> None:
        self.end += self.markers.pop(0)
        if self.failing:
            raise self.failing.pop(0)

    async def leaders(self) -> Mapping[TopicPartition, int]:
        return {TP: 1}

    async def log_ends(
        self, node_id: int, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        return dict.fromkeys(partitions, (self.end, self.end))

    def filler(self) -> TransactionFiller:
        return TransactionFiller(self, leaders=self.leaders, log_ends=self.log_ends, clock=SystemClock())


async def test_a_transaction_without_an_answer_is_settled_before_the_log_is_looked_at() -> None:
    """Two answers are lost: of the first transaction the marker is there, of the second one it is not."""
    coordinator = Coordinator(1, 0, 1, 1)
    coordinator.failing = [KafkaUnavailableError("gone"), KafkaUnavailableError("gone")]
    async with coordinator.filler() as holes:
        await holes.fill(TP, 0, 3)

    assert (coordinator.end, coordinator.opened, coordinator.markers) == (3, 3, [])


async def test_a_marker_that_the_coordinator_wrote_twice_ends_the_partition_and_is_told() -> None:
    async with Coordinator(1, 2).filler() as holes:
        with pytest.raises(IncompleteError, match="the log ends at offset 3 instead of 2") as told:
            await holes.fill(TP, 0, 2)

    assert "wrote a marker twice" in told.value.hint


async def test_a_marker_that_was_written_twice_is_as_good_as_another_one_where_the_hole_has_room_for_it() -> None:
    coordinator = Coordinator(2, 1)
    async with coordinator.filler() as holes:
        await holes.fill(TP, 0, 3)

    assert (coordinator.end, coordinator.markers) == (3, [])


async def test_a_refusal_of_the_coordinator_ends_every_hole_that_waits_and_the_next_one_is_tried_anew() -> None:
    coordinator = Coordinator(0, 1)
    coordinator.failing = [KafkaDeniedError("not allowed", code=CODE.TOPIC_AUTHORIZATION_FAILED)]
    async with coordinator.filler() as holes:
        with pytest.raises(KafkaDeniedError):
            await holes.fill(TP, 0, 1)
        await holes.fill(TP, 0, 1)

    assert coordinator.end == 1


def test_filler_batches_hold_every_offset_of_a_gap_and_their_sequences_go_on_beyond_the_largest() -> None:
    first_sequence = SEQUENCE_MODULUS - 10
    identity = ProducerIdentity(5, 1)
    batches = list(filler_batches(7, 127, producer=identity, first_sequence=first_sequence, records_per_batch=100))

    assert [(one.source_first_offset, one.records) for one in batches] == [(7, 100), (107, 20)]
    assert [one.base_sequence for one in batches] == [first_sequence, 90]
    for one in batches:
        ((header, _),) = iter_batches(one.data)
        assert (header.record_count, header.max_timestamp, header.producer_id) == (one.records, -1, 5)
        assert len(one.data) < 1 << 20

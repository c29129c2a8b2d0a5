"""Which batches go into which request, and what answers and silence change: decisions, without a loop or a clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from kbackupd.format.batch import iter_batches
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicPartition
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.restore.content_digest import batch_digest
from kbackupd.restore.produce_batch import ProduceBatch
from kbackupd.restore.resume import NewestBatch
from kbackupd.restore.schedule import REQUEST_BYTES, Question, Request, Schedule
from kbackupd.restore.send_queue import REQUESTS_IN_FLIGHT, Listener, LogEnd, Patience

CODE = KafkaErrorCode
A, B, C = (TopicPartition("orders", number) for number in range(3))
SILENCE = KafkaUnavailableError("no answer in time")
PAUSE_SECONDS = 0.1
GIVE_UP_SECONDS = 10.0


@dataclass
class Site:
    """A schedule with its partitions begun and led, and what it told."""

    leaders: dict[TopicPartition, int] = field(default_factory=lambda: {A: 1, B: 1, C: 2})
    lanes: int = 1
    rate_limit: int | None = None
    acknowledged: list[tuple[TopicPartition, int]] = field(default_factory=list)
    freed_bytes: int = 0
    ended: list[TopicPartition] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.schedule = Schedule(
            lanes=self.lanes,
            listener=Listener(
                acknowledged=lambda tp, batch: self.acknowledged.append((tp, batch.base_sequence)),
                freed=self._free,
                ended=self.ended.append,
            ),
            patience=Patience(first_pause_seconds=PAUSE_SECONDS, give_up_seconds=GIVE_UP_SECONDS),
            rate_limit_bytes_per_second=self.rate_limit,
        )
        for tp in (A, B, C):
            self.schedule.begin(tp, next_offset=0)
        self.schedule.leaders_are(self.leaders, 0.0)

    def _free(self, count: int) -> None:
        self.freed_bytes += count

    def put(self, tp: TopicPartition, *sequences: int, size: int = 10) -> None:
        for sequence in sequences:
            batch = ProduceBatch(
                data=bytes(size),
                records=1,
                base_sequence=sequence,
                source_first_offset=sequence,
            )
            self.schedule.put(tp, batch)

    def requests(self, now: float = 0.0) -> list[Request]:
        return list(self.schedule.requests(now))

    def taken(self, request: Request, now: float = 0.0) -> None:
        """The broker appends every batch where it belongs."""
        self.schedule.answered(request, {tp: answer(0, at) for tp, at in sequences(request).items()}, now)


def answer(code: int, base_offset: int = -1) -> ProduceAnswer:
    return ProduceAnswer(error_code=code, base_offset=base_offset, log_append_time=-1, log_start_offset=0)


def sequences(request: Request) -> dict[TopicPartition, int]:
    return {queue.tp: entry.batch.base_sequence for queue, entry in request.chosen}


def sent(requests: list[Request]) -> list[tuple[int, dict[TopicPartition, int]]]:
    return [(request.node_id, sequences(request)) for request in requests]


def test_each_broker_gets_one_request_with_a_batch_of_every_partition_it_leads() -> None:
    site = Site()
    for tp in (A, B, C):
        site.put(tp, 0, 1)

    assert sent(site.requests()) == [(1, {A: 0, B: 0}), (2, {C: 0})]
    assert site.requests() == [], "nobody sends a second batch before the leader has taken the first"


def test_once_a_leader_knows_us_five_requests_are_kept_in_flight_and_no_more() -> None:
    site = Site()
    site.put(A, *range(20))
    site.taken(site.requests()[0])

    assert sent(site.requests()) == [(1, {A: number}) for number in range(1, 1 + REQUESTS_IN_FLIGHT)]


def test_a_request_is_filled_to_its_bound_and_a_larger_batch_goes_alone() -> None:
    site = Site(leaders={A: 1, B: 1, C: 1})
    site.put(A, 0, size=REQUEST_BYTES + 1)
    site.put(B, 0, size=REQUEST_BYTES - 10)
    site.put(C, 0, size=10)

    assert sent(site.requests()) == [(1, {A: 0}), (1, {B: 0, C: 0})]


def test_partitions_on_different_lanes_never_share_a_request() -> None:
    site = Site(lanes=2)
    site.put(A, 0)
    site.put(B, 0)

    assert sorted((request.lane, *sequences(request)) for request in site.requests()) == [(0, A), (1, B)]


def test_a_rate_limit_spaces_requests_and_says_how_long_to_sleep() -> None:
    site = Site(rate_limit=100)
    site.put(A, 0, 1, size=50)
    [first] = site.requests()
    site.taken(first)

    assert site.requests(0.4) == []
    assert site.schedule.nap_seconds(0.4) == pytest.approx(0.1)
    assert sent(site.requests(0.5)) == [(1, {A: 1})]


def test_after_silence_nothing_goes_again_before_the_log_has_told_what_it_holds() -> None:
    site = Site()
    site.put(A, *range(4))
    site.taken(site.requests()[0])
    one, two, three = site.requests()
    for request in (one, two, three):
        site.schedule.unanswered(request, SILENCE, 1.0)

    assert site.requests(60.0) == []
    [question] = site.schedule.questions(60.0)
    assert (question.node_id, question.partitions) == (1, [A])
    assert site.schedule.questions(60.0) == [], "it is asked once"
    site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, 60.0)

    assert site.acknowledged == [(A, 0), (A, 1), (A, 2)]
    assert sent(site.requests(60.0)) == [(1, {A: 3})]


def test_while_one_answer_is_missing_the_log_is_not_asked() -> None:
    site = Site()
    site.put(A, 0, 1, 2)
    site.taken(site.requests()[0])
    first, second = site.requests()
    site.schedule.unanswered(first, SILENCE, 1.0)

    assert site.schedule.questions(60.0) == []
    site.schedule.answered(second, {A: answer(CODE.OUT_OF_ORDER_SEQUENCE_NUMBER)}, 1.0)
    assert len(site.schedule.questions(60.0)) == 1


def test_a_log_that_ends_where_none_of_our_batches_does_is_somebody_elses_doing() -> None:
    site = Site()
    site.put(A, 0, size=30)
    site.schedule.unanswered(site.requests()[0], SILENCE, 0.0)
    [question] = site.schedule.questions(1.0)
    site.schedule.log_ends_are(question, {A: LogEnd(7)}, None, 1.0)

    assert "the log ends at offset 7 instead of 1" in str(site.schedule[A].failed)
    assert (site.freed_bytes, site.ended) == (30, [A])


def one_record(value: bytes, sequence: int) -> ProduceBatch:
    record = RawRecord(0, 0, 0, encode_body(None, value))
    data = build_batch([record], base_timestamp_ms=0, producer_id=7, producer_epoch=0, base_sequence=sequence)
    return ProduceBatch(data=data, records=1, base_sequence=sequence, source_first_offset=sequence)


def ends_with(batch: ProduceBatch, offset: int) -> LogEnd:
    [(header, data)] = iter_batches(batch.data)
    return LogEnd(offset, NewestBatch(header=header, digest=batch_digest(data)))


@pytest.mark.parametrize(
    ("there", "ours"),
    [(one_record(b"ours", 1), True), (one_record(b"theirs", 1), False), (one_record(b"ours", 0), False)],
    ids=["ours", "somebody else's", "somebody else's copy of ours"],
)
def test_hazard_27_a_foreign_record_in_the_place_of_an_unanswered_batch_is_not_taken_for_it(
    there: ProduceBatch, ours: bool
) -> None:
    site = Site()
    for sequence, value in enumerate((b"first", b"ours")):
        site.schedule.put(A, one_record(value, sequence))
    site.taken(site.requests()[0])
    site.schedule.unanswered(site.requests()[0], SILENCE, 0.0)
    [question] = site.schedule.questions(1.0)

    site.schedule.log_ends_are(question, {A: ends_with(there, 2)}, None, 1.0)

    assert site.acknowledged == [(A, 0), (A, 1)][: 1 + ours]
    assert (site.schedule[A].failed is None) is ours


def test_silence_of_one_broker_makes_every_partition_send_one_batch_first_again() -> None:
    site = Site(leaders={A: 1, B: 2, C: 2})
    site.put(A, 0)
    site.put(B, *range(9))
    to_one, to_two = site.requests()
    site.taken(to_two)
    site.schedule.unanswered(to_one, SILENCE, 0.0)

    assert sent(site.requests()) == [(2, {B: 1})]


def test_pauses_between_tries_double_and_stop_doubling() -> None:
    site, now, pauses = Site(), 0.0, []
    site.put(A, 0)
    for _ in range(8):
        [request] = site.requests(now)
        site.schedule.answered(request, {A: answer(CODE.NOT_ENOUGH_REPLICAS)}, now)
        pause = site.schedule[A].not_before - now
        pauses.append(round(pause / PAUSE_SECONDS))
        now += pause
        [question] = site.schedule.questions(now)
        site.schedule.log_ends_are(question, {A: LogEnd(0)}, None, now)

    assert pauses == [1, 2, 4, 8, 16, 32, 32, 32]


def test_a_partition_without_a_leader_asks_for_one_and_is_given_up_when_its_time_is_over() -> None:
    site = Site(leaders={})
    site.put(A, 0)

    assert site.requests(1.0) == []
    assert site.schedule.leaders_due(1.0)
    site.schedule.leaders_are({}, 1.0)
    assert not site.schedule.leaders_due(1.0), "not without a pause"
    site.schedule.give_up(1.0 + GIVE_UP_SECONDS)
    assert site.schedule[A].failed is None
    site.schedule.give_up(1.1 + GIVE_UP_SECONDS)
    assert "it has no leader" in str(site.schedule[A].failed)


def test_with_nothing_to_send_there_is_nothing_to_wake_up_for() -> None:
    site = Site()

    assert site.schedule.nap_seconds(5.0) is None


class TestWhatAnEarlierRunSent:
    """A killed run's last requests may land while the next one, which sends the same batches, is under way."""

    def begun(self) -> Site:
        site = Site()
        site.schedule.forget(A)
        site.schedule.begin(A, next_offset=0, repeats=True)
        return site

    def unanswered(self, site: Site, *sequences: int) -> Question:
        site.put(A, *sequences)
        [request] = site.schedule.requests(0.0)
        site.schedule.unanswered(request, SILENCE, 0.0)
        site.schedule.leaders_are(site.leaders, PAUSE_SECONDS)
        [question] = site.schedule.questions(PAUSE_SECONDS)
        return question

    def test_batches_that_this_run_has_not_sent_yet_count_when_the_log_has_them(self) -> None:
        site = self.begun()
        question = self.unanswered(site, 0, 1, 2)
        site.schedule.log_ends_are(question, {A: LogEnd(2)}, None, PAUSE_SECONDS)
        assert site.acknowledged == [(A, 0), (A, 1)]
        assert site.schedule[A].failed is None

    def test_a_log_that_is_ahead_of_what_was_read_is_asked_again_when_more_is(self) -> None:
        site = self.begun()
        question = self.unanswered(site, 0, 1)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)
        assert site.acknowledged == [(A, 0), (A, 1)]
        assert site.schedule.questions(PAUSE_SECONDS) == []

        site.put(A, 2, 3)
        [question] = site.schedule.questions(PAUSE_SECONDS)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)

        assert site.acknowledged[-1] == (A, 2)
        [request] = site.schedule.requests(PAUSE_SECONDS)
        assert [entry.batch.base_sequence for _, entry in request.chosen] == [3]

    def test_a_log_that_is_still_ahead_when_nothing_more_comes_holds_what_somebody_else_wrote(self) -> None:
        site = self.begun()
        question = self.unanswered(site, 0, 1)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)

        failed = site.schedule[A].failed_so_far()

        assert "the log ends at offset 3 instead of 2" in str(failed), "the two may be no batches of ours at all"
        assert "somebody else writes" in getattr(failed, "hint", "")

    def test_a_log_that_was_ahead_and_is_caught_up_with_is_no_failure_at_the_end(self) -> None:
        site = self.begun()
        question = self.unanswered(site, 0, 1)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)
        site.put(A, 2)
        [question] = site.schedule.questions(PAUSE_SECONDS)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)

        assert site.schedule[A].failed_so_far() is None

    def test_a_leader_that_goes_away_while_the_log_is_ahead_is_not_waited_for_for_ever(self) -> None:
        site = self.begun()
        question = self.unanswered(site, 0, 1)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)
        site.put(A, 2, 3)
        site.schedule.leaders_are({}, 1.0)
        assert site.schedule.questions(1.0) == []

        site.schedule.give_up(1.1 + GIVE_UP_SECONDS)

        assert "took nothing for 10 s" in str(site.schedule[A].failed)

    def test_a_log_end_that_is_never_told_while_the_log_is_ahead_is_not_asked_for_for_ever(self) -> None:
        site = self.begun()
        question = self.unanswered(site, 0, 1)
        site.schedule.log_ends_are(question, {A: LogEnd(3)}, None, PAUSE_SECONDS)
        site.put(A, 2, 3)
        [question] = site.schedule.questions(1.0)
        site.schedule.log_ends_are(question, {}, SILENCE, 1.0)

        site.schedule.give_up(1.1 + GIVE_UP_SECONDS)

        assert "no answer in time" in str(site.schedule[A].failed)

    def test_in_a_first_run_the_same_is_somebody_else(self) -> None:
        site = Site()
        question = self.unanswered(site, 0, 1, 2)
        site.schedule.log_ends_are(question, {A: LogEnd(2)}, None, PAUSE_SECONDS)
        assert "somebody else writes" in getattr(site.schedule[A].failed, "hint", "")


class TestWhereTheTopicHeldRecordsBefore:
    """`append`: whatever goes wrong, nobody is told to delete a topic that holds what others wrote (hazard 37)."""

    @pytest.mark.parametrize("appends", [True, False])
    @pytest.mark.parametrize(
        "said",
        [answer(CODE.OUT_OF_ORDER_SEQUENCE_NUMBER), answer(CODE.NONE, base_offset=7)],
        ids=["the leader lost batches", "a record came between"],
    )
    def test_a_deletion_is_advised_only_where_the_topic_is_the_restores_own(
        self, said: ProduceAnswer, appends: bool
    ) -> None:
        site = Site()
        site.schedule.forget(A)
        site.schedule.begin(A, next_offset=0, appends=appends)
        site.put(A, 0)
        site.schedule.answered(site.requests()[0], {A: said}, 0.0)

        failed = site.schedule[A].failed
        assert failed is not None
        assert ("delete" in failed.hint) is not appends
        assert ("offset_ranges" in failed.hint) is appends

"""Which transaction markers fill a hole, so that none is written twice: pure.

A marker takes one offset and shows to no consumer, but nothing numbers markers as sequences number records: a request
whose answer is lost may be carried out later, on its old connection, and an offset too many cannot be taken back.

So each offset of a partition has a marker of its own, under a producer id made from that offset, and each attempt at it
carries another pair of epochs. A partition refuses a marker whose producer epoch *or* coordinator epoch is below the
last it saw of that producer id (Kafka's ProducerAppendInfo; docs/adr/0023). Of two attempts one has the higher producer
epoch and the other the higher coordinator epoch: whichever comes first, the other one is refused, however late it
comes. Every attempt at the same offset may therefore be sent, and exactly one is written. A dead run's attempts exclude
ours likewise, as long as the two runs have not drawn the same number of RUNS.

Producer ids are used again for higher offsets, with higher epochs, because a broker remembers each for a day. They are
far beyond those that clusters hand out. An offset filled by an attempt without an answer is confirmed by the log's end;
where a dead run left the log short of what its markers promise, the rest has producer ids of another space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kbackupd.kafka.types import KafkaErrorCode, TopicPartition, TransactionMarker
from kbackupd.model.errors import IncompleteError, KbackupError
from kbackupd.restore.refusals import LEADER_MOVED, foreign_end, is_retriable
from kbackupd.restore.send_queue import PAUSES_BEFORE_ASKING_AGAIN, Patience

WINDOW = 256
"""Markers of one partition under way at a time: as many have different producer ids."""
MARKERS_PER_REQUEST = 1024
"""Over all partitions: the broker appends them one by one and answers at the end, some ten thousand a second."""
RUNS = 16
ATTEMPTS = 64
"""Of one run at one offset; more than fit into `Patience.give_up_seconds`."""
_PAIRS = RUNS * ATTEMPTS
_USES = (1 << 15) // _PAIRS
"""Of one producer id, whose epoch has 15 bits."""
_FIRST_PRODUCER_ID = 1 << 61
_SPACE = 1 << 50
SPACES = 8
_MOST_DOUBLINGS = 5

_ALREADY_THERE = frozenset(
    {
        KafkaErrorCode.INVALID_PRODUCER_EPOCH,
        KafkaErrorCode.PRODUCER_FENCED,
        KafkaErrorCode.TRANSACTION_COORDINATOR_FENCED,
    }
)
"""Another attempt at the same offset was written before."""


def marker_for(tp: TopicPartition, offset: int, *, run: int, attempt: int, space: int = 0) -> TransactionMarker:
    """The marker that fills `offset`; of all with the same partition, offset and space a log takes one.

    Args:
        run: below RUNS; another than that of an earlier run which may have left requests behind.
        attempt: below ATTEMPTS; each is sent once.
    """
    window, slot = divmod(offset, WINDOW)
    generation, use = divmod(window, _USES)
    pair = run * ATTEMPTS + attempt
    return TransactionMarker(
        tp=tp,
        producer_id=_FIRST_PRODUCER_ID + space * _SPACE + generation * WINDOW + slot,
        producer_epoch=use * _PAIRS + _PAIRS - 1 - pair,
        coordinator_epoch=use * _PAIRS + pair,
    )


@dataclass(slots=True, kw_only=True)
class Hole:
    """Offsets of one partition to be filled, from where its log ends; what is known of them so far."""

    tp: TopicPartition
    first_offset: int
    """Where the log ends, less what is settled of the window."""
    next_offset: int
    run: int
    patience: Patience
    attempt: int = 0
    space: int = 0
    settled: set[int] = field(default_factory=set)
    """Offsets of the window that are written, by us or by an earlier attempt."""
    in_flight: bool = False
    """A request or a question is under way."""
    uncertain: bool = False
    """An offset was filled by an attempt without an answer: the log's end has to confirm that nothing is lacking."""
    failures: int = 0
    not_before: float = 0.0
    failing_since: float | None = None
    last_error: KbackupError | None = None
    failed: KbackupError | None = None

    @property
    def filled(self) -> bool:
        return self.first_offset >= self.next_offset and not self.uncertain

    @property
    def wants_log_end(self) -> bool:
        return self.first_offset >= self.next_offset and self.uncertain

    def markers(self) -> list[TransactionMarker]:
        """Those to be sent next."""
        return [self._marker(offset) for offset in self._window() if offset not in self.settled]

    def answered(self, codes: Mapping[int, int], now: float) -> None:
        """Error codes by producer id; a marker without one has no answer."""
        self.in_flight = False
        worst: int | None = None
        unsettled = False
        for offset in self._window():
            if offset in self.settled:
                continue
            code = codes.get(self._marker(offset).producer_id)
            if code == KafkaErrorCode.NONE:
                self.settled.add(offset)
            elif code in _ALREADY_THERE:
                self.settled.add(offset)
                self.uncertain = True
            else:
                unsettled = True
                worst = code if worst is None or (code is not None and _is_final(code)) else worst
        if not unsettled:
            self._advance()
            return
        error = _refusal(self.tp, worst)
        if worst is not None and _is_final(worst):
            self.failed = error
        else:
            self._again(error, now)

    def unanswered(self, error: KbackupError, now: float) -> None:
        """The request failed as a whole: its markers are written, or will be, or not."""
        self.in_flight = False
        if error.retryable:
            self._again(error, now)
        else:
            self.failed = error

    def log_ends_at(self, log_end: int, high_watermark: int, now: float) -> None:
        """The leader's word once every marker is settled: where its log ends, replicated or not, and up to where it is.

        Only the first tells whether something is lacking: what is written and not yet replicated is not to be written
        again.
        """
        self.in_flight = False
        if log_end > self.next_offset:
            what = f"the log ends at offset {log_end} instead of {self.next_offset}"
            self.failed = foreign_end(self.tp, what, appends=False)  # offsets are kept in empty topics only
        elif log_end < self.next_offset:
            self.first_offset = log_end
            self.uncertain = False
            self.space += 1
            if self.space >= SPACES:
                self._give_up(f"in {SPACES} rounds")
        elif high_watermark < log_end:
            self._wait(IncompleteError(f"{self.tp.topic}-{self.tp.partition}: markers are not replicated yet"), now)
        else:
            self.uncertain = False
            self.failing_since = None

    def log_end_untold(self, failure: KbackupError | None, now: float) -> None:
        self.in_flight = False
        self._wait(failure or IncompleteError(f"{self.tp.topic}-{self.tp.partition}: it does not tell its end"), now)

    def give_up_if_due(self, now: float) -> None:
        seconds = self.patience.give_up_seconds
        if self.failed is None and self.failing_since is not None and now - self.failing_since > seconds:
            self._give_up(f"for {seconds:g} s")

    def leaderless(self, now: float) -> None:
        self.failing_since = now if self.failing_since is None else self.failing_since

    def _window(self) -> range:
        return range(self.first_offset, min(self.first_offset + WINDOW, self.next_offset))

    def _marker(self, offset: int) -> TransactionMarker:
        return marker_for(self.tp, offset, run=self.run, attempt=self.attempt, space=self.space)

    def _advance(self) -> None:
        self.first_offset = min(self.first_offset + WINDOW, self.next_offset)
        self.settled.clear()
        self.attempt = 0
        self.failures = 0
        self.failing_since = None

    def _wait(self, error: KbackupError, now: float) -> None:
        self.last_error = error
        self.failing_since = now if self.failing_since is None else self.failing_since
        self.not_before = now + self.patience.first_pause_seconds * 2 ** min(self.failures, _MOST_DOUBLINGS)
        self.failures += 1

    def _again(self, error: KbackupError, now: float) -> None:
        self._wait(error, now)
        self.attempt += 1
        if self.attempt >= ATTEMPTS:
            self._give_up(f"in {ATTEMPTS} attempts")

    def _give_up(self, how_long: str) -> None:
        reason = self.last_error.message if self.last_error else "it has no leader"
        self.failed = IncompleteError(
            f"{self.tp.topic}-{self.tp.partition}: the target took no markers {how_long}, to fill offsets"
            f" [{self.first_offset}, {self.next_offset}): {reason}",
            hint=self.last_error.hint if self.last_error else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerRequest:
    """Markers for one broker, of several holes; must be answered for."""

    node_id: int
    holes: tuple[Hole, ...]
    markers: tuple[TransactionMarker, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEndQuestion:
    """A broker is to say where logs end that it leads; must be answered for."""

    node_id: int
    holes: tuple[Hole, ...]

    @property
    def partitions(self) -> list[TopicPartition]:
        return [hole.tp for hole in self.holes]


class HoleSchedule:
    """Every hole that is being filled: one request under way to each broker, over all partitions it leads."""

    def __init__(self, *, patience: Patience) -> None:
        self._patience = patience
        self._holes: dict[TopicPartition, Hole] = {}
        self._leaders: Mapping[TopicPartition, int] = {}
        self._leaders_wanted = True
        self._leaders_not_before = 0.0
        self._busy: set[int] = set()

    def add(self, hole: Hole) -> None:
        self._holes[hole.tp] = hole
        self._leaders_wanted |= hole.tp not in self._leaders

    def forget(self, tp: TopicPartition) -> None:
        self._holes.pop(tp, None)

    def leaders_due(self, now: float) -> bool:
        return self._leaders_wanted and now >= self._leaders_not_before and bool(self._holes)

    def leaders_are(self, leaders: Mapping[TopicPartition, int], now: float) -> None:
        self._leaders = leaders
        self._leaders_wanted = any(tp not in leaders for tp in self._holes)
        self._ask_leaders_later(now)

    def leaders_untold(self, error: KbackupError, now: float) -> None:
        for hole in self._holes.values():
            hole.last_error = hole.last_error or error
        self._ask_leaders_later(now)

    def requests(self, now: float) -> Iterator[MarkerRequest]:
        """One for each broker that has none under way and leads a hole."""
        due = [hole for hole in self._holes.values() if hole.first_offset < hole.next_offset]
        for node_id, holes in self._by_leader(due, now).items():
            if node_id not in self._busy:
                yield self._request(node_id, holes)

    def questions(self, now: float) -> Iterator[LogEndQuestion]:
        """Whom to ask where logs end, now that every marker is settled and some without a word."""
        due = [hole for hole in self._holes.values() if hole.wants_log_end]
        for node_id, holes in self._by_leader(due, now).items():
            for hole in holes:
                hole.in_flight = True
            yield LogEndQuestion(node_id=node_id, holes=tuple(holes))

    def ends_are(
        self,
        question: LogEndQuestion,
        ends: Mapping[TopicPartition, tuple[int, int]],
        failure: KbackupError | None,
        now: float,
    ) -> None:
        """`ends`: log end and high watermark; what the broker did not tell is left out, and `failure` may say why."""
        for hole in question.holes:
            if hole.tp in ends:
                hole.log_ends_at(*ends[hole.tp], now)
            else:
                self._leaders_wanted = True
                hole.log_end_untold(failure, now)

    def _by_leader(self, holes: list[Hole], now: float) -> dict[int, list[Hole]]:
        """Those that may be dealt with now; nobody leads the others."""
        by_leader: dict[int, list[Hole]] = {}
        for hole in holes:
            if hole.in_flight or hole.failed or now < hole.not_before:
                continue
            node_id = self._leaders.get(hole.tp)
            if node_id is None:
                self._leaders_wanted = True
                hole.leaderless(now)
            else:
                by_leader.setdefault(node_id, []).append(hole)
        return by_leader

    def answered(self, request: MarkerRequest, codes: Mapping[tuple[int, TopicPartition], int], now: float) -> None:
        self._busy.discard(request.node_id)
        by_partition: dict[TopicPartition, dict[int, int]] = {}
        for (producer_id, tp), code in codes.items():
            by_partition.setdefault(tp, {})[producer_id] = code
            self._leaders_wanted |= code in LEADER_MOVED
        for hole in request.holes:
            hole.answered(by_partition.get(hole.tp, {}), now)

    def unanswered(self, request: MarkerRequest, error: KbackupError, now: float) -> None:
        self._busy.discard(request.node_id)
        self._leaders_wanted = True
        for hole in request.holes:
            hole.unanswered(error, now)

    def give_up(self, now: float) -> None:
        for hole in self._holes.values():
            hole.give_up_if_due(now)

    def ended(self) -> list[Hole]:
        """Holes that are filled or failed; each is told until it is forgotten."""
        return [hole for hole in self._holes.values() if hole.filled or hole.failed]

    def nap_seconds(self, now: float) -> float | None:
        """How long nothing can happen unless somebody wakes us; None: for ever."""
        moments: list[float] = []
        for hole in self._holes.values():
            moments.append(hole.not_before)
            if hole.failing_since is not None:
                moments.append(hole.failing_since + self._patience.give_up_seconds)
        if self._holes and self._leaders_wanted:
            moments.append(self._leaders_not_before)
        ahead = [moment for moment in moments if moment > now]
        return max(min(ahead) - now, 0.001) if ahead else None

    def _request(self, node_id: int, holes: list[Hole]) -> MarkerRequest:
        chosen: list[Hole] = []
        markers: list[TransactionMarker] = []
        for hole in holes:
            wanted = hole.markers()
            if chosen and len(markers) + len(wanted) > MARKERS_PER_REQUEST:
                break
            chosen.append(hole)
            markers += wanted
        for hole in chosen:
            hole.in_flight = True
            # Served last next time, so that holes share a broker fairly.
            self._holes[hole.tp] = self._holes.pop(hole.tp)
        self._busy.add(node_id)
        return MarkerRequest(node_id=node_id, holes=tuple(chosen), markers=tuple(markers))

    def _ask_leaders_later(self, now: float) -> None:
        self._leaders_not_before = now + self._patience.first_pause_seconds * PAUSES_BEFORE_ASKING_AGAIN


def _is_final(code: int) -> bool:
    """Trying again is harmless here, so what may be a passing trouble is tried again."""
    return not is_retriable(code) and code != KafkaErrorCode.UNKNOWN_SERVER_ERROR


def _refusal(tp: TopicPartition, code: int | None) -> IncompleteError:
    try:
        said = "gave no answer about" if code is None else f"refused with {KafkaErrorCode(code).name} ({code})"
    except ValueError:
        said = f"refused with error {code}"
    hint = "grant Alter or ClusterAction on the cluster" if code == KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED else ""
    return IncompleteError(f"{tp.topic}-{tp.partition}: the target {said} a marker", hint=hint)

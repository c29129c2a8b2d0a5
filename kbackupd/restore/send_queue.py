"""One partition's batches on their way into the target: what may go next, and what an answer or silence means. Pure.

Owns the partition's order and its retries. A batch whose answer is lost, late or retriable is sent again with the same
producer id, epoch and sequence, so the broker drops what it has already (hazard 27); nothing later is sent before it is
settled. Time is handed in, bytes and acknowledgements are handed out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicPartition
from kbackupd.model.errors import IncompleteError, KbackupError
from kbackupd.restore.content_digest import batch_digest
from kbackupd.restore.produce_batch import Holds, ProduceBatch
from kbackupd.restore.refusals import foreign_end, is_retriable, refusal
from kbackupd.restore.resume import NewestBatch

REQUESTS_IN_FLIGHT = 5
"""Per broker and lane: brokers remember a producer's last five batches, so no repeated one goes unrecognised."""
GIVE_UP_SECONDS = 180.0
"""A partition none of whose batches is taken for so long has failed."""
_MOST_DOUBLINGS = 5
_TRIES_OF_A_CORRUPT_BATCH = 5
"""Retriable by its name, since the wire may have damaged it; a batch that is wrong inside stays wrong."""
PAUSES_BEFORE_ASKING_AGAIN = 5
"""First pauses between two questions to the cluster that had no answer."""


class LogEnd(NamedTuple):
    """Where a log ends, and with what."""

    offset: int
    newest: NewestBatch | None = None
    """None: it is empty, or what it holds we may not read."""


@dataclass(slots=True)
class Entry:
    batch: ProduceBatch
    sent: bool = False
    in_flight: bool = False
    settled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What is told of every queue, at once and in order."""

    acknowledged: Callable[[TopicPartition, ProduceBatch], None]
    """The batch is in the target's log; once for each, in the partition's order."""
    freed: Callable[[int], None]
    """So many bytes are not held any more: acknowledged, or their partition failed."""
    ended: Callable[[TopicPartition], None]
    """Nothing is left to send, or the partition failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what."""

    first_pause_seconds: float = 0.1
    """Before a refused or unanswered batch is sent again; doubles up to 32 times that."""
    give_up_seconds: float = GIVE_UP_SECONDS


@dataclass(slots=True, kw_only=True)
class SendQueue:
    """The unacknowledged batches, oldest first."""

    tp: TopicPartition
    lane: int
    next_offset: int
    """Where the oldest unacknowledged batch must land."""
    listener: Listener
    patience: Patience
    repeats: bool = False
    """An earlier run sent the same batches under the same sequences, and some of its requests may land yet."""
    appends: bool = False
    """The topic held records of others before: nobody is to be told to delete it."""
    entries: deque[Entry] = field(default_factory=deque)
    in_flight: int = 0
    known: bool = False
    """The leader has taken a batch. One that knows nothing of a producer takes any sequence as its first: were the
    first batch refused, or the leader moved, with a second one under way, that would land in its place."""
    settling: bool = False
    """A batch failed: nothing new is sent until every answer is in, then all goes again from the oldest one."""
    failures: int = 0
    not_before: float = 0.0
    uncertain: bool = False
    """A batch has no answer or a bad one: whether it is in the log, the log's end must tell before it goes again."""
    asking: bool = False
    ahead: int | None = None
    """Where the log ended when last asked, if that was beyond every batch we knew by then."""
    failing_since: float | None = None
    last_error: KbackupError | None = None
    failed: KbackupError | None = None

    def next_to_send(self, now: float) -> Entry | None:
        most = REQUESTS_IN_FLIGHT if self.known else 1
        if self.settling or self.uncertain or self.failed or self.in_flight >= most or now < self.not_before:
            return None
        # Counted from the oldest one without an answer: that may be in the log and hang at a broker that lost the
        # partition. Five batches later the new leader would no longer know it when it is sent again.
        for entry in itertools.islice(self.entries, REQUESTS_IN_FLIGHT):
            if entry.batch.holds is Holds.NOTHING:
                return None  # its offsets are filled first
            if not entry.in_flight and not entry.settled:
                return entry
        return None

    def hole_to_fill(self) -> Entry | None:
        """The oldest entry, if it is a hole and nobody fills it yet: everything before it is in the log."""
        if self.failed or self.in_flight or self.uncertain or not self.entries:
            return None
        oldest = self.entries[0]
        return oldest if oldest.batch.holds is Holds.NOTHING and not oldest.in_flight else None

    def filled(self, entry: Entry, failure: KbackupError | None) -> None:
        """The hole is filled, up to where the next batch begins; or it is not, for good."""
        self._arrived(entry)
        if self.failed is not None:
            return
        if failure is not None:
            self.fail(failure)
            return
        known = self.known
        self._settled(entry, self.next_offset)
        self.known = known  # whoever filled it, the leader need not have heard of us

    def started(self, entry: Entry) -> None:
        """`entry` is part of a request now."""
        entry.in_flight = entry.sent = True
        self.in_flight += 1

    def answered(self, entry: Entry, answer: ProduceAnswer, now: float) -> None:
        """The broker's word about `entry`."""
        self._arrived(entry)
        if self.failed is None:
            self._judge(entry, answer, now)
        self._rest()

    def unanswered(self, entry: Entry, failure: KbackupError, now: float) -> None:
        """The request failed as a whole: whether the broker took the batch is unknown, so it is sent again."""
        self._arrived(entry)
        if self.failed is None:
            if failure.retryable:
                self._again(failure, now)
            else:
                self.fail(failure)
        self._rest()

    def wants_log_end(self, now: float) -> bool:
        """Whether the log's end must be asked for before anything goes again.

        Not left to the broker: one that was restarted remembers only a producer's last batch, and none at all if the
        records are a day old, as a restore's are (it takes their timestamps for the producer's last sign of life). It
        would refuse the repetition, or take it again.
        """
        idle = self.in_flight == 0 and not self.asking and self.failed is None
        return self.uncertain and bool(self.entries) and idle and now >= self.not_before

    def log_ends_at(self, found: LogEnd) -> None:
        """Settle the unanswered batches that the log holds: whole ones, from the oldest on.

        The newest batch tells whose they are: somebody else's of the same size would be taken for ours, and ours lost.
        If it is ours, so is what lies before it, for the broker takes none of them out of its order.
        """
        if self.failed is not None:
            return
        self.uncertain = False
        log_end = found.offset
        arrived: list[Entry] = []
        end = self.next_offset
        for entry in self.entries:
            if end >= log_end or not (entry.sent or self.repeats):
                break
            if entry.batch.holds is Holds.NOTHING and end + entry.batch.records > log_end:
                log_end = end  # an earlier run's last marker came late: whoever fills the hole asks where it is
                break
            arrived.append(entry)
            end += entry.batch.records
        self.ahead = log_end if end < log_end and self.repeats else None
        if self.ahead is not None:
            self.uncertain = True  # what the earlier run had sent beyond the batches we know yet
        elif end != log_end:
            self.fail(self._foreign(f"the log ends at offset {log_end} instead of {end}"))
        elif arrived and found.newest is not None and not _is(found.newest, arrived[-1].batch):
            self.fail(self._foreign(f"what ends at offset {log_end} is not the batch that was sent there"))
        if arrived and self.failed is None:
            for entry in arrived:
                entry.settled = True
            self._settled(arrived[0], self.next_offset)
            self.known = False  # the log has them; a broker that was restarted does not know whose they are

    def log_end_untold(self, failure: KbackupError | None, now: float) -> None:
        if self.failed is None:
            self.last_error = failure or self.last_error
            self.failing_since = now if self.failing_since is None else self.failing_since
            self.not_before = now + self.patience.first_pause_seconds * PAUSES_BEFORE_ASKING_AGAIN

    def leaderless(self, now: float) -> None:
        """A batch could go, or the log's end be asked for, and nobody leads the partition."""
        self.failing_since = now if self.failing_since is None else self.failing_since

    def give_up_if_due(self, now: float) -> None:
        """Fail if nothing was taken for too long."""
        seconds = self.patience.give_up_seconds
        if self.entries and self.failing_since is not None and now - self.failing_since > seconds:
            reason = self.last_error.message if self.last_error else "it has no leader"
            self.fail(
                IncompleteError(
                    f"{self.tp.topic}-{self.tp.partition}: the target took nothing for {seconds:g} s: {reason}",
                    hint=self.last_error.hint if self.last_error else "",
                )
            )

    def moments(self) -> Iterator[float]:
        """When something may be due here though nobody says a word."""
        yield self.not_before
        if self.failing_since is not None:
            yield self.failing_since + self.patience.give_up_seconds

    def fail(self, error: KbackupError) -> None:
        """Nothing more is sent; what was acknowledged stays in the target."""
        self.failed = error
        self.listener.freed(sum(len(entry.batch.data) for entry in self.entries))
        self.entries.clear()
        self.listener.ended(self.tp)

    def failed_so_far(self) -> KbackupError | None:
        """Why the partition failed; asked once nothing is left to send, and before anything else is put."""
        if self.failed is None and self.ahead is not None:
            # No batch of the earlier run came to explain it, so those before it need not be ours either.
            return self._foreign(f"the log ends at offset {self.ahead} instead of {self.next_offset}")
        return self.failed

    def _arrived(self, entry: Entry) -> None:
        entry.in_flight = False
        self.in_flight -= 1

    def _rest(self) -> None:
        if self.settling and self.in_flight == 0:
            self.settling = False

    def _judge(self, entry: Entry, answer: ProduceAnswer, now: float) -> None:
        code = answer.error_code
        if code in (KafkaErrorCode.NONE, KafkaErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            self._settled(entry, answer.base_offset)
            return
        oldest = next((each for each in self.entries if not each.settled), entry)
        follows_a_failure = code == KafkaErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and oldest is not entry
        hopeless = code == KafkaErrorCode.CORRUPT_MESSAGE and self.failures >= _TRIES_OF_A_CORRUPT_BATCH
        error = refusal(self.tp, answer, appends=self.appends)
        if follows_a_failure or (is_retriable(code) and not hopeless):
            self._again(error, now)
        else:
            self.fail(error)

    def _settled(self, entry: Entry, base_offset: int) -> None:
        entry.settled = self.known = True
        self.failing_since = None
        self.failures = 0
        while self.entries and self.entries[0].settled:
            batch = self.entries[0].batch
            # Only the oldest can be compared: what lies before it is known exactly. A repeated batch may come back
            # without its offset.
            if batch is entry.batch and base_offset not in (-1, self.next_offset):
                self.fail(self._foreign(f"a batch landed at offset {base_offset} instead of {self.next_offset}"))
                return
            self.entries.popleft()
            self.next_offset += batch.records
            self.listener.freed(len(batch.data))
            self.listener.acknowledged(self.tp, batch)
        if not self.entries:
            self.listener.ended(self.tp)

    def _again(self, error: KbackupError, now: float) -> None:
        if not self.settling:
            self.failures += 1
            doublings = min(self.failures - 1, _MOST_DOUBLINGS)
            self.not_before = now + self.patience.first_pause_seconds * 2**doublings
        if self.failing_since is None:
            self.failing_since = now
        # Some refusals come after the append, too.
        self.settling = self.uncertain = True
        self.known = False
        self.last_error = error

    def _foreign(self, what: str) -> IncompleteError:
        return foreign_end(self.tp, what, appends=self.appends)


def _is(newest: NewestBatch, batch: ProduceBatch) -> bool:
    """What fills a hole is no batch of ours, and is known by where it ends alone."""
    if batch.holds is Holds.NOTHING:
        return newest.header.is_control
    return newest.header.base_sequence == batch.base_sequence and newest.digest == batch_digest(batch.data)

"""What a leader's answer means for each partition in it: batches, a gap, a new branch, a failure.

Decides without I/O (the scan is handed in) and feeds the open segment. Hands nothing on that was not CRC-checked,
except bytes that stay bad however often they are fetched: those are kept in a flagged run, with a gap over them (I6).
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from kbackupd.capture.assembly import OpenSegment
from kbackupd.capture.partition import CORRUPT_ATTEMPTS, FETCH_BYTES, PartitionCapture, SessionKind
from kbackupd.capture.roster import Roster
from kbackupd.capture.watermark import Watermark
from kbackupd.format.batch import scan_batches
from kbackupd.format.salvage import next_good_batch
from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import FetchAnswer, KafkaErrorCode, PartitionAnswer
from kbackupd.model.clock import Clock
from kbackupd.model.events import Gap, GapCause, LedgerEvent, Truncated
from kbackupd.model.path import BatchScan, RecordBatches
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import RunFlag, Sample
from kbackupd.observe import events
from kbackupd.observe.labels import Stream
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

BEHIND_ANSWERS = 3
"""So many full answers in a row move a partition from following to catching up."""
FETCH_BYTES_MAX = 64 << 20
"""No record batch larger than this is asked for."""

_LEADERSHIP = frozenset(
    {
        KafkaErrorCode.LEADER_NOT_AVAILABLE,
        KafkaErrorCode.NOT_LEADER_OR_FOLLOWER,
        KafkaErrorCode.REPLICA_NOT_AVAILABLE,
        KafkaErrorCode.FENCED_LEADER_EPOCH,
        KafkaErrorCode.UNKNOWN_LEADER_EPOCH,
        KafkaErrorCode.KAFKA_STORAGE_ERROR,
        KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        KafkaErrorCode.UNKNOWN_TOPIC_ID,
        KafkaErrorCode.INCONSISTENT_TOPIC_ID,
    }
)

log = structlog.get_logger()


class Intake:
    """Owns the open segment; `pipeline` takes it away when it is time to seal."""

    def __init__(
        self, *, roster: Roster, watermark: Watermark, clock: Clock, metrics: Metrics, problems: Problems
    ) -> None:
        self.open = OpenSegment()
        self.taken_records = 0
        """So far, by the batches' headers; durable or not."""
        self.taken_bytes = 0
        self._roster = roster
        self._watermark = watermark
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._captured: dict[Stream, list[int]] = {"user": [0, 0, 0], "system": [0, 0, 0]}
        """Bytes, batches and records taken in and not yet told, by stream."""

    def count(self) -> None:
        """Tell the metrics what was taken in since the last time: once per answer, not once per partition of it."""
        for stream, counts in self._captured.items():
            if counts[1]:
                self._metrics.captured(stream, size_bytes=counts[0], batches=counts[1], records=counts[2])
                counts[:] = (0, 0, 0)

    def record(self, event: LedgerEvent) -> None:
        """Put a ledger event into the open segment, and say it."""
        self.open.event(event, now=self._clock.monotonic())
        match event:
            case Gap():
                self._metrics.gap_recorded(event.cause, offsets=event.next_offset - event.first_offset)
                log.warning(
                    events.GAP_RECORDED,
                    partition=self._name(event.id),
                    first_offset=event.first_offset,
                    next_offset=event.next_offset,
                    cause=event.cause.value,
                )
            case Truncated():
                self._watermark.truncated(event.id, event.offset)
                log.warning(
                    events.LOG_TRUNCATED, partition=self._name(event.id), offset=event.offset, branch=event.branch
                )
            case _:
                pass

    def cut_back(self, event: Truncated) -> None:
        """The source's log is not what it was: record it, and have somebody told. (A branch that only a lost segment of
        ours made necessary is recorded alone.)
        """
        self.record(event)
        self._metrics.log_truncated()
        self._problems.note(
            self._name(event.id),
            f"its log was cut back to offset {event.offset} and goes on as branch {event.branch}; what was captured "
            f"beyond stays on branch {event.parent}",
            hint="an unclean election, or a broker that lost its disk? the cluster lost these records itself",
        )

    def sampled(self, samples: Iterable[Sample]) -> None:
        """Take a round of samples in."""
        self.open.sampled(samples, now=self._clock.monotonic())

    def left_out(self, partition: PartitionCapture, sent: float) -> None:
        """The answer to a request sent at `sent` said by leaving it out that the partition is as it was told last."""
        partition.answered_sent = max(partition.answered_sent, sent)
        partition.proof.left_out(sent, self._watermark.durable(partition.id))

    def refused(self, partition: PartitionCapture, code: int) -> None:
        """The answer for this partition was an error."""
        if code == KafkaErrorCode.OFFSET_OUT_OF_RANGE:
            self._roster.want_lookup(partition)
            return
        hint = (
            f"grant Read and Describe on topic {partition.topic!r} to kbackupd's principal"
            if code == KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED
            else ""
        )
        reason = f"the broker answered {code_name(code)}"
        self._roster.fail(partition, reason, code=code, hint=hint, refresh=code in _LEADERSHIP)

    def answered(
        self,
        partition: PartitionCapture,
        answer: PartitionAnswer,
        scan: BatchScan | None,
        fetch: FetchAnswer,
        node: int,
        *,
        asked_bytes: int,
    ) -> bool:
        """Take one partition's good answer in; True if it has more to fetch in this session.

        Args:
            scan: of `answer.records`; None where there are none.
            asked_bytes: bound of the whole answer.
        """
        partition.log_start_offset = answer.log_start_offset
        partition.log_start_pace.told(fetch.sent_monotonic, answer.log_start_offset)
        partition.last_stable_offset = answer.last_stable_offset
        # No batch is held whose leader epoch could tell the broker that its log is another one by now; that it begins
        # before where it began is the only sign.
        regrown = answer.diverging is None and 0 <= answer.log_start_offset < partition.begins_at
        if regrown:
            self.cut_back(partition.cut_to(answer.log_start_offset, at_ms=self._clock.now_ms()))
            partition.begins_at = answer.log_start_offset
        if answer.diverging is not None:
            self.cut_back(partition.diverged(answer.diverging, at_ms=self._clock.now_ms()))
        if answer.high_watermark < partition.position:
            # Elected a moment ago, it knows only the high watermark its predecessor had told it, and with too few
            # replicas in sync it learns no better (KIP-966): records that were acknowledged may lie above it. No word
            # of a leader, then, on where the log ends.
            partition.proof.unsure(partition.position)
            self._roster.recovered(partition)
            self._choose_session(partition, answer, asked_bytes)
            return True
        partition.answered_sent = fetch.sent_monotonic
        # After the cut: what is durable of the old log proves nothing about this one.
        partition.proof.answered(fetch.sent_monotonic, answer.high_watermark, self._watermark.durable(partition.id))
        self.open.sample(
            Sample(
                id=partition.id,
                sent_ms=fetch.sent_ms,
                answered_ms=fetch.answered_ms,
                log_start_offset=answer.log_start_offset,
                last_stable_offset=answer.last_stable_offset,
                high_watermark=answer.high_watermark,
                leader_epoch=partition.leader_epoch,
            )
        )
        if answer.diverging is not None or regrown:
            self._roster.recovered(partition)
            return True
        if scan is not None and scan.good_bytes:
            self._take(partition, answer, scan, fetch, node)
            self._roster.recovered(partition)
        elif scan is not None and (scan.corrupt_bytes or _beyond_belief(partition, scan)):
            return self._corrupt(partition, answer, fetch, node)
        elif scan is not None and scan.partial_bytes:
            # Only the first partition of an answer is sent a batch larger than it asked for (hazard 23).
            needed = max(scan.partial_needs_bytes, 2 * max(partition.fetch_bytes, FETCH_BYTES[partition.kind]))
            partition.fetch_bytes = min(needed, FETCH_BYTES_MAX)
        else:
            self._roster.recovered(partition)
        self._choose_session(partition, answer, asked_bytes)
        return True

    def _take(
        self, partition: PartitionCapture, answer: PartitionAnswer, scan: BatchScan, fetch: FetchAnswer, node: int
    ) -> None:
        whole = scan.good_bytes == len(answer.records)
        batches = RecordBatches(
            id=partition.id,
            system=partition.system,
            asked_offset=partition.position,
            branch=partition.branch,
            replica=node,
            captured_ms=fetch.answered_ms,
            chunk=answer.records if whole else memoryview(answer.records)[: scan.good_bytes],
            scan=scan,
        )
        self.open.add(batches, now=fetch.answered_monotonic)
        partition.took(batches)
        self.taken_records += scan.records
        self.taken_bytes += scan.good_bytes
        counts = self._captured["system" if partition.system else "user"]
        counts[0] += scan.good_bytes
        counts[1] += scan.batches
        counts[2] += scan.records

    def _corrupt(self, partition: PartitionCapture, answer: PartitionAnswer, fetch: FetchAnswer, node: int) -> bool:
        """The first batch fails its CRC. Again, then keep the bytes and go on at the next good batch."""
        partition.corrupt_attempts += 1
        if partition.corrupt_attempts < CORRUPT_ATTEMPTS:
            self._roster.fail(
                partition,
                f"the batch at offset {partition.position} fails its CRC",
                code=KafkaErrorCode.CORRUPT_MESSAGE,
            )
            return False
        found = next_good_batch(answer.records, after_offset=partition.position)
        if found is None:
            asked = max(partition.fetch_bytes, FETCH_BYTES[partition.kind])
            partition.fetch_bytes = min(2 * asked, FETCH_BYTES_MAX)
            self._roster.fail(
                partition,
                f"the batch at offset {partition.position} fails its CRC and no good batch follows yet",
                code=KafkaErrorCode.CORRUPT_MESSAGE,
                hint="the source's log is damaged there; capture goes on by itself at the next good batch",
            )
            return False
        bad, next_offset = answer.records[: found.position], found.base_offset
        log.error(events.BATCH_CORRUPTED, partition=partition.name, offset=partition.position, bytes=len(bad))
        self._metrics.corrupt_batch_found()
        scan = BatchScan(
            first_offset=partition.position,
            next_offset=next_offset,
            batches=0,
            records=0,
            flags=RunFlag.CORRUPT,
            base_timestamp_ms=-1,
            max_timestamp_ms=-1,
            largest_batch_bytes=len(bad),
            leader_epochs=(),
            markers=(),
            begun=(),
            good_bytes=len(bad),
            compressed_bytes=len(bad),
            partial_bytes=0,
            partial_needs_bytes=0,
            corrupt_bytes=0,
        )
        self.open.add(
            RecordBatches(
                id=partition.id,
                system=partition.system,
                asked_offset=partition.position,
                branch=partition.branch,
                replica=node,
                captured_ms=fetch.answered_ms,
                chunk=bad,
                scan=scan,
            ),
            now=fetch.answered_monotonic,
        )
        self.record(partition.skip_to(next_offset, GapCause.CORRUPT_AT_SOURCE, self._clock.now_ms()))
        self._roster.recovered(partition)
        self._problems.note(
            partition.name,
            f"offsets [{scan.first_offset}, {next_offset}) fail their CRC at the source; kept as they are, flagged",
            hint="look at the broker's disk; consumers cannot read these records either",
        )
        return True

    def _choose_session(self, partition: PartitionCapture, answer: PartitionAnswer, asked_bytes: int) -> None:
        if partition.position >= answer.high_watermark:
            partition.behind_answers = 0
            partition.kind = SessionKind.FOLLOWING
            partition.fetch_bytes = 0
        elif partition.kind is SessionKind.FOLLOWING and answer.records:
            full = len(answer.records) >= min(FETCH_BYTES[SessionKind.FOLLOWING], asked_bytes) // 2
            partition.behind_answers = partition.behind_answers + 1 if full else 0
            if partition.behind_answers >= BEHIND_ANSWERS:
                partition.behind_answers = 0
                partition.kind = SessionKind.CATCHING_UP

    def _name(self, id: PartitionId) -> str:
        return f"{self._roster.names.get(id.topic_id, id.topic_id)}/{id.partition}"


def _beyond_belief(partition: PartitionCapture, scan: BatchScan) -> bool:
    """A batch that stays cut off though all of its length was asked for, or that says it is larger than any we ask for.

    The length is not covered by the CRC: damaged at the source, it would be waited for for ever.
    """
    needed = scan.partial_needs_bytes
    return needed > FETCH_BYTES_MAX or 0 < needed <= partition.fetch_bytes


def scan_answers(answers: list[tuple[bytes, int]]) -> list[BatchScan]:
    """CRC-check and summarise (records, asked offset) pairs; CPU only, for a worker thread."""
    return [scan_batches(records, asked_offset=asked_offset) for records, asked_offset in answers]

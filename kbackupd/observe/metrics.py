"""Every metric of the daemon, in one file.

Counters and histograms are moved by those who do the work, through the methods of `Metrics`; gauges that describe the
present are computed when scraped (`live.py`), so they cannot go stale. Every label has a bound: a value outside its
list (`labels.py`) is counted as `other`, topics beyond the limit as `(other)`.

`docs/metrics.md` is generated from here (`reference.py`).
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from kbackupd.model.clock import Clock
from kbackupd.model.events import GapCause
from kbackupd.model.status import MemoryStatus, PartitionSample
from kbackupd.observe.exposure import Exposure
from kbackupd.observe.labels import (
    COMMIT_OUTCOMES,
    ERROR_KINDS,
    OTHER,
    PARTITION_CAUSES,
    ROLLUP_OUTCOMES,
    SNAPSHOT_CAUSES,
    SNAPSHOT_PARTS,
    STORE_OPERATIONS,
    STORE_OUTCOMES,
    CommitOutcome,
    RollupOutcome,
    Session,
    SnapshotCause,
    SnapshotPart,
    Stream,
    bounded,
    error_kind,
    store_cause,
)
from kbackupd.observe.live import (
    CheckpointAge,
    DroppedLines,
    GroupBehind,
    MemoryGauges,
    PartitionGauges,
    SegmentsNotRolledUp,
    SnapshotAges,
    UploadsInFlight,
    WorstLoopLag,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Metrics.render` returns: the version every Prometheus reads; our names need nothing of a later one."""

_UPLOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_FLUSH_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 12.5, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Fine around the default flush interval, ten seconds, and around what targets are made of."""
_LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One daemon's metrics, in a registry of their own: two daemons in one process do not meet.

    Everything is safe to call from any thread, never raises because of a label's value, and never blocks.
    """

    def __init__(self, clock: Clock, *, version: str, backup_id: str = "", writer: str = "") -> None:
        self._clock = clock
        self._checkpoint_at = clock.monotonic()
        self._partition_gauges: PartitionGauges | None = None
        registry = self.registry = CollectorRegistry()
        ProcessCollector(namespace="kbackupd", registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"kbackupd_{name}", text, labels, registry=registry)

        captured_bytes = counter(
            "captured_bytes", "Bytes of record batches captured, as the broker stores them.", "stream"
        )
        captured_batches = counter("captured_batches", "Record batches captured.", "stream")
        captured_records = counter(
            "captured_records",
            "Records captured, by the headers of their batches; transaction markers count.",
            "stream",
        )
        self._fetch_requests = counter("fetch_requests", "Fetch requests answered by a broker.", "session")
        self._segments = counter("segments", "Segments made durable.")
        self._segment_bytes = counter("segment_stored_bytes", "Bytes of segments made durable, as stored.")
        self._segment_raw_bytes = counter(
            "segment_raw_bytes", "Bytes of record batches in segments made durable, before compression."
        )

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"kbackupd_{name}", text, buckets=buckets, registry=registry)

        self._upload_duration = histogram(
            "upload_duration_seconds", "How long it took to make a segment durable, retries included.", _UPLOAD_BUCKETS
        )
        self._flush_duration = histogram(
            "flush_duration_seconds",
            "From the arrival of a segment's oldest user batch or ledger event until it was durable.",
            _FLUSH_BUCKETS,
        )
        self._loop_lag = histogram(
            "loop_lag_seconds",
            "How much later than asked for a sleeping task of the event loop gets its turn; four samples a second.",
            _LAG_BUCKETS,
        )
        self._scrape_duration = histogram(
            "scrape_duration_seconds",
            "How long the daemon took to compute an answer to a scrape; of those before this one.",
            _LAG_BUCKETS,
        )
        self._store_operations = counter(
            "store_operations", "Tries of store operations, by how they ended.", "operation", "outcome"
        )
        self._store_retries = counter(
            "store_retries", "Store operations tried again after a failure.", "operation", "cause"
        )
        self._store_failures = counter(
            "store_failures", "Store operations given up: retries spent, or the store said no.", "operation", "cause"
        )
        self._checkpoints = counter("checkpoints", "Checkpoints stored.")
        self._group_commits = counter(
            "group_commits",
            "Rounds of committing durable offsets to the consumer group, by how they ended.",
            "outcome",
        )
        self._snapshots = counter("snapshots", "Snapshots of groups and of the cluster stored: what changed.", "kind")
        self._snapshot_failures = counter(
            "snapshot_failures",
            "Rounds in which a part of a snapshot could not be read whole (denied, failed) or not be stored.",
            "part",
            "cause",
        )
        self._rollup_runs = counter(
            "rollup_runs", "Runs of the process that rolls up what segments say, by how they ended.", "outcome"
        )
        self._snapshot_read_at: dict[str, float] = {}
        self._gaps = counter("gaps", "Gaps recorded: offsets the archive does not have, by cause.", "cause")
        self._gap_offsets = counter("gap_offsets", "Offsets inside recorded gaps, by cause.", "cause")
        self._log_truncations = counter(
            "log_truncations", "Logs that were cut back or replaced at the source; what was captured of them is kept."
        )
        self._corrupt_batches = counter("corrupt_batches", "Batches whose CRC-32C failed at the source; kept, flagged.")
        self._damaged_objects = counter(
            "damaged_objects", "Objects of this writer that were found damaged when the daemon started."
        )
        self._errors = counter(
            "errors",
            "Requests of brokers and tries of the store that failed as a whole, by kind; repeats that are not logged "
            "count too.",
            "kind",
        )
        self._partition_failures = counter(
            "partition_failures",
            "Times that a partition could not be captured and is tried again, by Kafka's name of the cause.",
            "cause",
        )
        build = Gauge(
            "kbackupd_build_info",
            "Always 1; its labels say what runs.",
            ("version", "python", "backup_id", "writer"),
            registry=registry,
        )
        build.labels(version, platform.python_version(), backup_id, writer).set(1)
        # Bound once: these move with every partition of every answer, and looking labels up is most of their cost.
        self._captured = {
            stream: (
                captured_bytes.labels(stream),
                captured_batches.labels(stream),
                captured_records.labels(stream),
            )
            for stream in ("user", "system")
        }
        self._preset()
        registry.register(CheckpointAge(self.checkpoint_age_seconds))
        registry.register(SnapshotAges(self.snapshot_ages_seconds))

    def _preset(self) -> None:
        """Give every label value a zero: `rate()` and alerts miss the first increase of a series that was not there."""
        for session in ("following", "catching-up"):
            self._fetch_requests.labels(session)
        for cause in GapCause:
            self._gaps.labels(cause.value)
            self._gap_offsets.labels(cause.value)
        for kind in ERROR_KINDS:
            self._errors.labels(kind)
        for name in (*PARTITION_CAUSES, OTHER):
            self._partition_failures.labels(name)
        for kind in ("groups", "cluster"):
            self._snapshots.labels(kind)
        for outcome in COMMIT_OUTCOMES:
            self._group_commits.labels(outcome)
        for ending in ROLLUP_OUTCOMES:
            self._rollup_runs.labels(ending)
        for part in SNAPSHOT_PARTS:
            for why in SNAPSHOT_CAUSES:
                self._snapshot_failures.labels(part, why)

    def captured(self, stream: Stream, *, size_bytes: int, batches: int, records: int) -> None:
        """A partition's answer was taken into the buffer."""
        of_bytes, of_batches, of_records = self._captured[stream]
        of_bytes.inc(size_bytes)
        of_batches.inc(batches)
        of_records.inc(records)

    def fetch_answered(self, session: Session) -> None:
        self._fetch_requests.labels(session).inc()

    @contextlib.contextmanager
    def upload(self) -> Iterator[None]:
        """Around making one segment durable; only one that succeeds is measured."""
        started = self._clock.monotonic()
        yield
        self._upload_duration.observe(self._clock.monotonic() - started)

    def segment_stored(self, stored_bytes: int, *, raw_bytes: int) -> None:
        """`raw_bytes`: of its record batches, as captured."""
        self._segments.inc()
        self._segment_bytes.inc(stored_bytes)
        self._segment_raw_bytes.inc(raw_bytes)

    def flushed(self, oldest_at: float) -> None:
        """A segment is durable whose oldest user batch or event arrived at `oldest_at`, in monotonic seconds."""
        self._flush_duration.observe(self._clock.monotonic() - oldest_at)

    def loop_lagged(self, seconds: float) -> None:
        """One sample of how late the event loop is."""
        self._loop_lag.observe(seconds)

    def store_operation_ended(self, operation: str, seconds: float, size_bytes: int, outcome: str) -> None:
        """One try of one operation is over; fits the metered store's callback. `seconds` and `size_bytes` are unused:
        the upload histogram and the captured bytes say what matters of them."""
        del seconds, size_bytes
        self._store_operations.labels(bounded(operation, STORE_OPERATIONS), bounded(outcome, STORE_OUTCOMES)).inc()

    def store_retried(self, operation: str, error: BaseException, tries: int = 1) -> None:
        """A try failed and another follows; fits the retrying store's callback."""
        del tries
        self._store_retries.labels(bounded(operation, STORE_OPERATIONS), store_cause(error)).inc()

    def store_failed(self, operation: str, error: BaseException) -> None:
        """An operation was given up with `error`."""
        self._store_failures.labels(bounded(operation, STORE_OPERATIONS), store_cause(error)).inc()

    def checkpoint_stored(self) -> None:
        self._checkpoints.inc()
        self._checkpoint_at = self._clock.monotonic()

    def checkpoint_current(self) -> None:
        """A checkpoint was due and nothing had moved: the newest one still says everything."""
        self._checkpoint_at = self._clock.monotonic()

    def checkpoint_age_seconds(self) -> float:
        return self._clock.monotonic() - self._checkpoint_at

    def group_commit_ended(self, outcome: CommitOutcome) -> None:
        self._group_commits.labels(outcome).inc()

    def snapshot_stored(self, kind: Literal["groups", "cluster"]) -> None:
        self._snapshots.labels(kind).inc()

    def snapshot_read(self, part: SnapshotPart) -> None:
        """All of the part that permissions show was answered, and what was news is durable."""
        self._snapshot_read_at[part] = self._clock.monotonic()

    def snapshot_failed(self, part: SnapshotPart, cause: SnapshotCause) -> None:
        self._snapshot_failures.labels(part, cause).inc()

    def rollup_run_ended(self, outcome: RollupOutcome) -> None:
        self._rollup_runs.labels(outcome).inc()

    def snapshot_ages_seconds(self) -> Mapping[str, float]:
        """By part, for those that were whole at least once."""
        now = self._clock.monotonic()
        return {part: now - at for part, at in self._snapshot_read_at.items()}

    def gap_recorded(self, cause: GapCause, *, offsets: int) -> None:
        self._gaps.labels(cause.value).inc()
        self._gap_offsets.labels(cause.value).inc(offsets)

    def log_truncated(self) -> None:
        """A partition's log was cut back: capture goes on on a new branch."""
        self._log_truncations.inc()

    def corrupt_batch_found(self, count: int = 1) -> None:
        self._corrupt_batches.inc(count)

    def damaged_object_found(self) -> None:
        self._damaged_objects.inc()

    def error_met(self, error: BaseException) -> None:
        self._errors.labels(error_kind(error)).inc()

    def partition_failed(self, cause: str) -> None:
        """One partition was given up for now; `cause` is Kafka's name of the error."""
        self._partition_failures.labels(bounded(cause, PARTITION_CAUSES)).inc()

    def watch_partitions(
        self,
        samples: Callable[[], Iterable[PartitionSample]],
        *,
        rpo_targets: Mapping[str, float],
        exposure: Callable[[], Exposure] | None = None,
        per_partition: bool = False,
        topic_limit: int = 2000,
    ) -> None:
        """From now on every scrape asks where the partitions stand, in one pass.

        Args:
            exposure: sums of the same moment, where they are cheaper than each sample; None: they are made here.
            rpo_targets: tier name → seconds.
            per_partition: series per partition too; thousands of them on a large cluster.
            topic_limit: topics with series of their own; those first seen later share the topic `(other)`.
        """
        self._partition_gauges = PartitionGauges(
            samples,
            exposure=exposure,
            rpo_targets=rpo_targets,
            per_partition=per_partition,
            topic_limit=topic_limit,
        )
        self.registry.register(self._partition_gauges)

    def reconfigure_partitions(self, *, rpo_targets: Mapping[str, float], per_partition: bool) -> None:
        """Other targets and detail from the next scrape on; partitions must be watched."""
        assert self._partition_gauges is not None
        self._partition_gauges.reconfigure(rpo_targets=rpo_targets, per_partition=per_partition)

    def watch_memory(self, memory: Callable[[], MemoryStatus]) -> None:
        self.registry.register(MemoryGauges(memory))

    def watch_uploads(self, in_flight: Callable[[], int]) -> None:
        """`in_flight`: segments sealed and not yet durable."""
        self.registry.register(UploadsInFlight(in_flight))

    def watch_group(self, behind_seconds: Callable[[], float]) -> None:
        """`behind_seconds`: since when the consumer group has not had what checkpoints cover; 0 while it has."""
        self.registry.register(GroupBehind(behind_seconds))

    def watch_rollups(self, not_rolled_up: Callable[[], int | None]) -> None:
        """`not_rolled_up`: segments that a reader has to open one by one; None while nobody knows."""
        self.registry.register(SegmentsNotRolledUp(not_rolled_up))

    def watch_loop_lag(self, worst_seconds: Callable[[], float]) -> None:
        """`worst_seconds`: the largest lag of late."""
        self.registry.register(WorstLoopLag(worst_seconds))

    def watch_dropped_lines(self, dropped: Callable[[], int]) -> None:
        self.registry.register(DroppedLines(dropped))

    def render(self) -> bytes:
        """The text exposition of this moment, of type `CONTENT_TYPE`."""
        started = self._clock.monotonic()
        text = generate_latest(self.registry)
        self._scrape_duration.observe(self._clock.monotonic() - started)
        return text

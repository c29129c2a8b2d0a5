"""Every metric of the reference is moved by what it counts: one that nothing here moves fails (hazards 44 and 45).

`test_metrics` says by how much and under which labels; this says that none is forgotten.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import StoreDeniedError, StoreUnavailableError
from kbackupd.model.events import GapCause
from kbackupd.model.status import MemoryStatus, PartitionState
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.reference import reference_markdown
from tests.unit.server.fake_daemon import sample

DECLARED = re.findall(r"^\| `kbackupd_(\w+)` \|", reference_markdown(), re.MULTILINE)
NOT_OURS = {name for name in DECLARED if name.startswith("process_")}
"""Read from the operating system by the client library."""
CONSTANT = {"build_info"}


class Scraped:
    """A daemon's metrics with everything in them that is asked when scraped; a test changes what it answers."""

    def __init__(self, rpo_seconds: float = 30.0) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics(self.clock, version="1")
        self.memory = MemoryStatus(limit_bytes=1, budget_bytes=1, reserved_bytes=1, rss_bytes=1)
        self.partition = sample(exposure=1.0, lag=1, loss=1.0)
        self.told = {"in_flight": 0, "behind": 0, "lag": 0, "dropped": 0, "uncovered": 0}
        self.scrape_seconds = 0.0
        targets = {"critical": rpo_seconds}
        self.metrics.watch_partitions(lambda: [self.partition], rpo_targets=targets, per_partition=True)
        self.metrics.watch_memory(lambda: self.memory)
        self.metrics.watch_uploads(lambda: self.told["in_flight"])
        self.metrics.watch_group(lambda: float(self.told["behind"]))
        self.metrics.watch_rollups(lambda: self.told["uncovered"])
        self.metrics.watch_loop_lag(lambda: float(self.told["lag"]))
        self.metrics.watch_dropped_lines(self._dropped)
        self.metrics.snapshot_read("groups")

    def _dropped(self) -> int:
        self.clock.advance(self.scrape_seconds)
        return self.told["dropped"]

    def family(self, name: str) -> Mapping[object, float]:
        """Every series of the metric, as Prometheus would see it."""
        for family in text_string_to_metric_families(self.metrics.render().decode()):
            if family.name == f"kbackupd_{name.removesuffix('_total')}":
                return {(one.name, *sorted(one.labels.items())): one.value for one in family.samples}
        return {}

    def restart(self, *, rpo_seconds: float) -> None:
        """With another configuration."""
        self.metrics = Scraped(rpo_seconds).metrics

    def memory_is(self, **changed: int) -> None:
        self.memory = replace(self.memory, **changed)

    def partition_is(self, **changed: object) -> None:
        self.partition = self.partition._replace(**changed)  # type: ignore[arg-type]  # any field

    def upload(self, error: Exception | None = None) -> None:
        with contextlib.suppress(StoreUnavailableError), self.metrics.upload():
            self.clock.advance(1)
            if error is not None:
                raise error

    def slow_scrape(self) -> None:
        self.scrape_seconds = 0.3
        self.metrics.render()


def captured(s: Scraped) -> None:
    s.metrics.captured("user", size_bytes=1, batches=1, records=1)


def stored(s: Scraped) -> None:
    s.metrics.segment_stored(1, raw_bytes=2)


def gap(s: Scraped) -> None:
    s.metrics.gap_recorded(GapCause.TRUNCATED, offsets=1)


def exposed(s: Scraped) -> None:
    s.partition_is(exposure_seconds=9.0)


def lagging(s: Scraped) -> None:
    s.partition_is(lag_records=9)


MOVES: dict[str, Callable[[Scraped], None]] = {
    "captured_batches_total": captured,
    "captured_bytes_total": captured,
    "captured_records_total": captured,
    "checkpoint_age_seconds": lambda s: s.clock.advance(1),
    "checkpoints_total": lambda s: s.metrics.checkpoint_stored(),
    "corrupt_batches_total": lambda s: s.metrics.corrupt_batch_found(),
    "damaged_objects_total": lambda s: s.metrics.damaged_object_found(),
    "errors_total": lambda s: s.metrics.error_met(StoreDeniedError("no")),
    "fetch_requests_total": lambda s: s.metrics.fetch_answered("following"),
    "flush_duration_seconds": lambda s: s.metrics.flushed(s.clock.monotonic() - 3),
    "gap_offsets_total": gap,
    "gaps_total": gap,
    "group_behind_seconds": lambda s: s.told.update(behind=9),
    "group_commits_total": lambda s: s.metrics.group_commit_ended("failed"),
    "lag_records": lagging,
    "log_lines_dropped_total": lambda s: s.told.update(dropped=9),
    "log_truncations_total": lambda s: s.metrics.log_truncated(),
    "loop_lag_max_seconds": lambda s: s.told.update(lag=9),
    "loop_lag_seconds": lambda s: s.metrics.loop_lagged(0.01),
    "memory_budget_bytes": lambda s: s.memory_is(budget_bytes=9),
    "memory_limit_bytes": lambda s: s.memory_is(limit_bytes=9),
    "memory_reserved_bytes": lambda s: s.memory_is(reserved_bytes=9),
    "partition_failures_total": lambda s: s.metrics.partition_failed("UNKNOWN_TOPIC_ID"),
    "partition_lag_records": lagging,
    "partition_rpo_exposure_seconds": exposed,
    "partitions": lambda s: s.partition_is(state=PartitionState.RETRYING),
    "rollup_runs_total": lambda s: s.metrics.rollup_run_ended("timeout"),
    "rpo_exposure_seconds": exposed,
    "rpo_target_seconds": lambda s: s.restart(rpo_seconds=60.0),
    "scrape_duration_seconds": Scraped.slow_scrape,
    "segment_raw_bytes_total": stored,
    "segment_stored_bytes_total": stored,
    "segments_not_rolled_up": lambda s: s.told.update(uncovered=9),
    "segments_total": stored,
    "snapshot_age_seconds": lambda s: s.clock.advance(1),
    "snapshot_failures_total": lambda s: s.metrics.snapshot_failed("acls", "denied"),
    "snapshots_total": lambda s: s.metrics.snapshot_stored("groups"),
    "store_failures_total": lambda s: s.metrics.store_failed("put", StoreDeniedError("no")),
    "store_operations_total": lambda s: s.metrics.store_operation_ended("put", 0.1, 1, "ok"),
    "store_retries_total": lambda s: s.metrics.store_retried("put", StoreUnavailableError("x", cause="timeout")),
    "tier_lag_records": lagging,
    "tier_rpo_exposure_seconds": exposed,
    "time_to_loss_seconds": lambda s: s.partition_is(time_to_loss_seconds=9.0),
    "unknown_partitions": lambda s: s.partition_is(exposure_seconds=None),
    "upload_duration_seconds": Scraped.upload,
    "uploads_in_flight": lambda s: s.told.update(in_flight=9),
}


@pytest.mark.parametrize("name", sorted({*DECLARED} - NOT_OURS - CONSTANT))
def test_a_metric_moves_with_what_it_tells_of(name: str) -> None:
    assert name in MOVES, "a new metric needs a line here that says what moves it"
    scraped = Scraped()
    before = scraped.family(name)
    MOVES[name](scraped)
    after = scraped.family(name)
    assert after, f"{name} is not exposed"
    assert after != before


@pytest.mark.parametrize("name", sorted({*DECLARED} - NOT_OURS - {"loop_lag_seconds", "scrape_duration_seconds"}))
def test_a_metric_does_not_move_by_being_looked_at(name: str) -> None:
    scraped = Scraped()
    assert scraped.family(name) == scraped.family(name)


def test_nothing_is_moved_that_does_not_exist() -> None:
    assert MOVES.keys() - set(DECLARED) == set()

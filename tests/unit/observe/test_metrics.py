"""Each metric is moved by what it counts, gauges tell the moment of the scrape, labels have bounds (hazards 44–46)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import (
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.model.events import GapCause
from kbackupd.model.status import MemoryStatus, PartitionSample, PartitionState
from kbackupd.observe.exposure import aggregate
from kbackupd.observe.labels import ERROR_KINDS
from kbackupd.observe.live import OTHER_TOPICS
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.reference import reference_markdown
from tests.unit.server.fake_daemon import RPO_TARGETS, sample


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def metrics(clock: ManualClock) -> Metrics:
    return Metrics(clock, version="0.1.0", backup_id="main", writer="w1")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """As Prometheus would see it, None for a series that is not there."""
    for family in text_string_to_metric_families(metrics.render().decode()):
        for found in family.samples:
            if found.name == f"kbackupd_{name}" and found.labels == labels:
                return float(found.value)
    return None


def fail_upload(metrics: Metrics) -> None:
    with pytest.raises(StoreUnavailableError), metrics.upload():
        raise StoreUnavailableError("down")


MOVES: list[tuple[Callable[[Metrics], None], str, dict[str, str], float]] = [
    (lambda m: m.captured("user", size_bytes=7, batches=2, records=3), "captured_bytes_total", {"stream": "user"}, 7),
    (lambda m: m.captured("user", size_bytes=7, batches=2, records=3), "captured_batches_total", {"stream": "user"}, 2),
    (
        lambda m: m.captured("system", size_bytes=7, batches=2, records=3),
        "captured_records_total",
        {"stream": "system"},
        3,
    ),
    (lambda m: m.fetch_answered("catching-up"), "fetch_requests_total", {"session": "catching-up"}, 1),
    (lambda m: m.segment_stored(4096, raw_bytes=9000), "segments_total", {}, 1),
    (lambda m: m.segment_stored(4096, raw_bytes=9000), "segment_stored_bytes_total", {}, 4096),
    (lambda m: m.segment_stored(4096, raw_bytes=9000), "segment_raw_bytes_total", {}, 9000),
    (lambda m: m.group_commit_ended("in_use"), "group_commits_total", {"outcome": "in_use"}, 1),
    (
        lambda m: m.store_retried("put", StoreUnavailableError("x", cause="throttled"), 1),
        "store_retries_total",
        {"operation": "put", "cause": "throttled"},
        1,
    ),
    (
        lambda m: m.store_failed("get", StoreDeniedError("x")),
        "store_failures_total",
        {"operation": "get", "cause": "denied"},
        1,
    ),
    (
        lambda m: m.store_operation_ended("list", 0.5, 0, "unavailable"),
        "store_operations_total",
        {"operation": "list", "outcome": "unavailable"},
        1,
    ),
    (lambda m: m.checkpoint_stored(), "checkpoints_total", {}, 1),
    (lambda m: m.snapshot_stored("cluster"), "snapshots_total", {"kind": "cluster"}, 1),
    (
        lambda m: m.snapshot_failed("acls", "denied"),
        "snapshot_failures_total",
        {"part": "acls", "cause": "denied"},
        1,
    ),
    (lambda m: m.gap_recorded(GapCause.TRUNCATED, offsets=12), "gaps_total", {"cause": "truncated"}, 1),
    (lambda m: m.gap_recorded(GapCause.TRUNCATED, offsets=12), "gap_offsets_total", {"cause": "truncated"}, 12),
    (lambda m: m.log_truncated(), "log_truncations_total", {}, 1),
    (lambda m: m.corrupt_batch_found(2), "corrupt_batches_total", {}, 2),
    (lambda m: m.error_met(StoreDeniedError("no")), "errors_total", {"kind": "store_denied"}, 1),
    (lambda m: m.damaged_object_found(), "damaged_objects_total", {}, 1),
    (
        lambda m: m.partition_failed("NOT_LEADER_OR_FOLLOWER"),
        "partition_failures_total",
        {"cause": "NOT_LEADER_OR_FOLLOWER"},
        1,
    ),
    (lambda m: m.partition_failed("ERROR_12345"), "partition_failures_total", {"cause": "other"}, 1),
]


@pytest.mark.parametrize(("move", "name", "labels", "by"), MOVES, ids=[f"{m[1]}{m[3]}" for m in MOVES])
def test_a_counter_moves_by_what_happened(
    metrics: Metrics, move: Callable[[Metrics], None], name: str, labels: dict[str, str], by: float
) -> None:
    before = value(metrics, name, **labels) or 0.0
    move(metrics)
    assert value(metrics, name, **labels) == before + by


def test_counters_with_known_labels_start_at_zero_so_that_the_first_increase_is_seen(metrics: Metrics) -> None:
    for cause in GapCause:
        assert value(metrics, "gaps_total", cause=cause.value) == 0
    for kind in ERROR_KINDS:
        assert value(metrics, "errors_total", kind=kind) == 0


def test_uploads_in_flight_are_those_of_this_moment_and_an_upload_is_timed_when_it_succeeds(
    metrics: Metrics, clock: ManualClock
) -> None:
    in_flight = [0]
    metrics.watch_uploads(lambda: in_flight[0])
    assert value(metrics, "uploads_in_flight") == 0
    in_flight[0] = 3
    assert value(metrics, "uploads_in_flight") == 3
    with metrics.upload():
        clock.advance(0.4)
    assert value(metrics, "upload_duration_seconds_count") == 1
    assert value(metrics, "upload_duration_seconds_sum") == pytest.approx(0.4)
    assert value(metrics, "upload_duration_seconds_bucket", le="0.25") == 0
    assert value(metrics, "upload_duration_seconds_bucket", le="0.5") == 1


def test_a_failed_upload_is_not_timed(metrics: Metrics) -> None:
    fail_upload(metrics)
    assert value(metrics, "upload_duration_seconds_count") == 0


def test_checkpoint_age_grows_from_the_start_and_falls_when_one_is_stored_or_still_complete(
    metrics: Metrics, clock: ManualClock
) -> None:
    clock.advance(50)
    assert value(metrics, "checkpoint_age_seconds") == 50
    metrics.checkpoint_stored()
    clock.advance(7)
    assert value(metrics, "checkpoint_age_seconds") == 7
    metrics.checkpoint_current()
    assert value(metrics, "checkpoint_age_seconds") == 0
    assert value(metrics, "checkpoints_total") == 1


def test_the_age_of_a_snapshots_part_is_not_there_before_it_was_read_once(metrics: Metrics, clock: ManualClock) -> None:
    assert value(metrics, "snapshot_age_seconds", part="groups") is None
    metrics.snapshot_read("groups")
    clock.advance(9)
    assert value(metrics, "snapshot_age_seconds", part="groups") == 9
    assert value(metrics, "snapshot_age_seconds", part="acls") is None


def test_memory_is_read_when_scraped(metrics: Metrics) -> None:
    reserved = [5]
    metrics.watch_memory(
        lambda: MemoryStatus(limit_bytes=100, budget_bytes=60, reserved_bytes=reserved[0], rss_bytes=40)
    )
    assert value(metrics, "memory_limit_bytes") == 100
    assert value(metrics, "memory_budget_bytes") == 60
    assert value(metrics, "memory_reserved_bytes") == 5
    reserved[0] = 55
    assert value(metrics, "memory_reserved_bytes") == 55


def test_dropped_log_lines_are_exposed(metrics: Metrics) -> None:
    metrics.watch_dropped_lines(lambda: 3)
    assert value(metrics, "log_lines_dropped_total") == 3


def test_build_info_says_what_runs(metrics: Metrics) -> None:
    (line,) = [line for line in metrics.render().decode().splitlines() if line.startswith("kbackupd_build_info")]
    assert 'version="0.1.0"' in line
    assert 'writer="w1"' in line


def test_exposure_and_lag_per_topic_and_tier_follow_the_samples_of_the_moment(metrics: Metrics) -> None:
    partitions = [sample("orders", 0, exposure=2.0, lag=3), sample("payments", 0, exposure=5.0, lag=4)]
    metrics.watch_partitions(lambda: partitions, rpo_targets=RPO_TARGETS)
    assert value(metrics, "rpo_exposure_seconds", topic="orders", tier="critical") == 2.0
    assert value(metrics, "lag_records", topic="payments", tier="critical") == 4
    assert value(metrics, "tier_rpo_exposure_seconds", tier="critical") == 5.0
    assert value(metrics, "tier_lag_records", tier="critical") == 7
    assert value(metrics, "rpo_target_seconds", tier="critical") == 30
    assert value(metrics, "partitions", tier="critical", state="following") == 2
    assert value(metrics, "partitions", tier="critical", state="quarantined") == 0
    partitions[0] = sample("orders", 0, exposure=61.0, lag=900, loss=120.0, state=PartitionState.RETRYING)
    assert value(metrics, "rpo_exposure_seconds", topic="orders", tier="critical") == 61.0
    assert value(metrics, "time_to_loss_seconds", topic="orders", tier="critical") == 120.0
    assert value(metrics, "partitions", tier="critical", state="retrying") == 1


def test_an_unknown_exposure_has_no_series_and_is_counted(metrics: Metrics) -> None:
    metrics.watch_partitions(lambda: [sample(exposure=None, lag=None)], rpo_targets=RPO_TARGETS)
    assert value(metrics, "rpo_exposure_seconds", topic="orders", tier="critical") is None
    assert value(metrics, "lag_records", topic="orders", tier="critical") is None
    assert value(metrics, "tier_rpo_exposure_seconds", tier="critical") is None
    assert value(metrics, "unknown_partitions", tier="critical") == 1


def test_two_incarnations_of_a_name_are_one_series(metrics: Metrics) -> None:
    metrics.watch_partitions(
        lambda: [
            sample(topic_id="old", state=PartitionState.CLOSED, exposure=900.0),
            sample(topic_id="new", exposure=1.0),
        ],
        rpo_targets=RPO_TARGETS,
    )
    lines = [s for s in metrics.render().decode().splitlines() if s.startswith("kbackupd_rpo_exposure_seconds{")]
    assert len(lines) == 1
    assert lines[0].endswith(" 1.0")


def test_two_incarnations_that_are_open_at_once_are_one_series_per_partition(metrics: Metrics) -> None:
    """Until brokers have denied the old one often enough: equal labels twice, and Prometheus refuses the scrape."""
    metrics.watch_partitions(
        lambda: [
            sample(topic_id="old", exposure=9.0, lag=5),
            sample(topic_id="new", exposure=1.0, lag=2),
            sample(topic_id="new", partition=1, exposure=None, lag=None),
            sample(topic_id="old", partition=1, exposure=4.0, lag=None),
        ],
        rpo_targets=RPO_TARGETS,
        per_partition=True,
    )
    lines = [
        s.split()[0]
        for s in metrics.render().decode().splitlines()
        if s.startswith("kbackupd_partition_") and 'partition="' in s
    ]
    assert len(lines) == len(set(lines)) == 3
    labels = {"topic": "orders", "tier": "critical"}
    assert value(metrics, "partition_rpo_exposure_seconds", partition="0", **labels) == 9.0
    assert value(metrics, "partition_lag_records", partition="0", **labels) == 7
    assert value(metrics, "partition_rpo_exposure_seconds", partition="1", **labels) == 4.0
    assert value(metrics, "partition_lag_records", partition="1", **labels) is None


def test_topics_beyond_the_limit_share_a_series_that_keeps_the_worst_of_them(metrics: Metrics) -> None:
    partitions = [sample("a", exposure=1.0, lag=1)]
    metrics.watch_partitions(lambda: partitions, rpo_targets=RPO_TARGETS, topic_limit=2, per_partition=True)
    metrics.render()
    partitions[:0] = [sample(f"new-{n}", exposure=float(n), lag=1) for n in range(10)]
    assert value(metrics, "rpo_exposure_seconds", topic="a", tier="critical") == 1.0
    assert value(metrics, "rpo_exposure_seconds", topic="new-0", tier="critical") == 0.0
    assert value(metrics, "rpo_exposure_seconds", topic="new-9", tier="critical") is None
    assert value(metrics, "rpo_exposure_seconds", topic=OTHER_TOPICS, tier="critical") == 9.0
    assert value(metrics, "lag_records", topic=OTHER_TOPICS, tier="critical") == 9
    assert value(metrics, "partition_lag_records", topic="new-9", partition="0", tier="critical") is None


def test_what_a_scrape_sends_does_not_grow_with_the_partitions(clock: ManualClock) -> None:
    """Hazard 45: ten thousand partitions of the same topics are the same series."""
    lines = set()
    for count in (1, 2_000):
        metrics = Metrics(clock, version="0.1.0")
        partitions = [sample(topic, number) for topic in ("a", "b") for number in range(count)]
        metrics.watch_partitions(lambda held=partitions: held, rpo_targets=RPO_TARGETS)  # type: ignore[misc]
        lines.add(len(metrics.render().splitlines()))
    assert len(lines) == 1


def test_sums_that_are_at_hand_are_taken_instead_of_samples(metrics: Metrics) -> None:
    def never() -> list[PartitionSample]:
        raise AssertionError("samples are asked for")

    metrics.watch_partitions(never, exposure=lambda: aggregate([sample(exposure=7.0)]), rpo_targets=RPO_TARGETS)
    assert value(metrics, "rpo_exposure_seconds", topic="orders", tier="critical") == 7.0


def test_series_per_partition_exist_only_on_request(metrics: Metrics, clock: ManualClock) -> None:
    metrics.watch_partitions(lambda: [sample(partition=4)], rpo_targets=RPO_TARGETS)
    detailed = Metrics(clock, version="0.1.0")
    detailed.watch_partitions(lambda: iter([sample(partition=4)]), rpo_targets=RPO_TARGETS, per_partition=True)
    labels = {"topic": "orders", "partition": "4", "tier": "critical"}
    assert value(metrics, "partition_rpo_exposure_seconds", **labels) is None
    assert value(detailed, "partition_rpo_exposure_seconds", **labels) == 4.0
    assert value(detailed, "partition_lag_records", **labels) == 10


def test_a_cause_nobody_listed_is_counted_as_other_instead_of_making_a_series(metrics: Metrics) -> None:
    metrics.store_failed("put", StoreUnavailableError("x", cause="request-id-8f3a1c"))
    metrics.store_failed("put", ValueError("x"))
    metrics.store_retried("frobnicate", StoreUnavailableError("x", cause="timeout"))
    assert value(metrics, "store_failures_total", operation="put", cause="other") == 2
    assert value(metrics, "store_retries_total", operation="other", cause="timeout") == 1


def test_two_daemons_in_one_process_have_metrics_of_their_own(metrics: Metrics, clock: ManualClock) -> None:
    other = Metrics(clock, version="0.1.0")
    metrics.segment_stored(10, raw_bytes=10)
    assert value(other, "segments_total") == 0


def test_every_name_has_the_prefix_a_help_text_and_total_only_where_it_counts(metrics: Metrics) -> None:
    metrics.watch_partitions(lambda: [sample(loss=1.0)], rpo_targets=RPO_TARGETS, per_partition=True)
    metrics.watch_memory(lambda: MemoryStatus(limit_bytes=1, budget_bytes=1, reserved_bytes=1, rss_bytes=1))
    metrics.watch_dropped_lines(lambda: 0)
    families = list(text_string_to_metric_families(metrics.render().decode()))
    assert len(families) > 25
    assert b"_total_total" not in metrics.render()
    for family in families:
        assert family.name.startswith("kbackupd_")
        assert family.documentation, family.name
        if family.type == "gauge" and not family.name.endswith("_created"):
            assert not family.name.endswith("_total"), family.name


def test_the_reference_page_is_what_the_code_exposes() -> None:
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == reference_markdown(), "python -m kbackupd.observe.reference > docs/metrics.md"

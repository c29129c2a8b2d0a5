"""`docs/metrics.md`, generated from the metrics: `python -m kbackupd.observe.reference > docs/metrics.md`."""

from __future__ import annotations

import sys

from kbackupd.model.clock import ManualClock
from kbackupd.model.status import MemoryStatus, PartitionSample, PartitionState
from kbackupd.observe.metrics import Metrics

_HEAD = """# Metrics

Served on `observability.listen` under `/metrics`. Generated from the code (`python -m kbackupd.observe.reference`);
a test compares. Units are in the names. Gauges describe the moment of the scrape; what is not known has no series,
and `kbackupd_unknown_partitions` counts it: zero always means zero. Topics beyond the first 2,000 share the topic
`(other)`, label values outside their lists are `other`. Series per partition exist only with
`observability.per_partition_metrics`.

| name | type | labels | |
|---|---|---|---|
"""


def reference_markdown() -> str:
    """The page: every metric of a daemon in which everything has happened once."""
    metrics = Metrics(ManualClock(), version="0")
    sample = PartitionSample(
        topic="t",
        topic_id="i",
        partition=0,
        tier="t",
        state=PartitionState.FOLLOWING,
        exposure_seconds=0.0,
        lag_records=0,
        durable_offset=0,
        high_watermark=0,
        log_start_offset=0,
        time_to_loss_seconds=1.0,
    )
    metrics.watch_partitions(lambda: [sample], rpo_targets={"t": 1.0}, per_partition=True)
    metrics.watch_memory(lambda: MemoryStatus(limit_bytes=0, budget_bytes=0, reserved_bytes=0, rss_bytes=0))
    metrics.watch_uploads(lambda: 0)
    metrics.watch_group(lambda: 0.0)
    metrics.watch_rollups(lambda: 0)
    metrics.watch_loop_lag(lambda: 0.0)
    metrics.watch_dropped_lines(lambda: 0)
    metrics.snapshot_read("groups")
    metrics.store_operation_ended("put", 0.0, 0, "ok")
    metrics.store_retried("put", TimeoutError())
    metrics.store_failed("put", TimeoutError())
    rows: list[str] = []
    for family in metrics.registry.collect():
        labels = sorted({name for found in family.samples for name in found.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(
            f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"
        )
    return _HEAD + "\n".join(sorted(rows)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference_markdown())

"""Gauges computed when scraped, from callbacks: what is exposed describes the moment of the scrape, or is not there.

A figure nobody knows has no series at all; `kbackupd_unknown_partitions` says how many partitions that concerns. Zero
would be a lie that silences alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kbackupd.model.status import MemoryStatus, PartitionSample, PartitionState
from kbackupd.observe.exposure import Exposure, Group, aggregate

OTHER_TOPICS = "(other)"
"""No Kafka topic can have this name: parentheses are not allowed in one."""


class CheckpointAge(Collector):
    def __init__(self, age_seconds: Callable[[], float]) -> None:
        self._age_seconds = age_seconds

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "kbackupd_checkpoint_age_seconds",
            "Since the newest checkpoint was stored or found to be still complete; since the start before the first.",
            value=self._age_seconds(),
        )


class SnapshotAges(Collector):
    def __init__(self, ages_seconds: Callable[[], Mapping[str, float]]) -> None:
        self._ages_seconds = ages_seconds

    def collect(self) -> Iterable[Metric]:
        ages = GaugeMetricFamily(
            "kbackupd_snapshot_age_seconds",
            "Since all that permissions show of the part was last read and is durable; absent before the first time.",
            labels=["part"],
        )
        for part, seconds in self._ages_seconds().items():
            ages.add_metric([part], seconds)
        yield ages


class MemoryGauges(Collector):
    def __init__(self, memory: Callable[[], MemoryStatus]) -> None:
        self._memory = memory

    def collect(self) -> Iterable[Metric]:
        memory = self._memory()
        yield GaugeMetricFamily(
            "kbackupd_memory_limit_bytes", "What the process may use (backup.memory_limit).", value=memory.limit_bytes
        )
        yield GaugeMetricFamily(
            "kbackupd_memory_budget_bytes",
            "The share of the limit for data asked for, fetched and not yet durable.",
            value=memory.budget_bytes,
        )
        yield GaugeMetricFamily(
            "kbackupd_memory_reserved_bytes",
            "How much of the budget is taken; when all is, fetching waits.",
            value=memory.reserved_bytes,
        )


class UploadsInFlight(Collector):
    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "kbackupd_uploads_in_flight", "Segments sealed and not yet durable.", value=self._in_flight()
        )


class GroupBehind(Collector):
    def __init__(self, behind_seconds: Callable[[], float]) -> None:
        self._behind_seconds = behind_seconds

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "kbackupd_group_behind_seconds",
            "Since when the consumer group has not been told what checkpoints cover; 0 while it has all of it.",
            value=self._behind_seconds(),
        )


class SegmentsNotRolledUp(Collector):
    def __init__(self, segments: Callable[[], int | None]) -> None:
        self._segments = segments

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(
            "kbackupd_segments_not_rolled_up",
            "Segments that no roll-up covers: those of the newest run, and all stored since it began; absent before "
            "the first run.",
        )
        if (segments := self._segments()) is not None:
            gauge.add_metric([], segments)
        yield gauge


class WorstLoopLag(Collector):
    def __init__(self, worst_seconds: Callable[[], float]) -> None:
        self._worst_seconds = worst_seconds

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "kbackupd_loop_lag_max_seconds",
            "The largest lag of the event loop within the last one to two minutes.",
            value=self._worst_seconds(),
        )


class DroppedLines(Collector):
    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "kbackupd_log_lines_dropped",
            "Log lines dropped because whatever reads the output did not keep up.",
            value=self._dropped(),
        )


class _Topic(NamedTuple):
    name: str
    tier: str


class PartitionGauges(Collector):
    """Exposure, lag, states and time to loss, per topic and tier and, if wanted, per partition."""

    def __init__(
        self,
        samples: Callable[[], Iterable[PartitionSample]],
        *,
        exposure: Callable[[], Exposure] | None,
        rpo_targets: Mapping[str, float],
        per_partition: bool,
        topic_limit: int,
    ) -> None:
        self._samples = samples
        self._exposure = exposure
        self._rpo_targets = dict(rpo_targets)
        self._per_partition = per_partition
        self._topic_limit = topic_limit
        self._named: set[str] = set()

    def reconfigure(self, *, rpo_targets: Mapping[str, float], per_partition: bool) -> None:
        self._rpo_targets = dict(rpo_targets)
        self._per_partition = per_partition

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask for samples before there are any."""
        return ()

    def collect(self) -> Iterable[Metric]:
        if self._per_partition:
            samples = list(self._samples())
            exposure = aggregate(samples)
        else:
            samples = []
            exposure = aggregate(self._samples()) if self._exposure is None else self._exposure()
        yield from self._tiers(exposure)
        yield from self._topics(exposure)
        if self._per_partition:
            yield from self._partitions(samples)

    def _tiers(self, exposure: Exposure) -> Iterable[Metric]:
        seconds = GaugeMetricFamily(
            "kbackupd_tier_rpo_exposure_seconds", "RPO exposure of the tier's worst partition.", labels=["tier"]
        )
        lag = GaugeMetricFamily(
            "kbackupd_tier_lag_records", "Records of the tier that are appended and not durable.", labels=["tier"]
        )
        target = GaugeMetricFamily("kbackupd_rpo_target_seconds", "The tier's RPO target.", labels=["tier"])
        states = GaugeMetricFamily("kbackupd_partitions", "Partitions in each state.", labels=["tier", "state"])
        unknown = GaugeMetricFamily(
            "kbackupd_unknown_partitions",
            "Partitions whose exposure is not known yet, so not part of any exposure.",
            labels=["tier"],
        )
        for name, rpo_seconds in self._rpo_targets.items():
            target.add_metric([name], rpo_seconds)
        for name in {**self._rpo_targets, **exposure.tiers}:
            group = exposure.tiers.get(name) or Group()
            if group.exposure_seconds is not None:
                seconds.add_metric([name], group.exposure_seconds)
            if group.lag_records is not None:
                lag.add_metric([name], group.lag_records)
            unknown.add_metric([name], group.unknown_partitions)
            for state in PartitionState:
                states.add_metric([name, state.value], group.states.get(state, 0))
        return (seconds, lag, target, states, unknown)

    def _topics(self, exposure: Exposure) -> Iterable[Metric]:
        # Two incarnations of one name would be two series with equal labels, and Prometheus would refuse the scrape.
        groups: dict[_Topic, Group] = {}
        for key, group in exposure.topics.items():
            if group.partitions:
                groups.setdefault(_Topic(self._label(key.name), key.tier), Group()).absorb(group)
        seconds = GaugeMetricFamily(
            "kbackupd_rpo_exposure_seconds",
            "Since it was last proved that all the topic's records are durable, by its worst partition.",
            labels=["topic", "tier"],
        )
        lag = GaugeMetricFamily(
            "kbackupd_lag_records", "Records of the topic that are appended and not durable.", labels=["topic", "tier"]
        )
        loss = GaugeMetricFamily(
            "kbackupd_time_to_loss_seconds",
            "Until retention, at its present pace, reaches what is not durable; absent where nothing can be lost.",
            labels=["topic", "tier"],
        )
        for topic, group in groups.items():
            if group.exposure_seconds is not None:
                seconds.add_metric(topic, group.exposure_seconds)
            if group.lag_records is not None:
                lag.add_metric(topic, group.lag_records)
            if group.time_to_loss_seconds is not None:
                loss.add_metric(topic, group.time_to_loss_seconds)
        return (seconds, lag, loss)

    def _partitions(self, samples: Iterable[PartitionSample]) -> Iterable[Metric]:
        labels = ["topic", "partition", "tier"]
        seconds = GaugeMetricFamily(
            "kbackupd_partition_rpo_exposure_seconds", "RPO exposure of one partition.", labels=labels
        )
        lag = GaugeMetricFamily("kbackupd_partition_lag_records", "Lag of one partition.", labels=labels)
        # As with topics: while two incarnations are open, a partition of both is one series.
        groups: dict[tuple[str, str, str], Group] = {}
        for sample in samples:
            if sample.state != PartitionState.CLOSED and sample.topic in self._named:
                groups.setdefault((sample.topic, str(sample.partition), sample.tier), Group()).add(sample)
        for values, group in groups.items():
            if group.exposure_seconds is not None:
                seconds.add_metric(values, group.exposure_seconds)
            if group.lag_records is not None:
                lag.add_metric(values, group.lag_records)
        return (seconds, lag)

    def _label(self, topic: str) -> str:
        """First come, first named, for as long as the process lives: a topic's series never changes its name."""
        if topic in self._named:
            return topic
        if len(self._named) < self._topic_limit:
            self._named.add(topic)
            return topic
        return OTHER_TOPICS

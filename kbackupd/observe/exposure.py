"""RPO exposure, lag and time to loss, per topic and tier, from live samples: one pass, no state, no I/O.

The exposure of a group is that of its worst partition, its lag the sum. A partition whose exposure nobody knows yet is
counted as unknown and never as zero. Partitions of deleted incarnations can lose nothing more: they appear among the
states and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kbackupd.model.status import PartitionSample, PartitionState, TierStatus, TopicStatus


class TopicKey(NamedTuple):
    """One incarnation of a topic, in its tier."""

    name: str
    topic_id: str
    tier: str


@dataclass(slots=True)
class Group:
    """What some partitions amount to together. Mutable only while it is being summed up."""

    exposure_seconds: float | None = None
    lag_records: int | None = None
    time_to_loss_seconds: float | None = None
    partitions: int = 0
    """Open ones."""
    unknown_partitions: int = 0
    states: dict[str, int] = field(default_factory=dict)

    def add(self, sample: PartitionSample) -> None:
        self.count(sample.state, sample.exposure_seconds, sample.lag_records, sample.time_to_loss_seconds)

    def count(self, state: PartitionState, exposure: float | None, lag: int | None, loss: float | None) -> None:
        """One partition more, by the figures of its sample."""
        self.states[state.value] = self.states.get(state.value, 0) + 1
        if state is PartitionState.CLOSED:
            return
        self.partitions += 1
        if exposure is None:
            self.unknown_partitions += 1
        elif self.exposure_seconds is None or exposure > self.exposure_seconds:
            self.exposure_seconds = exposure
        if lag is not None:
            self.lag_records = (self.lag_records or 0) + lag
        if loss is not None:
            self._shorten(loss)

    def absorb(self, other: Group) -> None:
        for state, count in other.states.items():
            self.states[state] = self.states.get(state, 0) + count
        self.partitions += other.partitions
        self.unknown_partitions += other.unknown_partitions
        if other.exposure_seconds is not None:
            self.exposure_seconds = max(self.exposure_seconds or 0.0, other.exposure_seconds)
        if other.lag_records is not None:
            self.lag_records = (self.lag_records or 0) + other.lag_records
        self._shorten(other.time_to_loss_seconds)

    def _shorten(self, seconds: float | None) -> None:
        if seconds is not None and (self.time_to_loss_seconds is None or seconds < self.time_to_loss_seconds):
            self.time_to_loss_seconds = seconds

    @property
    def paused(self) -> bool:
        """All that is open is paused."""
        return self.partitions > 0 and self.states.get(PartitionState.PAUSED, 0) == self.partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The groups of one moment."""

    topics: Mapping[TopicKey, Group]
    tiers: Mapping[str, Group]

    def tier_statuses(self, rpo_targets: Mapping[str, float]) -> tuple[TierStatus, ...]:
        """One per configured tier, in the order of `rpo_targets`, then those that occur without a target."""
        names = [*rpo_targets, *(name for name in self.tiers if name not in rpo_targets)]
        open_topics: dict[str, int] = {}
        for key, group in self.topics.items():
            if group.partitions:
                open_topics[key.tier] = open_topics.get(key.tier, 0) + 1
        nothing = Group()
        return tuple(
            TierStatus(
                name=name,
                rpo_target_seconds=rpo_targets.get(name),
                exposure_seconds=(group := self.tiers.get(name, nothing)).exposure_seconds,
                lag_records=group.lag_records,
                topics=open_topics.get(name, 0),
                partitions=group.partitions,
                unknown_partitions=group.unknown_partitions,
                states=dict(group.states),
                time_to_loss_seconds=group.time_to_loss_seconds,
            )
            for name in names
        )

    def topic_statuses(self) -> tuple[TopicStatus, ...]:
        """One per incarnation, by name and then id."""
        return tuple(
            TopicStatus(
                name=key.name,
                topic_id=key.topic_id,
                tier=key.tier,
                partitions=sum(group.states.values()),
                states=dict(group.states),
                exposure_seconds=group.exposure_seconds,
                lag_records=group.lag_records,
                time_to_loss_seconds=group.time_to_loss_seconds,
                unknown_partitions=group.unknown_partitions,
                paused=group.paused,
            )
            for key, group in sorted(self.topics.items(), key=lambda item: item[0])
        )


def aggregate(samples: Iterable[PartitionSample]) -> Exposure:
    """Sum up `samples`, each partition given once, in one pass."""
    topics: dict[TopicKey, Group] = {}
    for sample in samples:
        key = TopicKey(sample.topic, sample.topic_id, sample.tier)
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = Group()
        topic.add(sample)
    return exposure_from(topics)


def exposure_from(topics: Mapping[TopicKey, Group]) -> Exposure:
    """The groups of the topics, and the tiers they make."""
    tiers: dict[str, Group] = {}
    # Tiers are summed from topics, not from samples: at 10,000 partitions that halves the work of a scrape.
    for key, group in topics.items():
        tiers.setdefault(key.tier, Group()).absorb(group)
    return Exposure(topics=topics, tiers=tiers)

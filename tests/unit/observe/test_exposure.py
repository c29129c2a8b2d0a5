"""Exposure and lag of groups: the worst partition speaks for all, and not knowing is never zero."""

from __future__ import annotations

from kbackupd.model.status import PartitionState
from kbackupd.observe.exposure import TopicKey, aggregate
from tests.unit.server.fake_daemon import sample

TARGETS = {"critical": 30.0, "standard": 300.0}


def test_exposure_of_a_topic_is_its_worst_partition_and_lag_the_sum() -> None:
    group = aggregate([sample(partition=0, exposure=2.0, lag=5), sample(partition=1, exposure=9.0, lag=7)]).topics[
        TopicKey("orders", "id-of-orders", "critical")
    ]
    assert (group.exposure_seconds, group.lag_records, group.unknown_partitions) == (9.0, 12, 0)


def test_a_topic_of_which_nothing_is_known_has_no_exposure_instead_of_zero() -> None:
    exposure = aggregate([sample(exposure=None, lag=None, state=PartitionState.STARTING)])
    (topic,) = exposure.topic_statuses()
    assert (topic.exposure_seconds, topic.lag_records, topic.unknown_partitions) == (None, None, 1)


def test_an_unknown_partition_is_counted_beside_the_exposure_of_the_known_ones() -> None:
    exposure = aggregate([sample(partition=0, exposure=0.5), sample(partition=1, exposure=None, lag=None)])
    tier = exposure.tier_statuses(TARGETS)[0]
    assert (tier.exposure_seconds, tier.unknown_partitions, tier.partitions) == (0.5, 1, 2)


def test_a_partition_proven_durable_this_instant_is_zero_and_known() -> None:
    tier = aggregate([sample(exposure=0.0, lag=0)]).tier_statuses(TARGETS)[0]
    assert (tier.exposure_seconds, tier.lag_records, tier.unknown_partitions) == (0.0, 0, 0)


def test_a_deleted_incarnation_can_lose_nothing_more_and_counts_only_among_the_states() -> None:
    exposure = aggregate(
        [
            sample(topic_id="old", state=PartitionState.CLOSED, exposure=99_999.0, lag=5, loss=1.0),
            sample(topic_id="new", exposure=1.0, lag=2),
        ]
    )
    tier = exposure.tier_statuses(TARGETS)[0]
    assert (tier.exposure_seconds, tier.lag_records, tier.topics, tier.partitions) == (1.0, 2, 1, 1)
    assert [(t.topic_id, t.states) for t in exposure.topic_statuses()] == [
        ("new", {"following": 1}),
        ("old", {"closed": 1}),
    ]


def test_every_configured_tier_is_reported_even_without_topics_and_untargeted_ones_follow() -> None:
    tiers = aggregate([sample(tier="untiered", exposure=3.0)]).tier_statuses(TARGETS)
    assert [(t.name, t.rpo_target_seconds, t.exposure_seconds, t.partitions) for t in tiers] == [
        ("critical", 30.0, None, 0),
        ("standard", 300.0, None, 0),
        ("untiered", None, 3.0, 1),
    ]


def test_a_topic_is_paused_when_all_that_is_open_of_it_is() -> None:
    paused, half = PartitionState.PAUSED, PartitionState.FOLLOWING
    statuses = aggregate(
        [
            sample("a", 0, state=paused),
            sample("a", 1, state=PartitionState.CLOSED),
            sample("b", 0, state=paused),
            sample("b", 1, state=half),
        ]
    ).topic_statuses()
    assert [(t.name, t.paused) for t in statuses] == [("a", True), ("b", False)]


def test_time_to_loss_is_the_shortest_known() -> None:
    (topic,) = aggregate(
        [sample(partition=0, loss=None), sample(partition=1, loss=600.0), sample(partition=2, loss=60.0)]
    ).topic_statuses()
    assert topic.time_to_loss_seconds == 60.0

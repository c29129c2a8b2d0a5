"""Topics the brokers do not describe: their partitions show it, with the reason, and hold nobody up (P6)."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.status import PartitionState
from tests.unit.capture.site import Life, Site

REASONS = {
    "hidden": "permissions hide its topic",
    "error": "the brokers answer LEADER_NOT_AVAILABLE for its topic",
    "leaderless": "the partition has no leader",
}

CAUSES = {
    "hidden": "TOPIC_AUTHORIZATION_FAILED",
    "error": "LEADER_NOT_AVAILABLE",
    "leaderless": "LEADER_NOT_AVAILABLE",
}


def failures(life: Life, cause: str) -> float:
    return life.metrics.registry.get_sample_value("kbackupd_partition_failures_total", {"cause": cause}) or 0.0


def trouble(site: Site, kind: str) -> None:
    match kind:
        case "hidden":
            site.cluster.hidden_topics.add("orders")
        case "error":
            site.cluster.topic_errors["orders"] = KafkaErrorCode.LEADER_NOT_AVAILABLE
        case _:
            for log in site.cluster.topics["orders"].logs:
                log.leader_id = 9
            site.cluster.down.add(9)


def over(site: Site) -> None:
    site.cluster.hidden_topics.clear()
    site.cluster.topic_errors.clear()
    site.cluster.down.clear()
    for log in site.cluster.topics["orders"].logs:
        if log.leader_id == 9:
            log.elect(1)


@pytest.mark.parametrize("kind", REASONS)
def test_a_topic_that_is_not_described_after_a_restart_is_retried_then_quarantined_and_holds_nobody_up(
    kind: str,
) -> None:
    """Hazard 41: its partitions were 'starting' for ever, every flush of '*' failed, and the daemon was never ready."""
    site = Site.new()
    site.cluster.create("orders", 2).logs[0].append(3)
    site.cluster.create("other").logs[0].append(3)
    site.run_life(Life.durable)
    trouble(site, kind)
    site.cluster.log("orders").append(2)
    site.cluster.log("other").append(2)

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders") == PartitionState.RETRYING, "a visible state", seconds=10)
        begun = site.clock.monotonic()
        report = await life.steering.flush("*")
        assert site.clock.monotonic() - begun < 15
        assert {(p.topic, p.partition): p.reason for p in report.left_out} == {
            ("orders", 0): REASONS[kind],
            ("orders", 1): REASONS[kind],
        }
        assert [p.durable_offset for p in report.partitions if p.topic == "other"] == [5]
        await life.until(lambda: life.state("orders", 1) == PartitionState.QUARANTINED, "quarantine", seconds=120)
        assert any(p.subject == "orders/1" and p.message == REASONS[kind] for p in life.problems.current())
        assert life.state("other") == PartitionState.FOLLOWING
        assert failures(life, CAUSES[kind]) >= 16
        over(site)
        await life.durable()
        assert life.problems.current() == ()

    site.run_life(script)
    site.check()


def test_an_undescribed_topic_is_asked_for_ever_more_rarely() -> None:
    site = Site.new()
    site.cluster.create("orders", 2)
    site.run_life(Life.durable)
    trouble(site, "error")

    async def script(life: Life) -> None:
        await asyncio.sleep(600)
        rounds = life.pipeline.discovery.rounds
        await asyncio.sleep(600)
        # Every five seconds anyway (discovery_interval), and once for each retry of either partition.
        assert life.pipeline.discovery.rounds - rounds < 120 + 2 * 600 / 7

    site.run_life(script)


def test_a_new_topic_without_leaders_is_visible_at_once() -> None:
    site = Site.new()
    site.cluster.create("orders", 1)
    trouble(site, "leaderless")

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders") == PartitionState.RETRYING, "a visible state", seconds=5)
        over(site)
        await life.durable()

    site.run_life(script)
    site.check()

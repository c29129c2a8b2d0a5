"""A flush covers what exists when it is asked for, however young the daemon or the topic."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kbackupd.capture import steering
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import UnreachableError
from kbackupd.model.status import PartitionState
from tests.unit.capture.site import Life, Site


def test_a_flush_right_after_the_start_waits_for_positions_and_covers_everything() -> None:
    site = Site.new(flush_interval_seconds=3_600)
    site.cluster.create("orders", 3)
    for number in range(3):
        site.cluster.log("orders", number).append(7)

    async def script(life: Life) -> None:
        report = await life.steering.flush("*")
        assert [p.durable_offset for p in report.partitions] == [7, 7, 7]

    assert site.run_life(script)
    site.check()


def test_a_flush_covers_a_topic_made_a_moment_before() -> None:
    site = Site.new(flush_interval_seconds=3_600)
    site.cluster.create("orders", 1)

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.cluster.create("fresh", 2)
        site.cluster.log("fresh", 1).append(4)
        report = await life.steering.flush("fresh")
        assert [p.durable_offset for p in report.partitions] == [0, 4]

    assert site.run_life(script)
    site.check()


def test_a_flush_says_which_partitions_it_did_without_and_why() -> None:
    """Hazards 1 and 30: 'nothing new' and exit code 0 while a partition lagged behind its leader."""
    site = Site.new()
    site.cluster.create("orders", 2)
    site.cluster.create("paused").logs[0].append(1)

    async def script(life: Life) -> None:
        await life.durable()
        await life.steering.pause("paused")
        site.cluster.down.add(1)
        site.cluster.log("orders", 0).append(5)
        await life.until(lambda: life.state("orders") == PartitionState.QUARANTINED, "quarantine")
        report = await life.steering.flush("*")
        assert {(p.topic, p.partition): (p.state, p.reason, p.durable_offset) for p in report.left_out} == {
            ("orders", 0): (PartitionState.QUARANTINED, "the partition has no leader", 0),
            ("paused", 0): (PartitionState.PAUSED, "paused by an operator", 1),
        }
        assert [p.partition for p in report.partitions if p.topic == "orders"] == [0, 1]
        site.cluster.down.clear()
        await life.steering.resume("paused")
        await life.until(lambda: life.state("orders") == PartitionState.FOLLOWING, "recovery")
        assert (await life.steering.flush("*")).left_out == ()

    assert site.run_life(script)
    site.check()


def test_a_partition_whose_broker_is_silent_is_left_out_with_the_reason() -> None:
    site = Site.new()
    site.cluster.create("orders", 2)

    async def script(life: Life) -> None:
        await life.durable()
        site.cluster.metadata_fails = 1_000
        site.cluster.down.add(1)
        site.cluster.log("orders", 0).append(5)
        site.cluster.log("orders", 1).append(5)
        await life.until(lambda: life.sample("orders").state == PartitionState.RETRYING, "failing fetches")
        report = await life.steering.flush("orders")
        assert [(p.partition, p.state, p.reason) for p in report.left_out] == [
            (0, PartitionState.RETRYING, "the connection to broker 1 broke")
        ]
        assert [p.durable_offset for p in report.partitions] == [0, 5]
        site.cluster.metadata_fails = 0
        site.cluster.down.clear()
        await life.durable()

    assert site.run_life(script)
    site.check()


def test_a_flush_during_a_long_back_fill_stores_what_is_there_and_says_how_much_is_to_come() -> None:
    site = Site.new()
    source = replace(site.settings.source, rate_limit_bytes_per_second=200_000)
    site.settings = replace(site.settings, source=source)
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        for _ in range(60):
            log.append(1, value=b"x" * 1_000_000)
        report = await life.steering.flush("*")
        (left,) = report.left_out
        assert (left.topic, left.state) == ("orders", PartitionState.CATCHING_UP)
        assert left.reason == f"still {60 - left.durable_offset:,} offsets behind its leader"
        assert 0 < left.durable_offset < 60
        assert steering.CAPTURE_DEADLINE_SECONDS <= report.seconds < steering.FLUSH_DEADLINE_SECONDS

    assert site.run_life(script)


def test_a_flush_that_the_store_keeps_waiting_fails_in_time_and_goes_on() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        site.faults.fail("put", times=None, key_part="segments/")
        log.append(5)
        begun = site.clock.monotonic()
        with pytest.raises(UnreachableError, match="did not finish within 290 s"):
            await life.steering.flush("*")
        assert site.clock.monotonic() - begun <= steering.FLUSH_DEADLINE_SECONDS
        site.faults.heal()
        await life.durable()

    assert site.run_life(script)
    site.check()


def test_what_was_on_its_way_already_is_stored_by_the_flush_that_waited_for_it() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        site.upload_seconds = lambda key: 20.0
        log.append(5)
        await asyncio.sleep(4)
        assert life.pipeline.publisher.in_flight
        report = await life.steering.flush("*")
        assert report.outcome == "stored"
        assert site.keys("segments/")[-len(report.segments) :] == list(report.segments)
        assert [p.durable_offset for p in report.partitions] == [5]
        site.upload_seconds = lambda key: 0.01

    assert site.run_life(script)
    site.check()


@pytest.mark.parametrize("seed", range(4))
def test_an_error_is_no_answer_that_a_flush_waits_to_be_reached(seed: int) -> None:
    """Of a partition not heard of since the start an error counted as heard, and no end as the end to wait for."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)
    assert site.run_life(Life.durable)

    async def script(life: Life) -> None:
        log.error = KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
        await life.until(lambda: life.pipeline.discovery.rounds > 0, "a look around")
        flush = asyncio.create_task(life.steering.flush("*"))
        await asyncio.sleep(0.6)
        log.error = 0
        report = await flush
        assert report.left_out == ()
        assert report.seconds < 10

    assert site.run_life(script, seed=seed)


def test_a_flush_covers_a_topic_made_while_discovery_looks_around() -> None:
    """What that round is told was asked before."""
    site = Site.new()
    site.cluster.create("orders")

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(1)
        rounds = life.pipeline.discovery.rounds
        site.cluster.create("early")
        life.pipeline.roster.metadata_wanted.set()
        await asyncio.sleep(0.003)
        assert life.pipeline.discovery.rounds == rounds, "it has the topics and asks for their configurations"
        site.cluster.create("fresh").logs[0].append(4)
        report = await life.steering.flush("*")
        assert ("fresh", 4) in {(p.topic, p.durable_offset) for p in report.partitions}

    assert site.run_life(script)
    site.check()


def test_a_flush_says_that_a_topic_went_before_what_it_had_was_captured() -> None:
    """Brokers may be wrong about that, and what was there when the flush was asked for is not in the archive."""
    site = Site.new()
    site.cluster.create("orders").logs[0].append(1)
    site.cluster.create("stays").logs[0].append(1)

    async def script(life: Life) -> None:
        await life.durable()
        site.cluster.log("orders").error = KafkaErrorCode.KAFKA_STORAGE_ERROR
        site.cluster.log("orders").append(5)
        flush = asyncio.create_task(life.steering.flush("*"))
        await asyncio.sleep(0.1)
        vanished = site.cluster.topics.pop("orders")
        report = await flush
        assert [(p.topic, p.durable_offset) for p in report.left_out] == [("orders", 1)]
        vanished.logs[0].error = 0
        site.cluster.topics["orders"] = vanished
        await life.durable()

    assert site.run_life(script)
    site.check()

"""A pipeline that is told other settings while it runs: obeyed at once, and no hole without a cause (invariant I6)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kbackupd.capture.sampling import partition_samples
from kbackupd.kafka.types import KafkaErrorCode, TopicConfigs
from kbackupd.model.events import GapCause, TopicExcluded, TopicSeen
from kbackupd.model.settings import TierSettings
from kbackupd.model.status import PartitionState
from tests.unit.capture.site import Life, Site


def told(site: Site) -> list[TopicSeen | TopicExcluded]:
    """The archive's events about topics, in order."""
    return [
        event
        for segment in site.archive().catalog.segments
        for event in segment.footer.events
        if isinstance(event, TopicSeen | TopicExcluded)
    ]


def gaps(site: Site, name: str) -> list[tuple[int, int, GapCause]]:
    history = site.archive().history(site.cluster.log(name).id)
    assert not history.holes
    return [(gap.first_offset, gap.next_offset, gap.cause) for gap in history.gaps]


def shown(life: Life) -> set[str]:
    return {sample.topic for sample in partition_samples(life.pipeline, life.site.clock)}


def test_a_topic_left_out_is_not_fetched_not_shown_and_told_once_as_at_a_start() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)
    site.cluster.create("other").logs[0].append(1)

    async def script(life: Life) -> None:
        await life.durable()
        life.reload(exclude=("orders",))
        assert shown(life) == {"other"}
        assert not list(life.pipeline.roster.matching("orders"))
        log.append(5)
        await asyncio.sleep(60)
        life.reload(exclude=("orders", "no-such"))
        await asyncio.sleep(60)

    site.run_life(script)
    site.run_life(lambda life: asyncio.sleep(30))
    assert site.archive().history(log.id).next_offset == 3
    assert [type(event) for event in told(site) if event.topic_id == log.id.topic_id] == [TopicSeen, TopicExcluded]
    archived = site.archive().topic(log.id.topic_id)
    assert archived is not None
    assert archived.excluded_ms is not None


def test_a_topic_included_again_goes_on_where_it_was_in_the_next_round() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def script(life: Life) -> None:
        await life.durable()
        life.reload(exclude=("orders",))
        log.append(5)
        await asyncio.sleep(3_600)
        began = site.clock.monotonic()
        life.reload(exclude=())
        await life.follows("orders")
        assert site.clock.monotonic() - began < 2, "the round was not triggered at once"
        assert shown(life) == {"orders"}
        await life.durable()

    site.run_life(script)
    site.check()
    assert gaps(site, "orders") == []
    assert [type(event) for event in told(site)] == [TopicSeen, TopicExcluded, TopicSeen]
    archived = site.archive().topic(log.id.topic_id)
    assert archived is not None
    assert archived.excluded_ms is None


def test_what_retention_took_while_a_topic_was_left_out_is_a_gap_with_its_cause() -> None:
    """Hazard 11."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def script(life: Life) -> None:
        await life.durable()
        life.reload(exclude=("orders",))
        for _ in range(4):
            log.append(5)
        log.delete_records(13)
        life.reload(exclude=())
        await life.durable()

    site.run_life(script)
    site.check(causes=(GapCause.LOG_START_MOVED,))
    assert gaps(site, "orders") == [(3, 13, GapCause.LOG_START_MOVED)]


def test_left_out_and_included_while_its_segments_are_on_their_way_nothing_is_lost_or_doubled() -> None:
    """What is durable lags behind what was captured: going on from there would reuse a branch's number."""
    site = Site.new(flush_interval_seconds=0.5)
    log = site.cluster.create("orders").logs[0]
    for _ in range(4):
        log.append(5)

    async def script(life: Life) -> None:
        await life.durable()
        site.upload_seconds = lambda key: 20.0 if "/segments/" in key else 0.01
        log.truncate(10, leader_id=2)
        log.append(2)
        await life.until(lambda: life.partition("orders").branch == 1, "the cut")
        await life.follows("orders")
        life.reload(exclude=("orders",))
        log.truncate(11, leader_id=1)
        log.append(7)
        life.reload(exclude=())
        await life.follows("orders")
        assert life.partition("orders").branch == 2
        site.upload_seconds = lambda key: 0.01
        await life.durable()

    site.run_life(script)
    site.check(causes=(GapCause.TRUNCATED,))


def test_a_topic_excluded_at_the_start_and_included_before_that_is_durable_is_not_called_excluded() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)
    site.run_life(Life.durable)
    site.settings = replace(
        site.settings, source=replace(site.settings.source, topics=replace(site.settings.source.topics, exclude=("*",)))
    )

    async def undurable(life: Life) -> None:
        life.reload(exclude=())
        log.append(1)
        await life.durable()

    site.run_life(undurable)
    site.check()
    archived = site.archive().topic(log.id.topic_id)
    assert archived is not None
    assert archived.excluded_ms is None


def test_an_exclusion_that_comes_while_brokers_are_asked_is_not_undone_by_their_answer() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        asked, begun, answering = site.cluster.topic_configs, asyncio.Event(), asyncio.Event()

        async def slow(names: Sequence[str]) -> Mapping[str, TopicConfigs]:
            answers = await asked(names)
            begun.set()
            await answering.wait()
            return answers

        site.cluster.topic_configs = slow  # type: ignore[assignment, method-assign]  # of this life's source
        await begun.wait()
        life.reload(exclude=("orders",))
        answering.set()
        site.cluster.topic_configs = asked  # type: ignore[method-assign]  # as it was
        log.append(1)
        await asyncio.sleep(10)
        assert shown(life) == set()

    site.run_life(script)
    assert [type(event) for event in told(site)] == [TopicSeen, TopicExcluded]


def test_a_flush_that_waits_for_a_topic_which_is_left_out_meanwhile_says_so() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        log.error = KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
        flushing = asyncio.create_task(life.steering.flush("orders"))
        await asyncio.sleep(1)
        life.reload(exclude=("orders",))
        (left,) = (await flushing).left_out
        assert (left.state, left.reason) == (PartitionState.CLOSED, "configuration leaves its topic out")
        log.error = 0

    site.run_life(script)


def test_a_literal_that_is_not_asked_for_any_more_is_no_problem_any_more() -> None:
    """Hazard 12."""
    site = Site.new(include=("orders", "no-such"))
    site.cluster.create("orders")

    async def script(life: Life) -> None:
        await life.follows("orders")
        assert [p.subject for p in life.problems.current()] == ["topic no-such"]
        life.reload(include=("orders",))
        assert life.problems.current() == ()

    site.run_life(script)


def test_a_problem_of_a_topic_that_is_left_out_is_over() -> None:
    site = Site.new()
    site.cluster.create("orders")
    site.cluster.log("orders").error = KafkaErrorCode.UNKNOWN_SERVER_ERROR

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders") == PartitionState.QUARANTINED, "quarantine")
        assert [p.subject for p in life.problems.current()] == ["orders/0"]
        life.reload(exclude=("orders",))
        await asyncio.sleep(120)
        assert life.problems.current() == ()

    site.run_life(script)


def test_tiers_told_anew_hold_for_topics_that_are_being_followed() -> None:
    site = Site.new()
    site.cluster.create("orders")
    site.cluster.create("__consumer_offsets", internal=True)

    async def script(life: Life) -> None:
        await life.durable()
        assert life.sample("orders").tier == "standard"
        tier = TierSettings(name="critical", topics=("ord*",), rpo_seconds=30.0, rto_seconds=900.0)
        life.pipeline.reconfigure(replace(site.settings, tiers=(tier,)))
        assert life.sample("orders").tier == "critical"
        assert life.sample("__consumer_offsets").tier == "system"
        life.pipeline.reconfigure(replace(site.settings, tiers=()))
        assert life.sample("orders").tier == "untiered"

    site.run_life(script)


def test_a_shorter_flush_interval_seals_what_is_old_enough_by_it_already() -> None:
    site = Site.new(flush_interval_seconds=3_600, checkpoint_interval_seconds=7_200)
    site.cluster.create("orders").logs[0].append(3)

    async def script(life: Life) -> None:
        await life.follows("orders")
        await asyncio.sleep(600)
        assert site.keys("segments/") == []
        life.reload(flush_interval_seconds=2.0)
        await life.until(lambda: life.pipeline.publisher.begun.is_set(), "a segment", seconds=5)

    site.run_life(script)


def test_a_smaller_segment_is_sealed_when_the_open_one_has_its_size_already() -> None:
    site = Site.new(flush_interval_seconds=3_600)
    site.cluster.create("orders").logs[0].append(3, value=b"v" * 100_000)

    async def script(life: Life) -> None:
        await life.follows("orders")
        life.reload(segment_max_bytes=50_000)
        await life.until(lambda: life.pipeline.publisher.begun.is_set(), "a segment", seconds=5)

    site.run_life(script)


def test_a_shorter_checkpoint_interval_does_not_wait_for_the_end_of_the_old_one() -> None:
    site = Site.new(checkpoint_interval_seconds=3_600)
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        await life.until(lambda: len(site.keys("checkpoints/")) == 1, "the first")
        life.reload(checkpoint_interval_seconds=10.0)
        log.append(1)
        await life.until(lambda: len(site.keys("checkpoints/")) == 2, "the next", seconds=15)

    site.run_life(script)


def test_another_compression_holds_for_what_is_closed_from_then_on() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        log.append(3, value=b"v" * 50_000)
        await life.durable()
        life.reload(compression_codec="none")
        log.append(3, value=b"v" * 50_000)
        await life.durable()

    site.run_life(script)
    site.check()
    sizes = [run.stored_bytes for footer in site.footers() for run in footer.runs if run.id == log.id]
    assert sizes[0] < 10_000 < 100_000 < sizes[-1]


def test_a_rate_limit_that_is_lifted_holds_nobody_up_any_more() -> None:
    site = Site.new()
    site.settings = replace(site.settings, source=replace(site.settings.source, rate_limit_bytes_per_second=100))
    log = site.cluster.create("orders").logs[0]
    log.append(1, value=b"v" * 100_000)

    async def script(life: Life) -> None:
        await life.follows("orders")
        log.append(1, value=b"v" * 100_000)
        await asyncio.sleep(300)
        assert life.partition("orders").position == 1, "a thousand seconds are owed for the first"
        site.settings = replace(site.settings, source=replace(site.settings.source, rate_limit_bytes_per_second=None))
        life.pipeline.reconfigure(site.settings)
        await life.until(lambda: life.partition("orders").position == 2, "the second", seconds=5)

    site.run_life(script)
    site.check()


def test_requests_are_as_large_and_as_frequent_as_the_new_settings_have_them() -> None:
    site = Site.new(flush_interval_seconds=2.0, segment_max_bytes=32 << 20)

    async def script(life: Life) -> None:
        fetching = life.pipeline._fetching
        assert (fetching.pace_seconds, fetching.request_bytes) == (0.1, 16 << 20)
        life.reload(flush_interval_seconds=4.0, segment_max_bytes=8 << 20)
        assert (fetching.pace_seconds, fetching.request_bytes) == (0.2, 4 << 20)

    site.run_life(script)


def test_a_shorter_discovery_interval_is_obeyed_at_once() -> None:
    site = Site.new()
    site.cluster.create("orders")
    site.with_settings(discovery_interval_seconds=3_600.0)

    async def script(life: Life) -> None:
        await life.durable()
        life.reload(discovery_interval_seconds=1.0)
        await asyncio.sleep(3)
        site.cluster.create("new")
        await life.until(lambda: life.state("new") is not None, "the new topic", seconds=3)

    site.run_life(script)

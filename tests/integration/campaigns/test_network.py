"""The way to the brokers is bad (hazard 40): blocked, silent, far, torn. The archive is exact, and exposure true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kbackupd.testbed.exposure import ExposureWatch
from kbackupd.testbed.kafka_proxy import FETCH, LIST_OFFSETS, METADATA
from kbackupd.testbed.proxy import CutAnswer, LoseAnswer, Reset
from tests.integration.campaigns.campaign import EVERYWHERE, Campaign
from tests.integration.conditions import reaches

Names = Callable[[], str]

pytestmark = pytest.mark.timeout(1200)


async def test_a_blocked_port_costs_exposure_of_the_partitions_led_there_and_of_no_others(
    campaign: Campaign, unique_topic: Names
) -> None:
    blocked = await campaign.topic(unique_topic(), [[2, 3]] * 2)
    spared = await campaign.topic(unique_topic(), [[1, 3], [3, 1]])
    await campaign.start()
    async with campaign.load(*campaign.plain(150)):
        await campaign.followed()
        campaign.cluster.proxy(2).block()
        await campaign.state(blocked, "retrying", at_least=2)
        await campaign.blind(blocked, spared, seconds=8.0)
        campaign.cluster.proxy(2).heal()
        await campaign.followed()
        await campaign.exposed(blocked, below=8.0)
    await campaign.exact()


async def test_when_every_port_is_blocked_the_daemon_waits_says_so_and_goes_on_by_itself(
    campaign: Campaign, unique_topic: Names
) -> None:
    topic = await campaign.topic(unique_topic(), EVERYWHERE)
    campaign.configure(tiers=[{"name": "all", "topics": ["*"], "rpo": "4s", "rto": "1h"}])
    await campaign.start()
    async with campaign.load(*campaign.plain(150)):
        await campaign.followed()
        for proxy in campaign.cluster.proxies:
            proxy.block()
        await campaign.state(topic, "retrying", at_least=3)
        await reaches(lambda: campaign.daemon.get("/healthz")[0] == 503, "unhealthy")
        assert campaign.daemon.get("/livez")[0] == 200
        for proxy in campaign.cluster.proxies:
            proxy.heal()
        await campaign.followed()
        await reaches(lambda: campaign.daemon.get("/healthz")[0] == 200, "healthy")
    await campaign.exact()


async def test_a_silent_broker_keeps_no_others_waiting_and_its_late_answers_do_no_harm(
    campaign: Campaign, unique_topic: Names
) -> None:
    cluster = campaign.cluster
    silent = await campaign.topic(unique_topic(), [[3, 1]] * 2)
    spared = await campaign.topic(unique_topic(), [[1, 2], [2, 1]])
    later = unique_topic()
    campaign.configure(include=[silent, spared, later])
    await campaign.start()
    async with campaign.load(*campaign.plain(150)):
        await campaign.followed()
        cluster.proxy(3).silence()
        await campaign.topic(later, [[1], [2]])
        await campaign.fill(later)
        await campaign.followed(spared, later)
        await campaign.blind(silent, spared, seconds=10.0)
        # Leaders move while what they said last is still on its way.
        await cluster.move_leader(silent, 0, 1)
        cluster.proxy(3).heal()
        await campaign.followed()
        await campaign.exposed(silent, below=10.0)
    await campaign.exact()


async def test_a_daemon_that_is_stopped_and_started_while_a_broker_is_silent_drains_and_is_ready_again(
    campaign: Campaign, unique_topic: Names
) -> None:
    silent = await campaign.topic(unique_topic(), [[2, 1]] * 2)
    spared = await campaign.topic(unique_topic(), [[1, 3], [3, 1]])
    await campaign.start()
    async with campaign.load(*campaign.plain(100)):
        await campaign.followed()
        campaign.cluster.proxy(2).silence()
        assert await asyncio.to_thread(campaign.daemon.stop) == 0
        await campaign.start()
        await campaign.followed(spared)
        await campaign.state(silent, "retrying", at_least=2)
        campaign.cluster.proxy(2).heal()
        await campaign.followed()
    await campaign.exact()


async def test_connections_that_a_nat_has_forgotten_are_noticed_and_made_anew(
    campaign: Campaign, unique_topic: Names
) -> None:
    topic = await campaign.topic(unique_topic(), EVERYWHERE)
    # Left alone it gives an answer up after half a minute, and brokers have none that takes longer than half a second.
    campaign.configure(odd=("--fetch-timeout-seconds", "12"))
    await campaign.start()
    async with campaign.load(*campaign.plain(100)):
        await campaign.followed()
        before = {proxy.port: proxy.requests[FETCH] for proxy in campaign.cluster.proxies}
        for proxy in campaign.cluster.proxies:
            proxy.forget()
        await campaign.exposed(topic, seconds=5.0)
        await campaign.exposed(topic, below=5.0)
        assert all(proxy.requests[FETCH] > before[proxy.port] for proxy in campaign.cluster.proxies)
    await campaign.exact()


async def test_50_ms_round_trips_to_three_hundred_partitions_keep_exposure_within_its_target(
    campaign: Campaign, unique_topic: Names
) -> None:
    replicas = [[node] for _ in range(100) for node in (1, 2, 3)]
    topic = await campaign.topic(unique_topic(), replicas)
    daemon = campaign.configure(tiers=[{"name": "all", "topics": ["*"], "rpo": "10s", "rto": "1h"}])
    for proxy in campaign.cluster.proxies:
        proxy.delay(0.05)
    await campaign.start()
    watch = ExposureWatch(daemon.status, frozenset({"all"}))
    async with campaign.load(*campaign.plain(600)):
        await campaign.followed()
        asked = [proxy.requests[FETCH] for proxy in campaign.cluster.proxies]
        watch.start()
        for _ in range(3):
            await campaign.fill(topic, records=3)
        watch.stop()
        requests = [p.requests[FETCH] - n for p, n in zip(campaign.cluster.proxies, asked, strict=True)]
    assert watch.now_seconds is not None
    assert watch.worst_seconds < 10.0
    assert sum(requests) > 0
    await campaign.exact()


async def test_torn_lost_and_reset_exchanges_lose_and_double_nothing(campaign: Campaign, unique_topic: Names) -> None:
    await campaign.topic(unique_topic(), EVERYWHERE * 2)
    await campaign.start()
    async with campaign.load(*campaign.plain(400)):
        await campaign.followed()
        one, two, three = campaign.cluster.proxies
        rules = [
            one.strike(CutAnswer(after_bytes=700), api_keys=(FETCH,), share=0.3),
            two.strike(LoseAnswer(), api_keys=(FETCH,), share=0.3),
            three.strike(Reset(), api_keys=(FETCH, METADATA, LIST_OFFSETS), share=0.3),
        ]
        await reaches(lambda: all(len(rule.struck) >= 6 for rule in rules), "each struck six times")
        for proxy in campaign.cluster.proxies:
            proxy.heal()
        await campaign.followed()
    await campaign.exact()


async def test_a_trickle_slows_capture_down_and_stops_none_of_it(campaign: Campaign, unique_topic: Names) -> None:
    topic = await campaign.topic(unique_topic(), EVERYWHERE)
    await campaign.fill(topic, records=1_000)
    for proxy in campaign.cluster.proxies:
        proxy.trickle(200_000)
    await campaign.start()
    await campaign.followed()
    await campaign.exact()

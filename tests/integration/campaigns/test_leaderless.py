"""A partition that nobody leads costs its own exposure and nobody else's (principle P6, hazard 41)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kbackupd.testbed.daemon import Json
from kbackupd.testbed.exposure import ExposureWatch
from tests.integration.campaigns.campaign import Campaign

Names = Callable[[], str]

pytestmark = pytest.mark.timeout(900)


async def leaderless_for(seconds: float, target_seconds: float, campaign: Campaign, unique_topic: Names) -> None:
    """Exposure of the leaderless passes `seconds`; that of its neighbours stays below their target all the time."""
    cluster = campaign.cluster
    orphan = await campaign.topic(unique_topic(), [[2]])
    neighbours = await campaign.topic(unique_topic(), [[1, 3], [3, 1]] * 10)
    tiers: list[Json] = [
        {"name": name, "topics": [topic], "rpo": f"{target_seconds:g}s", "rto": "1h"}
        for name, topic in (("orphans", orphan), ("neighbours", neighbours))
    ]
    daemon = campaign.configure(tiers=tiers)
    await campaign.start()
    watch = ExposureWatch(daemon.status, frozenset({"neighbours"}))
    async with campaign.load(*campaign.plain(100)):
        await campaign.followed()
        watch.start()
        await cluster.kill(2)
        await campaign.state(orphan, "retrying")
        await campaign.exposed(orphan, seconds=seconds)
        watch.stop()
        assert watch.now_seconds is not None
        assert watch.worst_seconds < target_seconds < campaign.exposure(orphan)
        await cluster.start(2)
        await campaign.exposed(orphan, below=target_seconds)
        await campaign.followed()
    await campaign.exact()


async def test_a_leaderless_partition_moves_no_neighbours_exposure_and_its_own_falls_when_it_is_led_again(
    campaign: Campaign, unique_topic: Names
) -> None:
    await leaderless_for(12.0, 10.0, campaign, unique_topic)


@pytest.mark.soak
async def test_soak_leaderless_for_three_minutes(campaign: Campaign, unique_topic: Names) -> None:
    await leaderless_for(180.0, 30.0, campaign, unique_topic)

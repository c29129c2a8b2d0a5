"""Faults of every kind at random, one on top of the other, under load: what no scenario thought of."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from kbackupd.testbed.kafka_proxy import FETCH, LIST_OFFSETS, METADATA, Fault, HoldAnswer
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.proxy import CutAnswer, LoseAnswer, Reset
from kbackupd.testbed.workload import TransactionalStream
from tests.integration.campaigns.campaign import EVERYWHERE, Campaign

Names = Callable[[], str]


class Weather:
    """Draws what happens next; at most one node is away at a time, so that acknowledged records stay with the cluster.

    Args:
        moved: topics whose leaders may be moved, each with a copy on every node.
    """

    def __init__(self, cluster: ProxiedCluster, chance: random.Random, moved: list[str]) -> None:
        self.told: list[str] = []
        self._cluster = cluster
        self._chance = chance
        self._moved = moved

    async def strike(self) -> None:
        """One thing happens, lasts for a while, or not, and may end or go on."""
        kinds: list[Callable[[int], Awaitable[None]]] = [
            self._kill,
            self._stop,
            self._freeze,
            self._move,
            self._network,
            self._network,
            self._exchanges,
            self._exchanges,
            self._heal,
        ]
        kind = self._chance.choice(kinds)
        node_id = self._chance.randrange(1, 4)
        self.told.append(f"{kind.__name__.strip('_')} {node_id}")
        await kind(node_id)
        await asyncio.sleep(self._chance.uniform(0.0, 3.0))

    async def _kill(self, node_id: int) -> None:
        await self._cluster.kill(node_id)
        await asyncio.sleep(self._chance.uniform(0.0, 8.0))
        await self._back()

    async def _stop(self, node_id: int) -> None:
        await self._cluster.stop(node_id)
        await self._back()

    async def _freeze(self, node_id: int) -> None:
        self._cluster.freeze(node_id)
        await asyncio.sleep(self._chance.uniform(0.0, 10.0))
        self._cluster.thaw(node_id)
        await self._cluster.in_sync()

    async def _back(self) -> None:
        for node in self._cluster.nodes:
            await self._cluster.start(node.node_id)
        await self._cluster.in_sync()

    async def _move(self, node_id: int) -> None:
        await self._cluster.move_leader(self._chance.choice(self._moved), self._chance.randrange(3), node_id)

    async def _network(self, node_id: int) -> None:
        proxy = self._cluster.proxy(node_id)
        kinds: list[Callable[[], None]] = [
            proxy.block,
            proxy.silence,
            proxy.forget,
            proxy.reset_all,
            lambda: proxy.delay(self._chance.uniform(0.0, 0.3)),
            lambda: proxy.trickle(self._chance.uniform(20_000, 500_000)),
        ]
        self._chance.choice(kinds)()

    async def _exchanges(self, node_id: int) -> None:
        faults: list[Fault] = [Reset(), LoseAnswer(), HoldAnswer(), CutAnswer(after_bytes=500)]
        kinds: list[tuple[int, ...]] = [(FETCH,), (METADATA, LIST_OFFSETS), ()]
        fault, api_keys = self._chance.choice(faults), self._chance.choice(kinds)
        self._cluster.proxy(node_id).strike(fault, api_keys=api_keys, share=self._chance.uniform(0.05, 0.6))

    async def _heal(self, _: int) -> None:
        for proxy in self._cluster.proxies:
            proxy.heal()


async def random_faults(campaign: Campaign, unique_topic: Names, *, seconds: float, lives: float = 0.1) -> list[str]:
    """Faults for so many seconds, the daemon restarted with the chance `lives` after each; what happened."""
    chance = random.Random(campaign.seed)
    plain = await campaign.topic(unique_topic(), EVERYWHERE)
    alone = await campaign.topic(unique_topic(), [[1], [2], [3]])
    first, second = [await campaign.topic(unique_topic(), EVERYWHERE) for _ in range(2)]
    weather = Weather(campaign.cluster, chance, [plain, first, second])
    await campaign.start()
    transactions = TransactionalStream(topics=(first, second), records_per_second=60, records_per_transaction=10)
    async with campaign.load(*campaign.plain(100, plain, alone), transactions):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await weather.strike()
            campaign.daemon.require_running()
            if chance.random() < lives:
                weather.told.append("daemon killed")
                campaign.daemon.kill()
                campaign.daemon.launch()
        await campaign.cluster.heal()
        await campaign.followed()
    await campaign.exact()
    return weather.told


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_soak_random_faults_for_half_an_hour(
    campaign: Campaign, unique_topic: Names, record_property: Callable[[str, object], None]
) -> None:
    record_property("happened", await random_faults(campaign, unique_topic, seconds=1800))

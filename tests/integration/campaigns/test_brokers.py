"""Leaders move and brokers die (hazard 41): the archive is exact, and nobody had to do anything."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kbackupd.testbed.kafka_proxy import FETCH, HoldAnswer
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.workload import TransactionalStream
from tests.integration.campaigns.campaign import EVERYWHERE, Campaign
from tests.integration.conditions import reaches

Names = Callable[[], str]

pytestmark = pytest.mark.timeout(1200)


async def moved_while_an_answer_is_held(cluster: ProxiedCluster, topic: str, chance: random.Random) -> None:
    """Somebody else leads one of the partitions, and the former leader's answer to a fetch comes after that."""
    partition = chance.randrange(3)
    former = await cluster.leader(topic, partition)
    held = cluster.proxy(former).strike(HoldAnswer(), api_keys=(FETCH,))
    await reaches(lambda: bool(held.struck), "an answer is under way")
    await cluster.move_leader(topic, partition, chance.choice([n for n in (1, 2, 3) if n != former]))
    held.lift()


async def test_leaders_that_move_under_load_are_followed_and_answers_of_former_leaders_do_no_harm(
    campaign: Campaign, unique_topic: Names
) -> None:
    chance = random.Random(campaign.seed)
    topic = await campaign.topic(unique_topic(), EVERYWHERE)
    await campaign.start()
    async with campaign.load(*campaign.plain(300)):
        await campaign.followed()
        for _ in range(4):
            await moved_while_an_answer_is_held(campaign.cluster, topic, chance)
        await campaign.followed()
    await campaign.exact()


async def test_a_killed_broker_is_done_without_where_there_are_copies_and_waited_for_where_there_are_none(
    campaign: Campaign, unique_topic: Names
) -> None:
    cluster = campaign.cluster
    copied = await campaign.topic(unique_topic(), EVERYWHERE)
    alone = await campaign.topic(unique_topic(), [[1], [2], [3]])
    victim = random.Random(campaign.seed).choice([1, 2, 3])
    await campaign.start()
    async with campaign.load(*campaign.plain(150)):
        await campaign.followed()
        await cluster.kill(victim)
        await campaign.state(alone, "retrying")
        await campaign.followed(copied)
        await cluster.start(victim)
        await cluster.in_sync()
        await cluster.move_leader(copied, 0, victim)
        await campaign.followed()
    await campaign.exact()


async def test_a_killed_controller_is_nobodys_loss_and_topics_made_after_it_are_found(
    campaign: Campaign, unique_topic: Names
) -> None:
    cluster = campaign.cluster
    topic = await campaign.topic(unique_topic(), EVERYWHERE)
    later = unique_topic()
    campaign.configure(include=[topic, later])
    await campaign.start()
    async with campaign.load(*campaign.plain(150)):
        await campaign.followed()
        controller = await cluster.controller()
        await cluster.kill(controller)
        assert await cluster.controller() != controller
        left = cluster.running
        await campaign.topic(later, [left, left[::-1]])
        await campaign.fill(later)
        await campaign.followed()
    await campaign.exact()


async def test_a_rolling_restart_under_load_leaves_an_exact_archive(campaign: Campaign, unique_topic: Names) -> None:
    cluster = campaign.cluster
    plain = await campaign.topic(unique_topic(), EVERYWHERE)
    first, second = [await campaign.topic(unique_topic(), EVERYWHERE) for _ in range(2)]
    await campaign.start()
    transactions = TransactionalStream(topics=(first, second), records_per_second=100, records_per_transaction=10)
    async with campaign.load(*campaign.plain(150, plain), transactions):
        await campaign.followed()
        for node_id in (1, 2, 3):
            await cluster.stop(node_id)
            await cluster.start(node_id)
            await cluster.in_sync()
        await campaign.followed()
    await campaign.exact()


async def test_a_broker_that_hung_until_others_led_and_then_woke_with_its_old_log_is_not_believed(
    campaign: Campaign, unique_topic: Names
) -> None:
    cluster = campaign.cluster
    topic = await campaign.topic(unique_topic(), [[1, 2, 3]] * 3)
    await campaign.start()
    async with campaign.load(*campaign.plain(150)):
        await campaign.followed()
        cluster.freeze(1)
        for partition in range(3):
            await cluster.led_by_another(1, topic, partition)
        await campaign.followed()
        cluster.thaw(1)
        await cluster.in_sync()
        await cluster.move_leader(topic, 0, 1)
        await campaign.followed()
    await campaign.exact()

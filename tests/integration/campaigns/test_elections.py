"""Hazard 21 on three brokers: an election loses what was archived, and the new log grows past it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from kbackupd.format.header import parse_header
from kbackupd.model.positions import PartitionId
from kbackupd.testbed.truth import compare_records, expected, read_topic
from tests.integration.campaigns.campaign import Campaign
from tests.integration.capture.backup import Batches, flush, gaps, notes, read
from tests.integration.conditions import reaches
from tests.integration.verbatim import broker_batches

Names = Callable[[], str]

pytestmark = pytest.mark.timeout(1200)

UNCLEAN = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}


def next_offset(log: Batches) -> int:
    return parse_header(log[-1][1], 0).next_offset


@pytest.mark.parametrize("meanwhile", ["running", "down"])
async def test_a_log_that_an_unclean_election_cut_and_that_grew_past_us_is_a_branch_and_the_lost_tail_is_kept(
    meanwhile: str, campaign: Campaign, unique_topic: Names
) -> None:
    cluster = campaign.cluster
    topic = await campaign.topic(unique_topic(), [[1, 2]], config=UNCLEAN)
    neighbour = await campaign.topic(unique_topic(), [[3]])
    await campaign.fill(topic)
    await campaign.fill(neighbour)
    await reaches(lambda: broker_batches(cluster.node(2), topic, 0) == broker_batches(cluster.node(1), topic, 0))
    common = broker_batches(cluster.node(1), topic, 0)
    await campaign.start()
    await campaign.followed()

    await cluster.kill(2)
    await campaign.fill(topic, records=300)  # what only the first has
    await flush(campaign.daemon)
    old_log = broker_batches(cluster.node(1), topic, 0)
    if meanwhile == "down":
        campaign.daemon.kill()
    await cluster.kill(1)
    await cluster.start(2)
    await cluster.led_by(2, topic)
    await campaign.fill(topic, records=900)
    await campaign.fill(neighbour)
    if meanwhile == "down":
        await campaign.start()
    await campaign.followed()
    await reaches(lambda: "goes on as branch 1" in notes(campaign.daemon).get(f"{topic}/0", ""), "told")
    await campaign.exact(except_for=[topic])

    new_log = await campaign.log(topic)
    assert len(common) < len(old_log)
    assert new_log[: len(common)] == common
    assert next_offset(new_log) > next_offset(old_log), "it grew past us"
    async with campaign.archive() as archive:
        id = PartitionId(archive.newest()[topic].topic_id, 0)
        assert archive.history(id).branches == (0, 1)
        assert await read(archive, id) == new_log
        assert await read(archive, id, branch=0) == old_log
        assert gaps(archive, id) == []

    told = campaign.daemon.cli("describe", "--config", str(campaign.daemon.config), "--format", "json").json()
    assert '"branches": [0, 1]' in json.dumps(told)
    restored = unique_topic()
    await campaign.restore(topic, restored)
    source = read_topic(cluster.inside, topic)[0]
    assert compare_records(expected(source), read_topic(cluster.inside, restored)[0]) == []

"""A transaction whose producer died open: capture goes on past it, and a restore shows what was decided (hazard 38)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kbackupd.model.positions import PartitionId
from kbackupd.testbed.truth import Outcome, compare_records, expected, read_topic
from kbackupd.testbed.workload import RecordMaker, produce_transaction
from tests.integration.campaigns.campaign import Campaign
from tests.integration.capture.backup import flush, read
from tests.integration.conditions import reaches

Names = Callable[[], str]

pytestmark = pytest.mark.timeout(600)

HANGING_SECONDS = 45
"""Until the broker aborts it: long enough to look at it while it hangs, on a busy machine too."""


async def test_a_hanging_transaction_never_holds_capture_up_and_once_it_is_aborted_a_restore_shows_none_of_it(
    campaign: Campaign, unique_topic: Names
) -> None:
    cluster = campaign.cluster
    topic = await campaign.topic(unique_topic(), [[1, 2, 3], [2, 3, 1]])
    await campaign.start()
    await campaign.fill(topic)
    maker = RecordMaker(campaign.seed)
    drafts = [(topic, maker.draft(partition)) for partition in (0, 1) for _ in range(50)]
    await asyncio.to_thread(
        produce_transaction,
        cluster.inside,
        campaign.truth,
        drafts,
        outcome=Outcome.OPEN,
        timeout_ms=HANGING_SECONDS * 1000,
    )
    await campaign.fill(topic)
    report = await flush(campaign.daemon)
    hanging = await asyncio.to_thread(read_topic, cluster.inside, topic)
    assert [len(hanging[partition]) for partition in (0, 1)] == [200, 200], "consumers wait for its outcome"
    assert {row.partition: row.durable_offset for row in report.partitions} == {0: 450, 1: 450}
    async with campaign.archive() as archive:
        for partition in (0, 1):
            id = PartitionId(archive.newest()[topic].topic_id, partition)
            assert await read(archive, id) == await campaign.log(topic, partition)
            assert archive.history(id).next_offset == 450

    await reaches(
        lambda: [len(found) for found in read_topic(cluster.inside, topic).values()] == [400, 400],
        "aborted by its time-out",
    )
    await campaign.exact()
    restored = unique_topic()
    await campaign.restore(topic, restored)
    source, target = read_topic(cluster.inside, topic), read_topic(cluster.inside, restored)
    for partition in (0, 1):
        assert compare_records(expected(source[partition]), target[partition], offsets=False) == []

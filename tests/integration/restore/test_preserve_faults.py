"""Offsets are kept although answers are lost and brokers die: no record beside its offset, none twice, no hole too big.

Hazards 27 (retries after a lost answer) and 31 (requests to who does not lead any more).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from kbackupd.model.settings import KeepOffsets
from kbackupd.restore.progress import RestoreProgress
from kbackupd.restore.report import Verdict
from kbackupd.testbed.kafka_proxy import LIST_OFFSETS, PRODUCE, WRITE_TXN_MARKERS
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.proxy import LoseAnswer
from kbackupd.testbed.truth import Isolation, read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.conditions import reaches
from tests.integration.restore.mirror import restore
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]
PARTITIONS = 6
TRANSACTIONS = 60
BOTH: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProxiedCluster]:
    properties = {"default.replication.factor": "3", "min.insync.replicas": "2"}
    with ProxiedCluster(3, seed="preserve", properties=properties) as made:
        yield made


async def archive() -> tuple[ArchiveBuilder, dict[int, list[tuple[int, bytes | None]]]]:
    """A topic of small transactions, every third aborted; and what of it is to be seen where."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=PARTITIONS, first_offset=1_000)
    wanted: dict[int, list[tuple[int, bytes | None]]] = {}
    for partition in range(PARTITIONS):
        log, seen = built.log(orders, partition), wanted.setdefault(partition, [])
        for number in range(TRANSACTIONS):
            values = [b"%d-%d-%d" % (partition, number, n) + bytes(2_000) for n in range(number % 5 + 1)]
            committed = number % 3 != 0
            if committed:
                seen += [(log.next_offset + n, value) for n, value in enumerate(values)]
            log.append(values, producer_id=7, transactional=True)
            log.end_transaction(7, committed=committed)
    await archive_everything(built)
    return built, wanted


def assert_in_place(cluster: ProxiedCluster, target: str, wanted: dict[int, list[tuple[int, bytes | None]]]) -> None:
    for isolation in BOTH:
        found = read_topic(cluster.inside, target, isolation=isolation)
        assert {
            partition: [(record.offset, record.value) for record in records] for partition, records in found.items()
        } == wanted


async def test_lost_answers_of_every_kind_leave_every_record_where_it_was(
    cluster: ProxiedCluster, unique_topic: Names
) -> None:
    built, wanted = await archive()
    target = unique_topic()
    keys = [PRODUCE, WRITE_TXN_MARKERS, LIST_OFFSETS]
    rules = [proxy.strike(LoseAnswer(), api_keys=keys, share=0.05) for proxy in cluster.proxies]
    try:
        report = await restore(built, settings_for(cluster.outside, {"orders": target}, offsets=KeepOffsets.PRESERVE))
    finally:
        await cluster.heal()

    assert {key for rule in rules for key in rule.struck} >= {PRODUCE, WRITE_TXN_MARKERS}
    assert report.verdict is Verdict.COMPLETE
    assert_in_place(cluster, target, wanted)


async def test_a_broker_that_dies_while_holes_are_filled_leaves_every_record_where_it_was(
    cluster: ProxiedCluster, unique_topic: Names
) -> None:
    built, wanted = await archive()
    target = unique_topic()
    progress = RestoreProgress(began_at=0.0)
    half = PARTITIONS * (1_000 + TRANSACTIONS // 2)

    async def kill_when_under_way() -> None:
        await reaches(lambda: progress.filled_offsets > half, what="holes are filled")
        await cluster.kill(2)

    settings = settings_for(
        cluster.outside,
        {"orders": target},
        offsets=KeepOffsets.PRESERVE,
        rate_limit_bytes_per_second=200 << 10,
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_when_under_way())
            restoring = group.create_task(restore(built, settings, progress=progress))
    finally:
        await cluster.heal()

    assert restoring.result().verdict is Verdict.COMPLETE
    assert_in_place(cluster, target, wanted)

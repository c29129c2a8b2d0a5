"""Holes filled on a real broker: the log ends exactly where told, and no reader of either isolation level sees it.

Hazards 10 (markers restored as data), 27 (a request repeated after a lost answer) and 29 (a run that takes over).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import pytest
import pytest_asyncio
from confluent_kafka import Message, Producer

from kbackupd.kafka.admin import delete_records
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.transactions import EmptyTransactions, MarkerWriter
from kbackupd.kafka.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.restore.filler import filler_batches
from kbackupd.restore.holes import MarkerFiller, TransactionFiller
from kbackupd.restore.produce_batch import ProducerIdentity
from kbackupd.restore.send_queue import Patience
from kbackupd.testbed.kafka_proxy import (
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    INIT_PRODUCER_ID,
    WRITE_TXN_MARKERS,
    HoldRequest,
)
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.proxy import LoseAnswer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Isolation, read_topic
from tests.integration.conditions import reaches
from tests.integration.kafka.conftest import connection_to

Names = Callable[[], str]
Filler = MarkerFiller | TransactionFiller
NODE = 1
PATIENCE = Patience(first_pause_seconds=0.05, give_up_seconds=120.0)
BOTH: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProxiedCluster]:
    """One broker behind a proxy; who restarts it returns when it is there again."""
    with ProxiedCluster(1, seed="holes") as made:
        yield made


@pytest_asyncio.fixture
async def connection(cluster: ProxiedCluster) -> AsyncIterator[KafkaConnection]:
    """Through the proxy."""
    async with connection_to(cluster.outside) as made:
        yield made
    cluster.proxy(NODE).heal()


class Target:
    """A topic of the broker, written to and read by an independent client that does not meet the proxy."""

    def __init__(self, cluster: ProxiedCluster, topic: str, partitions: int = 1) -> None:
        self.topic = create_topic(cluster.inside, topic, partitions=partitions)
        self.bootstrap = cluster.inside
        self._producer = Producer({"bootstrap.servers": cluster.inside, "linger.ms": 0})

    def __getitem__(self, partition: int) -> TopicPartition:
        return TopicPartition(self.topic, partition)

    def append(self, partition: int = 0) -> int:
        """Where a record that is produced now comes to lie."""
        landed: list[Message] = []
        self._producer.produce(
            self.topic, value=b"real", partition=partition, on_delivery=lambda _, message: landed.append(message)
        )
        assert self._producer.flush(60) == 0
        offset = landed[0].offset()
        assert offset is not None
        return offset

    def offsets(self) -> list[list[int]]:
        """By partition, of what readers see, who must agree whatever their isolation level."""
        seen = [
            [
                [record.offset for record in records]
                for records in read_topic(self.bootstrap, self.topic, isolation=level).values()
            ]
            for level in BOTH
        ]
        assert seen[0] == seen[1]
        return seen[0]


async def log_ends(
    connection: KafkaConnection, node_id: int, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    asked = dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1))
    ends = await list_offsets(connection, node_id, asked, unreplicated=True)
    marks = await list_offsets(connection, node_id, asked)
    return {tp: (ends[tp].offset, marks[tp].offset) for tp in asked if not ends[tp].error_code | marks[tp].error_code}


def filler(
    connection: KafkaConnection, target: Target, *, empty_transactions: str = "", run: int = 0, timeout: float = 10.0
) -> Filler:
    async def leaders() -> Mapping[TopicPartition, int]:
        metadata = await cluster_metadata(connection, [target.topic])
        return {
            TopicPartition(topic.name, one.partition): one.leader_id
            for topic in metadata.topics
            for one in topic.partitions
            if one.leader_id >= 0
        }

    async def ends(node_id: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        return await log_ends(connection, node_id, partitions)

    if empty_transactions:
        return TransactionFiller(
            EmptyTransactions(connection, empty_transactions),
            leaders=leaders,
            log_ends=ends,
            clock=connection.clock,
            patience=PATIENCE,
        )
    return MarkerFiller(
        MarkerWriter(connection),
        leaders=leaders,
        log_ends=ends,
        clock=connection.clock,
        run=run,
        patience=PATIENCE,
        timeout_seconds=timeout,
    )


async def end_of(connection: KafkaConnection, tp: TopicPartition) -> int:
    return (await log_ends(connection, NODE, [tp]))[tp][0]


async def reaches_end(connection: KafkaConnection, tp: TopicPartition, offset: int) -> None:
    async with asyncio.timeout(PATIENCE.give_up_seconds):
        while await end_of(connection, tp) < offset:
            pass


async def test_markers_fill_holes_of_every_size_between_records(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic())
    expected = []
    async with filler(connection, target) as holes:
        position = 0
        for size in (1, 2, 255, 256, 257, 1, 20_000, 3):
            await holes.fill(target[0], position, position + size)
            expected.append(await asyncio.to_thread(target.append))
            assert expected[-1] == position + size
            position = expected[-1] + 1

    assert target.offsets() == [expected]


async def test_many_partitions_are_filled_at_once(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic(), partitions=20)
    sizes = [100 * number + 1 for number in range(20)]
    async with filler(connection, target) as holes, asyncio.TaskGroup() as group:
        for number, size in enumerate(sizes):
            group.create_task(holes.fill(target[number], 0, size))

    assert [target.append(number) for number in range(20)] == sizes
    assert target.offsets() == [[size] for size in sizes]


async def test_lost_answers_about_markers_double_nothing(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic())
    rule = cluster.proxy(NODE).strike(LoseAnswer(), api_keys=[WRITE_TXN_MARKERS], share=0.5)
    expected = []
    async with filler(connection, target) as holes:
        position = 0
        for size in [1] * 10 + [300, 2_000]:
            await holes.fill(target[0], position, position + size)
            expected.append(await asyncio.to_thread(target.append))
            assert expected[-1] == position + size
            position = expected[-1] + 1

    assert len(rule.struck) > 5
    assert target.offsets() == [expected]


@pytest.mark.parametrize("size", [1, 2, 100, 1_000])
async def test_a_request_that_arrives_after_it_was_given_up_changes_nothing(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names, size: int
) -> None:
    target = Target(cluster, unique_topic())
    proxy = cluster.proxy(NODE)
    held = proxy.strike(HoldRequest(), api_keys=[WRITE_TXN_MARKERS], times=2)
    async with filler(connection, target, timeout=0.5) as holes:
        await holes.fill(target[0], 0, size)
    landed = await asyncio.to_thread(target.append)
    there = proxy.connections
    assert (landed, len(held.struck)) == (size, 2)

    held.lift()
    await reaches(lambda: proxy.connections < there, what="what was held is delivered and its connections end")

    assert await end_of(connection, target[0]) == size + 1
    assert target.offsets() == [[size]]


async def test_a_run_that_takes_over_is_not_led_astray_by_what_a_dead_one_left_on_its_way(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic())
    proxy = cluster.proxy(NODE)
    async with filler(connection, target, run=3) as first:
        await first.fill(target[0], 0, 700)
    held = proxy.strike(HoldRequest(), api_keys=[WRITE_TXN_MARKERS], times=1)
    async with connection_to(cluster.outside) as dying, filler(dying, target, run=3) as first:
        lost = asyncio.create_task(first.fill(target[0], 700, 1_500))
        await reaches(lambda: bool(held.struck), what="a request is on its way")
        lost.cancel()
    async with filler(connection, target, run=4) as second:
        await second.fill(target[0], await end_of(connection, target[0]), 1_000)
        there = proxy.connections
        held.lift()
        await reaches(lambda: proxy.connections < there, what="what was held is delivered and its connection ends")
        assert await end_of(connection, target[0]) == 1_000
        await second.fill(target[0], 1_000, 1_500)

    assert await asyncio.to_thread(target.append) == 1_500
    assert target.offsets() == [[1_500]]


async def test_a_run_that_takes_over_from_one_that_left_part_of_a_window_fills_the_rest(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    """As where an election came between two markers of one request: later ones are there, earlier ones are not."""
    target = Target(cluster, unique_topic())
    async with filler(connection, target, run=3) as first:
        for offset in (1, 3, 5):
            await first.fill(target[0], offset, offset + 1)
    assert await end_of(connection, target[0]) == 3

    async with filler(connection, target, run=4) as second:
        await second.fill(target[0], 3, 10)

    assert await asyncio.to_thread(target.append) == 10
    assert target.offsets() == [[10]]


@pytest.mark.parametrize("way", ["markers", "empty transactions"])
async def test_a_broker_that_is_restarted_in_the_middle_doubles_and_loses_nothing(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names, way: str
) -> None:
    target = Target(cluster, unique_topic())
    size = 15_000 if way == "markers" else 300
    name = "" if way == "markers" else unique_topic()
    async with filler(connection, target, empty_transactions=name) as holes:
        filling = asyncio.create_task(holes.fill(target[0], 0, size))
        await reaches_end(connection, target[0], size // 5)
        await cluster.kill(NODE)
        await cluster.start(NODE)
        await filling

    assert await asyncio.to_thread(target.append) == size
    assert target.offsets() == [[size]]


async def test_a_record_never_overtakes_the_marker_of_an_empty_transaction(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic())
    expected = []
    async with filler(connection, target, empty_transactions=unique_topic()) as holes:
        for number in range(200):
            await holes.fill(target[0], 2 * number, 2 * number + 1)
            expected.append(await asyncio.to_thread(target.append))

    assert expected == list(range(1, 400, 2))
    assert target.offsets() == [expected]


async def test_lost_answers_about_empty_transactions_double_nothing_over_many_partitions(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic(), partitions=5)
    keys = [ADD_PARTITIONS_TO_TXN, END_TXN, INIT_PRODUCER_ID]
    async with filler(connection, target, empty_transactions=unique_topic()) as holes:
        rule = cluster.proxy(NODE).strike(LoseAnswer(), api_keys=keys, share=0.3)
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(holes.fill(target[number], 0, 10 + number))
        assert len(rule.struck) > 5

    assert [target.append(number) for number in range(5)] == [10 + number for number in range(5)]
    assert target.offsets() == [[10 + number] for number in range(5)]


async def test_what_a_dead_run_left_open_is_ended_before_the_log_is_looked_at(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target, name = Target(cluster, unique_topic()), unique_topic()
    proxy = cluster.proxy(NODE)
    held = proxy.strike(HoldRequest(), api_keys=[END_TXN], times=1)
    async with connection_to(cluster.outside) as dying, filler(dying, target, empty_transactions=name) as first:
        lost = asyncio.create_task(first.fill(target[0], 0, 1))
        await reaches(lambda: bool(held.struck), what="a transaction is open")
        lost.cancel()
    async with filler(connection, target, empty_transactions=name) as second:
        position = await end_of(connection, target[0])
        assert position == 1
        await second.fill(target[0], position, 4)
        there = proxy.connections
        held.lift()
        await reaches(lambda: proxy.connections < there, what="what was held is delivered and its connection ends")
        await second.fill(target[0], 4, 6)

    assert await asyncio.to_thread(target.append) == 6
    assert target.offsets() == [[6]]


async def test_a_leading_gap_is_filled_and_deleted_and_the_log_begins_where_told(
    connection: KafkaConnection, cluster: ProxiedCluster, unique_topic: Names
) -> None:
    target = Target(cluster, unique_topic())
    first_offset = 1_234_567
    producer = await RawProducer.open(connection)
    identity = ProducerIdentity(producer.producer_id, producer.producer_epoch)
    landed = 0
    for batch in filler_batches(0, first_offset, producer=identity, first_sequence=0):
        answer = (await producer.produce(NODE, {target[0]: batch.data}, timeout_ms=30_000))[target[0]]
        assert (answer.error_code, answer.base_offset) == (KafkaErrorCode.NONE, landed)
        landed += batch.records
    deleted = await delete_records(connection, {target[0]: first_offset})

    assert deleted[target[0]].log_start_offset == landed == first_offset
    begins = await list_offsets(connection, NODE, {target[0]: (EARLIEST_TIMESTAMP, -1)})
    assert begins[target[0]].offset == first_offset
    assert target.offsets() == [[]]
    assert await asyncio.to_thread(target.append) == first_offset
    assert target.offsets() == [[first_offset]]

"""Every batch once and in order, against brokers that lose answers, move leaders and remember five batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import IncompleteError, KafkaDeniedError, KafkaUnavailableError, KbackupError
from kbackupd.restore.produce import Producing
from kbackupd.restore.produce_batch import ProduceBatch
from kbackupd.restore.send_queue import REQUESTS_IN_FLIGHT, LogEnd

CODE = KafkaErrorCode
PARTITIONS = [TopicPartition("orders", number) for number in range(3)]


@dataclass
class FakeLog:
    """A partition's log: sequences checked as Kafka's ProducerStateManager does."""

    leader: int
    batches: list[bytes] = field(default_factory=list)
    next_offset: int = 0
    next_sequence: int = 0
    remembered: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=5))

    def append(self, sequence: int, data: bytes, records: int) -> ProduceAnswer:
        for known, offset in self.remembered:
            if known == sequence:
                return answer(CODE.NONE, offset)
        # A broker that knows nothing of a producer takes whatever sequence comes first.
        if sequence != self.next_sequence and self.remembered:
            return answer(CODE.OUT_OF_ORDER_SEQUENCE_NUMBER)
        base = self.next_offset
        self.batches.append(data)
        self.remembered.append((sequence, base))
        self.next_sequence = sequence + records
        self.next_offset += records
        return answer(CODE.NONE, base)

    def restarted(self) -> None:
        """A broker that comes back takes a producer for gone whose records are older than a day."""
        self.remembered.clear()


def answer(code: int, base_offset: int = -1) -> ProduceAnswer:
    return ProduceAnswer(error_code=code, base_offset=base_offset, log_append_time=-1, log_start_offset=0)


class FakeCluster:
    """Two brokers; `faults` says, request by request, what goes wrong ("" for nothing)."""

    def __init__(self, faults: list[str]) -> None:
        self.logs = {tp: FakeLog(leader=tp.partition % 2) for tp in PARTITIONS}
        self.faults = deque(faults)
        self.in_flight = {0: 0, 1: 0}
        self.most_in_flight = 0
        self.restarting = False
        self.broken: set[int] = set()
        self.breaks = {0: 0, 1: 0}
        self.sizes: dict[bytes, tuple[int, int]] = {}

    async def leaders(self) -> Mapping[TopicPartition, int]:
        self.restarting = False  # whoever asks has seen the old connections fail
        return {tp: log.leader for tp, log in self.logs.items()}

    async def log_ends(self, node_id: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, LogEnd]:
        return {tp: LogEnd(self.logs[tp].next_offset) for tp in partitions if self.logs[tp].leader == node_id}

    async def produce(
        self, node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        # A connection is one stream: what is sent behind something that never arrived does not arrive either, and
        # nothing that was under way when it broke is answered, however soon the broker is back.
        if self.restarting or node_id in self.broken:
            await asyncio.sleep(0)
            raise KafkaUnavailableError("refused")
        fault = self.faults.popleft() if self.faults else ""
        breaks = self.breaks[node_id]
        self.in_flight[node_id] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight[node_id])
        try:
            if fault == "never arrives":
                self.broken.add(node_id)
                await asyncio.sleep(0)
                self.broken.discard(node_id)
                raise KafkaUnavailableError("reset")
            if fault == "leaders move":
                for log in self.logs.values():
                    log.leader = 1 - log.leader
            answers = {tp: self._take(node_id, tp, bytes(data), fault) for tp, data in batches.items()}
            await asyncio.sleep(0)
            if fault == "restarted":
                self.restarting = True
                self.breaks = {node: count + 1 for node, count in self.breaks.items()}
                for log in self.logs.values():
                    log.restarted()
            if fault == "answer lost":
                self.breaks[node_id] += 1
            if self.breaks[node_id] != breaks:
                raise KafkaUnavailableError("timed out")
            return answers
        finally:
            self.in_flight[node_id] -= 1

    def _take(self, node_id: int, tp: TopicPartition, data: bytes, fault: str) -> ProduceAnswer:
        log = self.logs[tp]
        if log.leader != node_id:
            return answer(CODE.NOT_LEADER_OR_FOLLOWER)
        sequence, records = self.sizes[data]
        if fault == "refused once" and tp.partition == 1:
            return answer(CODE.NOT_ENOUGH_REPLICAS)
        taken = log.append(sequence, data, records)
        if fault == "appended, not replicated":
            return answer(CODE.NOT_ENOUGH_REPLICAS_AFTER_APPEND)
        if fault == "duplicate without offset" and taken.error_code == CODE.NONE:
            return answer(CODE.DUPLICATE_SEQUENCE_NUMBER)
        return taken

    def batch(self, tp: TopicPartition, number: int, records: int, sequence: int) -> ProduceBatch:
        data = f"{tp.topic}-{tp.partition}-{number}".encode().ljust(50 + number)
        self.sizes[data] = (sequence, records)
        return ProduceBatch(data=data, records=records, base_sequence=sequence, source_first_offset=sequence)


@asynccontextmanager
async def producing(
    cluster: FakeCluster,
    acknowledged: list[tuple[TopicPartition, ProduceBatch]],
    *,
    budget: MemoryBudget | None = None,
    give_up_seconds: float = 20.0,
    lanes: int = 1,
) -> AsyncIterator[Producing]:
    async with Producing(
        [cluster, cluster] if lanes == 2 else [cluster],
        leaders=cluster.leaders,
        log_ends=cluster.log_ends,
        acknowledged=lambda tp, batch: acknowledged.append((tp, batch)),
        budget=budget or MemoryBudget(1 << 20),
        clock=SystemClock(),
        give_up_seconds=give_up_seconds,
        first_pause_seconds=0.0005,
    ) as engine:
        yield engine


async def feed(
    cluster: FakeCluster, engine: Producing, budget: MemoryBudget, tp: TopicPartition, sizes: list[int]
) -> list[bytes]:
    """Put batches of `sizes` records and wait until all are in; the bytes put, in order."""
    engine.begin(tp, next_offset=0)
    put, sequence = [], 0
    for number, records in enumerate(sizes):
        batch = cluster.batch(tp, number, records, sequence)
        sequence += records
        await budget.take(len(batch.data))
        engine.put(tp, batch)
        put.append(bytes(batch.data))
    await engine.finish(tp)
    return put


FAULTS = [
    "",
    "",
    "",
    "never arrives",
    "answer lost",
    "restarted",
    "leaders move",
    "refused once",
    "appended, not replicated",
    "duplicate without offset",
]


@settings(max_examples=150, deadline=None)
@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=40),
    sizes=st.lists(st.lists(st.integers(1, 9), max_size=25), min_size=3, max_size=3),
    budget_bytes=st.sampled_from([60, 300, 1 << 20]),
    lanes=st.sampled_from([1, 2]),
)
def test_every_batch_lands_once_and_in_order_whatever_goes_wrong(
    faults: list[str], sizes: list[list[int]], budget_bytes: int, lanes: int
) -> None:
    cluster = FakeCluster(faults)
    acknowledged: list[tuple[TopicPartition, ProduceBatch]] = []
    budget = MemoryBudget(budget_bytes)

    async def run() -> list[list[bytes]]:
        async with producing(cluster, acknowledged, budget=budget, lanes=lanes) as engine:
            return await asyncio.gather(*(feed(cluster, engine, budget, tp, sizes[tp.partition]) for tp in PARTITIONS))

    put = asyncio.run(run())

    assert [cluster.logs[tp].batches for tp in PARTITIONS] == put
    for tp in PARTITIONS:
        assert [batch.data for at, batch in acknowledged if at == tp] == cluster.logs[tp].batches
    assert cluster.most_in_flight <= REQUESTS_IN_FLIGHT * lanes
    assert budget.reserved_bytes == 0
    assert budget.peak_bytes <= max(budget_bytes, 75)


async def test_one_partitions_refusal_ends_that_partition_alone_and_gives_its_bytes_back() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)
    refused, fine = PARTITIONS[0], PARTITIONS[1]
    take = cluster._take

    def refusing(node_id: int, tp: TopicPartition, data: bytes, fault: str) -> ProduceAnswer:
        return answer(CODE.MESSAGE_TOO_LARGE) if tp == refused else take(node_id, tp, data, fault)

    cluster._take = refusing  # type: ignore[method-assign]  # one broker that refuses one partition
    async with producing(cluster, [], budget=budget) as engine:
        with pytest.raises(IncompleteError, match="MESSAGE_TOO_LARGE"):
            await feed(cluster, engine, budget, refused, [3, 3])
        assert len(await feed(cluster, engine, budget, fine, [2] * 10)) == 10

    assert budget.reserved_bytes == 0
    assert cluster.logs[fine].next_offset == 20


async def test_a_log_that_somebody_else_writes_into_is_noticed_at_once() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)
    tp = PARTITIONS[0]
    cluster.logs[tp].next_offset = 7

    async with producing(cluster, [], budget=budget) as engine:
        with pytest.raises(IncompleteError, match="landed at offset 7 instead of 0"):
            await feed(cluster, engine, budget, tp, [1])


@pytest.mark.parametrize("waits", [Producing.finish, Producing.settled], ids=["finish", "settled"])
async def test_hazard_27_a_log_that_reaches_farther_than_an_earlier_run_can_have_written_is_somebody_elses(
    waits: Callable[[Producing, TopicPartition], Awaitable[None]],
) -> None:
    cluster, budget = FakeCluster(["answer lost"]), MemoryBudget(1 << 20)
    tp = PARTITIONS[0]
    cluster.logs[tp].append(1000, b"foreign", 5)
    async with producing(cluster, [], budget=budget) as engine:
        engine.begin(tp, next_offset=0, repeats=True)
        batch = cluster.batch(tp, 0, 3, 0)
        await budget.take(len(batch.data))
        engine.put(tp, batch)
        with pytest.raises(IncompleteError, match="the log ends at offset 5 instead of 3"):
            await waits(engine, tp)


async def test_a_broker_that_lost_acknowledged_batches_is_an_error_not_a_retry() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)
    tp = PARTITIONS[0]
    cluster.logs[tp].remembered.append((4, 0))
    cluster.logs[tp].next_sequence = 5

    async with producing(cluster, [], budget=budget) as engine:
        with pytest.raises(IncompleteError, match="OUT_OF_ORDER_SEQUENCE_NUMBER"):
            await feed(cluster, engine, budget, tp, [1])


@pytest.mark.parametrize("error", [KafkaUnavailableError("nobody answers"), KafkaDeniedError("login refused")])
async def test_a_target_that_stays_away_or_refuses_us_is_given_up_with_its_reason(error: KbackupError) -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)

    async def refuse(
        node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        raise error

    cluster.produce = refuse  # type: ignore[method-assign]  # a cluster that never takes anything
    async with producing(cluster, [], budget=budget, give_up_seconds=0.05) as engine:
        with pytest.raises(KbackupError, match=error.message):
            await feed(cluster, engine, budget, PARTITIONS[0], [1, 1])

    assert budget.reserved_bytes == 0


async def test_a_partition_without_a_leader_waits_for_one() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)
    asked = 0

    async def leaders() -> Mapping[TopicPartition, int]:
        nonlocal asked
        asked += 1
        return {} if asked < 4 else {tp: log.leader for tp, log in cluster.logs.items()}

    cluster.leaders = leaders  # type: ignore[method-assign]  # an election that takes a while
    async with producing(cluster, [], budget=budget) as engine:
        await feed(cluster, engine, budget, PARTITIONS[0], [4])

    assert cluster.logs[PARTITIONS[0]].next_offset == 4


@pytest.mark.parametrize("fault", ["refused once", "never arrives"])
async def test_a_second_batch_never_takes_the_place_of_a_first_one_that_the_broker_did_not_take(fault: str) -> None:
    cluster, budget = FakeCluster([fault]), MemoryBudget(1 << 20)
    tp = PARTITIONS[1]

    async with producing(cluster, [], budget=budget) as engine:
        put = await feed(cluster, engine, budget, tp, [3] * 8)

    assert cluster.logs[tp].batches == put


async def test_a_batch_whose_answer_hangs_while_others_are_taken_is_still_known_when_it_is_sent_again() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)
    tp, take = PARTITIONS[0], cluster.produce
    hung = False

    async def produce(
        node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        nonlocal hung
        second = b"orders-0-1" in batches[tp] and not hung
        hung = hung or second
        taken = await take(node_id, batches, timeout_ms=timeout_ms)
        if second:
            for _ in range(1_000):  # turns of the loop, in which all goes that may go
                await asyncio.sleep(0)
            raise KafkaUnavailableError("timed out")
        return taken

    cluster.produce = produce  # type: ignore[method-assign]  # a leader that appends, replicates and falls silent
    async with producing(cluster, [], budget=budget) as engine:
        put = await feed(cluster, engine, budget, tp, [3] * 30)

    assert hung
    assert cluster.logs[tp].batches == put


async def test_batches_that_a_killed_broker_took_without_a_word_and_forgot_are_not_sent_again() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)
    tp, take = PARTITIONS[0], cluster.produce
    requests = 0

    async def produce(
        node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        nonlocal requests
        requests += 1
        mute = 4 <= requests <= 8
        taken = await take(node_id, batches, timeout_ms=timeout_ms)
        if mute:
            if requests == 8:
                cluster.logs[tp].restarted()
            raise KafkaUnavailableError("reset")
        return taken

    cluster.produce = produce  # type: ignore[method-assign]  # five batches are taken and none is answered
    async with producing(cluster, [], budget=budget) as engine:
        put = await feed(cluster, engine, budget, tp, [3] * 30)

    assert cluster.logs[tp].batches == put


async def test_five_requests_are_kept_in_flight_to_a_broker() -> None:
    cluster, budget = FakeCluster([]), MemoryBudget(1 << 20)

    async with producing(cluster, [], budget=budget) as engine:
        await feed(cluster, engine, budget, PARTITIONS[0], [1] * 30)

    assert cluster.most_in_flight == REQUESTS_IN_FLIGHT

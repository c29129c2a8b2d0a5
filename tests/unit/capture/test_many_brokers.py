"""Many brokers under one memory budget: one object per flush, the limit holds, and nobody waits for ever (I9)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kbackupd.capture.partition import SessionKind
from kbackupd.capture.request_size import REQUEST_BYTES
from kbackupd.kafka.types import FetchAnswer
from kbackupd.model.status import PartitionState
from tests.fake_broker import FakeLog
from tests.unit.capture.site import Life, Site

MIB = 1 << 20
BUDGETS = (32 * MIB, 116 * MIB, 244 * MIB)
"""The least there is; about what `memory_limit: 256MiB` leaves; about what the default leaves."""


def spread(nodes: int, *, flush_interval_seconds: float = 10.0, budget_bytes: int) -> tuple[Site, list[FakeLog]]:
    """A cluster with one partition on each of its brokers."""
    site = Site.new(
        flush_interval_seconds=flush_interval_seconds, checkpoint_interval_seconds=30, segment_max_bytes=32 * MIB
    )
    site.budget_bytes = budget_bytes
    site.cluster.nodes = nodes
    return site, site.cluster.create("orders", nodes).logs


@pytest.mark.parametrize("budget_bytes", BUDGETS, ids=lambda count: f"{count // MIB}MiB")
@pytest.mark.parametrize("nodes", [3, 20, 60])
def test_idle_fetches_of_many_brokers_do_not_make_an_object_of_every_record(nodes: int, budget_bytes: int) -> None:
    """The long polls alone took the whole budget: somebody always waited, and every upload carried what little came."""
    site, logs = spread(nodes, budget_bytes=budget_bytes)
    starved: list[float] = []

    async def script(life: Life) -> None:
        await life.durable()
        before = len(site.keys("segments/"))
        for _ in range(60):
            for log in logs:  # one after the other: the fetches do not breathe in step
                log.append()
                await asyncio.sleep(0.5 / nodes)
                if life.budget.starved:
                    starved.append(site.clock.monotonic())
        assert len(site.keys("segments/")) - before <= 4
        assert not starved, "idle fetches leave room for data"
        await life.durable()

    site.run_life(script)
    site.check()


@pytest.mark.parametrize("budget_bytes", BUDGETS, ids=lambda count: f"{count // MIB}MiB")
@pytest.mark.parametrize("nodes", [3, 20, 60])
def test_a_backlog_on_every_broker_comes_in_evenly_and_within_the_limit(nodes: int, budget_bytes: int) -> None:
    """Hazard 51: what is asked for and held stays below the limit, and no broker's partition waits for the others'."""
    site, logs = spread(nodes, flush_interval_seconds=2.0, budget_bytes=budget_bytes)
    site.upload_seconds = lambda key: 0.2
    batches = max(12, 240 // nodes)
    for log in logs:
        for _ in range(batches):
            log.append(1, value=b"v" * 200_000)
    peak = ahead = 0

    async def script(life: Life) -> None:
        nonlocal peak, ahead
        begun = site.clock.monotonic()
        while any(life.pipeline.publisher.watermark.durable(log.id) < log.high_watermark for log in logs):
            await asyncio.sleep(0.001)
            peak = max(peak, life.budget.reserved_bytes)
            captured = [p.position for p in life.pipeline.roster.partitions.values()]
            ahead = max(ahead, max(captured, default=0) - min(captured, default=0))
            assert site.clock.monotonic() - begun < 300, "some broker's partition is starved"

    site.run_life(script)
    site.check()
    assert peak <= budget_bytes
    assert ahead <= batches / 2, "some are far ahead of others"


def test_where_batches_are_larger_than_a_loop_s_share_loops_take_turns_and_objects_stay_worth_their_request() -> None:
    site, logs = spread(60, budget_bytes=32 * MIB)
    site.upload_seconds = lambda key: 0.05
    waited = 0

    async def script(life: Life) -> None:
        nonlocal waited
        await life.durable()
        before = len(site.keys("segments/"))
        begun = site.clock.monotonic()
        for number in range(150):
            logs[number % len(logs)].append(1, value=b"v" * 800_000)
            await asyncio.sleep(0.05)
            waited += life.budget.starved
        await life.durable()
        seconds = site.clock.monotonic() - begun
        assert len(site.keys("segments/")) - before <= 2 + 150 * 800_000 / (4 * MIB)
        assert seconds < 12, "each gets its turn in time"

    site.run_life(script)
    site.check()
    assert waited, "the budget was too large for this story"


def test_one_broker_is_asked_for_as_much_as_ever() -> None:
    site, logs = spread(1, budget_bytes=244 * MIB)
    for _ in range(50):
        logs[0].append(1, value=b"v" * MIB)
    asked: list[int] = []

    async def script(life: Life) -> None:
        session = life.pipeline.sessions.place_for(1, SessionKind.CATCHING_UP)
        fetch = session._session.fetch

        async def told(*, max_bytes: int, **rest: Any) -> FetchAnswer:
            asked.append(max_bytes)
            return await fetch(max_bytes=max_bytes, **rest)

        session._session.fetch = told  # type: ignore[method-assign]  # looks over its shoulder
        await life.durable()

    site.run_life(script)
    assert set(asked) == {REQUEST_BYTES[SessionKind.CATCHING_UP]}


def test_bursts_of_large_batches_from_many_brokers_keep_the_limit_once_they_are_known() -> None:
    """A first batch comes whole, asked for or not: thirty at once, each forgotten a few long polls before the next."""
    limit = 64 * MIB
    site, logs = spread(30, flush_interval_seconds=2.0, budget_bytes=limit)

    async def script(life: Life) -> None:
        await life.durable()
        for burst in range(3):
            for _ in range(3):
                for log in logs:
                    log.append(1, value=b"x" * 100)
                await asyncio.sleep(3)
            life.budget.peak_bytes = 0
            for log in logs:
                log.append(1, value=b"z" * 4_000_000)
            await asyncio.sleep(10)
            assert burst == 0 or life.budget.peak_bytes <= limit

    assert site.run_life(script)
    site.check()


def test_partitions_of_a_broker_that_cannot_be_reached_at_a_start_are_retried_visibly_and_not_starting_for_ever() -> (
    None
):
    """Hazard 44: a daemon that was started anew while one port was blocked never became ready, and named no error."""
    site = Site.new(flush_interval_seconds=1)
    topic = site.cluster.create("orders", 2)
    for log in topic.logs:
        log.append(3)
    site.run_life(lambda life: life.durable())
    site.cluster.cut_off.add(2)

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders", 0) == PartitionState.FOLLOWING, "the other broker's is followed")
        await life.until(lambda: life.sample("orders", 1).state == PartitionState.RETRYING, "retrying")
        site.cluster.cut_off.clear()
        await life.until(lambda: life.sample("orders", 1).state == PartitionState.FOLLOWING, "followed")

    site.run_life(script)
    site.check()

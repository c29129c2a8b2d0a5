"""What a session's loop remembers of partitions that are no longer its own."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref

import pytest

from kbackupd.capture import look_ahead, session_loop
from kbackupd.capture.partition import SessionKind
from kbackupd.format.batch import BatchesEnd, skim_batches
from kbackupd.kafka.types import FetchAnswer
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from tests.fake_broker import FakeSession
from tests.unit.capture.site import Life, Site


def test_of_partitions_that_left_for_good_a_session_keeps_nothing() -> None:
    """Topics that come and go would fill the memory of a daemon that lives for years."""
    site = Site.new()
    site.cluster.nodes = 1
    site.cluster.create("stays").logs[0].append(3)

    async def script(life: Life) -> None:
        for number in range(10):
            for log in site.cluster.create(f"passing-{number}", 3).logs:
                log.append(2)
            await life.durable()
            site.cluster.delete(f"passing-{number}")
            await asyncio.sleep(20)
        stays = life.partition("stays").id
        following = life.pipeline.sessions.place_for(1, SessionKind.FOLLOWING)
        assert set(following.partitions) == {stays}
        heard = following.heard
        for rows in (heard._high_watermarks, heard._joined, following._size._oversized, heard._left):
            assert set(rows) <= {stays}
        catching_up = life.pipeline.sessions.place_for(1, SessionKind.CATCHING_UP)
        assert len(catching_up.heard._high_watermarks) <= 4, "no more than since its last request"

    site.run_life(script)


def test_a_partition_that_leaves_and_comes_back_between_two_requests_is_still_known_as_it_was() -> None:
    """The broker compares with what it told before and has nothing to add: exposure must not stand still."""
    site = Site.new()
    site.cluster.create("quiet").logs[0].append(3)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(10)
        for _ in range(20):
            life.pipeline.roster.place(life.partition("quiet"))
            await asyncio.sleep(0.13)
        await asyncio.sleep(2)
        assert (life.sample("quiet").exposure_seconds or 99) < 2

    site.run_life(script)


@pytest.mark.parametrize("away", [0.02, 0.1, 0.2])
def test_what_was_told_of_a_partition_while_it_was_away_is_not_taken_for_unchanged(away: float) -> None:
    """Hazard 44: its neighbours had so much that it was left out, and a flush called it stored."""
    site = Site.new(flush_interval_seconds=10)
    site.budget_bytes = 4 << 20
    site.cluster.nodes = 1
    log = site.cluster.create("quiet").logs[0]
    log.append(3)
    busy = site.cluster.create("busy", 4).logs

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(2.25)
        pausing = asyncio.create_task(life.steering.pause("quiet"))
        await asyncio.sleep(0)
        log.append(1)
        await asyncio.sleep(away)
        resuming = asyncio.create_task(life.steering.resume("quiet"))
        await asyncio.sleep(0)

        async def fill() -> None:
            for _ in range(20):
                for one in busy:
                    one.append(1, value=b"z" * 300_000)
                await asyncio.sleep(0.01)

        filling = asyncio.create_task(fill())
        partition, appended = life.partition("quiet"), site.clock.monotonic()
        for _ in range(50):
            await asyncio.sleep(0.01)
            heard = life.pipeline.sessions.heard(partition)
            assert partition.position == 4 or partition.proof.high_watermark == 4 or heard < appended
        await asyncio.gather(filling, pausing, resuming)

    site.run_life(script)


def test_over_a_line_too_slow_for_what_is_asked_by_default_less_is_asked_and_everything_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hazard 40: each answer was given up half-way, and asked for again in the same size, for ever."""
    site = Site.new(segment_max_bytes=32 << 20)
    site.cluster.nodes = 1
    log = site.cluster.create("orders").logs[0]
    for _ in range(30):
        log.append(1, value=b"z" * 300_000)
    site.cluster.bytes_per_second = 60_000
    asked: dict[FakeSession, list[int]] = {}
    fetch = FakeSession.fetch

    async def noted(
        self: FakeSession, *, max_bytes: int, max_wait_ms: int, min_bytes: int = 1, timeout_seconds: float
    ) -> FetchAnswer:
        asked.setdefault(self, []).append(max_bytes)
        return await fetch(
            self, max_bytes=max_bytes, max_wait_ms=max_wait_ms, min_bytes=min_bytes, timeout_seconds=timeout_seconds
        )

    monkeypatch.setattr(FakeSession, "fetch", noted)

    async def script(life: Life) -> None:
        captured = life.pipeline.roster.partitions
        await life.until(lambda: any(p.position == 30 for p in captured.values()), "all of it", seconds=600)
        site.cluster.bytes_per_second = math.inf
        for _ in range(30):
            log.append(1, value=b"z" * 300_000)
        asked_before = site.cluster.fetches
        slowed = next(iter(asked.values()))
        assert min(slowed) < slowed[0]
        slow = len(slowed)
        await life.follows("orders")
        assert site.cluster.fetches - asked_before < 20
        assert max(slowed[slow:]) == slowed[0], "once the line is fast again, it asks for as much as ever"

    site.run_life(script)
    site.check()


def test_however_many_partitions_an_answer_holds_the_loop_reads_a_bounded_number_of_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each was within its own bound, and a thousand of them held the event loop for a tenth of a second."""
    site = Site.new()
    site.cluster.nodes = 1
    logs = site.cluster.create("tiny", 12).logs
    for log in logs:
        for _ in range(60):
            log.append(1, value=b"z" * 20_000)
    read: list[int] = []
    looked_ahead: list[bool] = []
    wanted_ahead = session_loop.SessionLoop._look_ahead

    def skim(records: bytes, *, batches_max: int) -> BatchesEnd | None:
        end = skim_batches(records, batches_max=batches_max)
        read[-1] += batches_max if end is None else end.batches
        return end

    def spied(loop: session_loop.SessionLoop, answer: FetchAnswer) -> bool:
        read.append(0)
        looked_ahead.append(wanted_ahead(loop, answer))
        return looked_ahead[-1]

    monkeypatch.setattr(look_ahead, "SKIM_ANSWER_BATCHES", 40)
    monkeypatch.setattr(look_ahead, "skim_batches", skim)
    monkeypatch.setattr(session_loop.SessionLoop, "_look_ahead", spied)

    async def script(life: Life) -> None:
        await life.durable()

    site.run_life(script)
    assert max(read) == 40
    assert False in looked_ahead
    site.check()


def test_a_request_that_failed_while_the_answer_before_it_was_checked_leaves_no_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Invariant I9: what failed may hold the bytes of an answer that made no sense, and garbage is searched seldom."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(40):
        log.append(1, value=b"v" * 500_000)
    failed: list[weakref.ref[Exception]] = []
    answers = 0
    fetch, met = FakeSession.fetch, session_loop.SessionLoop._failed

    async def failing(
        self: FakeSession, *, max_bytes: int, max_wait_ms: int, min_bytes: int = 1, timeout_seconds: float
    ) -> FetchAnswer:
        nonlocal answers
        answers += 1
        if answers == 2:
            raise KafkaUnavailableError("the answer does not parse")
        return await fetch(
            self, max_bytes=max_bytes, max_wait_ms=max_wait_ms, min_bytes=min_bytes, timeout_seconds=timeout_seconds
        )

    async def noted(
        self: session_loop.SessionLoop, error: KafkaUnavailableError | KafkaDeniedError, failures: int
    ) -> None:
        failed.append(weakref.ref(error))
        await met(self, error, failures)

    monkeypatch.setattr(FakeSession, "fetch", failing)
    monkeypatch.setattr(session_loop.SessionLoop, "_failed", noted)

    async def script(life: Life) -> None:
        gc.disable()
        try:
            await life.durable()
            assert [one() for one in failed] == [None]
        finally:
            gc.enable()

    assert site.run_life(script)
    site.check()

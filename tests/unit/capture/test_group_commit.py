"""Durable offsets in a consumer group: what is committed, when, and what happens where it cannot be (hazard 56a)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kbackupd.archive.partition_state import UNSEEN, PartitionState
from kbackupd.archive.writer_state import TopicState
from kbackupd.capture.group_commit import (
    COMPARE_SECONDS,
    LAST_SECONDS,
    PROBLEM_AFTER_SECONDS,
    REQUEST_BYTES,
    GroupCommitter,
    Positions,
    committable,
    requests,
)
from kbackupd.capture.group_survey import GroupSurvey
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.model.clock import ManualClock
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Checkpoint, PartitionCheckpoint, TopicCheckpoint
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from tests.fake_groups import FakeCoordinators, FakeGroup
from tests.unit.capture.site import Life, Site
from tests.unit.format.samples import IDENTITY
from tests.unit.observe.test_metrics import value
from tests.virtual_time import run

GROUP = "kbackupd-main"
INTERVAL_SECONDS = 30.0


def topic_id(name: str) -> TopicId:
    return TopicId(name.ljust(22, "A"))


def positions(**offsets: int) -> Positions:
    """topic_partition=offset"""
    split = [(name.rpartition("_"), offset) for name, offset in offsets.items()]
    return {TopicPartition(topic, int(number)): OffsetToCommit(offset, 0) for (topic, _, number), offset in split}


def checkpoint(**offsets: int) -> Checkpoint:
    rows = [(TopicPartition(*tp), one.offset) for tp, one in positions(**offsets).items()]
    return Checkpoint(
        identity=IDENTITY,
        key="checkpoints/main/0000000001/0000000000000000.kbc",
        writer="main",
        writer_epoch=1,
        number=0,
        sealed_ms=0,
        chain_head=None,
        coverage={},
        declared_next_epoch=1,
        segments=(),
        events=0,
        topics=tuple(
            TopicCheckpoint(id=topic_id(name), name=name, partitions=9, internal=False)
            for name in dict.fromkeys(tp.topic for tp, _ in rows)
        ),
        partitions=tuple(
            PartitionCheckpoint(
                id=PartitionId(topic_id(tp.topic), tp.partition),
                first_offset=0,
                next_offset=offset,
                branch=0,
                next_branch=1,
                state="following",
                leader_epoch=0,
                leader_epochs=(),
                open_transactions=(),
            )
            for tp, offset in rows
        ),
        pauses=(),
    )


@pytest.fixture
def told() -> Iterator[list[EventDict]]:
    """What is logged above debug."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    with capture_logs() as lines:
        yield lines
    structlog.configure(**before)


class Stand:
    """A coordinator, and the committer of one life."""

    def __init__(self, **recovered: int) -> None:
        self.clock = ManualClock()
        self.cluster = FakeCoordinators(self.clock)
        self.metrics = Metrics(self.clock, version="test")
        self.problems = Problems(self.clock)
        self.committer = GroupCommitter(
            source=self.cluster,
            group=GROUP,
            recovered=positions(**recovered),
            interval_seconds=INTERVAL_SECONDS,
            clock=self.clock,
            metrics=self.metrics,
            problems=self.problems,
        )

    def covers(self, **offsets: int) -> bool:
        """A checkpoint, and the round after it."""
        self.committer.covered(checkpoint(**offsets))
        return self.round()

    def round(self) -> bool:
        return run(self.committer.commit(), clock=self.clock)

    def runs(self, script: Callable[[], Awaitable[None]]) -> None:
        """The committer's task beside `script`."""

        async def both() -> None:
            task = asyncio.create_task(self.committer.run())
            try:
                await script()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        run(both(), clock=self.clock)

    @property
    def said(self) -> dict[tuple[str, int], int]:
        return self.cluster.groups[GROUP].positions if GROUP in self.cluster.groups else {}

    def counted(self, outcome: str) -> float | None:
        return value(self.metrics, "group_commits_total", outcome=outcome)


def test_what_a_checkpoint_covers_is_committed_in_one_request_and_only_what_moved_in_the_next() -> None:
    stand = Stand(orders_0=3, orders_1=0)
    assert stand.round()
    assert stand.said == {("orders", 0): 3, ("orders", 1): 0}
    assert stand.covers(orders_0=7, orders_1=0)
    assert stand.said == {("orders", 0): 7, ("orders", 1): 0}
    assert [dict(one) for one in stand.cluster.commits] == [positions(orders_0=3, orders_1=0), positions(orders_0=7)]
    assert stand.counted("ok") == 2


def test_a_checkpoint_in_which_no_user_partition_moved_commits_nothing() -> None:
    """Hazard 56a: it may be there because of our own last commit."""
    stand = Stand(orders_0=3)
    stand.round()
    assert stand.covers(orders_0=3)
    assert len(stand.cluster.commits) == 1
    assert stand.counted("ok") == 1
    assert stand.committer.behind_seconds() == 0


def test_a_restart_commits_nothing_that_the_group_has_already() -> None:
    stand = Stand(orders_0=3, orders_1=5)
    stand.cluster.commit(GROUP, "orders", 0, 3)
    stand.cluster.commit(GROUP, "orders", 1, 4)
    stand.round()
    assert [dict(one) for one in stand.cluster.commits] == [positions(orders_1=5)]


def test_a_position_above_the_archive_is_reported_once_and_set_back_never_obeyed(told: list[EventDict]) -> None:
    stand = Stand(orders_0=3, orders_1=5)
    stand.cluster.commit(GROUP, "orders", 0, 9)
    stand.round()
    stand.covers(orders_0=3, orders_1=6)
    assert stand.said == {("orders", 0): 3, ("orders", 1): 6}
    (note,) = stand.problems.notes()
    assert note.message == (
        "1 partitions were committed further than the archive reaches, the first orders/0: 9 instead of 3; set back"
    )
    assert note.hint
    assert [line["event"] for line in told] == [events.GROUP_FOUND_AHEAD]
    assert stand.problems.current() == ()


def test_a_topic_made_anew_with_as_many_records_is_committed_anew() -> None:
    """Hazard 20: the coordinator forgot the old one's position, and equal numbers say nothing."""
    stand = Stand()
    stand.covers(orders_0=5, other_0=1)
    del stand.said["orders", 0]
    held = checkpoint(orders_0=5, other_0=1)
    old, new = topic_id("orders"), topic_id("orders2")
    renewed = replace(
        held,
        topics=(replace(held.topics[0], closed=True, deleted=True), held.topics[1], replace(held.topics[0], id=new)),
        partitions=(*held.partitions, held.partitions[0]._replace(id=PartitionId(new, 0))),
    )
    assert old != new
    stand.committer.covered(renewed)
    stand.round()
    assert stand.said == {("orders", 0): 5, ("other", 0): 1}
    assert len(stand.cluster.commits[-1]) == 1
    gone = replace(held, topics=held.topics[1:], partitions=held.partitions[1:])
    for each in (gone, held):
        stand.committer.covered(each)
        stand.round()
    assert dict(stand.cluster.commits[-1]) == positions(orders_0=5)
    assert len(stand.cluster.commits) == 3


def test_a_log_that_was_cut_takes_the_group_back_without_a_report() -> None:
    stand = Stand(orders_0=9)
    stand.round()
    stand.covers(orders_0=4)
    assert stand.said == {("orders", 0): 4}
    stand.clock.advance(COMPARE_SECONDS)
    stand.covers(orders_0=2)
    assert stand.said == {("orders", 0): 2}
    assert stand.problems.notes() == ()


def test_positions_that_kafka_forgot_are_committed_again_though_nothing_moved() -> None:
    """A group without members loses what was not committed for offsets.retention.minutes."""
    stand = Stand(orders_0=3, orders_1=5)

    async def script() -> None:
        await asyncio.sleep(1)
        del stand.said["orders", 0]
        await asyncio.sleep(COMPARE_SECONDS / 2)
        assert ("orders", 0) not in stand.said
        await asyncio.sleep(COMPARE_SECONDS / 2)
        assert stand.said == {("orders", 0): 3, ("orders", 1): 5}

    stand.runs(script)
    assert len(stand.cluster.commits) == 2


def test_a_coordinator_that_moved_or_loads_is_looked_for_again_within_the_round() -> None:
    stand = Stand(orders_0=1)
    stand.round()
    stand.cluster.groups[GROUP].coordinator = 2
    stand.cluster.loading[2] = 1
    assert stand.covers(orders_0=2)
    assert stand.said == {("orders", 0): 2}
    assert stand.counted("failed") == 0


def test_while_the_coordinator_is_down_rounds_fail_and_the_next_one_commits_all_of_it(told: list[EventDict]) -> None:
    stand = Stand(orders_0=1)
    stand.round()

    async def script() -> None:
        stand.cluster.down.add(1)
        stand.committer.covered(checkpoint(orders_0=2))
        await asyncio.sleep(PROBLEM_AFTER_SECONDS / 2)
        assert stand.problems.current() == ()
        await asyncio.sleep(PROBLEM_AFTER_SECONDS)
        assert [one.subject for one in stand.problems.current()] == [f"consumer group {GROUP}"]
        assert stand.committer.behind_seconds() > PROBLEM_AFTER_SECONDS
        stand.cluster.down.clear()
        await asyncio.sleep(INTERVAL_SECONDS + 10)

    stand.runs(script)
    assert stand.said == {("orders", 0): 2}
    assert (stand.counted("failed") or 0) >= 3
    assert value(stand.metrics, "errors_total", kind="kafka_unavailable") == stand.counted("failed")
    assert stand.problems.current() == ()
    assert stand.committer.behind_seconds() == 0
    assert [line["event"] for line in told] == [events.GROUP_COMMIT_FAILED, events.GROUP_COMMITTED]


def test_a_group_that_consumers_use_is_a_problem_with_a_remedy_and_left_alone() -> None:
    stand = Stand(orders_0=1)
    stand.cluster.groups[GROUP] = FakeGroup(1, positions={("orders", 0): 0}, members=2)
    assert not stand.round()
    assert stand.said == {("orders", 0): 0}
    (problem,) = stand.problems.current()
    assert "UNKNOWN_MEMBER_ID" in problem.message
    assert "source.consumer_group" in problem.hint
    assert stand.counted("in_use") == 1
    stand.cluster.groups[GROUP].members = 0
    assert stand.round()
    assert stand.said == {("orders", 0): 1}
    assert stand.problems.current() == ()


def test_a_denied_group_is_noted_once_and_makes_nothing_unhealthy(told: list[EventDict]) -> None:
    stand = Stand(orders_0=1)
    stand.cluster.commit_errors[""] = KafkaErrorCode.GROUP_AUTHORIZATION_FAILED
    for _ in range(5):
        assert not stand.round()
        stand.clock.advance(INTERVAL_SECONDS)
    assert [line["event"] for line in told] == [events.GROUP_COMMIT_FAILED]
    (note,) = stand.problems.notes()
    assert (note.subject, note.count) == (f"consumer group {GROUP}", 1)
    assert "grant" in note.hint
    assert stand.problems.current() == ()
    assert stand.counted("denied") == 5
    assert value(stand.metrics, "errors_total", kind="kafka_denied") == 0


def test_one_topics_refusal_keeps_no_other_from_being_committed() -> None:
    """Hazard 1: and it is told, not swallowed."""
    names = {f"t{number}_0": 1 for number in range(3)}
    stand = Stand(**names)
    stand.cluster.commit_errors["t0"] = KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert not stand.round()
    assert stand.said == {("t1", 0): 1, ("t2", 0): 1}
    assert "t0/0" in stand.problems.notes()[0].message
    stand.cluster.commit_errors.clear()
    assert stand.round()
    assert ("t0", 0) in stand.said


def test_a_topic_the_coordinator_does_not_know_yet_is_tried_again_soon_without_an_alarm() -> None:
    stand = Stand(new_0=1, old_0=1)
    stand.cluster.commit_errors["new"] = KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    async def script() -> None:
        await asyncio.sleep(1)
        assert stand.said == {("old", 0): 1}
        assert stand.committer.behind_seconds() == 0
        stand.cluster.commit_errors.clear()
        await asyncio.sleep(INTERVAL_SECONDS)
        assert stand.said == {("old", 0): 1, ("new", 0): 1}

    stand.runs(script)
    assert stand.problems.current() == ()


def test_a_reload_to_a_shorter_interval_tries_what_failed_again_by_it() -> None:
    stand = Stand(new_0=1)
    stand.cluster.commit_errors["new"] = KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    async def script() -> None:
        await asyncio.sleep(1)
        stand.committer.every(3.0)
        await asyncio.sleep(1)
        stand.cluster.commit_errors.clear()
        await asyncio.sleep(3)
        assert stand.said == {("new", 0): 1}

    stand.runs(script)


def test_a_fault_of_ours_in_a_round_ends_the_round_and_nothing_else() -> None:
    stand = Stand(orders_0=1)

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    stand.cluster.on_commit = broken
    assert not stand.round()
    assert stand.counted("failed") == 1
    stand.cluster.on_commit = lambda: None
    assert stand.round()


def test_the_last_round_of_a_drain_commits_the_last_checkpoint_and_waits_no_longer_than_it_may() -> None:
    stand = Stand(orders_0=1)
    stand.committer.stopping(within_seconds=30.0)
    stand.committer.covered(checkpoint(orders_0=5))
    run(stand.committer.leave(), clock=stand.clock)
    assert stand.said == {("orders", 0): 5}
    stand.committer.covered(checkpoint(orders_0=6))
    stand.cluster.loading[1] = 1000
    before = stand.clock.monotonic()
    run(stand.committer.leave(), clock=stand.clock)
    assert stand.clock.monotonic() - before == LAST_SECONDS
    stand.cluster.loading.clear()
    stand.committer.stopping(within_seconds=LAST_SECONDS)
    run(stand.committer.leave(), clock=stand.clock)
    assert stand.said == {("orders", 0): 5}, "there was no time to spare"


def test_ten_thousand_partitions_fit_into_few_requests_each_far_below_what_a_coordinator_takes() -> None:
    many = {TopicPartition(f"some.topic.name.{n:03}", p): OffsetToCommit(1, 0) for n in range(200) for p in range(50)}
    parts = list(requests(GROUP, many))
    assert len(parts) <= 6
    assert {tp for part in parts for tp in part} == set(many)
    long = {TopicPartition("x" * 249, number): OffsetToCommit(1, 0) for number in range(10_000)}
    assert all(len(part) * 249 <= REQUEST_BYTES for part in requests("g" * 249, long))
    assert list(requests(GROUP, {})) == []


def test_only_open_user_topics_are_committed_and_of_two_incarnations_the_newest() -> None:
    def topic(id: str, name: str, **more: bool) -> TopicState:
        return TopicState(
            id=topic_id(id), name=name, partitions=1, internal=more.pop("internal", False), configs={}, **more
        )

    topics = [
        topic("old", "orders"),
        topic("new", "orders"),
        topic("gone", "gone", closed=True),
        topic("offsets", "__consumer_offsets"),
        topic("share", "__share_group_state", internal=True),
        topic("lost", "lost"),
    ]
    partitions = [
        PartitionState(id=PartitionId(one.id, 0), first_offset=0, next_offset=number, state="starting")
        for number, one in enumerate(topics)
    ]
    partitions[-1].state = UNSEEN
    assert committable(topics, partitions) == {TopicPartition("orders", 0): OffsetToCommit(1, -1)}


def test_our_own_group_is_in_no_snapshot_even_if_an_earlier_one_had_it() -> None:
    """Its positions move with every checkpoint: every round would store a snapshot that tells nothing."""
    stand = Stand()
    stand.cluster.commit(GROUP, "orders", 0, 3)
    stand.cluster.commit("app", "orders", 0, 2)
    before = run(GroupSurvey(stand.cluster, clock=stand.clock).take(None), clock=stand.clock)
    assert [one.group_id for one in before.groups] == ["app", GROUP]
    survey = GroupSurvey(stand.cluster, clock=stand.clock, own_group=GROUP)
    after = run(survey.take(before), clock=stand.clock)
    assert [one.group_id for one in after.groups] == ["app"]


def test_an_idle_cluster_comes_to_rest_though_our_commits_are_records_of_it() -> None:
    """Hazard 56a: one commit, the record of it captured, one more checkpoint, and then nothing for many intervals."""
    site = Site.new(flush_interval_seconds=2.0, checkpoint_interval_seconds=5.0)
    site.cluster.create("orders", partitions=2)
    site.cluster.create("__consumer_offsets")
    site.cluster.log("orders", 0).append(10)
    coordinators = FakeCoordinators(site.clock)

    def recorded() -> None:
        site.cluster.log("__consumer_offsets").append(1)

    def said() -> dict[tuple[str, int], int]:
        return coordinators.groups[GROUP].positions if GROUP in coordinators.groups else {}

    coordinators.on_commit = recorded

    async def script(life: Life) -> None:
        committer = GroupCommitter(
            source=coordinators,
            group=GROUP,
            recovered={},
            interval_seconds=5.0,
            clock=site.clock,
            metrics=life.metrics,
            problems=life.problems,
        )
        life.pipeline.checkpointer.on_stored = committer.covered
        task = asyncio.create_task(committer.run())
        try:
            await life.until(lambda: said().get(("orders", 0)) == 10, "the first commit")
            await life.follows("__consumer_offsets")
            await asyncio.sleep(30)  # virtual: six checkpoint intervals for what the commit itself brings about
            rest = (len(coordinators.commits), site.keys("segments/"), site.keys("checkpoints/"))
            await asyncio.sleep(400)  # eighty more; below the interval at which quiet partitions are sampled
            assert (len(coordinators.commits), site.keys("segments/"), site.keys("checkpoints/")) == rest
            site.cluster.log("orders", 1).append(3)
            await life.until(lambda: said().get(("orders", 1)) == 3, "the commit after new records")
            assert said() == {("orders", 0): 10, ("orders", 1): 3}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    site.run_life(script)
    site.check()

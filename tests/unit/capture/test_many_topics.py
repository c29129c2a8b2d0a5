"""What 10,000 topics and partitions cost the event loop (hazard 56)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, ValuesView
from typing import ParamSpec, TypeVar

from kbackupd.capture.roster import CapturedTopic
from kbackupd.capture.waiting import TURN_PARTITIONS
from kbackupd.model.events import TopicSeen
from kbackupd.model.positions import TopicId
from tests.fake_broker import FakeCluster
from tests.unit.capture.site import Life, Site


class CountedLooks(dict[TopicId, CapturedTopic]):
    """Counts how often somebody looks through all of it."""

    looks = 0

    def values(self) -> ValuesView[CapturedTopic]:  # type: ignore[override]  # what dict returns has no public name
        self.looks += 1
        return super().values()


P = ParamSpec("P")
R = TypeVar("R")


class Turns:
    """Counts how often something is done within one turn of the event loop."""

    def __init__(self) -> None:
        self._turn = 0
        self._ending = False
        self._done: dict[str, Counter[int]] = {}

    def counted(self, what: str, inner: Callable[P, R]) -> Callable[P, R]:
        done = self._done.setdefault(what, Counter())

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not self._ending:
                self._ending = True
                asyncio.get_running_loop().call_soon(self._end)
            done[self._turn] += 1
            return inner(*args, **kwargs)

        return call

    def _end(self) -> None:
        self._ending = False
        self._turn += 1

    def most(self, what: str) -> int:
        return max(self._done[what].values())

    def all(self, what: str) -> int:
        return self._done[what].total()


def test_thousands_of_partitions_leave_everybody_else_a_turn() -> None:
    """Hazard 56: first positions and a first answer concern every partition at once. Done in one go, either
    kept probes, scrapes and the other brokers' answers waiting for a third of a second."""
    site = Site.new()
    site.cluster = FakeCluster(site.clock, nodes=1)
    for number in range(24):
        for log in site.cluster.create(f"topic-{number}", 50).logs:
            log.append(1)
    turns = Turns()

    async def script(life: Life) -> None:
        roster, intake = life.pipeline.roster, life.pipeline.intake
        roster.settled = turns.counted("positioned", roster.settled)  # type: ignore[method-assign]
        intake.answered = turns.counted("answered", intake.answered)  # type: ignore[method-assign]
        await life.until(lambda: len(site.footers()) > 0, "the first flush")

    site.run_life(script)
    for what in ("positioned", "answered"):
        assert turns.all(what) >= 1_200, what
        assert turns.most(what) <= TURN_PARTITIONS, what


def _first_life(topics: int, partitions: int) -> tuple[Counter[str], int, int]:
    """Questions asked of one broker until all is durable, tasks by then, objects stored."""
    site = Site.new()
    cluster = site.cluster = FakeCluster(site.clock, nodes=1)
    for number in range(topics):
        for log in cluster.create(f"topic-{number}", partitions).logs:
            log.append(1)
    asked: Counter[str] = Counter()
    tasks: list[int] = []
    cluster.metadata = _counting(asked, "metadata", cluster.metadata)  # type: ignore[method-assign]
    cluster.list_offsets = _counting(asked, "offsets", cluster.list_offsets)  # type: ignore[method-assign]
    cluster.topic_configs = _counting(asked, "configurations", cluster.topic_configs)  # type: ignore[method-assign]
    cluster.session = _counting(asked, "sessions", cluster.session)  # type: ignore[method-assign]

    async def script(life: Life) -> None:
        await life.until(lambda: len(site.keys("checkpoints/")) > 0, "the first checkpoint")
        tasks.append(len(asyncio.all_tasks()))

    site.run_life(script, stop=False)
    return asked, tasks[0], len(site.keys("segments/")) + len(site.keys("checkpoints/"))


def _counting(counts: Counter[str], what: str, inner: Callable[P, R]) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        counts[what] += 1
        return inner(*args, **kwargs)

    return call


def test_a_thousand_partitions_cost_no_more_requests_tasks_and_objects_than_two() -> None:
    """Hazard 56: serial start-up, a call, a task or a socket per partition."""
    assert _first_life(20, 50) == _first_life(1, 2)


def test_ten_thousand_topics_are_not_looked_through_for_each_new_one() -> None:
    """The search for each topic's predecessor stopped everything else for more than a second."""
    site = Site.new()
    for number in range(200):
        site.cluster.create(f"topic-{number}", 1)

    async def script(life: Life) -> None:
        topics = life.pipeline.roster.topics = CountedLooks(life.pipeline.roster.topics)
        await life.until(lambda: len(topics) == 200, "all are known")
        assert topics.looks < 20

    site.run_life(script)


def test_a_predecessor_is_found_among_topics_of_earlier_lives_too() -> None:
    site = Site.new()
    old = site.cluster.create("orders", 1)
    site.run_life(Life.durable)
    site.cluster.delete("orders")
    newer = [site.cluster.create("orders", 1)]

    async def script(life: Life) -> None:
        await life.durable()
        site.cluster.delete("orders")
        newer.append(site.cluster.create("orders", 1))
        await life.durable()

    site.run_life(script)
    seen = [event for footer in site.footers() for event in footer.events if isinstance(event, TopicSeen)]
    assert [event.previous for event in seen] == [None, old.id, newer[0].id]

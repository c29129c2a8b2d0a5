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
    site.cluster = type(site.cluster)(site.clock, nodes=1)
    for number in range(24):
        site.cluster.create(f"topic-{number}", 50)
    for topic in site.cluster.topics.values():
        for log in topic.logs:
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

"""What 10,000 topics and partitions cost the event loop (hazard 56)."""

from __future__ import annotations

from collections.abc import ValuesView

from kbackupd.capture.roster import CapturedTopic
from kbackupd.model.events import TopicSeen
from kbackupd.model.positions import TopicId
from tests.unit.capture.site import Life, Site


class CountedLooks(dict[TopicId, CapturedTopic]):
    """Counts how often somebody looks through all of it."""

    looks = 0

    def values(self) -> ValuesView[CapturedTopic]:  # type: ignore[override]  # what dict returns has no public name
        self.looks += 1
        return super().values()


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

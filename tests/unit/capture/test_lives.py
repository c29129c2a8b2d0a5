"""Killed at any moment, over any history of the cluster: the union of the archive is what the brokers hold.

Hypothesis picks what happens to the cluster, how long uploads take, at which turn of the event loop each life dies, and
which uploads on their way a server still stores. The last life drains in peace; then the archive is read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kbackupd.archive.partition_state import PartitionState
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from tests.fake_broker import FakeCluster, FakeTopic
from tests.unit.capture.site import Life, Site, positions

CALM = ("append", "append", "append", "append", "transaction", "elect", "wait")
STORMY = (
    *CALM,
    "create",
    "grow",
    "recreate",
    "truncate",
    "lose",
    "delete_records",
    "compact",
    "broker",
    "pause",
    "big",
    "corrupt",
    "error",
    "throttle",
)

BUSY = (
    *CALM,
    "backlog",
    "backlog",
    "backlog",
    "elect",
    "truncate",
    "lose",
    "delete_records",
    "broker",
    "pause",
    "throttle",
)
"""More is there than one answer holds, most of the time: the next request is under way while the last is checked."""


STEERED = (*(kind for kind in STORMY if kind != "corrupt"), "reload", "reload", "reload")


class World:
    """What happens to a cluster, by a die."""

    def __init__(self, cluster: FakeCluster, seed: int, kinds: tuple[str, ...]) -> None:
        self.cluster = cluster
        self._luck = random.Random(seed)
        self._kinds = kinds
        self._producers = 100
        self._open: list[tuple[str, int, int]] = []
        self._vanished: FakeTopic | None = None

    async def go_on(self, life: Life, events: int) -> None:
        for _ in range(events):
            await self.step(life)
            await asyncio.sleep(self._luck.choice((0.0, 0.01, 0.3, 1.5)))

    def settle(self) -> None:
        """The weather clears: every broker is up and knows every topic, nothing is throttled."""
        self._return()
        self.cluster.down.clear()
        self.cluster.throttle_ms = 0
        for topic in self.cluster.topics.values():
            for log in topic.logs:
                log.error = 0
                log.elect()
                log.append()

    def _return(self) -> None:
        """Brokers know again the topic that they had denied."""
        vanished, self._vanished = self._vanished, None
        if vanished is not None and vanished.name not in self.cluster.topics:
            self.cluster.topics[vanished.name] = vanished

    async def step(self, life: Life) -> None:
        luck, cluster = self._luck, self.cluster
        name = luck.choice(sorted(cluster.topics))
        number = luck.randrange(len(cluster.topics[name].logs))
        log = cluster.log(name, number)
        inside = luck.randint(log.log_start_offset, log.end_offset)
        match luck.choice(self._kinds):
            case "append":
                log.append(luck.randint(1, 5), value=b"v" * luck.choice((1, 100, 5_000)))
            case "big":
                log.append(1, value=b"b" * 1_500_000)
            case "backlog":
                for _ in range(luck.randint(2, 6)):
                    log.append(2, value=b"l" * 300_000)
            case "transaction":
                if self._open and luck.random() < 0.5:
                    at, partition, producer = self._open.pop()
                    if at in cluster.topics and partition < len(cluster.topics[at].logs):
                        cluster.log(at, partition).end_transaction(producer, committed=luck.random() < 0.7)
                else:
                    self._producers += 1
                    log.append(2, producer_id=self._producers, transactional=True)
                    self._open.append((name, number, self._producers))
            case "elect":
                log.elect(luck.randint(1, cluster.nodes))
            case "create":
                if len(cluster.topics) < 5:
                    cluster.create(f"topic-{len(cluster.topics)}", luck.randint(1, 2))
            case "grow":
                if len(cluster.topics[name].logs) < 4:
                    cluster.add_partitions(name, 1)
            case "recreate":
                cluster.delete(name)
                cluster.create(name, luck.randint(1, 2))
                for _ in range(luck.randint(0, 6)):
                    cluster.log(name).append(3)
            case "truncate":
                log.truncate(inside, leader_id=luck.randint(1, cluster.nodes))
                for _ in range(luck.randint(0, 4)):
                    log.append(luck.randint(1, 4))
            case "lose":
                log.lose()
                for _ in range(luck.randint(0, 4)):
                    log.append(luck.randint(1, 9))
            case "delete_records":
                log.delete_records(inside)
            case "compact":
                log.compact(
                    [b.base_offset for b in log.batches[:-1] if luck.random() < 0.5]
                    + [b.base_offset for b in log.batches[-1:]]
                )
            case "broker":
                node = luck.randint(1, cluster.nodes)
                cluster.down.symmetric_difference_update({node})
            case "pause":
                glob = luck.choice(("*", name))
                if glob in life.pipeline.roster.pauses:
                    await life.steering.resume(glob)
                elif any(p.topic == name and not p.closed for p in life.pipeline.roster.partitions.values()):
                    await life.steering.pause(glob)
            case "reload":
                included = life.site.settings.source.topics.exclude == ()
                life.reload(exclude=(luck.choice((name, "topic-*", "*")),) if included else ())
            case "error":
                log.error = luck.choice((0, 0, 3, 5, 56, 29))
            case "vanish":
                self._return()
                if len(cluster.topics) > 1 and not cluster.topics[name].internal:
                    self._vanished = cluster.topics.pop(name)
            case "throttle":
                cluster.throttle_ms = luck.choice((0, 0, 700))
            case _:
                await asyncio.sleep(luck.choice((1.0, 6.0)))


def uploads(luck: random.Random) -> Callable[[str], float]:
    return lambda key: luck.choice((0.01, 0.4, 3.0, 9.0)) if key.startswith("main/segments/") else 0.01


def lives(seed: int, kills: list[int], kinds: tuple[str, ...]) -> Site:
    """A site after some lives that were killed and one that drained."""
    site = Site.new(segment_max_bytes=200_000, flush_interval_seconds=0.5)
    site.upload_seconds = uploads(random.Random(seed))
    site.cluster.create("orders", 2)
    site.cluster.create("payments", 1, first_offset=1 << 33)
    site.cluster.create("__consumer_offsets", 1, internal=True)
    world = World(site.cluster, seed, kinds)

    async def killed(life: Life) -> None:
        await world.go_on(life, 20)
        site.land_late()
        while True:
            await world.go_on(life, 20)

    async def last(life: Life) -> None:
        world.settle()
        if site.settings.source.topics.exclude:
            life.reload(exclude=())
        for glob in list(life.pipeline.roster.pauses):
            if glob in life.pipeline.roster.pauses:
                await life.steering.resume(glob)
        await life.durable()
        last_life.append(life)

    last_life: list[Life] = []
    for number, turns in enumerate(kills):
        site.run_life(killed, turns=turns, seed=seed + number)
        recovered_alike(site)
    assert site.run_life(last, seed=seed)
    recovered_alike(site)
    state = last_life[0].pipeline.publisher.state
    recovered = site.recover().state
    assert _nameless(recovered.partitions) == _nameless(state.partitions)
    assert recovered.topics == state.topics
    return site


def _nameless(partitions: Mapping[PartitionId, PartitionState]) -> dict[PartitionId, PartitionState]:
    """Without the live conditions, which a checkpoint writes down for people."""
    return {id: replace(partition, state="") for id, partition in partitions.items()}


def recovered_alike(site: Site) -> None:
    """Checkpoints save time and know nothing that the segments do not (invariant I3)."""
    if not site.keys("backup.json"):
        return
    one, other = site.recover(), site.without_checkpoints().recover()
    assert positions(one) == positions(other)
    assert _nameless(one.state.partitions) == _nameless(other.state.partitions)
    assert one.state.topics == other.state.topics
    assert one.state.pauses == other.state.pauses
    assert one.state.chain_head == other.state.chain_head


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), kills=st.lists(st.integers(30, 2_000), min_size=1, max_size=4))
def test_lives_killed_at_any_turn_lose_and_double_nothing(seed: int, kills: list[int]) -> None:
    """Hazards 1, 2, 3, 4, 7, 26, 51 and 57: nothing is acknowledged before it is durable, and nothing skipped."""
    lives(seed, kills, CALM).check()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), kills=st.lists(st.integers(30, 2_000), min_size=1, max_size=4))
@example(seed=3_975_008_456, kills=[816, 1796])
def test_lives_killed_while_they_catch_up_in_any_weather_hold_what_the_brokers_hold(
    seed: int, kills: list[int]
) -> None:
    """The example: a dead life's first segment lands when the next one has seen the partition, begun higher by then."""
    kinds = (*(kind for kind in STORMY if kind != "corrupt"), "backlog", "backlog")
    lives(seed, kills, kinds).check(causes=tuple(GapCause))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), kills=st.lists(st.integers(30, 2_000), min_size=1, max_size=4))
@example(seed=3_708_847_978, kills=[1391, 1495, 34])
@example(seed=1_575_274_964, kills=[307, 1029, 169])
def test_lives_killed_while_they_catch_up_hold_what_the_brokers_hold(seed: int, kills: list[int]) -> None:
    """Answers that are checked while the next is fetched, over logs that are cut and leaders that move meanwhile.

    The example: nothing is held before the position but a gap, and the log that is found there is shorter and another.
    """
    lives(seed, kills, BUSY).check(causes=tuple(GapCause))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), kills=st.lists(st.integers(30, 2_000), min_size=1, max_size=4))
@example(seed=2_831_377_253, kills=[590, 525])
@example(seed=2_089, kills=[1745, 277, 1107, 1874])
@example(seed=411, kills=[83, 699])
@example(seed=482, kills=[1836, 885, 1346])
def test_lives_killed_in_any_weather_hold_what_the_brokers_hold(seed: int, kills: list[int]) -> None:
    """Hazards 5, 8, 11, 20, 21, 23, 40, 41 on top: topics come and go, logs are cut, lost and regrown, brokers fail."""
    causes = tuple(GapCause)
    site = lives(seed, kills, tuple(k for k in STORMY if k != "corrupt"))
    site.check(causes=causes)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), kills=st.lists(st.integers(30, 2_000), min_size=1, max_size=4))
def test_lives_killed_while_topics_are_left_out_and_included_again_hold_what_the_brokers_hold(
    seed: int, kills: list[int]
) -> None:
    """Invariant I6 under reloads: whatever was lost while configuration left a topic out is a gap with its cause."""
    lives(seed, kills, STEERED).check(causes=tuple(GapCause))


def test_a_topic_whose_first_event_was_lost_and_that_was_recreated_since_keeps_no_flush_waiting() -> None:
    """Found by killing at random: with no partition count on record none of its partitions was ever closed."""
    causes = tuple(GapCause)
    kinds = tuple(kind for kind in (*STORMY, "backlog", "backlog") if kind != "corrupt")
    lives(1_548_437_065, [559, 552], kinds).check(causes=causes)


def test_a_life_that_stored_nothing_leaves_no_checkpoint_that_knows_what_no_segment_says() -> None:
    """Invariant I3, found by killing at random: which late segment it had gone on without, only its checkpoint knew."""
    site = Site.new()
    site.cluster.create("orders").logs[0].append(3)

    async def pausing(life: Life) -> None:
        await life.durable()
        site.upload_seconds = lambda key: 1_000.0 if "/segments/" in key else 0.01
        asked = asyncio.ensure_future(life.steering.pause("orders"))
        await asyncio.sleep(1)
        asked.cancel()

    async def idling(life: Life) -> None:
        await asyncio.sleep(12)

    site.run_life(pausing, stop=False)
    late = site.stragglers
    assert [key for key in late if "/segments/" in key]
    site.upload_seconds = lambda key: 0.01
    site.run_life(idling, stop=False)
    for key, data in late.items():
        site.memory.tamper(key, data)
    recovered_alike(site)

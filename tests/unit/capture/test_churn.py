"""Topics come and go for years: what is long gone costs nothing any more, and nothing is lost should it come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kbackupd.archive import writer_state
from kbackupd.archive.writer_state import REMEMBERED_DELETED
from kbackupd.capture.roll import RollReason
from kbackupd.capture.sampling import partition_samples
from kbackupd.format.checkpoint import decode_checkpoint
from kbackupd.model.events import GapCause
from kbackupd.model.settings import StartPolicy
from tests.fake_broker import FakeLog, FakeTopic
from tests.unit.capture.site import Life, Site
from tests.unit.capture.test_lives import STORMY, lives, recovered_alike

CHURN = 3 * REMEMBERED_DELETED


async def _gone(life: Life, topic: FakeTopic) -> None:
    """Wait until brokers have denied the topic often enough."""
    life.pipeline.roster.metadata_wanted.set()
    known = life.pipeline.roster.topics
    await life.until(lambda: topic.id not in known or known[topic.id].closed, f"{topic.name} closed")


async def _come_and_go(life: Life, count: int, *, name: Callable[[int], str] = lambda number: f"job-{number}") -> None:
    for number in range(count):
        topic = life.site.cluster.create(name(number))
        topic.logs[0].append(2)
        life.pipeline.roster.metadata_wanted.set()
        await life.follows(topic.name)
        life.site.cluster.delete(topic.name)
        await _gone(life, topic)
    life.pipeline.seal(RollReason.FLUSH)
    await life.pipeline.all_durable()


@pytest.mark.parametrize("name", ["job-{}", "job"])
def test_topics_deleted_long_ago_cost_neither_memory_nor_checkpoints_nor_recovery(name: str) -> None:
    """Architecture: recovery's cost does not grow with the archive's age."""
    site = Site.new()
    kept = site.cluster.create("orders").logs[0]
    kept.append(3)
    few = REMEMBERED_DELETED + 1

    async def script(life: Life) -> None:
        await life.durable()
        await _come_and_go(life, CHURN, name=name.format)
        await life.durable()
        assert len(life.pipeline.roster.partitions) <= few
        assert len(life.pipeline.roster.topics) <= few
        assert len(life.pipeline.roster.names) <= few
        assert len(list(partition_samples(life.pipeline, site.clock))) <= few
        assert len(life.pipeline.publisher.state.partitions) <= few
        assert len(life.pipeline.publisher.state.topics) <= few

    site.run_life(script)
    newest = site.keys("checkpoints/")[-1]
    checkpoint = decode_checkpoint(newest, site.memory.objects[f"main/{newest}"])
    assert len(checkpoint.partitions) <= few
    assert len(checkpoint.topics) <= few
    recovered_alike(site)
    assert len(site.recover().state.partitions) <= few

    archive = site.check()
    gone = [topic for topic in archive.topics if topic.deleted_ms is not None]
    assert len(gone) == CHURN, "readers know them all: footers do"
    for topic in site.cluster.graveyard:
        site.check_log(archive, topic.logs[0])


def _wrongly_gone(after: Callable[[FakeLog], None]) -> tuple[Site, FakeLog]:
    """A topic believed gone for so long that it is forgotten; `after` happens to its log meanwhile."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(4)
    log.append(4)

    async def script(life: Life) -> None:
        await life.durable()
        topic = site.cluster.topics.pop("orders")
        await _gone(life, topic)
        await _come_and_go(life, REMEMBERED_DELETED + 1)
        assert log.id not in life.pipeline.roster.partitions
        assert log.id not in life.pipeline.publisher.state.partitions
        after(log)
        site.cluster.topics["orders"] = topic
        life.pipeline.roster.metadata_wanted.set()
        await life.durable()

    site.run_life(script)
    recovered_alike(site)
    return site, log


def test_a_forgotten_topic_that_comes_back_is_captured_from_its_log_start_and_read_once() -> None:
    def produced(log: FakeLog) -> None:
        log.append(5)

    site, log = _wrongly_gone(produced)
    site.check()
    log.append(2)
    site.run_life(Life.durable)
    archive = site.check()
    topic = archive.topic(log.id.topic_id)
    assert topic is not None
    assert topic.deleted_ms is None


def test_what_a_forgotten_topic_lost_before_it_came_back_is_a_gap_with_its_cause() -> None:
    def retention(log: FakeLog) -> None:
        log.append(5)
        log.append(5)
        log.delete_records(13)

    site, log = _wrongly_gone(retention)
    history = site.check(causes=(GapCause.LOG_START_MOVED,)).history(log.id)
    assert [(g.first_offset, g.next_offset, g.cause) for g in history.gaps] == [(8, 13, GapCause.LOG_START_MOVED)]


def test_a_forgotten_topic_whose_log_was_cut_before_it_came_back_reads_as_its_log_does() -> None:
    def unclean(log: FakeLog) -> None:
        log.truncate(4)
        log.append(1)

    site, _ = _wrongly_gone(unclean)
    site.check()


def test_a_lost_log_s_batch_that_reaches_into_the_regrown_log_is_read_only_up_to_where_that_begins() -> None:
    def lost(log: FakeLog) -> None:
        log.lose()
        log.append(6)
        log.append(6)
        log.delete_records(6)

    site, log = _wrongly_gone(lost)
    archive = site.check()
    assert [(first, end) for first, end, _ in site.stored(archive, log.id)] == [(0, 4), (4, 6), (6, 12)]


def test_a_topic_with_branches_is_never_forgotten_for_its_next_one_must_be_newer() -> None:
    """Readers take the newest branch: captured on branch 0 again, nothing of it would be seen."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(4)

    async def script(life: Life) -> None:
        await life.durable()
        log.truncate(2)
        log.append(2)
        await life.durable()
        topic = site.cluster.topics.pop("orders")
        await _gone(life, topic)
        await _come_and_go(life, REMEMBERED_DELETED + 1)
        log.append(3)
        site.cluster.topics["orders"] = topic
        life.pipeline.roster.metadata_wanted.set()
        await life.durable()

    site.run_life(script)
    recovered_alike(site)
    site.check()
    log.append(1)
    site.run_life(Life.durable)
    site.check()


def test_a_topic_that_comes_back_when_it_is_just_being_forgotten_goes_on() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(4)

    async def script(life: Life) -> None:
        await life.durable()
        topic = site.cluster.topics.pop("orders")
        await _gone(life, topic)
        await _come_and_go(life, REMEMBERED_DELETED - 1)
        site.upload_seconds = lambda key: 15.0 if key.startswith("main/segments/") else 0.01
        more = [site.cluster.create(f"more-{number}") for number in range(2)]
        for new in more:
            life.pipeline.roster.metadata_wanted.set()
            await life.follows(new.name)
            site.cluster.delete(new.name)
            await _gone(life, new)
        life.pipeline.seal(RollReason.FLUSH)
        site.cluster.topics["orders"] = topic
        log.append(3)
        life.pipeline.roster.metadata_wanted.set()
        await life.follows("orders")
        site.cluster.topics.pop("orders")
        await _gone(life, topic)
        await asyncio.sleep(5)
        site.cluster.topics["orders"] = topic
        life.pipeline.roster.metadata_wanted.set()
        await life.durable()

    site.run_life(script)
    recovered_alike(site)
    site.check()


def test_an_archive_all_of_whose_topics_are_forgotten_is_not_a_new_one() -> None:
    """`start: latest` skips what was there when the archive was made, not when the last topic went."""
    site = Site.new(start=StartPolicy.LATEST)

    async def script(life: Life) -> None:
        await _come_and_go(life, 1)

    with patch.object(writer_state, "REMEMBERED_DELETED", 0):
        site.run_life(script)
        log = site.cluster.create("orders").logs[0]
        log.append(3)
        assert not site.recover().state.partitions
        site.run_life(Life.durable)
        assert site.check().history(log.id).first_offset == 0


def test_an_incarnation_replaced_just_before_a_kill_is_told_gone_by_the_next_life() -> None:
    """Its successor's event alone does not say that it is gone: a broker that lags behind may still tell of it."""
    site = Site.new(flush_interval_seconds=0.5)
    old = site.cluster.create("orders").logs[0]
    old.append(3)
    site.run_life(Life.durable)
    site.cluster.delete("orders")
    site.cluster.create("orders").logs[0].append(1)

    async def killed(life: Life) -> None:
        await life.follows("orders")
        life.pipeline.seal(RollReason.FLUSH)
        await life.pipeline.all_durable()

    site.run_life(killed, stop=False)
    assert all(topic.deleted_ms is None for topic in site.archive().topics)

    async def script(life: Life) -> None:
        await life.until(lambda: life.pipeline.roster.topics[old.id.topic_id].closed, "the old incarnation closed")
        await life.durable()

    site.run_life(script)
    topic = site.check().topic(old.id.topic_id)
    assert topic is not None
    assert topic.deleted_ms is not None


COMING_AND_GOING = (*["vanish"] * 3, "recreate", "wait", "wait")
CUT = tuple(kind for kind in STORMY if kind not in ("corrupt", "compact"))
COMPACTED = tuple(kind for kind in STORMY if kind not in ("corrupt", "truncate", "lose"))
"""Not both: of a topic that is forgotten, cut and compacted before it comes back, some of the old tail may be read."""


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 32),
    kills=st.lists(st.integers(30, 2_000), min_size=1, max_size=4),
    remembered=st.integers(0, 2),
    kinds=st.sampled_from((CUT, COMPACTED)),
)
@example(seed=0, kills=[818, 384], remembered=0, kinds=CUT)
@example(seed=226, kills=[95, 1784, 1343, 1156], remembered=0, kinds=COMPACTED)
def test_lives_killed_among_topics_that_vanish_and_return_hold_what_the_brokers_hold(
    seed: int, kills: list[int], remembered: int, kinds: tuple[str, ...]
) -> None:
    """Whatever is forgotten, and whenever it comes back: nothing is lost, doubled or made up."""
    with patch.object(writer_state, "REMEMBERED_DELETED", remembered):
        lives(seed, kills, (*kinds, *COMING_AND_GOING)).check(causes=tuple(GapCause))


def test_a_broker_that_lags_behind_and_still_knows_no_leader_takes_no_partition_away_from_the_one_elected_since() -> (
    None
):
    """Hazard 41: every third round of metadata it stopped what another leader was giving us, and called it failed."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        log.append(3)
        await life.durable()
        site.cluster.down.add(1)
        leaderless = site.cluster.picture()
        log.elect(2)
        await life.until(lambda: life.partition("orders").leader_id == 2, "the new leader is known")
        await life.follows("orders")
        site.cluster.lagging.extend([leaderless, leaderless])
        life.pipeline.roster.metadata_wanted.set()
        await life.until(lambda: not site.cluster.lagging, "it answered")
        await asyncio.sleep(0.01)
        assert life.partition("orders").leader_id == 2
        assert life.partition("orders").failures == 0

    site.run_life(script)
    site.check()

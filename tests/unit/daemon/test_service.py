"""What the daemon says of itself: ready when it follows, healthy only while every tier meets its target (hazard 44)."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.archive.identity import open_or_create
from kbackupd.daemon.service import Service
from kbackupd.model.errors import UnreachableError
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.scoped import ScopedStore
from tests.fake_broker import CLUSTER_ID
from tests.unit.capture.site import BACKUP_ID, Life, Site


def serving(site: Site, problems: Problems) -> Service:
    return Service(
        settings=site.settings, clock=site.clock, metrics=Metrics(site.clock, version="test"), problems=problems
    )


async def served(life: Life) -> Service:
    service = serving(life.site, life.problems)
    document, _ = await open_or_create(
        ScopedStore(life.site.memory, BACKUP_ID),
        backup_id=BACKUP_ID,
        cluster_id=CLUSTER_ID,
        start="earliest",
        clock=life.site.clock,
    )
    service.began(document, writer_epoch=1, pipeline=life.pipeline, steering=life.steering)
    return service


async def test_while_it_takes_over_the_archive_it_lives_is_not_ready_and_says_why() -> None:
    site = Site.new()
    service = serving(site, Problems(site.clock))
    health = service.health()
    assert (health.live, health.ready, health.healthy) == (True, False, False)
    assert health.reasons == ("taking over the archive",)
    for verb in (service.flush, service.pause, service.resume):
        with pytest.raises(UnreachableError, match="still starting"):
            await verb("*")


def test_it_is_ready_and_healthy_once_all_partitions_are_followed() -> None:
    site = Site.new()
    site.cluster.create("orders", 2)

    async def script(life: Life) -> None:
        service = await served(life)
        assert not service.health().ready
        await life.durable()
        health = service.health()
        assert (health.ready, health.healthy, health.reasons) == (True, True, ())
        status = service.status()
        assert (status.ready, status.cluster_id, status.writer_epoch) == (True, CLUSTER_ID, 1)
        assert [(t.name, t.states) for t in status.topics] == [("orders", {"following": 2})]

    site.run_life(script)


def test_a_missed_target_turns_it_red_with_the_reason_and_never_unready() -> None:
    """Hazard 44: readiness is about starting; health is what alerts read."""
    site = Site.new()
    site.cluster.create("orders")

    async def script(life: Life) -> None:
        service = await served(life)
        await life.durable()
        assert service.health().healthy
        site.cluster.down.add(1)
        await asyncio.sleep(400)
        health = service.health()
        assert (health.ready, health.healthy) == (True, False)
        assert any("is above its target of 5m" in reason for reason in health.reasons)
        site.cluster.down.clear()
        await life.until(lambda: service.health().healthy, "healthy again")

    site.run_life(script)


def test_a_topic_made_after_a_long_life_is_not_as_exposed_as_the_daemon_is_old() -> None:
    site = Site.new()
    site.cluster.create("orders")

    async def script(life: Life) -> None:
        service = await served(life)
        await life.durable()
        await asyncio.sleep(3_600)
        assert service.health().healthy
        site.cluster.create("new")
        life.pipeline.roster.metadata_wanted.set()
        await life.until(lambda: life.state("new") is not None, "sight")
        assert service.health().healthy

    site.run_life(script)


def test_partitions_nobody_answered_for_since_the_start_turn_it_red_in_time() -> None:
    site = Site.new()
    site.cluster.create("orders", 2)
    site.cluster.log("orders").error = 29

    async def script(life: Life) -> None:
        service = await served(life)
        await asyncio.sleep(400)
        assert not service.health().healthy
        assert any("exposure" in reason for reason in service.health().reasons)

    site.run_life(script)


def test_a_paused_topic_is_not_called_healthy_beyond_its_target() -> None:
    site = Site.new()
    site.cluster.create("orders")

    async def script(life: Life) -> None:
        service = await served(life)
        await life.durable()
        await service.pause("orders")
        await asyncio.sleep(400)
        assert not service.health().healthy
        assert service.status().topics[0].paused

    site.run_life(script)

"""What the daemon says of itself: ready when it follows, healthy only while every tier meets its target (hazard 44)."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.archive.identity import open_or_create
from kbackupd.daemon.life import DaemonLife
from kbackupd.daemon.service import Service
from kbackupd.daemon.systemd import Heartbeat, ServiceManager
from kbackupd.model.errors import UnreachableError
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.scoped import ScopedStore
from tests.fake_broker import CLUSTER_ID
from tests.fake_groups import FakeCoordinators
from tests.unit.capture.site import BACKUP_ID, Life, Site
from tests.virtual_time import run


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
    assert (health.ready, health.healthy) == (False, False)
    assert health.reasons == ("taking over the archive",)
    for verb in (service.flush, service.pause, service.resume):
        with pytest.raises(UnreachableError, match="still starting"):
            await verb("*")


async def test_a_start_that_waits_for_the_store_says_so_to_whoever_asks() -> None:
    site = Site.new()
    problems = Problems(site.clock)
    service = serving(site, problems)
    problems.report("store get", "s3://bucket: connection refused")
    assert service.health().reasons == ("taking over the archive", "store get: s3://bucket: connection refused")
    with pytest.raises(UnreachableError, match="connection refused"):
        await service.flush("*")


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


def test_what_is_not_known_yet_is_not_called_healthy() -> None:
    """Hazard 44: until the first answers nobody can say that a target is met."""
    site = Site.new()
    site.cluster.create("orders", 2)

    async def script(life: Life) -> None:
        service = await served(life)
        health, status = service.health(), service.status()
        assert (health.ready, health.healthy) == (False, False)
        assert (status.ready, status.healthy) == (False, False)
        await life.until(lambda: service.health().healthy, "healthy")
        assert service.health().ready

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


def test_a_corrupt_batch_that_was_kept_is_a_note_and_no_reason_to_be_red_for_ever() -> None:
    """Hazard 44 from the other side: a health that nothing turns green again is looked at by nobody."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(3):
        log.append(5)
    log.corrupt(5)

    async def script(life: Life) -> None:
        service = await served(life)
        await life.durable()
        health = service.health()
        assert (health.ready, health.healthy, health.reasons) == (True, True, ())
        (note,) = service.status().notes
        assert (note.subject, note.message) == (
            "orders/0",
            "offsets [5, 10) fail their CRC at the source; kept as they are, flagged",
        )
        assert service.status().problems == ()
        assert life.metrics.registry.get_sample_value("kbackupd_corrupt_batches_total") == 1

    site.run_life(script)


def test_a_damaged_object_met_at_the_start_is_a_note_and_counted() -> None:
    site = Site.new()
    site.cluster.create("orders").logs[0].append(5)
    site.run_life(Life.durable)
    damaged = site.keys("checkpoints/")[-1]
    site.memory.tamper(f"{BACKUP_ID}/{damaged}", b"not a checkpoint")
    site.with_settings(memory_limit_bytes=1 << 40)  # of this process, which is the tests' own
    problems, metrics = Problems(site.clock), Metrics(site.clock, version="test")
    service = Service(settings=site.settings, clock=site.clock, metrics=metrics, problems=problems)
    life = DaemonLife(
        settings=site.settings,
        source=site.cluster,
        questions=FakeCoordinators(site.clock),
        store=ScopedStore(site.memory, BACKUP_ID),
        service=service,
        heart=Heartbeat(ServiceManager(), health=service.health, clock=site.clock),
        clock=site.clock,
        metrics=metrics,
        problems=problems,
    )

    async def start() -> None:
        await life._take_over()

    run(start(), clock=site.clock)
    assert [note.subject for note in problems.notes()] == [f"object {damaged}"]
    assert problems.current() == ()
    assert metrics.registry.get_sample_value("kbackupd_damaged_objects_total") == 1


def test_the_metric_and_the_status_count_the_same_uploads() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        service = await served(life)
        await life.durable()
        site.upload_seconds = lambda key: 15.0
        for _ in range(3):
            log.append(5)
            await asyncio.sleep(3)
        assert service.status().uploads_in_flight == 3
        assert b"kbackupd_uploads_in_flight 3.0\n" in service.render_metrics()
        site.upload_seconds = lambda key: 0.01

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

"""What a start does before it captures: whose memory counts, and what a start that cannot go on leaves alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kbackupd.archive import recovery
from kbackupd.daemon import life as daemon
from kbackupd.daemon import take_over
from kbackupd.daemon.memory import RESERVE_BYTES, rss_bytes
from kbackupd.daemon.service import Service
from kbackupd.daemon.systemd import Heartbeat, ServiceManager
from kbackupd.model.errors import ConfigurationError, KafkaUnavailableError
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.scoped import ScopedStore
from tests.fake_broker import LATENCY_SECONDS
from tests.fake_groups import FakeCoordinators
from tests.unit.capture.site import BACKUP_ID, Life, Site
from tests.virtual_time import run


def life_at(site: Site, *, positions: FakeCoordinators | None = None) -> tuple[daemon.DaemonLife, Service]:
    metrics, problems = Metrics(site.clock, version="test"), Problems(site.clock)
    service = Service(settings=site.settings, clock=site.clock, metrics=metrics, problems=problems)
    life = daemon.DaemonLife(
        settings=site.settings,
        source=site.cluster,
        questions=FakeCoordinators(site.clock),
        positions=positions,
        store=ScopedStore(site.memory, BACKUP_ID),
        service=service,
        heart=Heartbeat(ServiceManager(), health=service.health, clock=site.clock),
        clock=site.clock,
        metrics=metrics,
        problems=problems,
    )
    return life, service


def test_what_recovery_leaves_in_memory_is_not_given_to_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed before it, the budget took what 10,000 recovered partitions need out of the reserve (invariant I9)."""
    site = Site.new()
    site.cluster.create("orders", 3)
    site.run_life(Life.durable)
    site.with_settings(memory_limit_bytes=1 << 40)  # of this process, which is the tests' own
    happened: list[str] = []

    async def recovering(*args: object, **settings: object) -> recovery.Recovery:
        found = await recovery.recover(*args, **settings)  # type: ignore[arg-type]  # handed on as they came
        happened.append(f"{len(found.state.partitions)} partitions recovered")
        return found

    def counting(memory_limit_bytes: int) -> int:
        happened.append("budget fixed")
        return memory_limit_bytes // 2

    monkeypatch.setattr(take_over, "recover", recovering)
    monkeypatch.setattr(daemon, "budget_bytes", counting)

    async def main() -> None:
        life, service = life_at(site)
        running = asyncio.create_task(life.run())
        async with asyncio.timeout(60):
            while not service.health().ready:  # noqa: ASYNC110  virtual time, and nothing tells when it is
                await asyncio.sleep(0.1)
        assert service.status().memory.budget_bytes == site.settings.backup.memory_limit_bytes // 2
        life.stop()
        await running

    run(main(), clock=site.clock)
    assert happened == ["3 partitions recovered", "budget fixed"]


def test_a_daemon_without_memory_to_work_with_does_not_fence_the_one_that_runs() -> None:
    site = Site.new()
    site.cluster.create("orders", 1)
    site.run_life(Life.durable)
    claims = site.keys("writers/")
    site.with_settings(memory_limit_bytes=rss_bytes() + RESERVE_BYTES)

    async def main() -> None:
        life, _ = life_at(site)
        with pytest.raises(ConfigurationError, match="memory_limit"):
            await life.run()

    run(main(), clock=site.clock)
    assert site.keys("writers/") == claims


def test_brokers_that_come_back_within_a_minute_are_waited_for_and_status_says_so_meanwhile() -> None:
    site = Site.new()
    site.cluster.create("a")
    site.with_settings(memory_limit_bytes=1 << 40)  # of this process, which is the tests' own
    site.cluster.metadata_fails = 6
    life, service = life_at(site)

    async def start() -> tuple[str, ...]:
        taking = asyncio.ensure_future(life._take_over())
        await asyncio.sleep(1)
        reasons = service.health().reasons
        await taking
        return reasons

    assert "kafka: no broker answers for metadata" in run(start(), clock=site.clock)
    assert not any(problem.subject == "kafka" for problem in life.problems.current())


def test_brokers_that_stay_away_end_the_start_after_a_minute_and_nothing_is_written() -> None:
    site = Site.new()
    site.with_settings(memory_limit_bytes=1 << 40)  # of this process, which is the tests' own
    site.cluster.metadata_fails = 10_000
    life, _ = life_at(site)
    began = site.clock.monotonic()
    with pytest.raises(KafkaUnavailableError):
        run(life._take_over(), clock=site.clock)
    # The last try begins when the minute is over, and no later.
    assert site.clock.monotonic() - began == pytest.approx(60.0 + LATENCY_SECONDS)
    assert not site.memory.objects


def test_a_reload_reaches_what_commits_to_the_consumer_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interval is that of checkpoints, which is obeyed while the daemon runs."""
    site = Site.new()
    site.cluster.create("orders")
    site.with_settings(memory_limit_bytes=1 << 40)  # of this process, which is the tests' own
    life, _ = life_at(site, positions=FakeCoordinators(site.clock))

    async def reload() -> list[float]:
        pipeline, snapshots = await life._take_over()
        assert life._committer is not None
        told: list[float] = []
        monkeypatch.setattr(life._committer, "every", told.append)
        backup = replace(site.settings.backup, checkpoint_interval_seconds=77.0)
        life._obey(replace(site.settings, backup=backup), pipeline, snapshots)
        return told

    assert run(reload(), clock=site.clock) == [77.0]

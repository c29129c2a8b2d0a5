"""Reading the configuration again: wrong, it changes nothing and says so; right, it holds at once and as a whole."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from kbackupd.archive.identity import open_or_create
from kbackupd.daemon.reload import Reloader, no_configuration, reloading_on_hangup
from kbackupd.daemon.service import Service
from kbackupd.daemon.systemd import Heartbeat, ServiceManager
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import ConfigurationError, RefusedError, UnreachableError
from kbackupd.model.settings import DaemonSettings, TierSettings
from kbackupd.observe.logging import set_level
from kbackupd.observe.problems import Problems
from kbackupd.settings import show
from kbackupd.settings.load import load_daemon_settings
from kbackupd.store.scoped import ScopedStore
from tests.fake_broker import CLUSTER_ID
from tests.unit.capture.site import BACKUP_ID, Life, Site

FILE = """\
backup_id: main
source:
  bootstrap_servers: [kafka-1:9092]
storage:
  type: s3
  s3: {bucket: my-kafka-backups, access_key_id: AKIA0000, secret_access_key: "${SECRET}"}
backup: {flush_interval: 10s}
"""
ENVIRON = {"SECRET": "verysecret"}


class Daemon:
    """A reloader over a real file, and what it was told to obey."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text(FILE)
        self.problems = Problems(ManualClock())
        self.obeyed: list[DaemonSettings] = []
        self.heart = Heart()
        self.reloader = Reloader(
            settings=load_daemon_settings(path, ENVIRON),
            load=lambda: load_daemon_settings(path, ENVIRON),
            heart=self.heart,
            problems=self.problems,
        )

    def write(self, old: str, new: str) -> None:
        assert old in FILE
        self.path.write_text(FILE.replace(old, new))


class Heart(Heartbeat):
    """Says nothing to anybody and remembers it."""

    def __init__(self) -> None:
        super().__init__(ServiceManager(), health=lambda: pytest.fail("nobody listens"), clock=ManualClock())
        self.said: list[str] = []

    def reloading(self) -> None:
        self.said.append("reloading")

    def reloaded(self) -> None:
        self.said.append("reloaded")


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "kbackupd.yaml")


async def test_what_can_be_obeyed_is_and_the_rest_keeps_its_running_value(daemon: Daemon) -> None:
    daemon.reloader.began(daemon.obeyed.append)
    daemon.write("{flush_interval: 10s}", "{flush_interval: 5s, memory_limit: 1GiB}")
    report = await daemon.reloader.reload()
    assert [(one.key, one.before, one.after) for one in report.applied] == [("backup.flush_interval", "10s", "5s")]
    assert [(one.key, one.running, one.wanted) for one in report.needs_restart] == [
        ("backup.memory_limit", "384MiB", "1GiB")
    ]
    (obeyed,) = daemon.obeyed
    assert obeyed == daemon.reloader.settings
    assert (obeyed.backup.flush_interval_seconds, obeyed.backup.memory_limit_bytes) == (5.0, 384 << 20)
    assert daemon.heart.said == ["reloading", "reloaded"]


async def test_what_waits_for_a_restart_is_a_note_until_it_does_not_any_more(daemon: Daemon) -> None:
    daemon.reloader.began(daemon.obeyed.append)
    daemon.write("backup_id: main", "backup_id: other")
    await daemon.reloader.reload()
    (note,) = daemon.problems.notes()
    assert (note.subject, note.message) == ("configuration", "changed, and not in force before a restart: backup_id")
    assert daemon.problems.current() == ()
    assert daemon.obeyed == []
    daemon.path.write_text(FILE)
    await daemon.reloader.reload()
    assert daemon.problems.notes() == ()


async def test_a_wrong_configuration_changes_nothing_and_is_a_problem_in_the_words_of_config_check(
    daemon: Daemon,
) -> None:
    daemon.reloader.began(daemon.obeyed.append)
    before = daemon.reloader.settings
    daemon.write("{flush_interval: 10s}", "{flush_interval: 5s, segment_maxbytes: 1MiB}")
    with pytest.raises(ConfigurationError) as refused:
        await daemon.reloader.reload()
    with pytest.raises(ConfigurationError) as checked:
        show(daemon.path, ENVIRON)
    assert (refused.value.message, refused.value.hint) == (checked.value.message, checked.value.hint)
    assert (refused.value.exit_code, daemon.obeyed, daemon.reloader.settings) == (2, [], before)
    (problem,) = daemon.problems.current()
    assert problem.subject == "configuration"
    assert checked.value.message in problem.message
    assert "verysecret" not in problem.message + problem.hint
    daemon.path.write_text(FILE)
    assert (await daemon.reloader.reload()).applied == ()
    assert daemon.problems.current() == ()
    assert daemon.heart.said == ["reloading", "reloaded"] * 2


async def test_a_file_that_is_gone_is_a_wrong_configuration(daemon: Daemon) -> None:
    daemon.reloader.began(daemon.obeyed.append)
    os.unlink(daemon.path)
    with pytest.raises(ConfigurationError, match="no such file"):
        await daemon.reloader.reload()


async def test_a_secret_that_changed_is_told_as_changed_and_not_told(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hazard 48."""
    daemon.reloader.began(daemon.obeyed.append)
    daemon.write("AKIA0000", "AKIA1111")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    report = await daemon.reloader.reload()
    assert [(one.key, one.wanted) for one in report.needs_restart] == [("storage.s3.access_key_id", "**********")]
    text = repr(report) + repr(daemon.problems.notes()) + capsys.readouterr().out
    assert "AKIA" not in text
    assert "configuration.reloaded" in text
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


async def test_before_the_start_is_done_and_once_it_drains_it_says_so(daemon: Daemon) -> None:
    with pytest.raises(UnreachableError, match="still starting"):
        await daemon.reloader.reload()
    daemon.reloader.began(daemon.obeyed.append)
    daemon.reloader.stopping()
    with pytest.raises(UnreachableError, match="stopping"):
        await daemon.reloader.reload()
    assert daemon.heart.said == []


async def test_a_drain_that_begins_while_the_file_is_read_is_told_nothing(daemon: Daemon) -> None:
    """An event recorded after the last segment was closed would never be stored."""
    daemon.write("10s", "5s")

    def slow() -> DaemonSettings:
        daemon.reloader.stopping()
        return load_daemon_settings(daemon.path, ENVIRON)

    daemon.reloader._load = slow
    daemon.reloader.began(daemon.obeyed.append)
    with pytest.raises(UnreachableError, match="stopping"):
        await daemon.reloader.reload()
    assert daemon.obeyed == []


async def test_with_nothing_to_read_again_it_is_refused(daemon: Daemon) -> None:
    reloader = Reloader(
        settings=daemon.reloader.settings, load=no_configuration, heart=daemon.heart, problems=daemon.problems
    )
    reloader.began(daemon.obeyed.append)
    with pytest.raises(RefusedError, match="only once"):
        await reloader.reload()


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not met():  # noqa: ASYNC110  what is waited for is state of the code under test
            await asyncio.sleep(0.005)


async def test_a_hangup_during_the_start_is_obeyed_when_it_is_done(daemon: Daemon) -> None:
    daemon.write("10s", "5s")
    async with reloading_on_hangup(daemon.reloader):
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)
        assert daemon.obeyed == []
        daemon.reloader.began(daemon.obeyed.append)
        await until(lambda: bool(daemon.obeyed))
    assert daemon.obeyed[0].backup.flush_interval_seconds == 5.0


async def test_a_hangup_over_a_wrong_file_ends_nothing_and_the_next_one_is_obeyed(daemon: Daemon) -> None:
    daemon.reloader.began(daemon.obeyed.append)
    daemon.write("10s", "10")
    async with reloading_on_hangup(daemon.reloader):
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: bool(daemon.problems.current()))
        daemon.write("10s", "5s")
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: bool(daemon.obeyed))
        assert daemon.problems.current() == ()


async def test_a_hangup_that_nothing_can_obey_is_in_the_log(daemon: Daemon) -> None:
    """`run --once` reads its configuration once: whoever sends SIGHUP to it must not believe that it was obeyed."""
    reloader = Reloader(
        settings=daemon.reloader.settings, load=no_configuration, heart=daemon.heart, problems=daemon.problems
    )
    reloader.began(daemon.obeyed.append)
    set_level("info")
    with structlog.testing.capture_logs() as said:
        async with reloading_on_hangup(reloader):
            signal.raise_signal(signal.SIGHUP)
            await until(lambda: bool(said))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    assert [(line["event"], line["log_level"]) for line in said] == [("configuration.refused", "warning")]
    assert "only once" in said[0]["error"]
    assert (daemon.obeyed, daemon.problems.current()) == ([], ())


def test_the_service_judges_by_the_new_targets_and_the_metrics_have_them() -> None:
    site = Site.new()
    site.cluster.create("orders")

    async def script(life: Life) -> None:
        service = Service(settings=site.settings, clock=site.clock, metrics=life.metrics, problems=life.problems)
        document, _ = await open_or_create(
            ScopedStore(site.memory, BACKUP_ID),
            backup_id=BACKUP_ID,
            cluster_id=CLUSTER_ID,
            start="earliest",
            clock=site.clock,
        )
        service.began(document, writer_epoch=1, pipeline=life.pipeline, steering=life.steering)
        with pytest.raises(RefusedError, match="only once"):
            await service.reload()
        await life.durable()
        site.cluster.down.add(1)
        await asyncio.sleep(120)
        assert not any("exposure" in reason for reason in service.health().reasons)
        assert b"kbackupd_partition_lag_records" not in service.render_metrics()
        strict = replace(
            site.settings,
            tiers=(TierSettings(name="critical", topics=("*",), rpo_seconds=60.0, rto_seconds=900.0),),
            observability=replace(site.settings.observability, per_partition_metrics=True),
        )
        life.pipeline.reconfigure(strict)
        service.reconfigure(strict)
        assert any("tier critical: exposure" in reason for reason in service.health().reasons)
        assert [tier.name for tier in service.status().tiers] == ["critical"]
        rendered = service.render_metrics()
        assert b'kbackupd_rpo_target_seconds{tier="critical"} 60.0' in rendered
        assert b'tier="standard"' not in rendered
        assert b'kbackupd_partition_lag_records{partition="0",tier="critical",topic="orders"}' in rendered
        site.cluster.down.clear()

    site.run_life(script)


def test_another_log_level_holds_for_loggers_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger()
    set_level("error")
    log.info("quiet.kept")
    set_level("debug")
    log.debug("loud.told")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    out = capsys.readouterr().out
    assert "loud.told" in out
    assert "quiet.kept" not in out

"""A daemon has its archive rolled up by itself, in a process that never outlives it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.s3_proxy import Answer, S3Proxy, Stall
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import Backup, flush, follows, problems
from tests.integration.conditions import reaches, runs

Names = Callable[[], str]

SEGMENTS = 4
"""Of a roll-up of level 1; two of these are merged."""


def small(backup: Backup, topic: str, endpoint: str = "") -> Daemon:
    return backup.daemon(topic, endpoint=endpoint, odd=("--rollup-segments", str(SEGMENTS)), rollup_interval="1s")


async def grow(backup: Backup, daemon: Daemon, topic: str, segments: int) -> None:
    """One after the other, so that each batch has a segment of its own."""
    for _ in range(segments):
        backup.fill(topic, 0, batches=1, records=3)
        assert not (await flush(daemon)).left_out


def children(daemon: Daemon) -> list[int]:
    """Processes that roll up for it."""
    found = []
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if directory.name.isdecimal() and b"kbackupd.daemon.rollup_child" in (directory / "cmdline").read_bytes():
                parent = int((directory / "stat").read_text().rsplit(")", 1)[1].split()[1])
                found += [int(directory.name)] if parent == daemon.pid else []
    return found


def metric(daemon: Daemon, series: str) -> float:
    _, body = daemon.get("/metrics")
    return next((float(line.split()[-1]) for line in body.decode().splitlines() if line.startswith(f"{series} ")), -1.0)


def rolled_up(backup: Backup, level: int) -> list[str]:
    return [key for key in backup.objects("rollups/") if f"/{level:02}/" in key]


async def test_a_daemon_rolls_up_and_its_archive_is_opened_through_that(backup: Backup, unique_topic: Names) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=1)
    daemon = small(backup, topic)
    daemon.start()
    await follows(daemon, topic, 1)
    await grow(backup, daemon, topic, 2 * SEGMENTS + 3)
    await reaches(lambda: bool(rolled_up(backup, 2)), "two roll-ups merged")
    await reaches(lambda: 0 <= metric(daemon, "kbackupd_segments_not_rolled_up") <= SEGMENTS, "told in the metrics")
    assert metric(daemon, 'kbackupd_rollup_runs_total{outcome="ok"}') >= 1
    assert metric(daemon, 'kbackupd_rollup_runs_total{outcome="failed"}') == 0
    assert problems(daemon) == {}
    assert daemon.stop() == 0
    assert await backup.verbatim({topic: 1}) == 2 * SEGMENTS + 3
    async with backup.archive() as archive:
        assert archive.catalog.rollups
        assert not archive.lost


async def test_a_killed_daemon_leaves_no_process_behind_and_the_next_life_rolls_up(
    backup: Backup, unique_topic: Names, proxy: S3Proxy
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=1)
    rule = proxy.strike(Stall(), key_part=f"{backup.prefix}/main/rollups/")
    daemon = small(backup, topic, proxy.endpoint)
    daemon.start()
    await follows(daemon, topic, 1)
    await grow(backup, daemon, topic, SEGMENTS + 3)
    await reaches(lambda: bool(rule.struck), "a roll-up has begun and hangs")
    (child,) = children(daemon)
    daemon.kill()
    await reaches(lambda: not runs(child), "it is gone with its daemon")
    proxy.clear()
    daemon = small(backup, topic, proxy.endpoint)
    daemon.start()
    await reaches(lambda: bool(rolled_up(backup, 1)), "the next life has rolled up")
    assert daemon.stop() == 0
    assert await backup.verbatim({topic: 1}) == SEGMENTS + 3


async def test_a_drain_does_not_wait_for_a_roll_up_that_hangs(
    backup: Backup, unique_topic: Names, proxy: S3Proxy
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=1)
    rule = proxy.strike(Stall(), key_part=f"{backup.prefix}/main/rollups/")
    daemon = small(backup, topic, proxy.endpoint)
    daemon.start()
    await follows(daemon, topic, 1)
    await grow(backup, daemon, topic, 2)
    await reaches(lambda: bool(rule.struck), "a roll-up has begun and hangs")
    (child,) = children(daemon)
    assert daemon.stop() == 0
    assert not runs(child)


async def test_a_roll_up_that_fails_is_told_and_concerns_no_record(
    backup: Backup, unique_topic: Names, proxy: S3Proxy
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=1)
    proxy.strike(Answer(status=403, code="AccessDenied"), key_part=f"{backup.prefix}/main/rollups/")
    daemon = small(backup, topic, proxy.endpoint)
    daemon.start()
    await follows(daemon, topic, 1)
    await reaches(lambda: "roll-ups" in problems(daemon), "the denial is a problem")
    assert metric(daemon, 'kbackupd_rollup_runs_total{outcome="failed"}') >= 1
    await grow(backup, daemon, topic, SEGMENTS + 3)
    proxy.clear()
    await reaches(lambda: bool(rolled_up(backup, 1)), "rolled up once it is permitted")
    await reaches(lambda: "roll-ups" not in problems(daemon), "and no problem any more")
    assert daemon.stop() == 0
    assert await backup.verbatim({topic: 1}) == SEGMENTS + 3

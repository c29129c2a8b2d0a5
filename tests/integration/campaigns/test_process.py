"""What happens to the process itself, under load: told to stop, frozen, its clock stepped, its output blocked, its
descriptors or its disk used up, another one beside it. Nothing is lost or doubled, and nobody has to help.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import struct
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from kbackupd.format.keys import parse_segment_key
from kbackupd.testbed.covered import flush_to_the_ends
from kbackupd.testbed.daemon import kbackupd_command
from kbackupd.testbed.odd_daemon import ClockFile
from kbackupd.testbed.proxy import Reset
from kbackupd.testbed.small_disk import SmallDisk
from kbackupd.testbed.truth import compare_records, read_topic
from tests.integration.campaigns.steady import (
    SteadyBackup,
    complained,
    exposed,
    exposure,
    recovered,
    stores,
)
from tests.integration.capture.backup import complaints, follows, problems
from tests.integration.capture.test_leaving import logged
from tests.integration.conditions import reaches

KIB, MIB = 1 << 10, 1 << 20


async def test_told_to_stop_under_load_again_and_again_it_leaves_with_code_0_and_the_next_life_reads_no_segment(
    steady: SteadyBackup,
) -> None:
    daemon = steady.daemon()
    steady.produce()
    for life in range(1, 4):
        daemon.start()
        await stores(daemon, 2)
        assert daemon.stop() == 0
        assert [entry["footers_read"] for entry in logged(daemon, "positions.recovered")] == [0] * life
    daemon.start()
    await steady.exact(daemon)


@pytest.mark.parametrize(
    "seconds", [10.0, pytest.param(75.0, marks=pytest.mark.soak)], ids=["ten seconds", "more than a minute"]
)
async def test_frozen_under_load_it_says_how_far_it_is_behind_when_it_wakes_and_catches_up(
    seconds: float, steady: SteadyBackup
) -> None:
    daemon = steady.daemon()
    daemon.start()
    steady.produce()
    await recovered(daemon)
    pid = daemon.pid
    assert pid is not None
    log_began = daemon.log.stat().st_size

    daemon.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)  # being frozen for so long is what this test is about
    daemon.signal(signal.SIGCONT)

    await recovered(daemon)
    assert daemon.pid == pid
    assert len(complained(daemon, since=log_began)) <= 30
    await steady.exact(daemon)


async def test_hazard_55_a_clock_stepped_back_and_forth_under_load_disturbs_neither_order_nor_exposure_nor_contents(
    steady: SteadyBackup, tmp_path: Path
) -> None:
    clock = ClockFile(tmp_path / "clock")
    daemon = steady.daemon(odd=("--clock-file", str(clock.path)))
    daemon.start()
    steady.produce()
    await recovered(daemon)

    for wrong_seconds in (-7200, 7200, -3600, 0):
        clock.step_to(wrong_seconds)
        await stores(daemon, 6, checkpoints=2)  # by the wrong clock: more than can have been on their way before
        assert (exposure(daemon) or 0.0) < 1000  # by the wall clock it would be an hour
        if wrong_seconds == 7200:
            daemon.kill()
            daemon.start()
    await steady.exact(daemon)

    found = [parse_segment_key(key) for key in steady.backup.objects("segments/main/")]
    keys = sorted((key for key in found if key is not None), key=lambda key: (key.writer_epoch, key.seq))
    sealed = [key.sealed_ms for key in keys]
    assert sealed == sorted(sealed)
    assert sealed[-1] - sealed[0] > 7_000_000  # it really was stepped


async def test_hazard_49_with_its_output_blocked_it_works_on_is_well_and_leaves_when_told(steady: SteadyBackup) -> None:
    # Open for reading too, by nobody who reads: what is written stays in the pipe until that is full.
    daemon = steady.daemon(
        program=["/bin/sh", "-c", 'exec 3<>blocked; exec "$@" >&3', "blocked", *kbackupd_command("run")]
    )
    blocked = daemon.directory / "blocked"
    os.mkfifo(blocked)
    with blocked.open("r+b", buffering=0) as pipe:
        room = fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        daemon.start()
        steady.produce()

        def waiting_bytes() -> int:
            return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])

        await reaches(lambda: waiting_bytes() > room - KIB, "the pipe is full")
        await stores(daemon, 5)
        assert daemon.get("/livez")[0] == 200
        await recovered(daemon)
        await steady.exact(daemon)


async def test_with_too_few_descriptors_to_start_it_says_so_and_leaves(steady: SteadyBackup) -> None:
    daemon = steady.daemon(program=["/bin/sh", "-c", 'ulimit -n 24; exec "$@"', "few", *kbackupd_command("run")])
    daemon.launch()
    assert daemon.wait() == 2
    (complaint,) = complaints(daemon)
    assert "may have 24 files and connections open" in complaint
    assert steady.backup.objects() == {}


async def test_out_of_descriptors_under_load_it_says_so_and_recovers_when_there_are_some_again(
    steady: SteadyBackup,
) -> None:
    daemon = steady.daemon()
    daemon.start()
    steady.produce()
    await recovered(daemon)
    assert daemon.pid is not None
    log_began = daemon.log.stat().st_size

    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (8, before[1]))  # fewer than it has: not one more
    rule = steady.proxy.strike(Reset(), times=50)  # and what it has to S3 is taken from it
    await reaches(
        lambda: any("Too many open files" in json.dumps(entry) for entry in complained(daemon, since=log_began)),
        "it says what it lacks",
    )
    rule.lift()
    lines = len(complained(daemon, since=log_began))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)

    await recovered(daemon)
    assert lines <= 50
    await steady.exact(daemon)


async def test_a_full_disk_under_the_filesystem_store_costs_exposure_until_there_is_room_again(
    steady: SteadyBackup,
) -> None:
    with SmallDisk(48 * MIB) as disk:
        (disk.path / "archives").mkdir()
        steady.backup.keep_on(disk.path / "archives")
        daemon = steady.daemon()
        daemon.start()
        steady.produce()
        await recovered(daemon)

        disk.fill()
        await exposed(daemon, 4.0)
        full = "No space left on device"
        await reaches(lambda: any(full in message for message in problems(daemon).values()), "it says why")
        assert daemon.get("/healthz")[0] == 503
        disk.make_room()

        await recovered(daemon)
        await steady.exact(daemon)
        assert list((disk.path / "archives" / ".tmp").iterdir()) == []


@pytest.mark.parametrize(
    "segments", [15, pytest.param(400, marks=(pytest.mark.soak, pytest.mark.timeout(1200)))], ids=["briefly", "minutes"]
)
async def test_hazard_18_two_writers_on_one_archive_overlap_harmlessly_and_the_restore_is_what_one_would_have_given(
    segments: int, steady: SteadyBackup, unique_topic: Callable[[], str]
) -> None:
    first, second = steady.daemon(), steady.daemon(writer="second")
    steady.produce()
    first.start()
    second.start()
    await asyncio.gather(stores(first, segments), stores(second, segments))
    for daemon in (first, second):
        await follows(daemon, steady.topics[0], 2)
    steady.settle()
    flush_to_the_ends(second, steady.backup.kafka.bootstrap, steady.generation.partitions)
    assert second.stop() == 0
    await steady.exact(first)

    async with steady.backup.archive() as archive:
        writers = {segment.place.writer for segment in archive.catalog.segments}
    assert writers == {"main", "second"}
    restored = {topic: unique_topic() for topic in steady.topics}
    first.restore(steady.backup.kafka.bootstrap, restored).require(0)
    for topic, target in restored.items():
        found = read_topic(steady.backup.kafka.bootstrap, target)
        for number, records in found.items():
            wanted = steady.generation.truth.records(topic, number)
            assert compare_records(wanted, records, offsets=False) == []

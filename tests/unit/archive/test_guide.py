"""The bucket's own RESTORE.md does what it says: with kbackupd, and with nothing but Python and stock tools."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.guide import RESTORE_GUIDE
from kbackupd.format import keys
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.model.positions import PartitionId
from kbackupd.settings.load import load_restore_settings
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.independent_reader import container
from tests.unit.validate.eventful import eventful_archive

LONGEST_LINE = 120
REMARK = 7 * " "
SHIMS = {
    # `env` finds the real interpreter; a link would be taken for another installation, without this one's packages.
    "python3": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
    "kbackupd": f'#!/bin/sh\nexec "{sys.executable}" -m kbackupd.cli.main "$@"\n',
    "zstd": f'#!/bin/sh\n[ "$*" = -dc ] && exec "{sys.executable}" -c '
    "'import sys, zstandard; sys.stdout.buffer.write(zstandard.decompress(sys.stdin.buffer.read()))'\n",
}


def commands(mark: str) -> list[str]:
    """The lines of the guide that are a command beginning with `mark`, without the remarks behind them."""
    lines = (line.strip().partition(REMARK)[0] for line in RESTORE_GUIDE.splitlines() if line.startswith(" "))
    return [line.rstrip() for line in lines if line.startswith(f"{mark} ")]


def copied(built: ArchiveBuilder, directory: Path) -> Path:
    """The archive as somebody copied it out of the bucket."""
    for key, data in built.store.objects.items():
        path = directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (directory / BACKUP_ID).rename(directory / "archive")
    return directory / "archive"


def sh(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Typed into a shell where the archive was copied to; `zstd` is there whether or not this machine has it."""
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in SHIMS.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-eu"], input=script, cwd=directory, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
async def built() -> ArchiveBuilder:
    return await eventful_archive()


def cut_out(directory: Path) -> None:
    (command,) = commands("sed")
    done = sh(directory, command)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", ["python3", "python3 -I -S"], ids=["with zstandard", "with the command zstd"])
async def test_every_partition_comes_out_as_kbackupd_itself_reads_it(
    built: ArchiveBuilder, tmp_path: Path, python: str
) -> None:
    """Killed writers, gaps, compaction, a cut log, corrupt bytes at the source; hazards 20, 34: a topic made anew,
    overlapping segments."""
    copied(built, tmp_path)
    cut_out(tmp_path)
    archive = await Archive.open(built.store, BACKUP_ID)

    listed = sh(tmp_path, commands("python3")[0].replace("python3", python))
    assert listed.returncode == 0, listed.stderr
    found = [line.split() for line in listed.stdout.splitlines()]
    assert sorted({name for _, name, *_ in found}) == ["orders", "table"]

    program = commands("python3")[1].replace("python3", python)
    for topic_id, name, partition, *_ in found:
        file = tmp_path / f"{topic_id}-{partition}.log"
        arguments = f"{topic_id} {partition} {file.name}"
        done = sh(tmp_path, program.replace("TOPIC_ID PARTITION 00000000000000000000.log", arguments))
        assert done.returncode == 0, done.stderr
        id = next(one for one in archive.partitions if (str(one.topic_id), one.partition) == (topic_id, int(partition)))
        wanted = b"".join([bytes(batch.data) async for batch in archive.read(id)])
        assert file.read_bytes() == wanted, (name, partition)


@pytest.mark.parametrize("told", [True, False], ids=["the cut was noted", "only leader epochs tell"])
async def test_the_tail_of_a_log_that_was_cut_is_left_out(tmp_path: Path, told: bool) -> None:
    """Hazard 21: an election took records that the archive holds, and others have their offsets since."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log = built.log(orders, 0)
    life = await built.start()
    for number in range(4):
        log.append([b"old %d" % number] * 5)
    old = list(log.batches)
    life.capture(orders, 0)
    await life.flush()
    log.truncate(10)
    log.append([b"new"] * 5)
    log.append([b"newer"] * 9)
    life = await built.start()
    if told:
        life.follow_cut(orders, 0)
    life.capture(orders, 0)
    await life.flush()
    copied(built, tmp_path)
    cut_out(tmp_path)

    done = sh(tmp_path, f"python3 extract.py archive {orders} 0 orders.log")

    assert done.returncode == 0, done.stderr
    archive = await Archive.open(built.store, BACKUP_ID)
    wanted = [bytes(batch.data) async for batch in archive.read(PartitionId(orders, 0))]
    assert (tmp_path / "orders.log").read_bytes() == b"".join(wanted)
    assert old[3] not in wanted
    assert wanted[-1] == log.batches[-1]


async def test_hazard_55_of_two_captures_of_a_batch_the_one_before_its_compaction_comes_out_whatever_the_clock_said(
    tmp_path: Path,
) -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("table")
    log = built.log(topic, 0)
    whole = log.append([b"%d" % number for number in range(4)])
    for number, writer in enumerate(("first", "second")):
        if number:
            records = [RawRecord(0, 0, delta, encode_body(b"k", b"%d" % delta)) for delta in (0, 3)]
            log.batches[0] = build_batch(records, base_offset=0, base_timestamp_ms=built.clock.now_ms())
            built.clock.step_wall(-7_200_000)
        life = await built.start(writer)
        life.see(topic)
        life.capture(topic, 0)
        await life.flush()
    copied(built, tmp_path)
    cut_out(tmp_path)

    done = sh(tmp_path, f"python3 extract.py archive {topic} 0 table.log")

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "table.log").read_bytes() == whole


async def test_a_damaged_object_stops_the_program_which_names_it(built: ArchiveBuilder, tmp_path: Path) -> None:
    archive = copied(built, tmp_path)
    cut_out(tmp_path)
    segment = sorted(archive.glob("segments/*/*/*.kbs"))[1]
    data = bytearray(segment.read_bytes())
    data[-70] ^= 1
    segment.write_bytes(data)

    done = sh(tmp_path, "python3 extract.py archive")

    assert done.returncode == 1
    assert f"{segment.relative_to(tmp_path)} is damaged" in done.stderr


async def test_a_footer_can_be_had_by_hand(built: ArchiveBuilder, tmp_path: Path) -> None:
    archive = copied(built, tmp_path)
    segment = min(archive.glob("segments/*/*/*.kbs"))
    by_hand = re.search(r"^  n\(\) .*\n.*footer\.json$", RESTORE_GUIDE, re.MULTILINE)
    assert by_hand is not None

    done = sh(tmp_path, f"cp {segment} F\n{by_hand[0]}\n")

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "footer.json").read_text()) == container(segment.read_bytes())["footer"]


async def test_the_commands_of_kbackupd_that_only_read_work_as_they_stand(
    built: ArchiveBuilder, tmp_path: Path
) -> None:
    copied(built, tmp_path).rename(tmp_path / BACKUP_ID)
    now = datetime.fromtimestamp(built.clock.now_ms() / 1000, UTC).isoformat()
    words = {"PATH": f"file://{tmp_path}", "ID": BACKUP_ID, "TIME": now}

    def filled_in(text: str) -> str:
        return re.sub(r"\b(PATH|ID|TIME)\b", lambda word: words[word[0]], text)

    found = re.search(r"^( +)restore:\n(?:\1 .*\n)+", RESTORE_GUIDE, re.MULTILINE)
    assert found is not None
    config = tmp_path / "restore.yaml"
    config.write_text(filled_in(found[0]))
    assert load_restore_settings(config, {}).source.backup_id == BACKUP_ID

    # The restore itself needs a cluster; tests/integration/restore/test_runbook.py types the same words.
    reading = [line for line in commands("kbackupd") if " restore " not in line or "--dry-run" in line]
    assert len(reading) == 6
    done = sh(tmp_path, filled_in("\n".join(reading)))
    assert done.returncode == 0, (done.stdout[-2_000:], done.stderr)


def test_the_guide_can_be_read_on_a_terminal_and_is_named_as_the_format_says() -> None:
    assert keys.RESTORE_GUIDE_KEY == "RESTORE.md"
    assert max(map(len, RESTORE_GUIDE.splitlines())) <= LONGEST_LINE
    assert RESTORE_GUIDE.isascii()

"""`kbackupd restore` as an operator meets it: plan, report, exit codes, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kbackupd.restore.progress import Phase
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.planned import archive_everything

Names = Callable[[], str]


async def archive_on_disk(root: Path) -> ArchiveBuilder:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2, configs={"retention.ms": "1000"})
    for number in range(50):
        built.log(orders, 0).append([b"%d" % number + bytes(1_000)] * 10)
    built.log(orders, 1).append([b"open"], producer_id=7, transactional=True)
    await archive_everything(built)
    for key, data in built.store.objects.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return built


def write_config(root: Path, bootstrap: str, target: str, *options: str) -> Path:
    path = root / "restore.yaml"
    lines = [
        "restore:",
        f"  source: {{path: 'file://{root}', backup_id: main}}",
        f"  target: {{bootstrap_servers: ['{bootstrap}']}}",
        "  options:",
        f"    topic_mapping: [{{source: orders, target: {target}}}]",
        *(f"    {option}" for option in options),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def start(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kbackupd.cli.main", "restore", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code and both outputs, without the lines that tell every few seconds how far it is."""
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    told = [line for line in err.splitlines(keepends=True) if not any(f"  {phase}" in line for phase in Phase)]
    return process.returncode, out, "".join(told)


async def test_a_dry_run_prints_the_plan_and_does_not_need_the_target(tmp_path: Path) -> None:
    await archive_on_disk(tmp_path)
    config = write_config(tmp_path, "127.0.0.1:1", "restored")

    code, out, err = call("--config", str(config), "--dry-run")
    assert (code, err) == (0, "")
    assert "plan: at most 501 records (topics: 1, partitions: 2)" in out
    assert "transaction of producer 7 from offset 0 on: undecided, not restored" in out

    code, out, _ = call("--config", str(config), "--dry-run", "--format", "json")
    plan = json.loads(out)
    assert code == 0
    assert plan["pinned"] == [{"writer": "main", "writer_epoch": 1, "sequences": [[0, 1]]}]
    assert plan["topics"][0]["target"] == "restored"
    assert plan["topics"][0]["configs"] == {"retention.ms": "1000"}


async def test_a_restore_ends_with_exact_counts_and_a_second_one_is_refused(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    await archive_on_disk(tmp_path)
    target = unique_topic()
    config = write_config(tmp_path, kafka.bootstrap, target)

    code, out, err = call("--config", str(config))

    assert (code, err) == (0, "")
    assert out.startswith("complete\n500 records")
    assert "undecided transaction, 1 records not restored (producer 7, offsets [0, 1))" in out
    assert "--add-config retention.ms=1000" in out
    assert {number: len(records) for number, records in read_topic(kafka.bootstrap, target).items()} == {0: 500, 1: 0}
    code, out, err = call("--config", str(config))
    assert (code, out) == (5, "")
    assert f"topic {target} is not empty" in err
    assert "hint: " in err


async def test_the_report_is_json_on_request(kafka: KafkaServer, unique_topic: Names, tmp_path: Path) -> None:
    await archive_on_disk(tmp_path)
    config = write_config(tmp_path, kafka.bootstrap, unique_topic())

    code, out, _ = call("--config", str(config), "--format", "json")

    report = json.loads(out)
    assert code == 0
    assert (report["verdict"], report["records_restored"], report["records_undecided"]) == ("complete", 500, 1)
    assert report["topics"][0]["partitions"][0]["offset_map"] == [
        {"source_offset": 0, "target_offset": 0, "count": 500}
    ]
    assert report["topics"][0]["partitions"][0]["verified"]["problem"] == ""


async def test_a_target_that_cannot_be_reached_is_exit_code_4(tmp_path: Path) -> None:
    await archive_on_disk(tmp_path)
    [port] = free_ports(1)

    code, _, err = call("--config", str(write_config(tmp_path, f"127.0.0.1:{port}", "restored")))

    assert code == 4
    assert f"127.0.0.1:{port}" in err


async def test_an_archive_or_a_topic_that_is_not_there_says_so(tmp_path: Path) -> None:
    await archive_on_disk(tmp_path)
    config = write_config(tmp_path, "127.0.0.1:1", "restored")

    config.write_text(config.read_text().replace("backup_id: main", "backup_id: other"))
    code, _, err = call("--config", str(config), "--dry-run")
    assert code == 4
    assert "no such object" in err

    config.write_text(config.read_text().replace("backup_id: other", "backup_id: main").replace("orders", "order"))
    code, _, err = call("--config", str(config), "--dry-run")
    assert code == 2
    assert "topic 'order' is not in the archive" in err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_restore_says_in_what_state_it_leaves_the_target(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path, stop: signal.Signals
) -> None:
    await archive_on_disk(tmp_path)
    target = unique_topic()
    process = start("--config", str(write_config(tmp_path, kafka.bootstrap, target, "rate_limit: 2KiB")))
    deadline = time.monotonic() + 120
    assert process.stderr is not None
    line = ""
    while "restoring:" not in line:
        assert time.monotonic() < deadline
        line = process.stderr.readline()
    assert "ETA" in line

    process.send_signal(stop)
    out, err = process.communicate(timeout=120)

    assert (process.returncode, out) == (130, "")
    assert "interrupted while restoring" in err
    assert target in err
    assert "run the same restore again to go on" in err

"""`restore --offset-map` and `offset-map` as an operator meets them (hazard 32)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kbackupd.archive.local_file import read_local
from kbackupd.format.offset_map import decode_offset_map
from kbackupd.model.offset_map import Exactness
from kbackupd.restore.send_queue import REQUESTS_IN_FLIGHT
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.process import ServerFailedError
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.test_command import start, write_config
from tests.unit.restore.planned import archive_everything

Names = Callable[[], str]


async def archive_with_holes(root: Path) -> None:
    """Topic "orders": records 0-9, a transaction that was aborted, records 14-23, an open one."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2)
    log = built.log(orders, 0)
    log.append([b"%d" % n for n in range(10)])
    log.append([b"aborted"] * 3, producer_id=5, transactional=True)
    log.end_transaction(5, committed=False)
    log.append([b"%d" % n for n in range(14, 24)])
    log.append([b"open"], producer_id=7, transactional=True)
    await archive_everything(built)
    for key, data in built.store.objects.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def verb(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "kbackupd.cli.main", *arguments], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


async def test_the_map_of_a_restore_leads_every_position_to_its_record(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    await archive_with_holes(tmp_path)
    target, file = unique_topic(), str(tmp_path / "orders.offset-map.json.zst")
    config = write_config(tmp_path, kafka.bootstrap, target)

    code, _, err = verb("restore", "--config", str(config), "--offset-map", file)

    assert (code, f"offset map: {file}" in err) == (0, True)
    values = [record.value for record in read_topic(kafka.bootstrap, target)[0]]
    code, out, err = verb("offset-map", "lookup", file, "orders", "0", *map(str, range(27)), "--format", "json")
    assert (code, err) == (0, "")
    looked = json.loads(out)
    assert (looked["target"], looked["complete"]) == (target, True)
    for row in looked["positions"]:
        position = row["source_offset"]
        said = Exactness.NEXT if 10 <= position < 14 else Exactness.END if position >= 24 else Exactness.EXACT
        assert row["exactness"] == said
        expected = None if position >= 24 else b"%d" % (14 if 10 <= position < 14 else position)
        assert [*values, None][row["target_offset"]] == expected
    code, out, _ = verb("offset-map", "lookup", file, "orders", "0", "11")
    assert (code, out.splitlines()[-1].split()) == (
        0,
        ["11", "10", "next", "it", "was", "not", "restored:", "the", "next", "record", "that", "was"],
    )
    code, out, _ = verb("offset-map", "show", file)
    assert code == 0
    assert [line.split() for line in out.splitlines()][-2:] == [
        ["orders", target, "0", "[0,", "25)", "[0,", "20)", "20", "2", "complete"],
        ["orders", target, "1", "[0,", "0)", "[0,", "0)", "0", "0", "complete"],
    ]


async def test_a_map_is_never_written_over_a_file_and_none_is_left_of_a_restore_that_wrote_nothing(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    await archive_with_holes(tmp_path)
    target, file = unique_topic(), tmp_path / "map.json"
    config = write_config(tmp_path, kafka.bootstrap, target)
    file.write_text("mine")

    code, _, err = verb("restore", "--config", str(config), "--offset-map", str(file))

    assert (code, "exists already" in err, file.read_text()) == (5, True, "mine")
    assert verb("restore", "--config", str(config), "--dry-run", "--offset-map", "other.json")[0] == 2
    assert verb("restore", "--config", str(config), "--offset-map", str(tmp_path / "first.json"))[0] == 0
    code, _, err = verb("restore", "--config", str(config), "--offset-map", str(tmp_path / "second.json"))
    assert (code, "is not empty" in err) == (5, True)
    assert sorted(name for name in os.listdir(tmp_path) if ".json" in name) == ["first.json", "map.json"]


async def test_an_interrupted_restore_leaves_the_map_of_what_was_acknowledged(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    for number in range(200):
        built.log(orders, 0).append([b"%d" % number + bytes(1_000)] * 10)
    await archive_everything(built)
    for key, data in built.store.objects.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    target, file = unique_topic(), tmp_path / "map.json"
    config = write_config(tmp_path, kafka.bootstrap, target, "rate_limit: 40KiB")
    process = start("--config", str(config), "--offset-map", str(file))
    deadline = time.monotonic() + 120
    # More than can be under way without an answer.
    while sum(len(records) for records in read_or_none(kafka, target).values()) <= REQUESTS_IN_FLIGHT * 10:
        assert time.monotonic() < deadline

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)

    assert (process.returncode, "interrupted while restoring" in err) == (130, True)
    assert f"offset map: {file}" in err
    [partition] = decode_offset_map("map", read_local(file, "map")).topics[0].partitions
    there = len(read_topic(kafka.bootstrap, target)[0])
    assert not partition.complete
    assert 0 < partition.records <= there < 2_000
    assert (partition.source_next_offset, partition.target_next_offset) == (partition.records, partition.records)


def read_or_none(kafka: KafkaServer, topic: str) -> dict[int, list[object]]:
    try:
        return {number: list(records) for number, records in read_topic(kafka.bootstrap, topic).items()}
    except ServerFailedError:
        return {}


def test_a_map_that_is_missing_or_damaged_says_so(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.json.zst"
    damaged.write_bytes(b"not zstd")

    code, _, err = verb("offset-map", "show", str(tmp_path / "absent.json"))
    assert (code, "No such file" in err) == (2, True)
    code, _, err = verb("offset-map", "show", str(damaged))
    assert (code, "does not decompress" in err) == (3, True)

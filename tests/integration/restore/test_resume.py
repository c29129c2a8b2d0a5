"""A restore that is killed and run again goes on where the target's logs end: nothing is missing, nothing is doubled.

Hazards 27 (produce retried after a lost answer), 28 (a finished restore run again), 29 (resume from zero).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import confluent_kafka
import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import ProduceAnswer, TopicPartition
from kbackupd.restore.report import Verdict
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import delete_topic
from kbackupd.testbed.truth import raw_log, read_topic, split_batches
from tests.archive_builder import ArchiveBuilder
from tests.integration.conditions import reaches
from tests.integration.restore.mirror import restore
from tests.integration.restore.test_command import call, start, write_config
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]
Values = dict[int, list[bytes | None]]

KILLS = 25
NOTHING_GONE: Mapping[int, int] = MappingProxyType({})
PARTITIONS = 3
SLOW = "rate_limit: 100KiB"
"""Of a run that is to be killed: it would take a quarter of a minute. Who runs it to its end goes on without."""
FEW = 12
"""The part of all records after which it is killed where the moment does not matter: begun, and far from done."""


async def archive_of_all_kinds(root: Path, seed: int, *, first_offsets: Mapping[int, int] = NOTHING_GONE) -> Values:
    """Topic "orders" on disk, in two segments: batches for the fast and the slow path, transactions both ways.

    Returns what of it is committed.
    """
    chance = random.Random(seed)
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=PARTITIONS, configs={"retention.ms": "-1"})
    committed: Values = {partition: [] for partition in range(PARTITIONS)}
    for partition, first_offset in first_offsets.items():
        built.regrown(orders, partition, first_offset=first_offset)
    for _ in range(2):
        for partition, number in itertools.product(range(PARTITIONS), range(30)):
            log = built.log(orders, partition)
            count = chance.randint(1, 40)
            values = [b"%d-%d-%d-" % (partition, number, n) + chance.randbytes(400) for n in range(count)]
            kind = chance.choice(("plain", "plain", "append-time", "committed", "aborted"))
            if kind in ("committed", "aborted"):
                log.append(values, producer_id=9, transactional=True)
                log.end_transaction(9, committed=kind == "committed")
            else:
                log.append(values, log_append_time=kind == "append-time")
            if kind != "aborted":
                committed[partition] += values
        await archive_everything(built)
    for key, data in built.store.objects.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return committed


def values(kafka: KafkaServer, topic: str) -> Values:
    return {
        number: [record.value for record in records] for number, records in read_topic(kafka.bootstrap, topic).items()
    }


def restored_records(kafka: KafkaServer, topic: str) -> int:
    """How many are in the topic's logs; 0 while it does not exist."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "watermarks"})
    try:
        return sum(
            consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, partition), timeout=30)[1]
            for partition in range(PARTITIONS)
        )
    except KafkaException:
        return 0
    finally:
        consumer.close()


def killed_at(process: subprocess.Popen[str], kafka: KafkaServer, topic: str, records: int) -> bool:
    """Kill it when the topic holds so many records; False: it ended before."""
    deadline = time.monotonic() + 120
    while process.poll() is None and restored_records(kafka, topic) < records:
        assert time.monotonic() < deadline, "the restore does not move"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def documents(root: Path, stage: str) -> list[Path]:
    return sorted(root.glob(f"main/plans/*/{stage}.json"))


@pytest.mark.timeout(1800)
async def test_killed_25_times_at_random_and_run_again_it_is_exact(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    seed = 20261126
    chance = random.Random(seed)
    committed = await archive_of_all_kinds(tmp_path, seed)
    everything = sum(map(len, committed.values()))
    target = unique_topic()
    config = write_config(tmp_path, kafka.bootstrap, target, SLOW)
    # Looking how far it is takes time, too: what it had reached when it is killed must not be the end.
    for records in sorted(chance.randrange(everything // 2) for _ in range(KILLS)):
        assert killed_at(start("--config", str(config)), kafka, target, records)

    write_config(tmp_path, kafka.bootstrap, target)
    code, out, err = call("--config", str(config), "--format", "json")

    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["verdict"] == "complete"
    assert report["records_restored"] == everything
    assert 0 < report["records_found"] <= everything
    assert values(kafka, target) == committed
    assert len(documents(tmp_path, "begun")) == len(documents(tmp_path, "done")) == 1


async def test_a_part_of_an_archive_is_gone_on_with_like_the_whole(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    committed = await archive_of_all_kinds(tmp_path, 5)
    part = ("filters: {value: '^[0-9]+-[0-9]*[02468]-'}", "provenance_headers: true", "visibility: uncommitted")
    whole, target = unique_topic(), unique_topic()
    assert call("--config", str(write_config(tmp_path, kafka.bootstrap, whole, *part)))[0] == 0
    config = write_config(tmp_path, kafka.bootstrap, target, *part, SLOW)
    assert killed_at(start("--config", str(config)), kafka, target, sum(map(len, committed.values())) // FEW)

    write_config(tmp_path, kafka.bootstrap, target, *part)
    code, out, _ = call("--config", str(config), "--format", "json")

    assert code == 0
    assert json.loads(out)["records_found"] > 0
    assert read_topic(kafka.bootstrap, target) == read_topic(kafka.bootstrap, whole)


@pytest.mark.timeout(1800)
async def test_offsets_that_are_kept_are_kept_through_ten_kills(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    chance = random.Random(6)
    committed = await archive_of_all_kinds(tmp_path, 6, first_offsets={2: 700_000})
    whole, target = unique_topic(), unique_topic()
    assert call("--config", str(write_config(tmp_path, kafka.bootstrap, whole, "offsets: preserve")))[0] == 0
    config = write_config(tmp_path, kafka.bootstrap, target, "offsets: preserve", SLOW)
    filled = restored_records(kafka, whole)
    for end in sorted(chance.randrange((filled - 700_000) // 2) for _ in range(10)):
        # The fillers before the first offset are there within moments: what comes behind them is what takes time.
        assert killed_at(start("--config", str(config)), kafka, target, end + chance.choice((0, 700_000)))

    write_config(tmp_path, kafka.bootstrap, target, "offsets: preserve")
    code, out, err = call("--config", str(config), "--format", "json")

    assert (code, err) == (0, "")
    assert json.loads(out)["records_found"] > 0
    found = read_topic(kafka.bootstrap, target)
    assert found == read_topic(kafka.bootstrap, whole)
    assert found == read_topic(kafka.bootstrap, target, isolation="read_uncommitted")
    assert {number: [record.value for record in records] for number, records in found.items()} == committed
    assert restored_records(kafka, target) == filled


async def test_hazard_28_a_finished_restore_run_again_is_refused(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    committed = await archive_of_all_kinds(tmp_path, 1)
    target = unique_topic()
    config = write_config(tmp_path, kafka.bootstrap, target)
    assert call("--config", str(config))[0] == 0

    code, out, err = call("--config", str(config))

    assert (code, out) == (5, "")
    assert f"topic {target} is not empty" in err
    assert values(kafka, target) == committed


class TestHalfWay:
    """What is refused, and left as it is, where a killed restore has filled a part of its topic."""

    @pytest.fixture
    async def half_way(self, kafka: KafkaServer, unique_topic: Names, tmp_path: Path) -> tuple[Path, str]:
        committed = await archive_of_all_kinds(tmp_path, 2)
        target = unique_topic()
        config = write_config(tmp_path, kafka.bootstrap, target, SLOW)
        everything = sum(map(len, committed.values()))
        assert killed_at(start("--config", str(config)), kafka, target, everything // FEW)
        return write_config(tmp_path, kafka.bootstrap, target), target

    def test_other_options_are_refused_and_told(self, half_way: tuple[Path, str]) -> None:
        config, target = half_way
        config.write_text(config.read_text().replace("options:", "options:\n    topics: {include: [orders, 'o*']}"))

        code, out, err = call("--config", str(config))

        assert (code, out) == (5, "")
        assert f"topics {target} were begun to be filled" in err
        assert 'topics was {"include":["orders"]' in err

    def test_a_record_of_somebody_else_is_refused(self, kafka: KafkaServer, half_way: tuple[Path, str]) -> None:
        config, target = half_way
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce(target, b"foreign", partition=1)
        assert producer.flush(120) == 0

        code, out, err = call("--config", str(config))

        assert (code, out) == (5, "")
        assert f"topic {target}: partition 1 ends at offset" in err
        assert "something that the restore begun there did not write" in err

    def test_where_what_it_wrote_down_is_damaged_that_is_told_and_nothing_is_written(
        self, kafka: KafkaServer, half_way: tuple[Path, str]
    ) -> None:
        config, target = half_way
        [ready] = documents(config.parent, "ready")
        ready.write_bytes(ready.read_bytes()[:-9] + bytes(9))
        before = values(kafka, target)

        code, out, err = call("--config", str(config))

        assert (code, out) == (5, "")
        assert f"plans/{ready.parent.name}/ready.json: document:" in err
        assert f"topic {target} is not empty" in err
        assert values(kafka, target) == before

    def test_a_topic_that_was_deleted_begins_anew(self, kafka: KafkaServer, half_way: tuple[Path, str]) -> None:
        config, target = half_way
        delete_topic(kafka.bootstrap, target)

        code, out, _ = call("--config", str(config), "--format", "json")

        assert code == 0
        assert json.loads(out)["records_found"] == 0
        assert len(documents(config.parent, "begun")) == 2

    def test_an_archive_that_shows_less_is_refused(self, kafka: KafkaServer, half_way: tuple[Path, str]) -> None:
        config, target = half_way
        _, newer = sorted(config.parent.glob("main/segments/*/*/*.kbs"))
        newer.unlink()
        before = values(kafka, target)

        code, _, err = call("--config", str(config))

        assert code == 5
        assert "does not show what it showed when plans/" in err
        assert values(kafka, target) == before


async def test_where_the_archive_is_read_only_the_plan_is_kept_in_a_directory(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    archive, beside = tmp_path / "archive", tmp_path / "beside"
    archive.mkdir()
    committed = await archive_of_all_kinds(archive, 3)
    target = unique_topic()
    config = write_config(archive, kafka.bootstrap, target, SLOW)
    everything = sum(map(len, committed.values()))
    assert killed_at(start("--config", str(config), "--plans", str(beside)), kafka, target, everything // FEW)
    assert not documents(archive, "begun")
    assert len(documents(beside, "begun")) == 1

    write_config(archive, kafka.bootstrap, target)
    code, _, err = call("--config", str(config))
    assert code == 5
    assert f"topic {target} is not empty" in err
    code, out, _ = call("--config", str(config), "--plans", str(beside), "--format", "json")

    assert code == 0
    assert json.loads(out)["records_found"] > 0
    assert values(kafka, target) == committed


@pytest.mark.parametrize("late", [1, 5], ids=["one request", "as many as may be in flight"])
@pytest.mark.parametrize("when", ["before the first batch", "behind the first batch"])
async def test_hazard_27_a_dead_runs_requests_that_arrive_during_the_next_run_double_nothing(
    kafka: KafkaServer, unique_topic: Names, monkeypatch: pytest.MonkeyPatch, late: int, when: str
) -> None:
    built, target = await ArchiveBuilder.create(), unique_topic()
    orders = built.topic("orders", partitions=1)
    for number in range(40):
        built.log(orders, 0).append([b"%d-%d" % (number, n) for n in range(3)])
    await archive_everything(built)
    settings = settings_for(kafka.bootstrap, {"orders": target})
    produce = RawProducer.produce
    held: list[tuple[RawProducer, int, dict[TopicPartition, bytes | bytearray]]] = []
    sent = 0

    async def held_back(
        self: RawProducer, node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        nonlocal sent
        sent += 1
        if sent <= 10:
            return await produce(self, node_id, batches, timeout_ms=timeout_ms)
        held.append((self, node_id, dict(batches)))
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(RawProducer, "produce", held_back)
    first = asyncio.create_task(restore(built, settings))
    await reaches(lambda: len(held) >= late, what="the first run has requests under way")
    first.cancel()
    await asyncio.wait([first])

    async def overtaken(
        self: RawProducer, node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        late_ones, held[:] = held[:late], []
        answers = {}
        if when == "behind the first batch":
            answers = await produce(self, node_id, batches, timeout_ms=timeout_ms)
        for dead, node, requested in late_ones:
            ours = RawProducer(self._connection, producer_id=dead.producer_id, producer_epoch=dead.producer_epoch)
            await produce(ours, node, requested, timeout_ms=timeout_ms)
        return answers or await produce(self, node_id, batches, timeout_ms=timeout_ms)

    monkeypatch.setattr(RawProducer, "produce", overtaken)
    report = await restore(built, settings)

    assert report.verdict is Verdict.COMPLETE
    assert report.records_found == 30
    found = [batch.data[61:] for batch in split_batches(raw_log(kafka, target, 0))]
    assert found == [batch[61:] for batch in built.log(orders, 0).batches]


async def test_a_run_that_is_not_dead_and_the_next_one_double_nothing_between_them(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    committed = await archive_of_all_kinds(tmp_path, 4)
    target = unique_topic()
    config = write_config(tmp_path, kafka.bootstrap, target, SLOW)
    stopped = start("--config", str(config))
    await reaches(lambda: restored_records(kafka, target) > 300, what="the first run restores")
    stopped.send_signal(signal.SIGSTOP)
    second = start("--config", str(config))
    await reaches(lambda: restored_records(kafka, target) > 600, what="the second run goes on")
    stopped.send_signal(signal.SIGCONT)
    for process in (stopped, second):
        process.communicate(timeout=120)

    code, _, _ = call("--config", str(config))

    assert {stopped.returncode, second.returncode} <= {0, 5, 6}
    assert code in (0, 5), "5: one of the two was the last to finish"
    assert values(kafka, target) == committed

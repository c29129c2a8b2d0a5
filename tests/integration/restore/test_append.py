"""A restore into topics that hold records: behind them, exactly once, alone (hazards 27, 28, 29 and 37)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.integration.conditions import reaches
from tests.integration.restore.picky_kafka import has_configuration
from tests.integration.restore.test_command import call, start, write_config
from tests.integration.restore.test_resume import (
    PARTITIONS,
    SLOW,
    Values,
    archive_of_all_kinds,
    documents,
    killed_at,
    restored_records,
    values,
)

Names = Callable[[], str]

APPEND = "append: true"
THERE = 50
"""Records that each partition holds before."""


def hold(kafka: KafkaServer, topic: str, *partitions: int, count: int = THERE) -> Values:
    """Records of somebody else, timestamps now; what is in the topic then, if it was empty."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    written: Values = {partition: [] for partition in partitions}
    for partition in partitions:
        for number in range(count):
            value = b"theirs %d-%d" % (partition, number)
            producer.produce(topic, value, partition=partition)
            written[partition].append(value)
    assert producer.flush(120) == 0
    return written


@pytest.mark.timeout(900)
async def test_killed_five_times_it_follows_what_was_there_exactly_once_and_never_again(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    own = {"segment.bytes": "2000000", "retention.ms": "-1"}
    committed = await archive_of_all_kinds(tmp_path, 7)
    target = create_topic(kafka.bootstrap, unique_topic(), partitions=PARTITIONS, config=own)
    theirs = hold(kafka, target, *range(PARTITIONS))
    everything = {number: theirs[number] + committed[number] for number in range(PARTITIONS)}
    ours = sum(map(len, committed.values()))
    config = write_config(tmp_path, kafka.bootstrap, target, APPEND, SLOW)
    for fifth in range(5):
        assert killed_at(start("--config", str(config)), kafka, target, THERE * PARTITIONS + ours * fifth // 10)

    write_config(tmp_path, kafka.bootstrap, target, APPEND)
    code, out, err = call("--config", str(config), "--format", "json")

    report = json.loads(out)
    assert (code, report["verdict"], report["records_restored"]) == (0, "complete", ours), err
    assert 0 < report["records_found"] <= ours
    assert report["topics"][0]["appended"]
    assert [one["target_first_offset"] for one in report["topics"][0]["partitions"]] == [THERE] * PARTITIONS
    assert values(kafka, target) == everything
    await has_configuration(kafka.bootstrap, target, own)

    code, out, err = call("--config", str(config))

    assert (code, out) == (5, "")
    assert "it would be appended twice" in err
    assert "delete" not in err, "nobody is told to delete what others wrote"
    assert values(kafka, target) == everything
    assert len(documents(tmp_path, "begun")) == len(documents(tmp_path, "done")) == 1


async def test_a_record_that_somebody_writes_meanwhile_stops_its_partition_and_is_never_taken_for_ours(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    committed = await archive_of_all_kinds(tmp_path, 8)
    target = create_topic(kafka.bootstrap, unique_topic(), partitions=PARTITIONS)
    theirs = hold(kafka, target, *range(PARTITIONS))
    config = write_config(tmp_path, kafka.bootstrap, target, APPEND, SLOW)
    process = start("--config", str(config), "--format", "json")
    under_way = THERE * PARTITIONS + sum(map(len, committed.values())) // 10
    await reaches(lambda: restored_records(kafka, target) > under_way, "it restores")

    hold(kafka, target, 1, count=1)
    out, err = process.communicate(timeout=240)

    report = json.loads(out)
    assert (process.returncode, report["verdict"]) == (6, "incomplete"), err
    failures = [one["failure"] for one in report["topics"][0]["partitions"]]
    assert [bool(one) for one in failures] == [False, True, False]
    assert "somebody else" in failures[1]
    assert "delete" not in failures[1], "nobody is told to delete what others wrote"
    found = values(kafka, target)
    assert [found[number] for number in (0, 2)] == [theirs[number] + committed[number] for number in (0, 2)]
    foreign = found[1].index(b"theirs 1-0", THERE)
    assert found[1][:foreign] == (theirs[1] + committed[1])[:foreign], "what came before it is a prefix"

    code, out, err = call("--config", str(config))

    assert (code, out) == (5, "")
    assert f"topic {target}: partition 1 ends at offset" in err
    assert "something that the restore begun there did not write" in err
    assert "delete" not in err
    assert values(kafka, target) == found


@pytest.mark.parametrize("retention_after", ["auto", "recorded"])
async def test_the_topics_own_retention_comes_back_at_once_only_where_somebody_says_so(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path, retention_after: str
) -> None:
    await archive_of_all_kinds(tmp_path, 9)
    own = {"retention.ms": "86400000", "segment.bytes": "2000000"}
    target = create_topic(kafka.bootstrap, unique_topic(), partitions=PARTITIONS, config=own)
    hold(kafka, target, 0)
    config = write_config(tmp_path, kafka.bootstrap, target, APPEND, f"retention_after: {retention_after}")

    code, out, err = call("--config", str(config))

    assert code == 0, err
    command = f"--entity-name {target} --add-config retention.ms=86400000"
    if retention_after == "auto":
        assert "retention.ms (1d00h) would delete records from" in out
        assert command in out
        await has_configuration(kafka.bootstrap, target, {**own, "retention.ms": "-1"})
    else:
        assert command not in out
        assert f"{target}: applied although retention.ms (1d00h) would delete records from" in out
        await has_configuration(kafka.bootstrap, target, own)
        await reaches(lambda: begins_with_today(kafka, target, 1), "what is older than its retention is gone")


def begins_with_today(kafka: KafkaServer, topic: str, partition: int) -> bool:
    """By offsets alone: to be deleted while somebody reads it would end the reading."""
    yesterday_ms = round((time.time() - 86_400) * 1_000)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "unused", "log_level": 0})
    try:
        (found,) = consumer.offsets_for_times([TopicPartition(topic, partition, yesterday_ms)], timeout=60)
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=60, cached=False)
    finally:
        consumer.close()
    return low >= (found.offset if found.offset >= 0 else high)

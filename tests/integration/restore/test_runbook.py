"""The runbook of docs/restore.md, command by command as it stands there, on a cluster that was really destroyed.

Its fenced blocks marked `sh runbook` belong to every case, `sh runbook CASE` to one. Nothing is replaced in them
but the values behind `export`.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from kbackupd.testbed.daemon import Daemon, kbackupd_environment
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic, delete_topic
from kbackupd.testbed.truth import read_topic

DOCUMENT = Path(__file__).parents[3] / "docs" / "restore.md"
CASES = ("look", "whole-cluster", "deleted-topic", "bad-data", "as-of", "some-records", "groups")
BLOCK = re.compile(r"^```sh runbook ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FIRST_MS = int(time.time()) // 60 * 60_000 - 3_600_000
"""An hour ago: of a time long past, the brokers would delete everything by age before it was captured."""
GOOD, BAD = 60, 20
"""Records of each partition, a second apart; from the bad ones on everything is nonsense."""
BAD_SINCE_MS = FIRST_MS + GOOD * 1_000
READ_BY_BILLING = 25


def blocks(case: str = "") -> list[str]:
    return [str(text) for name, text in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")) if name == case]


def filled_in(block: str, values: Mapping[str, str]) -> str:
    """The block with these values behind its `export`; each must be a name that a reader is told to fill in."""

    def line(found: re.Match[str]) -> str:
        names = re.findall(r"(\w+)=", found[0])
        return "export " + " ".join(f"{name}='{values[name]}'" for name in names)

    return re.sub(r"^export .*$", line, block, flags=re.MULTILINE)


def typed(case: str, directory: Path, values: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """What the commands of a case print, typed into one shell behind those of every case; all must end with 0."""
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    program = tools / "kbackupd"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kbackupd.cli.main "$@"\n')
    program.chmod(0o755)
    script = "\n".join(filled_in(block, values) for block in (*blocks(), *blocks(case)))
    done = subprocess.run(
        ["sh", "-eu"],
        input=script,
        cwd=directory,
        env={**environment, "PATH": f"{tools}{os.pathsep}{environment['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, (case, done.stdout[-4_000:], done.stderr[-4_000:])
    return done.stdout


def instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def value(partition: int, number: int) -> bytes:
    return b"%s %d-%d" % (b"good" if number < GOOD else b"nonsense", partition, number)


def fill(bootstrap: str) -> None:
    """Two topics of two partitions, customers 0 to 9 in turn; the group billing has read some of one of them."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for topic in ("orders", "payments"):
        create_topic(bootstrap, topic, partitions=2)
        for partition in range(2):
            for number in range(GOOD + BAD):
                producer.produce(
                    topic,
                    value(partition, number),
                    key=b"customer-%d" % (number % 10),
                    partition=partition,
                    timestamp=FIRST_MS + number * 1_000,
                )
    assert producer.flush(60) == 0
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "billing", "log_level": 0})
    consumer.commit(offsets=[TopicPartition("orders", p, READ_BY_BILLING + p) for p in range(2)], asynchronous=False)
    consumer.close()


def work_off(bootstrap: str, first: int, following: int) -> None:
    """Records `first` to `following` in both partitions of invoices, all of one time, and billing has read them."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for partition in range(2):
        for number in range(first, following):
            producer.produce("invoices", value(partition, number), partition=partition, timestamp=FIRST_MS)
    assert producer.flush(60) == 0
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "billing", "log_level": 0})
    consumer.commit(offsets=[TopicPartition("invoices", p, following) for p in range(2)], asynchronous=False)
    consumer.close()


def backed_up(daemon: Daemon) -> None:
    daemon.cli("run", "--once", "--config", str(daemon.config)).require(0)


def positions(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        rows = consumer.committed([TopicPartition(topic, partition) for partition in range(2)], timeout=60)
        return {row.partition: row.offset for row in rows}
    finally:
        consumer.close()


def restored(bootstrap: str, topic: str) -> dict[int, list[bytes]]:
    """Values by partition, read by a client that shares no code with kbackupd."""
    return {
        partition: [record.value or b"" for record in records]
        for partition, records in read_topic(bootstrap, topic).items()
    }


def everything() -> dict[int, list[bytes]]:
    return {partition: [value(partition, number) for number in range(GOOD + BAD)] for partition in range(2)}


def test_every_block_of_the_runbook_belongs_to_a_case_that_is_tried() -> None:
    named = {str(name) for name, _ in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))}
    assert named == {"", *CASES}
    for case in ("", *CASES):
        assert blocks(case), case


async def test_every_command_of_the_runbook_does_what_it_says(
    s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path
) -> None:
    with KafkaServer() as kafka:
        await asyncio.to_thread(fill, kafka.bootstrap)
        daemon = Daemon(
            short_path / "daemon", bootstrap=kafka.bootstrap, s3=s3_server, bucket=s3_bucket, prefix=s3_prefix
        )
        create_topic(kafka.bootstrap, "invoices", partitions=2)
        await asyncio.to_thread(work_off, kafka.bootstrap, 0, GOOD)
        await asyncio.to_thread(backed_up, daemon)
        before_ms = time.time_ns() // 1_000_000
        await asyncio.to_thread(work_off, kafka.bootstrap, GOOD, GOOD + BAD)
        await asyncio.to_thread(backed_up, daemon)
        await asyncio.to_thread(kafka.destroy)
        await asyncio.to_thread(kafka.start)
        environment = kbackupd_environment(s3_server)
        await asyncio.to_thread(follow, kafka.bootstrap, daemon.path, short_path, environment, before_ms)


def follow(bootstrap: str, path: str, directory: Path, environment: Mapping[str, str], before_ms: int) -> None:
    """`before_ms`: when of invoices only the good records were there."""
    values = {
        "ARCHIVE": path,
        "ID": "main",
        "TARGET": bootstrap,
        "TOPIC": "orders",
        "BAD_SINCE": instant(BAD_SINCE_MS),
        "KEYS": "^customer-(3|7)$",
        "SINCE": instant(FIRST_MS + 20_000),
        "GROUP": "billing",
        "INSTANT": instant(FIRST_MS + 10_000),
    }
    stood = {partition: READ_BY_BILLING + partition for partition in range(2)}

    said = typed("look", directory, values, environment)
    assert "last segment" in said
    assert "\nVALID " in said
    typed("whole-cluster", directory, values, environment)
    assert restored(bootstrap, "orders") == restored(bootstrap, "payments") == everything()
    assert positions(bootstrap, "billing", "orders") == stood

    delete_topic(bootstrap, "orders")
    typed("deleted-topic", directory, values, environment)
    assert restored(bootstrap, "orders") == everything()
    assert positions(bootstrap, "billing", "orders") == stood

    said = typed("bad-data", directory, values, environment)
    assert restored(bootstrap, "orders-good") == {p: [value(p, n) for n in range(GOOD)] for p in range(2)}
    assert restored(bootstrap, "orders") == everything(), "the live topic is as it was"
    assert instant(BAD_SINCE_MS)[:19] in said

    said = typed("as-of", directory, {**values, "TOPIC": "invoices", "AS_OF": instant(before_ms)}, environment)
    assert restored(bootstrap, "invoices-then") == {p: [value(p, n) for n in range(GOOD)] for p in range(2)}
    assert positions(bootstrap, "billing", "invoices-then") == dict.fromkeys(range(2), GOOD)
    assert "everything as of" in said

    typed("some-records", directory, values, environment)
    wanted = {p: [value(p, n) for n in range(20, GOOD + BAD) if n % 10 in (3, 7)] for p in range(2)}
    assert restored(bootstrap, "orders-rescued") == wanted

    said = typed("groups", directory, values, environment)
    assert re.search(r"billing +orders +0 +25 +10 ", said), said
    assert positions(bootstrap, "billing", "orders") == stood, "rolled back"

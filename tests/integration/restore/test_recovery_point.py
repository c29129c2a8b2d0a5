"""What a report says was lost is never less than what was: recovery points against acknowledged records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

from kbackupd.model.clock import iso
from kbackupd.testbed.daemon import Json, Section
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import read_topic
from tests.integration.capture.backup import Backup, flush
from tests.integration.conditions import reaches
from tests.integration.restore.site import Site
from tests.integration.restore.test_command import call, write_config

Names = Callable[[], str]

PARTITIONS = 2


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Writing:
    """A producer that never stops, and when each of its records was known to be acknowledged by then."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.acknowledged_ms: dict[bytes, int] = {}
        self.failed: list[str] = []
        self._client = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0})
        self._topic = topic
        self._over = threading.Event()

    def _acknowledged(self, error: KafkaError | None, message: Message) -> None:
        value = message.value()
        if error is not None:
            self.failed.append(error.str())
        elif value is not None:
            self.acknowledged_ms[value] = now_ms()

    def _write(self) -> None:
        number = 0
        while not self._over.is_set():
            for partition in range(PARTITIONS):
                value = b"%d" % number
                self._client.produce(self._topic, value, partition=partition, on_delivery=self._acknowledged)
                number += 1
            self._client.flush(60)

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        thread = threading.Thread(target=self._write, name="writing")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def section(of: Section, *path: str) -> Section:
    for name in path:
        found = of[name]
        assert isinstance(found, dict)
        of = found
    return of


def rows(of: Section, name: str) -> list[Section]:
    found = of[name]
    assert isinstance(found, list)
    return [one for one in found if isinstance(one, dict)]


async def test_everything_acknowledged_before_the_recovery_point_is_back_and_actual_stands_beside_target(
    backup: Backup, unique_topic: Names, short_path: Path
) -> None:
    bootstrap = backup.kafka.bootstrap
    busy = create_topic(bootstrap, unique_topic(), partitions=PARTITIONS)
    idle = create_topic(bootstrap, unique_topic())
    tiers: list[Json] = [
        {"name": "critical", "topics": [busy], "rpo": "4s", "rto": "15m"},
        {"name": "standard", "topics": [idle], "rpo": "24h", "rto": "4h"},
    ]
    daemon = backup.daemon(busy, idle, tiers=tiers)
    writing = Writing(bootstrap, busy)
    daemon.start()
    with writing.meanwhile():
        await reaches(lambda: len(writing.acknowledged_ms) > 200, "records are written")
        await flush(daemon)
        stored = len(backup.objects("segments"))
        await reaches(lambda: len(backup.objects("segments")) > stored + 1, "more is stored, unasked")
        daemon.kill()
        disaster_ms = now_ms()
        written = len(writing.acknowledged_ms)
        await reaches(lambda: len(writing.acknowledged_ms) > written + 100, "records are written that nobody captures")
    assert writing.failed == []
    site = Site(bootstrap=bootstrap, s3=backup.s3, bucket=backup.bucket, prefix=backup.prefix, directory=short_path)
    first, second = unique_topic(), unique_topic()
    compared = ("--tiers", str(daemon.config), "--disaster-at")

    document = site.restore({busy: first, idle: unique_topic()}, *compared, str(disaster_ms), "--format", "json").json()

    points = {one["source"]: one["recovery_point_ms"] for one in rows(document, "topics")}
    point_ms, idle_ms = points[busy], points[idle]
    assert isinstance(point_ms, int)
    assert isinstance(idle_ms, int)
    back = {one.value for records in read_topic(bootstrap, first).values() for one in records}
    proven = {value for value, at_ms in writing.acknowledged_ms.items() if at_ms < point_ms}
    assert len(proven) >= 200
    assert proven <= back, "the report promised these"
    assert back < writing.acknowledged_ms.keys()
    assert point_ms <= disaster_ms
    recovery = section(document, "recovery")
    assert recovery["point_ms"] == min(point_ms, idle_ms)
    assert recovery["disaster_ms"] == disaster_ms
    critical, standard = rows(recovery, "tiers")
    assert (critical["tier"], critical["topics"], critical["rpo_target_seconds"]) == ("critical", [busy], 4.0)
    assert critical["rpo_seconds"] == (disaster_ms - point_ms) / 1000
    assert (standard["rpo_met"], standard["rto_met"], standard["rto_target_seconds"]) == (True, True, 14_400.0)

    # Five seconds of records are lost, where four may be.
    lost_ms = point_ms + 5_000
    await reaches(lambda: now_ms() > lost_ms, "that is in the past")
    text = site.restore({busy: second}, *compared, iso(lost_ms)).require(0).stdout

    assert f"recovery point: complete up to {iso(point_ms)} or later, 5s before the disaster" in text
    assert "critical (1 topic): RPO 5s of 4s, MISSED; RTO" in text
    assert "of 15m00s, met" in text


def test_a_disaster_that_is_still_to_come_is_a_slip_of_the_hand(short_path: Path) -> None:
    config = write_config(short_path, "127.0.0.1:1", "restored")

    code, out, err = call("--config", str(config), "--disaster-at", "2999-01-01T00:00:00Z")

    assert (code, out) == (2, "")
    assert "--disaster-at: 2999-01-01T00:00:00.000Z is in the future" in err

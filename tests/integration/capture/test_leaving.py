"""The end of a life: drained, fenced, failed, aborted. Each tells by its exit code, and none loses anything."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.s3_proxy import S3Proxy, Stall
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Truth
from kbackupd.testbed.workload import LiveLoad, PlainStream, TransactionalStream
from tests.integration.capture.backup import Backup, complaints, flush, follows, topic_rows
from tests.integration.conditions import log_entries, reaches

Names = Callable[[], str]


def logged(daemon: Daemon, event: str) -> list[dict[str, object]]:
    """Its log's lines of one event, over all its lives."""
    return [entry for entry in log_entries(daemon.log) if entry["event"] == event]


def lag(daemon: Daemon, topic: str) -> object:
    return [row["lag_records"] for row in topic_rows(daemon, topic)]


async def holding(daemon: Daemon, backup: Backup, topic: str) -> None:
    """Return when the daemon, which does not flush by itself, holds 50 records of `topic` that are not durable."""
    await follows(daemon, topic, 1)
    await flush(daemon)
    backup.fill(topic, batches=1, records=50)
    await reaches(lambda: lag(daemon, topic) == [50], "50 records held")


async def test_sigterm_makes_all_it_holds_durable_and_exits_0_and_the_next_life_reads_no_segment(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic, flush_interval="1h", checkpoint_interval="1h")
    daemon.start()
    await holding(daemon, backup, topic)

    assert daemon.stop() == 0

    await backup.verbatim({topic: 1})
    daemon.start()
    assert daemon.stop() == 0
    assert [entry["footers_read"] for entry in logged(daemon, "positions.recovered")] == [0, 0]


async def test_a_second_daemon_with_the_same_writer_makes_the_first_stop_with_code_7_and_nothing_is_lost(
    backup: Backup, unique_topic: Names
) -> None:
    plain, transactional = (create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2) for _ in range(2))
    truth = Truth()
    streams: list[PlainStream | TransactionalStream] = [
        PlainStream(topic=plain, records_per_second=300),
        TransactionalStream(topics=(transactional,), records_per_second=100),
    ]
    first, second = backup.daemon(plain, transactional), backup.daemon(plain, transactional)
    with LiveLoad(backup.kafka.bootstrap, truth, streams):
        first.start()
        await flush(first)
        second.start()
        assert first.wait() == 7
        (complaint,) = complaints(first)
        assert "epoch 2 was claimed; this daemon holds 1" in complaint
        await flush(second)
    await backup.drained(second, {plain: 2, transactional: 2})


async def test_of_two_daemons_started_at_once_on_an_empty_place_one_stays_and_nothing_is_lost(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2)
    backup.fill(topic, 0, 1)
    pair = [backup.daemon(topic), backup.daemon(topic)]
    for daemon in pair:
        daemon.launch()
    await reaches(lambda: sum(daemon.running for daemon in pair) == 1, "one has left")
    (left,) = [daemon for daemon in pair if not daemon.running]
    (stays,) = [daemon for daemon in pair if daemon.running]
    assert left.wait() == 7
    await follows(stays, topic, 2)
    backup.fill(topic, 0, 1)
    await backup.drained(stays, {topic: 2})


async def test_sigterm_while_the_store_does_not_answer_at_the_start_ends_it_at_once(
    backup: Backup, proxy: S3Proxy, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    stalled = proxy.strike(Stall(), method="GET", key_part="backup.json")
    daemon = backup.daemon(topic, endpoint=proxy.endpoint)
    daemon.launch()
    await reaches(lambda: bool(stalled.struck), "the first request")
    asked = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - asked < 20
    assert backup.objects() == {}


async def test_a_last_flush_that_fails_exits_6_with_the_reason_and_the_next_life_completes_the_archive(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    with S3Proxy(backup.s3.port) as store_that_stops:
        daemon = backup.daemon(
            topic,
            endpoint=store_that_stops.endpoint,
            shutdown_timeout="5s",
            flush_interval="1h",
            checkpoint_interval="1h",
        )
        daemon.start()
        await holding(daemon, backup, topic)
    assert daemon.stop() == 6
    (complaint,) = complaints(daemon)
    assert "the last flush did not finish within backup.shutdown_timeout (5 s)" in complaint
    assert "; store put: " in complaint
    assert "connect" in complaint

    successor = backup.daemon(topic)
    successor.start()
    await backup.drained(successor, {topic: 1})


async def test_a_second_signal_aborts_at_once_and_the_next_life_completes_the_archive(
    backup: Backup, proxy: S3Proxy, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(
        topic, endpoint=proxy.endpoint, shutdown_timeout="5m", flush_interval="1h", checkpoint_interval="1h"
    )
    daemon.start()
    await holding(daemon, backup, topic)
    stalled = proxy.strike(Stall(), method="PUT", key_part="segments/")

    daemon.signal(signal.SIGTERM)
    await reaches(lambda: bool(stalled.struck), "the last upload")
    again = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 6
    assert time.monotonic() - again < 20
    (complaint,) = complaints(daemon)
    assert "aborted by a second signal" in complaint

    successor = backup.daemon(topic)
    successor.start()
    await flush(successor)
    proxy.clear()  # what the aborted life had sent arrives now, after all
    await reaches(lambda: len(backup.objects("segments/main/0000000001/")) >= 2, "the late segment")
    assert successor.stop() == 0
    await backup.verbatim({topic: 1})

"""What operators do to a running daemon, on the real broker and store: checkpoint, reload, watch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbackupd.model.events import GapCause
from kbackupd.testbed.daemon import Daemon, Json, Section, kbackupd_command, kbackupd_environment
from kbackupd.testbed.s3_proxy import Answer, S3Proxy
from kbackupd.testbed.topics import create_topic
from tests.integration.capture.backup import (
    Backup,
    complaints,
    flush,
    follows,
    gaps,
    notes,
    problems,
    rewritten,
    topic_rows,
)
from tests.integration.capture.test_leaving import logged
from tests.integration.capture.test_retention import delete_records
from tests.integration.conditions import reaches

Names = Callable[[], str]

LAX: list[Json] = [{"name": "lax", "topics": ["*"], "rpo": "1d", "rto": "1d"}]


def included(*topics: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["source"]["topics"]["include"] = list(topics)

    return change


def keys(report: Section, member: str) -> list[str]:
    """Of the settings that a reload report lists there."""
    rows = report[member]
    assert isinstance(rows, list)
    return [str(row["key"]) for row in rows if isinstance(row, dict)]


def health(daemon: Daemon) -> int:
    return daemon.get("/healthz")[0]


async def test_after_a_checkpoint_a_killed_daemon_reads_no_segment_again(backup: Backup, unique_topic: Names) -> None:
    topic = unique_topic()
    create_topic(backup.kafka.bootstrap, topic, partitions=2)
    daemon = backup.daemon(topic, tiers=LAX, flush_interval="1h", checkpoint_interval="1h")
    daemon.start()
    backup.fill(topic, 0, 1)
    await flush(daemon)
    backup.fill(topic, 0)
    await reaches(lambda: [row["lag_records"] for row in topic_rows(daemon, topic)] == [120], "seen, not durable")
    report = daemon.ctl("checkpoint")
    assert report["outcome"] == "stored"
    assert report["partitions"] == 2
    assert str(report["key"]) in backup.objects("checkpoints/")
    assert report["segments"]
    again = daemon.ctl("checkpoint")
    assert (again["outcome"], again["key"]) == ("nothing new", report["key"])
    daemon.kill()
    daemon.start()
    assert logged(daemon, "positions.recovered")[-1]["footers_read"] == 0
    assert daemon.stop() == 0
    await backup.verbatim({topic: 2})


async def test_a_checkpoint_that_the_store_refuses_is_exit_code_four_and_the_next_is_stored(
    backup: Backup, unique_topic: Names, proxy: S3Proxy
) -> None:
    topic = unique_topic()
    create_topic(backup.kafka.bootstrap, topic)
    daemon = backup.daemon(topic, endpoint=proxy.endpoint, tiers=LAX, flush_interval="1h", checkpoint_interval="1h")
    daemon.start()
    backup.fill(topic, 0)
    await flush(daemon)
    daemon.ctl("checkpoint")
    backup.fill(topic, 0)
    await flush(daemon)
    proxy.strike(Answer(status=403, code="AccessDenied"), method="PUT", key_part="checkpoints/")
    refused = daemon.cli("ctl", "--socket", str(daemon.socket), "checkpoint")
    assert refused.exit_code == 4
    assert refused.stderr.startswith("error: ")
    assert "hint: " in refused.stderr
    proxy.clear()
    assert daemon.ctl("checkpoint")["outcome"] == "stored"
    assert daemon.stop() == 0


async def test_a_topic_left_out_by_a_reload_and_included_by_a_hangup_has_no_hole_without_a_cause(
    backup: Backup, unique_topic: Names
) -> None:
    """Invariant I6, over a kill while it is left out and over retention (hazard 11)."""
    kept, moved = unique_topic(), unique_topic()
    for topic in (kept, moved):
        create_topic(backup.kafka.bootstrap, topic)
    daemon = backup.daemon(kept, moved)
    daemon.start()
    backup.fill(kept)
    backup.fill(moved)
    await follows(daemon, moved, 1)
    await flush(daemon)

    rewritten(daemon, included(kept))
    report = daemon.ctl("reload")
    assert keys(report, "applied") == ["source.topics.include"]
    assert keys(report, "needs_restart") == []
    assert topic_rows(daemon, moved) == []
    backup.fill(moved)
    backup.fill(kept)
    delete_records(backup.kafka.bootstrap, moved, 160)
    await flush(daemon)
    daemon.kill()
    daemon.start()
    assert topic_rows(daemon, moved) == []
    async with backup.archive() as archive:
        (archived,) = [topic for topic in archive.topics if topic.name == moved]
        assert archived.excluded_ms is not None
        (id,) = archived.partition_ids
        assert archive.history(id).next_offset == 120

    rewritten(daemon, included(kept, moved))
    daemon.signal(signal.SIGHUP)
    await follows(daemon, moved, 1)
    backup.fill(moved)
    assert not (await flush(daemon)).left_out
    # Once more within one life, nothing of which is durable in between.
    rewritten(daemon, included(kept))
    daemon.ctl("reload")
    backup.fill(moved)
    rewritten(daemon, included(kept, moved))
    daemon.ctl("reload")
    await follows(daemon, moved, 1)
    assert not (await flush(daemon)).left_out
    assert daemon.stop() == 0
    await backup.verbatim({kept: 1})
    await backup.validated()
    async with backup.archive() as archive:
        assert gaps(archive, id) == [(120, 160, GapCause.LOG_START_MOVED)]
        history = archive.history(id)
        assert (history.next_offset, history.holes) == (480, ())
        (archived,) = [topic for topic in archive.topics if topic.name == moved]
        assert archived.excluded_ms is None


async def test_what_a_running_daemon_can_obey_it_obeys_and_names_the_rest(backup: Backup, unique_topic: Names) -> None:
    topic = unique_topic()
    create_topic(backup.kafka.bootstrap, topic)
    daemon = backup.daemon(topic, tiers=LAX, flush_interval="1h", checkpoint_interval="1h")
    daemon.start()
    backup.fill(topic)
    await follows(daemon, topic, 1)

    def change(document: dict[str, Any]) -> None:
        document["backup"] |= {"flush_interval": "300ms", "checkpoint_interval": "1s", "memory_limit": "1GiB"}
        document["tiers"] = [{"name": "strict", "topics": ["*"], "rpo": "30s", "rto": "15m"}]
        document["observability"] |= {"per_partition_metrics": True, "log_level": "warning"}
        document["storage"]["s3"] |= {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "hunter2hunter2"}

    rewritten(daemon, change)
    told = daemon.cli("ctl", "--socket", str(daemon.socket), "reload").require(0).stdout
    assert re.search(r"backup\.flush_interval +1h +300ms", told)
    assert re.search(r"backup\.memory_limit +384MiB +1GiB +what is left of it", told)
    assert re.search(r"storage\.s3\.secret_access_key +\(not set\) +\*{10}", told)
    assert "hunter2" not in told
    # Obeyed: what had waited for an hour is sealed, checkpointed and measured by the new target.
    await reaches(lambda: bool(backup.objects("segments/")), "a segment by the new flush interval")
    await reaches(lambda: bool(backup.objects("checkpoints/")), "a checkpoint by the new interval")
    metrics = daemon.get("/metrics")[1].decode()
    assert 'kbackupd_rpo_target_seconds{tier="strict"} 30.0' in metrics
    assert 'tier="lax"' not in metrics
    assert "kbackupd_partition_lag_records{" in metrics
    assert "kbackupd_memory_limit_bytes 4.02653184e+08" in metrics
    said = notes(daemon)["configuration"]
    assert "backup.memory_limit" in said
    assert "storage.s3.secret_access_key" in said
    assert health(daemon) == 200
    assert "hunter2" not in daemon.log.read_text()
    assert not logged(daemon, "configuration.reloaded"), "an event of level info, from a reload that asked for warnings"
    assert daemon.stop() == 0


async def test_a_wrong_file_changes_nothing_whoever_asks_and_is_over_with_a_good_one(
    backup: Backup, unique_topic: Names
) -> None:
    topic = unique_topic()
    create_topic(backup.kafka.bootstrap, topic)
    daemon = backup.daemon(topic)
    daemon.start()
    good = daemon.config.read_text()

    def change(document: dict[str, Any]) -> None:
        document["backup"] |= {"flush_intervall": "1s", "segment_max_bytes": "1TiB"}
        document["source"]["topics"]["include"] = ["other"]

    rewritten(daemon, change)
    checked = daemon.cli("config", "check", "--config", str(daemon.config))
    refused = daemon.cli("ctl", "--socket", str(daemon.socket), "reload")
    assert (checked.exit_code, refused.exit_code) == (2, 2)
    assert refused.stderr == checked.stderr
    assert "flush_intervall" in problems(daemon)["configuration"]
    assert health(daemon) == 503
    await reaches(lambda: len(logged(daemon, "configuration.refused")) == 1, "the refusal in the log")
    daemon.signal(signal.SIGHUP)
    await reaches(lambda: len(logged(daemon, "configuration.refused")) == 2, "the other refusal in the log")
    assert logged(daemon, "configuration.refused")[-1]["level"] == "error"
    backup.fill(topic)
    assert not (await flush(daemon, topic)).left_out
    daemon.config.write_text(good)
    daemon.signal(signal.SIGHUP)
    await reaches(lambda: health(daemon) == 200, "health after a good file")
    assert daemon.stop() == 0
    await backup.verbatim({topic: 1})


@pytest.fixture
def watching(backup: Backup, unique_topic: Names) -> Iterator[tuple[Daemon, list[dict[str, Any]], Callable[[], int]]]:
    """A daemon, what `status --watch` says of it, line by line, and how to leave it with Ctrl-C."""
    topic = unique_topic()
    create_topic(backup.kafka.bootstrap, topic)
    daemon = backup.daemon(topic)
    daemon.start()
    read, write = os.pipe()
    arguments = ("ctl", "--socket", str(daemon.socket), "status", "--watch", "--interval", "200ms", "--format", "json")
    process = subprocess.Popen(
        kbackupd_command(*arguments), stdout=write, env=kbackupd_environment(), cwd=Path(daemon.directory)
    )
    os.close(write)
    looks: list[dict[str, Any]] = []

    def collect() -> None:
        with os.fdopen(read) as lines:
            looks.extend(json.loads(line) for line in lines)

    def leave() -> int:
        process.send_signal(signal.SIGINT)
        return process.wait(120)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield daemon, looks, leave
    finally:
        process.kill()
        process.wait()
        thread.join(30)


async def test_a_watch_goes_on_over_a_daemon_that_is_killed_and_started_again(
    watching: tuple[Daemon, list[dict[str, Any]], Callable[[], int]],
) -> None:
    daemon, looks, leave = watching
    await reaches(lambda: any(look.get("healthy") for look in looks), "a healthy status")
    epoch = looks[-1]["writer_epoch"]
    daemon.kill()
    # A look on its way is told that the connection broke.
    await reaches(lambda: "nobody listens on" in looks[-1].get("error", ""), "that nobody answers")
    assert looks[-1]["exit_code"] == 4
    daemon.start()
    await reaches(lambda: looks[-1].get("writer_epoch") == epoch + 1, "the next life")
    assert leave() == 0
    assert daemon.stop() == 0


async def test_a_live_socket_is_refused_before_anything_is_claimed_and_a_dead_one_is_replaced(
    backup: Backup, unique_topic: Names
) -> None:
    """Hazard 18, on one host: the second daemon must not fence the first and then leave too."""
    topic = unique_topic()
    create_topic(backup.kafka.bootstrap, topic)
    first, second = backup.daemon(topic), backup.daemon(topic)

    def change(document: dict[str, Any]) -> None:
        document["control"]["socket"] = str(first.socket)

    rewritten(second, change)
    first.start()
    claims = backup.objects("writers/")
    second.launch()
    assert second.wait() == 5
    (complaint,) = complaints(second)
    assert f"another process answers on {first.socket}" in complaint
    backup.fill(topic)
    assert not (await flush(first)).left_out
    assert backup.objects("writers/") == claims
    first.kill()
    assert first.socket.is_socket(), "left behind, as SIGKILL leaves it"
    second.start()
    status = first.ctl("status")  # by the path that both have
    assert status["writer_epoch"] == 2
    assert second.stop() == 0
    assert not first.socket.exists()
    await backup.verbatim({topic: 1})

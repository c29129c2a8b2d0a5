"""`kbackupd run --once` as cron has it: exit code, report, and an archive that holds what the cluster had."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import yaml

from kbackupd.testbed.daemon import Daemon, Finished, Section, kbackupd_command
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import GuardedProcess
from kbackupd.testbed.topics import create_topic, delete_topic
from kbackupd.testbed.truth import Outcome, Truth
from kbackupd.testbed.workload import Draft, LiveLoad, PlainStream, TransactionalStream, produce, produce_transaction
from tests.integration.capture.backup import Backup, complaints, follows, pause, rewritten
from tests.integration.conditions import log_entries, reaches

Names = Callable[[], str]


def once(daemon: Daemon, *options: str) -> tuple[int, Section]:
    """Run it to its end; exit code and report (empty where it made none)."""
    ended = daemon.cli("run", "--once", "--config", str(daemon.config), "--format", "json", *options)
    return ended.exit_code, report_of(ended)


def report_of(ended: Finished) -> Section:
    report = json.loads(ended.stdout) if ended.stdout.strip() else {}
    assert isinstance(report, dict)
    return report


def configure(daemon: Daemon, section: str, **values: object) -> None:
    rewritten(daemon, lambda document: document.setdefault(section, {}).update(values))


def slowed(daemon: Daemon, backup: Backup, topic: str, *partitions: int, times: int = 1) -> int:
    """Fill `topic` with what takes the daemon a minute from now on, a MiB at a time; how many records that are.

    Args:
        times: so many times as much, as many times as fast: who must wait until one MiB is paid for waits less.
    """
    batches = 36 * times
    backup.fill(topic, *partitions, batches=batches, records=250)
    configure(daemon, "source", rate_limit=f"{64 * times}KiB/s")
    return batches * 250 * len(partitions)


class Started:
    """A run that a test does something to before it ends."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.out, self.log = directory / "once.out", directory / "once.log"
        self._process = GuardedProcess(
            "kbackupd run --once",
            [*kbackupd_command("run", "--once", "--format", "json"), "--config", str(daemon.config)],
            log=self.out,
            errors=self.log,
            cwd=directory,
            env=daemon.environment,
        )

    async def logged(self, event: str) -> None:
        """Return when its log has such an event."""
        await reaches(lambda: f'"{event}"' in self.log.read_text(), event)

    async def stored_records(self) -> None:
        """Return when a segment with records is durable."""

        def stored() -> bool:
            return any(entry["event"] == "segment.stored" and entry["records"] for entry in log_entries(self.log))

        await reaches(stored, "a segment with records")

    def signal(self, number: signal.Signals) -> None:
        self._process.signal(number)

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> tuple[int, Section]:
        await reaches(lambda: self._process.exit_code is not None, "its end")
        code = self._process.exit_code
        assert code is not None
        self._process.kill()
        text = self.out.read_text()
        return code, json.loads(text) if text.strip() else {}


def missing(report: Section) -> list[tuple[object, object]]:
    rows = report["missing"]
    assert isinstance(rows, list)
    return [(row["name"], row["fate"]) for row in rows if isinstance(row, dict)]


async def test_where_no_topic_is_selected_it_is_complete_and_says_so(backup: Backup, unique_topic: Names) -> None:
    daemon = backup.daemon(f"{unique_topic()}*")
    code, report = once(daemon)
    assert (code, report["verdict"], report["partitions"]) == (0, "complete", 0)
    text = daemon.cli("run", "--once", "--config", str(daemon.config)).require(0).stdout
    assert "no topic of the cluster is part of the backup" in text


async def test_several_topics_with_empty_partitions_are_complete_and_a_second_run_copies_only_what_is_new(
    backup: Backup, unique_topic: Names
) -> None:
    busy, empty, half = unique_topic(), unique_topic(), unique_topic()
    for topic, partitions in ((busy, 3), (empty, 4), (half, 2)):
        create_topic(backup.kafka.bootstrap, topic, partitions=partitions)
    backup.fill(busy, 0, 1, 2, batches=3, records=40)
    backup.fill(half, 1, batches=1, records=10)
    daemon = backup.daemon(busy, empty, half)

    code, report = once(daemon)
    assert (code, report["verdict"], report["missing"], report["gaps"]) == (0, "complete", [], [])
    assert (report["partitions"], report["partitions_complete"], report["records"]) == (9, 9, 370)
    assert await backup.verbatim({busy: 3, empty: 4, half: 2}) == 10

    backup.fill(half, 0, batches=1, records=7)
    code, report = once(daemon)
    assert (code, report["records"], report["partitions_complete"]) == (0, 7, 9)
    assert report["topics"] == [{"topic": half, "partitions": 2, "records": 7, "bytes": report["bytes"]}]
    code, report = once(daemon, "--deep")
    assert (code, report["records"]) == (0, 0)
    await backup.verbatim({busy: 3, empty: 4, half: 2})


async def test_under_producers_that_never_stop_it_ends_and_the_next_run_goes_on(
    backup: Backup, unique_topic: Names
) -> None:
    plain, transactional = (create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2) for _ in range(2))
    truth = Truth()
    streams: list[PlainStream | TransactionalStream] = [
        PlainStream(topic=plain, records_per_second=300),
        TransactionalStream(topics=(transactional,), records_per_second=100),
    ]
    daemon = backup.daemon(plain, transactional)
    with LiveLoad(backup.kafka.bootstrap, truth, streams) as load:
        await reaches(lambda: truth.record_count > 500, "500 records")
        code, report = once(daemon)
        assert (code, report["verdict"]) == (0, "complete")
        load.stop()
    code, report = once(daemon)
    assert code == 0
    await backup.verbatim({plain: 2, transactional: 2})


async def test_compacted_logs_and_transaction_markers_at_the_end_are_complete(
    backup: Backup, unique_topic: Names
) -> None:
    """Hazards 8, 25."""
    compacted = create_topic(
        backup.kafka.bootstrap,
        unique_topic(),
        config={"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"},
    )
    transactional = create_topic(backup.kafka.bootstrap, unique_topic())
    truth = Truth()
    for round_ in range(4):
        produce(backup.kafka.bootstrap, truth, compacted, [Draft(b"k%d" % (n % 7), b"%d" % round_) for n in range(30)])
    for outcome in (Outcome.COMMITTED, Outcome.ABORTED):
        produce_transaction(backup.kafka.bootstrap, truth, [(transactional, Draft(b"k", b"v"))] * 5, outcome=outcome)
    daemon = backup.daemon(compacted, transactional)
    # The coordinators' own topics are compacted logs that end in whatever they were told last.
    configure(daemon, "source", internal_topics=True)
    code, report = once(daemon)
    assert (code, report["verdict"]) == (0, "complete")
    partitions = report["partitions"]
    assert isinstance(partitions, int)
    assert partitions > 2
    assert report["partitions_complete"] == partitions
    await backup.verbatim({transactional: 1})


async def test_what_a_daemon_left_paused_is_missing_and_all_else_is_there(backup: Backup, unique_topic: Names) -> None:
    held, free = (create_topic(backup.kafka.bootstrap, unique_topic()) for _ in range(2))
    daemon = backup.daemon(held, free)
    daemon.start()
    await follows(daemon, held, 1)
    await pause(daemon, held)
    assert daemon.stop() == 0
    backup.fill(held, batches=1, records=5)
    backup.fill(free, batches=1, records=5)
    code, report = once(daemon)
    assert (code, report["verdict"], missing(report)) == (6, "incomplete", [(f"{held}/0", "paused")])
    await backup.verbatim({free: 1})


async def test_a_topic_deleted_while_it_runs_does_not_keep_it_and_is_told(
    backup: Backup, unique_topic: Names, short_path: Path
) -> None:
    gone, stays = (create_topic(backup.kafka.bootstrap, unique_topic()) for _ in range(2))
    backup.fill(stays, batches=1, records=5)
    daemon = backup.daemon(f"{gone}*", stays, segment_max_bytes="1MiB")
    slowed(daemon, backup, gone, 0, times=4)
    run = Started(daemon, short_path)
    await run.logged("ends.noted")
    delete_topic(backup.kafka.bootstrap, gone)
    code, report = await run.ended()
    assert (code, missing(report)) == (6, [(f"{gone}/0", "deleted")])
    await backup.verbatim({stays: 1})


async def test_killed_in_the_middle_the_next_run_completes_what_restores_equal(
    backup: Backup, unique_topic: Names, short_path: Path
) -> None:
    """Hazard 57."""
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2)
    daemon = backup.daemon(topic, segment_max_bytes="1MiB")
    produced = slowed(daemon, backup, topic, 0, 1)
    run = Started(daemon, short_path)
    await run.stored_records()
    run.kill()
    assert run.out.read_text() == ""

    configure(daemon, "source", rate_limit="1GiB/s")
    code, report = once(daemon)
    assert (code, report["verdict"], report["writer_epoch"]) == (0, "complete", 2)
    captured = report["records"]
    assert isinstance(captured, int)
    assert 0 < captured < produced
    await backup.verbatim({topic: 2})
    target = unique_topic()
    restored = daemon.restore(backup.kafka.bootstrap, {topic: target}).json()
    assert restored["records_restored"] == produced


async def test_asked_to_stop_it_drains_and_says_how_far_it_came(
    backup: Backup, unique_topic: Names, short_path: Path
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic, segment_max_bytes="1MiB")
    produced = slowed(daemon, backup, topic, 0)
    run = Started(daemon, short_path)
    await run.stored_records()
    run.signal(signal.SIGTERM)
    code, report = await run.ended()
    assert (code, report["verdict"], report["interrupted"], report["validation"]) == (6, "incomplete", True, None)
    captured = report["records"]
    assert isinstance(captured, int)
    assert 0 < captured < produced
    configure(daemon, "source", rate_limit="1GiB/s")
    code, report = once(daemon)
    assert (code, report["records"]) == (0, produced - captured)
    await backup.verbatim({topic: 1})


async def test_damage_that_validation_finds_exits_3_and_is_named(backup: Backup, unique_topic: Names) -> None:
    """Hazard 16."""
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic, batches=1, records=5)
    daemon = backup.daemon(topic)
    assert once(daemon)[0] == 0
    backup.delete(min(backup.objects("segments/")))
    backup.fill(topic, batches=1, records=5)
    code, report = once(daemon)
    assert (code, report["verdict"]) == (3, "not valid")
    text = daemon.cli("run", "--once", "--config", str(daemon.config))
    assert text.exit_code == 3
    assert text.stdout.startswith("NOT VALID")
    assert "object.missing" in text.stdout


async def test_a_store_that_says_no_exits_4(backup: Backup, unique_topic: Names) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    ended = backup.daemon(topic, secret_key="wrong").cli("run", "--once", "--config", "kbackupd.yaml")
    assert (ended.exit_code, ended.stdout) == (4, "")
    assert "error: " in ended.stderr


async def test_a_store_that_is_away_exits_4_and_nothing_is_claimed(backup: Backup, unique_topic: Names) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    (closed,) = free_ports(1)
    daemon = backup.daemon(topic, endpoint=f"http://127.0.0.1:{closed}", odd=("--once", "--patience-seconds", "2"))
    daemon.launch()
    assert daemon.wait() == 4
    assert len(complaints(daemon)) == 1
    assert backup.objects() == {}


async def test_beside_a_daemon_on_the_same_socket_it_is_refused_and_the_daemon_goes_on(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic)
    daemon.start()
    code, _ = once(daemon)
    assert code == 5
    backup.fill(topic)
    await backup.drained(daemon, {topic: 1})


async def test_where_it_can_have_neither_socket_nor_port_it_goes_without(
    backup: Backup, unique_topic: Names, short_path: Path
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic, batches=1, records=5)
    other = backup.daemon(topic)
    daemon = backup.daemon(topic)
    configure(daemon, "control", socket=str(short_path / "not-there" / "control.sock"))
    configure(daemon, "observability", listen=f"127.0.0.1:{other.port}")
    s3 = yaml.safe_load(other.config.read_text())["storage"]["s3"]
    configure(other, "storage", s3={**s3, "prefix": f"{backup.prefix}-other"})
    other.start()
    ended = daemon.cli("run", "--once", "--config", str(daemon.config), "--format", "json")
    assert (ended.exit_code, report_of(ended)["records"]) == (0, 5)
    assert ended.stderr.count('"server.left_out"') == 2
    assert other.running


async def test_status_is_answered_while_it_runs(backup: Backup, unique_topic: Names, short_path: Path) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic, segment_max_bytes="1MiB")
    slowed(daemon, backup, topic, 0)
    run = Started(daemon, short_path)
    await run.logged("ends.noted")
    status = daemon.ctl("status")
    assert status["writer_epoch"] == 1
    run.kill()

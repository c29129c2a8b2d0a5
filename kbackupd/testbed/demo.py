"""`python -m kbackupd.testbed.demo [--keep]`: the whole promise in two minutes, on real servers.

Produces live load into a real Kafka, backs it up to a real S3 server, kills the daemon with SIGKILL under load, starts
it again, flushes, validates every byte, destroys the Kafka cluster, restores into an empty one and compares every
record with what was produced. Exit code 0 only if all of it held. Leaves nothing running, whatever happens; with
`--keep` it leaves the restored cluster, the S3 server and a daemon running and says how to talk to them.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from kbackupd.model.errors import KbackupError
from kbackupd.model.units import format_bytes
from kbackupd.testbed.covered import flush_to_the_ends
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.demo_report import Findings, report
from kbackupd.testbed.demo_topics import HISTORY_RECORDS, PARTITIONS, PLAIN, TIERS, TRANSACTIONAL, TRANSACTIONS
from kbackupd.testbed.exposure import ExposureWatch
from kbackupd.testbed.interrupts import Interrupts
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.process import Deadline, ServerFailedError
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.screen import Screen, Stage
from kbackupd.testbed.topics import create_topic, partition_leaders
from kbackupd.testbed.truth import Truth, compare_records, read_topic
from kbackupd.testbed.workload import LiveLoad, PlainStream, RecordMaker, TransactionalStream, produce

BUCKET = "kafka-backups"
PREFIX = "demo"
BACKUP_ID = "demo"

LOAD_SECONDS = (12.0, 12.0, 10.0)
"""Live load before the first kill, between the kills, and after the last."""
DEAD_SECONDS = (1.0, 3.0)
CATCH_UP_DEADLINE_SECONDS = 120.0


class Demo:
    """The story, one method a chapter; `tell` is the order of events."""

    def __init__(self, screen: Screen, home: Path, cleanup: ExitStack) -> None:
        self.screen = screen
        self.home = home
        self.truth = Truth()
        self.findings = Findings()
        self.kafka = KafkaServer(directory=home / "kafka")
        self.s3 = S3Server(directory=home / "s3")
        self.daemon: Daemon | None = None
        self._cleanup = cleanup
        cleanup.callback(self.kafka.close)
        cleanup.callback(self.s3.close)

    def tell(self) -> None:
        """Everything up to the report.

        Raises:
            KbackupError: some step failed; differences found at the end are in the findings instead.
        """
        self.start_servers()
        self.create_topics()
        daemon = self.start_daemon()
        watch = ExposureWatch(daemon.status, frozenset(TIERS))
        watch.start()
        streams: list[PlainStream | TransactionalStream] = [*(stream for _, stream in PLAIN.values()), TRANSACTIONS]
        load = LiveLoad(self.kafka.bootstrap, self.truth, streams, seed=int(time.time()))
        load.start()
        try:
            self.kill_under_load(daemon, watch)
        finally:
            with self.screen.stage("stop the load; every record acknowledged, every transaction decided"):
                load.stop()
        self.flush(daemon)
        watch.stop()
        self.findings.worst_exposure_seconds = watch.worst_seconds
        self.findings.worst_running_seconds = watch.worst_running_seconds
        self.validate(daemon)
        self.drain(daemon)
        self.destroy()
        destroyed_at = time.monotonic()
        self.restore(daemon)
        self.compare()
        self.findings.rto_seconds = time.monotonic() - destroyed_at

    def start_servers(self) -> None:
        with self.screen.stage("start Apache Kafka 4.3.1 and an S3 server") as stage:
            # Side by side: each spends most of its start waiting.
            with ThreadPoolExecutor(2) as both:
                for started in (both.submit(self.kafka.start), both.submit(self.s3.start)):
                    started.result()
            self.s3.create_bucket(BUCKET)
            stage.update(f"Kafka at {self.kafka.bootstrap}, S3 at {self.s3.endpoint}")

    def create_topics(self) -> None:
        with self.screen.stage("create topics and produce some history") as stage:
            for topic, partitions in PARTITIONS.items():
                create_topic(self.kafka.bootstrap, topic, partitions=partitions)
                self.truth.know_topic(topic, partitions)
            maker = RecordMaker("history")
            for topic, (_, stream) in PLAIN.items():
                drafts = (maker.draft() for _ in range(HISTORY_RECORDS // len(PLAIN)))
                produce(self.kafka.bootstrap, self.truth, topic, drafts, codec=stream.codec)
                stage.update(f"{len(PARTITIONS)} topics, {self.truth.record_count:,} records")

    def start_daemon(self) -> Daemon:
        with self.screen.stage("start the daemon: kbackupd run") as stage:
            daemon = self._daemon("daemon", BACKUP_ID, self.kafka)
            daemon.start()
            stage.update("ready")
        return daemon

    def kill_under_load(self, daemon: Daemon, watch: ExposureWatch) -> None:
        """Live load throughout; SIGKILL at random moments, and a start after each."""
        for number, seconds in enumerate(LOAD_SECONDS):
            with self.screen.stage("live load, backed up as it comes") as stage:
                deadline = Deadline(seconds + random.uniform(0.0, 2.0))
                while not deadline.passed:
                    daemon.require_running()
                    self._show_load(stage, watch)
                    time.sleep(0.1)
            if number == len(LOAD_SECONDS) - 1:
                return
            with self.screen.stage("kill -9 the daemon under load, start it again") as stage:
                daemon.kill()
                self.findings.kills += 1
                deadline = Deadline(random.uniform(*DEAD_SECONDS))
                while not deadline.passed:
                    self._show_load(stage, watch)
                    time.sleep(0.1)
                began = time.monotonic()
                daemon.start()
                self.findings.recovery_seconds.append(time.monotonic() - began)
                stage.update(f"ready again {self.findings.recovery_seconds[-1]:.1f} s after its start")

    def flush(self, daemon: Daemon) -> None:
        """Flush until the answers cover everything the brokers have."""
        with self.screen.stage("flush: kbackupd ctl flush") as stage:
            ends = flush_to_the_ends(
                daemon,
                self.kafka.bootstrap,
                PARTITIONS,
                deadline_seconds=CATCH_UP_DEADLINE_SECONDS,
                progress=stage.update,
            )
            stage.update(f"{len(ends)} partitions durable to their ends, {sum(ends.values()):,} offsets")

    def validate(self, daemon: Daemon) -> None:
        with self.screen.stage("validate every byte: kbackupd validate --deep") as stage:
            finished = daemon.cli(
                *("validate", "--path", daemon.path, "--backup-id", BACKUP_ID, "--deep", "--format", "json"),
                *(part for topic in PARTITIONS for part in ("--expect-topic", topic)),
                progress=stage.update,
            )
            finished.json()
            self.findings.validation_seconds = finished.seconds
            objects = self.s3.list_objects(BUCKET, f"{PREFIX}/")
            self.findings.objects, self.findings.stored_bytes = len(objects), sum(objects.values())
            stage.update(f"valid: {len(objects)} objects, {format_bytes(self.findings.stored_bytes)}")

    def drain(self, daemon: Daemon) -> None:
        with self.screen.stage("stop the daemon: SIGTERM, drain") as stage:
            if exit_code := daemon.stop():
                raise ServerFailedError(f"the daemon drained with exit code {exit_code}; see {daemon.log}")
            stage.update("exit code 0")

    def destroy(self) -> None:
        with self.screen.stage("DESTROY the Kafka cluster and its data") as stage:
            lost = self.kafka.cluster_id
            self.kafka.destroy()
            stage.update(f"cluster {lost} is gone; the clock runs")

    def restore(self, daemon: Daemon) -> None:
        with self.screen.stage("start an empty cluster") as stage:
            self.kafka.start()
            stage.update(f"cluster {self.kafka.cluster_id}")
        with self.screen.stage("restore: kbackupd restore") as stage:
            finished = daemon.restore(self.kafka.bootstrap, progress=stage.update)
            report = finished.json()
            stage.update(
                f"{report.get('records_restored'):,} records, {report.get('records_aborted'):,} aborted ones left out"
            )
            self.findings.restore_seconds = finished.seconds

    def compare(self) -> None:
        """Every partition against the truth, read by a client that shares no code with kbackupd."""
        with self.screen.stage("compare every record with what was produced") as stage:
            for topic, partitions in PARTITIONS.items():
                if len(partition_leaders(self.kafka.bootstrap, topic)) != partitions:
                    self.findings.differences.append(f"{topic}: not {partitions} partitions")
                    continue
                for partition, records in read_topic(self.kafka.bootstrap, topic).items():
                    wanted = self.truth.records(topic, partition)
                    # Aborted records and control markers took offsets in the source and are not restored.
                    found = compare_records(wanted, records, offsets=topic not in TRANSACTIONAL)
                    self.findings.differences += [f"{topic}-{partition}: {one}" for one in found]
                    self.findings.restored_records += len(records)
                stage.update(f"{self.findings.restored_records:,} records")

    def leave_running(self) -> None:
        """Back up the restored cluster too, let everything outlive this process, and say how to talk to it."""
        with self.screen.stage("start a daemon on the restored cluster"):
            daemon = self._daemon("kept", f"{BACKUP_ID}-restored", self.kafka)
            daemon.start()
        groups = [pid for pid in (daemon.pid, self.kafka.pid, self.s3.pid) if pid is not None]
        stop = self.home / "stop.sh"
        killing = "\n".join(f"kill -KILL -{group} 2>/dev/null" for group in groups)
        stop.write_text(f"#!/bin/sh\nkill -TERM {groups[0]} 2>/dev/null; sleep 2\n{killing}\nrm -rf {self.home}\n")
        for server in (daemon, self.kafka, self.s3):
            server.keep()
        self._cleanup.pop_all()
        variables = " ".join(f"{name}={value}" for name, value in self.s3.environment.items())
        kbackupd = f"{sys.executable} -m kbackupd.cli.main"
        for title, line in {
            "Kafka": f"bootstrap {self.kafka.bootstrap}",
            "S3": f"export {variables}",
            "status": f"{kbackupd} ctl --socket {daemon.socket} status",
            "metrics": f"curl http://127.0.0.1:{daemon.port}/metrics",
            "the archive": f"{kbackupd} describe --path {daemon.path} --backup-id {BACKUP_ID}",
            "logs": f"{daemon.log}  {self.kafka.log}  {self.s3.log}",
            "stop all": f"sh {stop}",
        }.items():
            self.screen.console.print(f"  {title:12} {line}", markup=False, highlight=False, soft_wrap=True)

    def save_logs(self) -> Path:
        """Copy every log to where the clean-up does not reach; their directory."""
        kept = Path(tempfile.mkdtemp(prefix="kbackupd-demo-failed-"))
        for log in (self.kafka.log, self.s3.log, *(self.home / "daemon").glob("*")):
            with contextlib.suppress(OSError, shutil.SpecialFileError):
                shutil.copy(log, kept)
        return kept

    def _daemon(self, directory: str, backup_id: str, kafka: KafkaServer) -> Daemon:
        targets: dict[str, tuple[str, str]] = {"critical": ("30s", "15m"), "standard": ("5m", "4h")}
        daemon = Daemon(
            self.home / directory,
            bootstrap=kafka.bootstrap,
            s3=self.s3,
            bucket=BUCKET,
            prefix=PREFIX,
            backup_id=backup_id,
            tiers=[
                {"name": name, "topics": list(topics), "rpo": targets[name][0], "rto": targets[name][1]}
                for name, topics in TIERS.items()
            ],
        )
        self._cleanup.callback(daemon.kill)
        return daemon

    def _show_load(self, stage: Stage, watch: ExposureWatch) -> None:
        exposure = "unknown" if watch.now_seconds is None else f"{watch.now_seconds:.1f} s"
        stage.update(f"{self.truth.record_count:,} records, exposure {exposure}")


def main() -> int:
    """Run the demo; exit code 0 passed, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m kbackupd.testbed.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave cluster, S3 and a daemon running at the end")
    keep = parser.parse_args().keep
    # A log has no width to wrap at.
    console = Console(width=None if sys.stdout.isatty() else 140)
    interrupts = Interrupts()
    try:
        with ExitStack() as cleanup:
            home = Path(tempfile.mkdtemp(prefix="kbackupd-demo-"))
            cleanup.callback(shutil.rmtree, home, ignore_errors=True)
            demo = Demo(Screen(console), home, cleanup)
            cleanup.callback(interrupts.ignore)  # the last one in is the first one out
            try:
                demo.tell()
            except KbackupError:
                console.print(f"logs kept in {demo.save_logs()}", markup=False, highlight=False, soft_wrap=True)
                raise
            passed = report(console, demo.truth, demo.findings)
            if keep and passed:
                demo.leave_running()
    except (KeyboardInterrupt, Exception) as error:
        if interrupts.met:
            console.print("interrupted; nothing is left running")
            return 130
        if not isinstance(error, KbackupError):
            raise
        console.print(f"FAILED: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            console.print(f"hint: {error.hint}", markup=False, highlight=False)
        return 1
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.partitions`: what ten thousand partitions cost the daemon, measured from outside.

Starts its own brokers and S3 server, makes the topics with data in every partition, runs `kbackupd run` as a process
of its own, and watches it start, idle, under a light load on every partition and a heavy one on a few, and come back
after SIGTERM and SIGKILL. Prints a table of figures with the aims they are held against. Judges nothing: it ends with 0
whatever the figures are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.figures import machine
from bench.many_topics import Load, create_topics, topic_names
from bench.partition_figures import Figure, as_table
from bench.partition_phases import Site, Watched
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaCluster, KafkaServer
from kbackupd.testbed.s3 import S3Server

BUCKET = "bench"
PREFIX = "many"
START_SECONDS = 600.0
"""For the brokers: three of them on a machine with other work take minutes."""


def main() -> int:
    arguments = _parser().parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kbackupd-bench-", dir=arguments.directory))
    try:
        figures = _measure(arguments, directory)
    except BaseException:
        log = directory / "daemon" / "kbackupd.log"
        if log.exists():
            print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-20:]), file=sys.stderr)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(
        f"{facts}; {arguments.topics} x {arguments.partitions} partitions on {arguments.brokers} broker(s), "
        f"flush_interval {arguments.flush_interval} s, light load: a record per partition every "
        f"{arguments.light_period:g} s, heavy load: {arguments.heavy_mb_per_second:g} MB/s of values on "
        f"{arguments.heavy_partitions} partitions besides\n{as_table(figures)}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": [asdict(f) for f in figures]}, indent=2))
    return 0


def _measure(arguments: argparse.Namespace, directory: Path) -> list[Figure]:
    names = topic_names(arguments.topics)
    with _cluster(arguments.brokers, directory) as bootstrap, S3Server(directory=directory / "s3") as s3:
        s3.create_bucket(BUCKET)
        _say(f"creating {arguments.topics} topics of {arguments.partitions} partitions")
        create_topics(
            bootstrap,
            names,
            partitions=arguments.partitions,
            replication_factor=min(arguments.replicas, arguments.brokers),
        )
        daemon = Daemon(
            directory / "daemon",
            bootstrap=bootstrap,
            s3=s3,
            bucket=BUCKET,
            prefix=PREFIX,
            overrides={
                "backup": {
                    "flush_interval": f"{arguments.flush_interval}s",
                    "checkpoint_interval": "30s",
                    "discovery_interval": "15s",
                    "memory_limit": f"{arguments.memory_limit_mib}MiB",
                }
            },
            program=arguments.program.split() if arguments.program else None,
        )
        load = Load(
            bootstrap,
            names,
            partitions=arguments.partitions,
            light_period_seconds=arguments.light_period,
            heavy_partitions=arguments.heavy_partitions,
            heavy_bytes_per_second=round(arguments.heavy_mb_per_second * 1e6),
        )
        site = Site(
            daemon=daemon,
            s3=s3,
            bucket=BUCKET,
            prefix=f"{PREFIX}/{daemon.backup_id}/",
            load=load,
            partitions=arguments.topics * arguments.partitions,
            flush_interval_seconds=float(arguments.flush_interval),
            memory_limit_bytes=arguments.memory_limit_mib << 20,
            say=_say,
        )
        _say("a record into every partition")
        with load, contextlib.ExitStack() as ending:
            ending.callback(daemon.kill)
            watched = Watched(site)
            watched.first_start()
            watched.idle(arguments.idle_seconds)
            watched.under_load("light load", arguments.load_seconds, heavy=False)
            watched.under_load("heavy load", arguments.load_seconds, heavy=True)
            watched.restarts()
            watched.readers()
            return watched.figures


@contextlib.contextmanager
def _cluster(brokers: int, directory: Path) -> Iterator[str]:
    # As a cluster of that size is run: background work at its own pace, not at the testbed's, which checks every
    # partition once a second.
    properties = {
        "log.retention.check.interval.ms": "300000",
        "log.cleaner.backoff.ms": "15000",
        "log.segment.delete.delay.ms": "60000",
        "log.index.size.max.bytes": str(1 << 20),
    }
    kafka: KafkaServer | KafkaCluster
    if brokers == 1:
        kafka = KafkaServer(heap="2g", jvm_options=(), directory=directory / "kafka", properties=properties)
    else:
        kafka = KafkaCluster(brokers, heap="1g", properties=properties)
    try:
        kafka.start(deadline_seconds=START_SECONDS)
        yield kafka.bootstrap
    finally:
        kafka.close()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.partitions", description=__doc__)
    parser.add_argument("--brokers", type=int, choices=[1, 3], default=1)
    parser.add_argument(
        "--replicas", type=int, default=1, help="of every partition, at most one per broker (default 1)"
    )
    parser.add_argument("--topics", type=int, default=200)
    parser.add_argument("--partitions", type=int, default=50, help="per topic (default 50)")
    parser.add_argument("--flush-interval", type=int, default=10, metavar="SECONDS")
    parser.add_argument("--memory-limit-mib", type=int, default=384, help="the daemon's own default (384)")
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--load-seconds", type=float, default=60.0, help="of each load (default 60)")
    parser.add_argument("--light-period", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--heavy-partitions", type=int, default=4)
    parser.add_argument("--heavy-mb-per-second", type=float, default=20.0)
    parser.add_argument("--directory", type=Path, help="where brokers and store keep their data (default: temporary)")
    parser.add_argument("--program", help="run the daemon by this command line instead, e.g. under a profiler")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: how fast a topic becomes durable, as a share of what fetching and writing alone allow in the same run.

Starts its own broker, fills a topic per codec, and measures rounds of: fetch and discard, the daemon, the same bytes
written and fsynced. Judges nothing: times are reported, never gated on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.backup import back_up
from bench.figures import GIB, Round, TopicFigures, as_json, as_table, machine
from bench.limits import fetch_and_discard, write_fsynced
from bench.load import LoadedTopic, fill_topic
from kbackupd.model.settings import BackupSettings
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.workload import Codec

TOPICS: dict[str, Codec] = {"uncompressed": "none", "zstd": "zstd"}


def main() -> int:
    arguments = _parser().parse_args()
    names = arguments.topics.split(",")
    if unknown := [name for name in names if name not in TOPICS]:
        print(f"no such topic: {', '.join(unknown)}; there are {', '.join(TOPICS)}", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="kbackupd-bench-", dir=arguments.directory))
    try:
        # Not the testbed's fast-starting JVM: here the broker's own speed counts.
        with KafkaServer(heap="1g", jvm_options=(), directory=directory / "kafka") as kafka:
            topics = []
            for name in names:
                print(f"producing {arguments.gib:g} GiB to {name}", file=sys.stderr)
                topics.append(fill_topic(kafka, name, codec=TOPICS[name], raw_bytes=round(arguments.gib * GIB)))
            figures = [_measure(kafka, topic, directory, arguments.rounds) for topic in topics]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(f"{facts}; median of {arguments.rounds} (least-most)\n{as_table(figures)}")
    if arguments.json is not None:
        arguments.json.write_text(as_json(figures) + "\n")
    return 0


def _measure(kafka: KafkaServer, topic: LoadedTopic, directory: Path, count: int) -> TopicFigures:
    defaults = BackupSettings()
    request_bytes = defaults.segment_max_bytes // 2
    # Once unmeasured: the broker's code is compiled and its log is in the page cache from here on.
    fetch_and_discard(kafka.bootstrap, topic.name, request_bytes=request_bytes)
    rounds = []
    for number in range(count):
        os.sync()
        fetch_seconds = fetch_and_discard(kafka.bootstrap, topic.name, request_bytes=request_bytes)
        life = directory / f"{topic.name}-{number}"
        backup = back_up(life, bootstrap=kafka.bootstrap, topic=topic.name, records=topic.records)
        shutil.rmtree(life)
        os.sync()
        write_seconds = write_fsynced(directory / "written", backup.segment_bytes)
        rounds.append(Round(fetch_seconds=fetch_seconds, write_seconds=write_seconds, backup=backup))
        print(
            f"{topic.name} round {number + 1}: fetch {fetch_seconds:.2f} s, write {write_seconds:.2f} s, backup "
            f"{backup.seconds:.2f} s, {backup.cpu_seconds:.2f} CPU s, {backup.peak_rss_bytes >> 20} MiB",
            file=sys.stderr,
        )
    return TopicFigures.of(topic, rounds, memory_limit_bytes=defaults.memory_limit_bytes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="values per topic (default 1)")
    parser.add_argument("--topics", default="uncompressed,zstd", help="comma-separated (default: both)")
    parser.add_argument("--target", choices=["disk"], default="disk", help="where the archive goes")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--directory", type=Path, help="a directory on the disk to measure (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

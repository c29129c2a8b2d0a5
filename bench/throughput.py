"""`make bench`: how fast a topic becomes durable, as a share of what reading and writing alone allow in the same run.

Starts its own broker (and S3 server), fills a topic per codec, and measures rounds of: fetch and check, the daemon, the
same bytes put into the same store. Judges nothing: times are reported, never gated on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.backup import back_up
from bench.figures import GIB, Round, TopicFigures, as_json, as_table, machine
from bench.limits import fetch_and_check
from bench.load import TOPICS, LoadedTopic, fill_topic
from bench.places import Bucket, Directory, Place, StoreName
from kbackupd.model.settings import BackupSettings
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server

STORES: tuple[StoreName, ...] = ("filesystem", "s3")


def main() -> int:
    arguments = _parser().parse_args()
    names, stores = arguments.topics.split(","), arguments.store.split(",")
    if unknown := [name for name in names if name not in TOPICS]:
        print(f"no such topic: {', '.join(unknown)}; there are {', '.join(TOPICS)}", file=sys.stderr)
        return 2
    if unknown := [name for name in stores if name not in STORES]:
        print(f"no such store: {', '.join(unknown)}; there are {', '.join(STORES)}", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="kbackupd-bench-", dir=arguments.directory))
    try:
        with ExitStack() as servers:
            # Not the testbed's fast-starting JVM: here the broker's own speed counts.
            kafka = servers.enter_context(KafkaServer(heap="1g", jvm_options=(), directory=directory / "kafka"))
            places: list[Place] = []
            if "filesystem" in stores:
                places.append(Directory(directory / "store"))
            if "s3" in stores:
                places.append(Bucket(servers.enter_context(S3Server(directory=directory / "s3"))))
            topics = []
            for name in names:
                print(f"producing {arguments.gib:g} GiB to {name}", file=sys.stderr)
                raw_bytes = round(arguments.gib * GIB)
                codec, batch_records = TOPICS[name], arguments.batch_records
                topics.append(fill_topic(kafka, name, codec=codec, raw_bytes=raw_bytes, batch_records=batch_records))
            figures = [
                _measure(kafka, topic, place, directory, arguments.rounds) for topic in topics for place in places
            ]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(f"{facts}; median of {arguments.rounds} (least-most)\n{as_table(figures)}")
    if arguments.json is not None:
        arguments.json.write_text(as_json(figures) + "\n")
    return 0


def _measure(kafka: KafkaServer, topic: LoadedTopic, place: Place, directory: Path, count: int) -> TopicFigures:
    defaults = BackupSettings()
    request_bytes = defaults.segment_max_bytes // 2
    # Once unmeasured: the broker's code is compiled and its log is in the page cache from here on.
    fetch_and_check(kafka.bootstrap, topic.name, request_bytes=request_bytes)
    rounds = []
    for number in range(count):
        os.sync()
        reading = fetch_and_check(kafka.bootstrap, topic.name, request_bytes=request_bytes)
        life = directory / f"{topic.name}-{number}"
        backup = back_up(life, place=place, bootstrap=kafka.bootstrap, topic=topic.name, records=topic.records)
        place.clear(life.name)
        shutil.rmtree(life)
        os.sync()
        writing = place.write(backup.segment_bytes)
        rounds.append(Round(reading=reading, writing=writing, backup=backup))
        print(
            f"{topic.name} to {place.name}, round {number + 1}: fetch {reading.cost.seconds:.2f} s, write "
            f"{writing.seconds:.2f} s, backup {backup.seconds:.2f} s, {backup.cpu_seconds:.2f} CPU s (limits "
            f"{rounds[-1].limit_cpu_seconds:.2f}), {backup.peak_rss_bytes >> 20} MiB",
            file=sys.stderr,
        )
    return TopicFigures.of(topic, rounds, store=place.name, memory_limit_bytes=defaults.memory_limit_bytes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="values per topic (default 1)")
    parser.add_argument(
        "--topics",
        default="uncompressed,lz4,zstd",
        help=f"comma-separated, of {', '.join(TOPICS)} (default: uncompressed,lz4,zstd)",
    )
    parser.add_argument("--store", default="filesystem,s3", help="comma-separated: filesystem, s3 (default: both)")
    parser.add_argument(
        "--batch-records", type=_positive, metavar="N", help="at most N records a batch (default: as many as fit 1 MB)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--directory", type=Path, help="a directory on the disk to measure (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())

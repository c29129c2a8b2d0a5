"""`make bench`: how fast an archived topic comes back from S3, as a share of what the broker takes from memory.

Starts its own broker and S3 server, fills a topic per codec, backs it up, and measures rounds of: the rewritten batches
out of memory into a fresh topic, `kbackupd restore` from S3 into a fresh topic. Judges nothing: times are reported,
never gated on.

On one machine the broker, the S3 server and the restore take each other's processors, and the limit shares them with
one less. `--apart` gives the broker half of them for itself, in the limit and in the restore, as on a host of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.backup import back_up, back_up_in_parts
from bench.figures import GIB, MIB, Spread, machine, markdown
from bench.load import PARTITIONS, TOPICS, VALUE_BYTES, LoadedTopic, add_records, fill_topic, loaded_topic
from bench.places import Bucket, Cost
from bench.process import spent
from bench.restoring import RestoreRun, held_batches, produce_held, restore, startup_cpu_seconds
from kbackupd.testbed.daemon import kbackupd_environment
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic, delete_topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The limit and the restore, measured one right after the other. Servers' costs are processor seconds."""

    limit: Cost
    limit_broker: float
    restore: RestoreRun
    restore_broker: float
    restore_s3: float

    @property
    def share(self) -> float:
        """The restore's throughput as a share of the limit's."""
        return self.limit.seconds / self.restore.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFigures:
    """One topic's rounds in sum. Rates count the bytes of the values, whoever compressed them."""

    topic: LoadedTopic
    rounds: int
    produced_bytes: int
    startup_cpu_seconds: float
    limit_mb_per_second: Spread
    restore_mb_per_second: Spread
    restore_broker_mb_per_second: Spread
    restore_seconds: Spread
    verify_seconds: Spread
    share_of_limit: Spread
    cpu_seconds_per_gib: Spread
    cpu_seconds_per_broker_gib: Spread
    limit_cpu_seconds_per_gib: Spread
    limit_broker_cpu_seconds_per_gib: Spread
    broker_cpu_seconds_per_gib: Spread
    s3_cpu_seconds_per_gib: Spread
    peak_rss_bytes: Spread

    @classmethod
    def of(cls, topic: LoadedTopic, rounds: Sequence[Round], *, startup_cpu: float) -> RestoreFigures:
        raw_mb, gib = topic.raw_bytes / 1e6, topic.raw_bytes / GIB
        produced = rounds[-1].restore.bytes_produced

        def spread(value: Callable[[Round], float]) -> Spread:
            return Spread.of(map(value, rounds))

        return cls(
            topic=topic,
            rounds=len(rounds),
            produced_bytes=produced,
            startup_cpu_seconds=startup_cpu,
            limit_mb_per_second=spread(lambda one: raw_mb / one.limit.seconds),
            restore_mb_per_second=spread(lambda one: raw_mb / one.restore.seconds),
            restore_broker_mb_per_second=spread(lambda one: produced / 1e6 / one.restore.seconds),
            restore_seconds=spread(lambda one: one.restore.seconds),
            verify_seconds=spread(lambda one: one.restore.verify_seconds),
            share_of_limit=spread(lambda one: one.share),
            cpu_seconds_per_gib=spread(lambda one: (one.restore.process.cpu_seconds - startup_cpu) / gib),
            cpu_seconds_per_broker_gib=spread(
                lambda one: (one.restore.process.cpu_seconds - startup_cpu) / produced * GIB
            ),
            limit_cpu_seconds_per_gib=spread(lambda one: one.limit.cpu_seconds / gib),
            limit_broker_cpu_seconds_per_gib=spread(lambda one: one.limit_broker / gib),
            broker_cpu_seconds_per_gib=spread(lambda one: one.restore_broker / gib),
            s3_cpu_seconds_per_gib=spread(lambda one: one.restore_s3 / gib),
            peak_rss_bytes=spread(lambda one: float(one.restore.process.peak_rss_bytes)),
        )


def main() -> int:
    arguments = _parser().parse_args()
    names = arguments.topics.split(",")
    if unknown := [name for name in names if name not in TOPICS]:
        print(f"no such topic: {', '.join(unknown)}; there are {', '.join(TOPICS)}", file=sys.stderr)
        return 2
    if min(arguments.rounds, arguments.partitions, arguments.parts, arguments.warm_up + 1) < 1:
        print("--rounds, --partitions and --parts are at least 1, --warm-up at least 0", file=sys.stderr)
        return 2
    processors = sorted(os.sched_getaffinity(0))
    if arguments.apart and len(processors) < 2:
        print("--apart needs two processors", file=sys.stderr)
        return 2
    brokers, others = (processors[: len(processors) // 2], processors[len(processors) // 2 :])
    directory = Path(tempfile.mkdtemp(prefix="kbackupd-bench-", dir=arguments.directory))
    try:
        with ExitStack() as servers:
            if arguments.apart:
                os.sched_setaffinity(0, brokers)  # what is started inherits it
            # Not the testbed's fast-starting JVM: here the broker's own speed counts.
            kafka = servers.enter_context(KafkaServer(heap="1g", jvm_options=(), directory=directory / "kafka"))
            if arguments.apart:
                os.sched_setaffinity(0, others)
            s3 = servers.enter_context(S3Server(directory=directory / "s3"))
            figures = [_measure(kafka, s3, name, directory, arguments) for name in names]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    apart = f"; the broker has {len(brokers)} of the processors for itself" if arguments.apart else ""
    print(f"{facts}; median of {arguments.rounds} (least-most){apart}\n{as_table(figures)}")
    if arguments.json is not None:
        document = {
            "machine": machine(),
            "verify": arguments.verify,
            "apart": arguments.apart,
            "warm_up": arguments.warm_up,
            "partitions": arguments.partitions,
            "parts": arguments.parts,
            "topics": [asdict(one) for one in figures],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _measure(
    kafka: KafkaServer, s3: S3Server, name: str, directory: Path, arguments: argparse.Namespace
) -> RestoreFigures:
    print(f"producing {arguments.gib:g} GiB to {name} and backing it up", file=sys.stderr)
    place, bucket = Bucket(s3), f"archive-of-{name}"
    topic = _backed_up(kafka, place, name, directory / bucket, arguments)
    held, identity = held_batches(kafka.bootstrap, s3, bucket, name)
    startup_cpu = startup_cpu_seconds(directory, environment=kbackupd_environment(s3))
    rounds: list[Round] = []
    # First some unmeasured: the broker's code is compiled meanwhile, and the archive comes into the page cache.
    for number in range(1 - arguments.warm_up, arguments.rounds + 1):
        stem = f"{name}-{number + arguments.warm_up}"
        limit_topic, target = f"limit-{stem}", f"restored-{stem}"
        create_topic(kafka.bootstrap, limit_topic, partitions=arguments.partitions)
        os.sync()
        broker = spent(kafka)
        limit = produce_held(kafka.bootstrap, limit_topic, held, identity)
        limit_broker = broker()
        delete_topic(kafka.bootstrap, limit_topic)
        os.sync()
        broker, storage = spent(kafka), spent(s3)
        run = restore(
            directory,
            bootstrap=kafka.bootstrap,
            s3=s3,
            bucket=bucket,
            topic=name,
            target=target,
            verify=arguments.verify,
        )
        one = Round(limit=limit, limit_broker=limit_broker, restore=run, restore_broker=broker(), restore_s3=storage())
        delete_topic(kafka.bootstrap, target)
        title = f"round {number}" if number > 0 else "not measured"
        if number > 0:
            rounds.append(one)
        print(
            f"{name}, {title}: from memory {limit.seconds:.2f} s, {limit.cpu_seconds:.2f} CPU s, the broker's "
            f"{limit_broker:.2f}; restore {run.seconds:.2f} s, read back {run.verify_seconds:.2f} s, "
            f"{run.process.cpu_seconds:.2f} CPU s in all ({startup_cpu:.2f} to start), the broker's "
            f"{one.restore_broker:.2f}, the S3 server's {one.restore_s3:.2f}, {run.process.peak_rss_bytes >> 20} MiB",
            file=sys.stderr,
        )
    place.clear(bucket)
    return RestoreFigures.of(topic, rounds, startup_cpu=startup_cpu)


def _backed_up(
    kafka: KafkaServer, place: Bucket, name: str, directory: Path, arguments: argparse.Namespace
) -> LoadedTopic:
    """A topic's records, and an archive of them: of as few segments as their size makes, or of so many parts."""
    codec, raw_bytes = TOPICS[name], round(arguments.gib * GIB)
    parts, partitions = arguments.parts, arguments.partitions
    if parts == 1:
        topic = fill_topic(kafka, name, codec=codec, raw_bytes=raw_bytes, partitions=partitions)
        back_up(directory, place=place, bootstrap=kafka.bootstrap, topic=name, records=topic.records)
        return topic
    records = raw_bytes // VALUE_BYTES // parts
    create_topic(kafka.bootstrap, name, partitions=partitions)
    back_up_in_parts(
        directory,
        place=place,
        bootstrap=kafka.bootstrap,
        topic=name,
        parts=parts,
        load=lambda: add_records(kafka, name, codec=codec, records=records, partitions=partitions),
    )
    return loaded_topic(kafka, name, codec=codec, records=records * parts, partitions=partitions)


def as_table(figures: Sequence[RestoreFigures]) -> str:
    """Median, and in parentheses the least and the most, of the rounds; as Markdown."""
    rows: list[tuple[str, ...]] = [("", *(one.topic.name for one in figures))]

    def row(title: str, cell: Callable[[RestoreFigures], str]) -> None:
        rows.append((title, *map(cell, figures)))

    def scaled(spread: Spread, factor: float) -> str:
        made = Spread(median=spread.median * factor, least=spread.least * factor, most=spread.most * factor)
        return made.text(0)

    row("values produced, MiB", lambda one: f"{one.topic.raw_bytes / MIB:.0f}")
    row("restored batches, MiB", lambda one: f"{one.produced_bytes / MIB:.0f}")
    row("limit: from memory, MB/s of values", lambda one: one.limit_mb_per_second.text(0))
    row("restore, MB/s of values", lambda one: one.restore_mb_per_second.text(0))
    row("restore, MB/s of broker bytes", lambda one: one.restore_broker_mb_per_second.text(0))
    row("restore, seconds", lambda one: one.restore_seconds.text(2))
    row("read back, seconds", lambda one: one.verify_seconds.text(2))
    row("share of the limit, %", lambda one: scaled(one.share_of_limit, 100.0))
    row("CPU seconds per GiB of values", lambda one: one.cpu_seconds_per_gib.text(2))
    row("CPU seconds per GiB of broker bytes", lambda one: one.cpu_seconds_per_broker_gib.text(2))
    row("limit: CPU seconds per GiB of values", lambda one: one.limit_cpu_seconds_per_gib.text(2))
    row("restore: the broker's CPU seconds per GiB of values", lambda one: one.broker_cpu_seconds_per_gib.text(2))
    row("limit: the broker's", lambda one: one.limit_broker_cpu_seconds_per_gib.text(2))
    row("restore: the S3 server's", lambda one: one.s3_cpu_seconds_per_gib.text(2))
    row("CPU seconds to start", lambda one: f"{one.startup_cpu_seconds:.2f}")
    row("peak RSS, MiB", lambda one: scaled(one.peak_rss_bytes, 1 / MIB))
    return markdown(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="values per topic, held in memory too (default 1)")
    parser.add_argument("--topics", default="uncompressed,zstd", help=f"comma-separated, of {', '.join(TOPICS)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help=f"of each topic (default {PARTITIONS})")
    parser.add_argument(
        "--parts",
        type=int,
        default=1,
        help="backed up in so many parts, each in segments of its own: many partitions then have many small runs",
    )
    parser.add_argument("--warm-up", type=int, default=6, help="rounds before that are not measured (default 6)")
    parser.add_argument("--verify", action="store_true", help="read everything back as well, as a restore does unasked")
    parser.add_argument("--apart", action="store_true", help="the broker has half of the processors for itself")
    parser.add_argument("--directory", type=Path, help="a directory on the disk to measure (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Measurements as figures for people and for machines: median, spread, share of the limit."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.backup import BackupRun
from bench.limits import Reading
from bench.load import LoadedTopic
from bench.places import Cost, StoreName

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = sorted(values)
        return cls(median=statistics.median(found), least=found[0], most=found[-1])

    def text(self, digits: int = 1) -> str:
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Both limits and the daemon, measured one right after the other."""

    reading: Reading
    writing: Cost
    backup: BackupRun

    @property
    def share(self) -> float:
        """The daemon's throughput as a share of the slower limit's."""
        return max(self.reading.cost.seconds, self.writing.seconds) / self.backup.seconds

    @property
    def limit_cpu_seconds(self) -> float:
        """Of both limits together: nobody can read and write this for less."""
        return self.reading.cost.cpu_seconds + self.writing.cpu_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFigures:
    """One topic's rounds into one store in sum. Rates count the bytes of the values, whoever compressed them."""

    topic: LoadedTopic
    store: StoreName
    rounds: int
    batches: int
    stored_bytes: int
    segments: int
    fetch_mb_per_second: Spread
    write_mb_per_second: Spread
    backup_mb_per_second: Spread
    backup_broker_mb_per_second: Spread
    records_per_second: Spread
    batches_per_second: Spread
    share_of_limit: Spread
    backup_seconds: Spread
    all_durable_seconds: Spread
    cpu_seconds_per_gib: Spread
    cpu_seconds_per_broker_gib: Spread
    cpu_microseconds_per_batch: Spread
    limit_cpu_seconds_per_gib: Spread
    limit_cpu_microseconds_per_batch: Spread
    cpu_of_limit: Spread
    """How many times the limits' processor time the daemon's is."""
    startup_cpu_seconds: Spread
    peak_rss_bytes: Spread
    memory_limit_bytes: int

    @classmethod
    def of(
        cls, topic: LoadedTopic, rounds: Sequence[Round], *, store: StoreName, memory_limit_bytes: int
    ) -> TopicFigures:
        raw_mb, broker_mb, gib = topic.raw_bytes / 1e6, topic.broker_bytes / 1e6, topic.raw_bytes / GIB
        batches = rounds[-1].reading.batches

        def spread(value: Callable[[Round], float]) -> Spread:
            return Spread.of(map(value, rounds))

        return cls(
            topic=topic,
            store=store,
            rounds=len(rounds),
            batches=batches,
            stored_bytes=sum(rounds[-1].backup.segment_bytes),
            segments=len(rounds[-1].backup.segment_bytes),
            fetch_mb_per_second=spread(lambda one: raw_mb / one.reading.cost.seconds),
            write_mb_per_second=spread(lambda one: raw_mb / one.writing.seconds),
            backup_mb_per_second=spread(lambda one: raw_mb / one.backup.seconds),
            backup_broker_mb_per_second=spread(lambda one: broker_mb / one.backup.seconds),
            records_per_second=spread(lambda one: topic.records / one.backup.seconds),
            batches_per_second=spread(lambda one: batches / one.backup.seconds),
            share_of_limit=spread(lambda one: one.share),
            backup_seconds=spread(lambda one: one.backup.seconds),
            all_durable_seconds=spread(lambda one: one.backup.all_durable_seconds),
            cpu_seconds_per_gib=spread(lambda one: one.backup.cpu_seconds / gib),
            cpu_seconds_per_broker_gib=spread(lambda one: one.backup.cpu_seconds / topic.broker_bytes * GIB),
            cpu_microseconds_per_batch=spread(lambda one: one.backup.cpu_seconds / batches * 1e6),
            limit_cpu_seconds_per_gib=spread(lambda one: one.limit_cpu_seconds / gib),
            limit_cpu_microseconds_per_batch=spread(lambda one: one.limit_cpu_seconds / batches * 1e6),
            cpu_of_limit=spread(lambda one: one.backup.cpu_seconds / one.limit_cpu_seconds),
            startup_cpu_seconds=spread(lambda one: one.backup.startup_cpu_seconds),
            peak_rss_bytes=spread(lambda one: float(one.backup.peak_rss_bytes)),
            memory_limit_bytes=memory_limit_bytes,
        )


def machine() -> dict[str, object]:
    """What a reader needs to judge the figures, and nothing that tells whose machine it was."""
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / MIB, 1) if memory else None,
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "kernel": platform.release().split("-")[0],
    }


def as_json(figures: Sequence[TopicFigures]) -> str:
    return json.dumps({"machine": machine(), "topics": [asdict(one) for one in figures]}, indent=2)


def as_table(figures: Sequence[TopicFigures]) -> str:
    """Median, and in parentheses the least and the most, of the rounds; as Markdown."""
    rows: list[tuple[str, ...]] = [("", *(f"{one.topic.name}, {one.store}" for one in figures))]

    def row(title: str, cell: Callable[[TopicFigures], str]) -> None:
        rows.append((title, *map(cell, figures)))

    row("values produced, MiB", lambda one: f"{one.topic.raw_bytes / MIB:.0f}")
    row("in the broker's log, MiB", lambda one: f"{one.topic.broker_bytes / MIB:.0f} in {one.batches} batches")
    row("stored by the daemon, MiB", lambda one: f"{one.stored_bytes / MIB:.0f} in {one.segments} objects")
    row("limit: fetch and CRC, MB/s of values", lambda one: one.fetch_mb_per_second.text(0))
    row("limit: what the store takes, MB/s of values", lambda one: one.write_mb_per_second.text(0))
    row("backup, MB/s of values", lambda one: one.backup_mb_per_second.text(0))
    row("backup, MB/s of broker bytes", lambda one: one.backup_broker_mb_per_second.text(0))
    row("backup, 1000 records/s", lambda one: _scaled(one.records_per_second, 1e-3).text(0))
    row("backup, batches/s", lambda one: one.batches_per_second.text(0))
    row("backup, seconds", lambda one: one.backup_seconds.text(2))
    row("all durable by a flush, seconds", lambda one: one.all_durable_seconds.text(2))
    row("share of the slower limit, %", lambda one: _percent(one.share_of_limit).text(0))
    row("CPU seconds per GiB of values", lambda one: one.cpu_seconds_per_gib.text(2))
    row("CPU seconds per GiB of broker bytes", lambda one: one.cpu_seconds_per_broker_gib.text(2))
    row("limits: CPU seconds per GiB of values", lambda one: one.limit_cpu_seconds_per_gib.text(2))
    row("CPU microseconds per batch", lambda one: one.cpu_microseconds_per_batch.text(1))
    row("limits: CPU microseconds per batch", lambda one: one.limit_cpu_microseconds_per_batch.text(1))
    row("CPU: daemon / both limits", lambda one: one.cpu_of_limit.text(1))
    row("CPU seconds to start", lambda one: one.startup_cpu_seconds.text(2))
    row("peak RSS, MiB", lambda one: _scaled(one.peak_rss_bytes, 1 / MIB).text(0))
    row("memory_limit, MiB", lambda one: f"{one.memory_limit_bytes / MIB:.0f}")
    return markdown(rows)


def _percent(spread: Spread) -> Spread:
    return _scaled(spread, 100.0)


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(median=spread.median * factor, least=spread.least * factor, most=spread.most * factor)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows, the first of them its head, as a table that a document can take as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])

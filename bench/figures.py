"""Measurements as figures for people and for machines: median, spread, share of the limit."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.backup import BackupRun
from bench.load import LoadedTopic

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

    fetch_seconds: float
    write_seconds: float
    backup: BackupRun

    @property
    def share(self) -> float:
        """The daemon's throughput as a share of the slower limit's."""
        return max(self.fetch_seconds, self.write_seconds) / self.backup.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFigures:
    """One topic's rounds in sum. Rates count the bytes of the values, whatever was compressed by whom."""

    topic: LoadedTopic
    rounds: int
    stored_bytes: int
    segments: int
    fetch_mb_per_second: Spread
    write_mb_per_second: Spread
    backup_mb_per_second: Spread
    backup_broker_mb_per_second: Spread
    share_of_limit: Spread
    backup_seconds: Spread
    all_durable_seconds: Spread
    cpu_seconds_per_gib: Spread
    startup_cpu_seconds: Spread
    peak_rss_bytes: Spread
    memory_limit_bytes: int

    @classmethod
    def of(cls, topic: LoadedTopic, rounds: Sequence[Round], *, memory_limit_bytes: int) -> TopicFigures:
        raw_mb, broker_mb, gib = topic.raw_bytes / 1e6, topic.broker_bytes / 1e6, topic.raw_bytes / GIB
        return cls(
            topic=topic,
            rounds=len(rounds),
            stored_bytes=sum(rounds[-1].backup.segment_bytes),
            segments=len(rounds[-1].backup.segment_bytes),
            fetch_mb_per_second=Spread.of(raw_mb / one.fetch_seconds for one in rounds),
            write_mb_per_second=Spread.of(raw_mb / one.write_seconds for one in rounds),
            backup_mb_per_second=Spread.of(raw_mb / one.backup.seconds for one in rounds),
            backup_broker_mb_per_second=Spread.of(broker_mb / one.backup.seconds for one in rounds),
            share_of_limit=Spread.of(one.share for one in rounds),
            backup_seconds=Spread.of(one.backup.seconds for one in rounds),
            all_durable_seconds=Spread.of(one.backup.all_durable_seconds for one in rounds),
            cpu_seconds_per_gib=Spread.of(one.backup.cpu_seconds / gib for one in rounds),
            startup_cpu_seconds=Spread.of(one.backup.startup_cpu_seconds for one in rounds),
            peak_rss_bytes=Spread.of(float(one.backup.peak_rss_bytes) for one in rounds),
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
    """Median, and in parentheses the least and the most, of the rounds."""
    rows: list[tuple[str, ...]] = [("", *(one.topic.name for one in figures))]

    def row(title: str, cells: Iterable[str]) -> None:
        rows.append((title, *cells))

    row("values produced, MiB", (f"{one.topic.raw_bytes / MIB:.0f}" for one in figures))
    row("in the broker's log, MiB", (f"{one.topic.broker_bytes / MIB:.0f}" for one in figures))
    row("stored by the daemon, MiB", (f"{one.stored_bytes / MIB:.0f} in {one.segments} objects" for one in figures))
    row("limit: fetch and discard, MB/s", (one.fetch_mb_per_second.text(0) for one in figures))
    row("limit: fsynced write, MB/s", (one.write_mb_per_second.text(0) for one in figures))
    row("backup, MB/s of values", (one.backup_mb_per_second.text(0) for one in figures))
    row("backup, MB/s of broker bytes", (one.backup_broker_mb_per_second.text(0) for one in figures))
    row("backup, seconds", (one.backup_seconds.text(2) for one in figures))
    row("all durable by a flush, seconds", (one.all_durable_seconds.text(2) for one in figures))
    row("share of the slower limit, %", (_percent(one.share_of_limit).text(0) for one in figures))
    row("CPU seconds per GiB of values", (one.cpu_seconds_per_gib.text(2) for one in figures))
    row("CPU seconds to start", (one.startup_cpu_seconds.text(2) for one in figures))
    row("peak RSS, MiB", (_scaled(one.peak_rss_bytes, 1 / MIB).text(0) for one in figures))
    row("memory_limit, MiB", (f"{one.memory_limit_bytes / MIB:.0f}" for one in figures))
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows)


def _percent(spread: Spread) -> Spread:
    return _scaled(spread, 100.0)


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(median=spread.median * factor, least=spread.least * factor, most=spread.most * factor)

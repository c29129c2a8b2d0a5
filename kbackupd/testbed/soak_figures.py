"""What a soak found, in figures: kept while it runs, printed every few minutes and at the end."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kbackupd.model.units import format_bytes, format_duration
from kbackupd.testbed.daemon import Section
from kbackupd.testbed.exposure import ExposureWatch, exposure_of

TIER = "soak"
_INTERVAL_SECONDS = 0.5
CALM_AFTER_SECONDS = 15.0
"""So long after the last fault the daemon is expected to have caught up: what it says from then on is calm weather."""


class CalmExposure:
    """The worst exposure told, in calm weather and in all; a thread of its own asks twice a second.

    Args:
        quiet_seconds: for how long there has been no fault, and all that was lagging has caught up.
    """

    def __init__(self, status: Callable[[], Section | None], quiet_seconds: Callable[[], float]) -> None:
        self._status = status
        self._quiet_seconds = quiet_seconds
        self._all = ExposureWatch(status, frozenset({TIER}))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="calm-exposure", daemon=True)
        self.calm_seconds = 0.0
        self.calm_samples = 0

    @property
    def worst_seconds(self) -> float:
        """Faults, deaths and silence included."""
        return self._all.worst_seconds

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            told = exposure_of(self._status(), frozenset({TIER}))
            self._all.note(told, time.monotonic())
            if self._quiet_seconds() > CALM_AFTER_SECONDS and self._all.now_seconds is not None:
                self.calm_samples += 1
                self.calm_seconds = max(self.calm_seconds, self._all.now_seconds)


@dataclass(slots=True)
class Figures:
    """Everything the report says; `differences` empty is the verdict."""

    seed: int
    began: float = field(default_factory=time.monotonic)
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    produced: int = 0
    compared: int = 0
    compacted_away: int = 0
    """Produced to a compacted topic, and gone from it before it was captured."""
    batches: int = 0
    aborted_transactions: int = 0
    topics: int = 0
    starts: int = 0
    second_starts: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    verbs: Counter[str] = field(default_factory=Counter)
    slowest_start_seconds: float = 0.0
    """From its launch to ready, whatever the weather."""
    slowest_recovery_seconds: float = 0.0
    most_footers_read: int = 0
    calm_exposure_seconds: float = 0.0
    calm_samples: int = 0
    worst_exposure_seconds: float = 0.0
    peak_rss_bytes: int = 0
    memory_limit_bytes: int = 0
    objects: int = 0
    stored_bytes: int = 0
    requests: int = 0
    log_lines: int = 0
    checks: list[tuple[float, float]] = field(default_factory=list)
    """Seconds that comparing what was new took, and validating; by round."""
    restored: int = 0
    load_failures: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def note_log(self, log: Path) -> None:
        """What the daemon says of its recoveries, whose cost must not grow with the archive; and how much it says."""
        self.log_lines = 0
        with log.open("rb") as file:
            for line in file:
                self.log_lines += 1
                if b'"positions.recovered"' in line:
                    told = json.loads(line)
                    self.slowest_recovery_seconds = max(self.slowest_recovery_seconds, told["seconds"])
                    self.most_footers_read = max(self.most_footers_read, told["footers_read"])

    def lines(self) -> list[str]:
        """The report, a line a figure."""
        minutes = (time.monotonic() - self.began) / 60
        within = "within" if self.peak_rss_bytes <= self.memory_limit_bytes else "ABOVE"
        told = {
            "seed": f"{self.seed}, {self.rounds} rounds in {minutes:.1f} minutes",
            "faults": f"{self.faults.total()}: {_counts(self.faults)}",
            "daemon": f"{self.starts} starts, ended {_counts(self.exits)}; slowest start "
            f"{format_duration(self.slowest_start_seconds)}; second writer {self.second_starts} starts",
            "recovery": f"{format_duration(self.slowest_recovery_seconds)} at worst, reading at most "
            f"{self.most_footers_read} footers",
            "control": _counts(self.verbs) or "nothing asked",
            "produced": f"{self.produced:,} records in {self.topics} topics, "
            f"{self.aborted_transactions:,} transactions aborted",
            "compared": f"{self.compared:,} records in {self.batches:,} batches; {self.compacted_away:,} were "
            "compacted away before they were captured",
            "exposure": f"calm {self.calm_exposure_seconds:.1f} s at worst ({self.calm_samples} samples), "
            f"under faults {self.worst_exposure_seconds:.1f} s",
            "memory": f"peak {format_bytes(self.peak_rss_bytes)}, {within} the limit of "
            f"{format_bytes(self.memory_limit_bytes)}",
            "archive": f"{self.objects:,} objects, {format_bytes(self.stored_bytes)}; {self.requests:,} requests seen "
            f"by the proxy, {self.requests / max(minutes, 0.1):,.0f} a minute",
            "log": f"{self.log_lines:,} lines, {self.log_lines / max(minutes, 0.1):,.0f} a minute",
            "checks": ", ".join(f"{a:.1f}+{b:.1f}" for a, b in self.checks[-8:])
            + " s (comparing + validating, newest)",
            "restored": f"{self.restored:,} records" if self.restored else "not yet",
            "load": "; ".join(self.load_failures) or "no stream failed",
            "differences": str(len(self.differences)),
        }
        return [f"  {name:12} {text}" for name, text in told.items()]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}×" for name, count in sorted(counter.items()))

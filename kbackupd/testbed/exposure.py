"""How much would have been lost, at worst: the daemon's own exposure figures, watched across its deaths.

While the daemon is dead or does not know, exposure is what it last was plus the time since: data that nobody reports
as durable is not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kbackupd.testbed.daemon import Section

_INTERVAL_SECONDS = 0.2


class ExposureWatch:
    """Polls `status` in a thread of its own; counts from the first time every partition of `tiers` is known.

    Args:
        status: what the daemon answers, None while it does not.
        tiers: names of the tiers that count.
    """

    def __init__(self, status: Callable[[], Section | None], tiers: frozenset[str]) -> None:
        self._status = status
        self._tiers = tiers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exposure", daemon=True)
        self._known: tuple[float, float] | None = None
        """Exposure in seconds and when it was told, monotonic."""
        self.worst_seconds = 0.0
        """All told, deaths included."""
        self.worst_running_seconds = 0.0
        """While the daemon was alive and knew."""
        self.now_seconds: float | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self.note(exposure_of(self._status(), self._tiers), time.monotonic())

    def note(self, told: float | None, now: float) -> None:
        """Take one answer: the exposure told (None: nobody answered, or not known), at a monotonic time."""
        if told is not None:
            self.worst_running_seconds = max(self.worst_running_seconds, told)
            self._known = (told, now)
            self.now_seconds = told
        elif self._known is not None:
            exposure, since = self._known
            self.now_seconds = exposure + now - since
        if self.now_seconds is not None:
            self.worst_seconds = max(self.worst_seconds, self.now_seconds)


def exposure_of(status: Section | None, tiers: frozenset[str]) -> float | None:
    """The worst exposure over `tiers` in a status answer; None while any of their partitions is unknown."""
    listed = status.get("tiers") if status is not None else None
    if not isinstance(listed, list):
        return None
    worst: float | None = None
    for tier in listed:
        if not isinstance(tier, dict) or tier.get("name") not in tiers or tier.get("partitions") == 0:
            continue
        exposure = tier.get("exposure_seconds")
        if tier.get("unknown_partitions") != 0 or not isinstance(exposure, int | float):
            return None
        worst = exposure if worst is None else max(worst, exposure)
    return worst

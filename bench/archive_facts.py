"""What an archive shows of a stretch of time: objects, bytes per flush, and how long records were at risk.

Read with the format's own reader from the bucket, and from the daemon's log, which says to the millisecond when a
segment was durable: nothing that the daemon claims about exposure is believed here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.daemon_log import logged, logged_at
from kbackupd.format.container import TAIL_READ_BYTES, NeedMore
from kbackupd.format.keys import parse_checkpoint_key, parse_segment_key
from kbackupd.format.segment import open_footer
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Footer
from kbackupd.observe import events
from kbackupd.testbed.process import ServerFailedError
from kbackupd.testbed.s3 import S3Server


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFacts:
    """One durable segment."""

    key: str
    size_bytes: int
    footer: Footer
    durable_at: float
    """Seconds since the epoch, by the daemon's log."""

    @property
    def index_bytes(self) -> int:
        """Footer, envelope and trailer: what is not records."""
        return self.size_bytes - self.footer.body_bytes


class ArchiveFacts:
    """An archive in a bucket, looked at again and again; every footer is read once.

    Args:
        prefix: of the archive's keys, with its closing slash.
        log: of the daemon that writes it.
    """

    def __init__(self, s3: S3Server, bucket: str, prefix: str, log: Path) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._log = log
        self._footers: dict[str, Footer] = {}

    def objects(self) -> dict[str, int]:
        """Keys, below the archive's prefix, and sizes."""
        listed = self._s3.list_objects(self._bucket, self._prefix)
        return {key.removeprefix(self._prefix): size for key, size in listed.items()}

    def segments(self, since: float, until: float) -> list[StoredFacts]:
        """Those that became durable in `[since, until)`, seconds since the epoch, in that order."""
        sizes = self.objects()
        stored = []
        for line in logged(self._log, events.SEGMENT_STORED):
            at, key = logged_at(line), str(line["key"])
            if since <= at < until:
                stored.append(
                    StoredFacts(key=key, size_bytes=sizes[key], footer=self._footer(key, sizes[key]), durable_at=at)
                )
        return stored

    def checkpoint_bytes(self, since: float, until: float) -> list[int]:
        """Sizes of the checkpoints stored in `[since, until)`."""
        return [
            int(str(line["bytes"]))
            for line in logged(self._log, events.CHECKPOINT_STORED)
            if since <= logged_at(line) < until
        ]

    def _footer(self, key: str, size: int) -> Footer:
        if key in self._footers:
            return self._footers[key]
        wanted = TAIL_READ_BYTES
        while True:
            first = max(0, size - wanted)
            path = f"/{self._bucket}/{self._prefix}{key}"
            status, tail = self._s3.client().request("GET", path, headers={"range": f"bytes={first}-{size - 1}"})
            if status not in (200, 206):
                raise ServerFailedError(f"cannot read {path}: HTTP {status}")
            opened = open_footer(key, tail, size)
            if not isinstance(opened, NeedMore):
                return self._footers.setdefault(key, opened[0])
            wanted = opened.bytes


def counted(objects: Iterable[str]) -> dict[str, int]:
    """How many keys of each kind there are."""
    kinds: dict[str, int] = defaultdict(int)
    for key in objects:
        known = "segments" if parse_segment_key(key) else "checkpoints" if parse_checkpoint_key(key) else "others"
        kinds[known] += 1
    return dict(kinds)


def exposures(segments: Sequence[StoredFacts], instants: Iterable[float]) -> list[float]:
    """How old the oldest record was that was not durable yet, in seconds, per user partition and instant.

    That is what a loss of the cluster at that instant would have cost; 0 where all was durable. A run says when its
    oldest record was made, the log when its segment was durable: partitions are between the two at risk. Records that
    no segment of these holds are not seen, so the segments must reach beyond the last instant.
    """
    at_risk: dict[PartitionId, list[tuple[float, float]]] = defaultdict(list)
    for segment in segments:
        for run in segment.footer.runs:
            if not run.system:
                at_risk[run.id].append((run.base_timestamp_ms / 1000, segment.durable_at))
    found = []
    kept = sorted(instants)
    for spans in at_risk.values():
        spans.sort()
        for instant in kept:
            begun = spans[: bisect_right(spans, (instant, float("inf")))]
            found.append(max((instant - made for made, durable in begun if durable > instant), default=0.0))
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that `share` of them do not exceed; NaN if there are none."""
    if not values:
        return float("nan")
    # 0.07 * 100 is a little more than 7: that must not become the eighth.
    return sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]

"""Flush a daemon until it says that all the brokers have is durable; asked of the brokers by an independent client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, TopicPartition

from kbackupd.testbed.daemon import Daemon, Section
from kbackupd.testbed.process import Deadline, ServerFailedError

_DEADLINE_SECONDS = 120.0


def flush_to_the_ends(
    daemon: Daemon,
    bootstrap: str,
    partitions: Mapping[str, int],
    *,
    deadline_seconds: float = _DEADLINE_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> dict[tuple[str, int], int]:
    """`kbackupd ctl flush` until its answer covers the present log ends of `partitions`; those ends.

    Raises:
        ServerFailedError: it does not cover them within the deadline, or a flush failed.
    """
    ends = _log_ends(bootstrap, partitions)
    deadline = Deadline(deadline_seconds)
    while missing := _uncovered(ends, _flushed(daemon)):
        if deadline.passed:
            raise ServerFailedError(f"a flush does not cover what was produced: {missing}")
        if progress is not None:
            progress(f"{sum(missing.values()):,} offsets to go")
        time.sleep(0.2)
    return ends


def _flushed(daemon: Daemon) -> Section:
    """What a flush answers; one that had to leave partitions out (code 6) is asked again by the caller."""
    finished = daemon.cli("ctl", "--socket", str(daemon.socket), "flush", "--format", "json").require(0, 6)
    answer: Section = json.loads(finished.stdout)
    return answer


def _log_ends(bootstrap: str, partitions: Mapping[str, int]) -> dict[tuple[str, int], int]:
    """High watermark per partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "testbed-ends", "log_level": 0})
    try:
        return {
            (topic, number): consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=60.0)[1]
            for topic, count in partitions.items()
            for number in range(count)
        }
    finally:
        consumer.close()


def _uncovered(ends: Mapping[tuple[str, int], int], flushed: Section) -> dict[tuple[str, int], int]:
    """How many offsets below `ends` a flush does not call durable, per partition where any."""
    durable: dict[tuple[object, object], int] = {}
    listed = flushed.get("partitions")
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(offset := one.get("durable_offset"), int):
            durable[one.get("topic"), one.get("partition")] = offset
    missing = {place: end - durable.get(place, 0) for place, end in ends.items()}
    return {place: count for place, count in missing.items() if count > 0}

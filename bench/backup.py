"""One life of the real daemon, from its first look at the cluster to everything durable: time, processor, memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.daemon_log import logged, logged_at
from bench.places import Place
from kbackupd.model.errors import KbackupError
from kbackupd.observe import events
from kbackupd.server.client import ControlClient
from kbackupd.testbed.daemon import kbackupd_command, run_kbackupd
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline, GuardedProcess
from kbackupd.testbed.usage import cpu_seconds, peak_rss_bytes

DEADLINE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRun:
    """What one backup of one topic cost."""

    seconds: float
    """From the end of recovery, just before the first request to a broker for data, to the last full segment durable,
    in proportion for the records behind it: those wait for a flush, which asks the leaders first, not for the path."""
    all_durable_seconds: float
    """To the very last segment, the flush's own time included."""
    cpu_seconds: float
    """User and system time of the process until all is durable, to the precision of its threads' clock ticks."""
    startup_cpu_seconds: float
    peak_rss_bytes: int
    records: int
    segment_bytes: tuple[int, ...]


def back_up(
    directory: Path,
    *,
    place: Place,
    bootstrap: str,
    topic: str,
    records: int,
    settings: Mapping[str, object] | None = None,
) -> BackupRun:
    """Run `kbackupd run` over a new archive in `place` until all `records` of `topic` are durable, then stop it.

    Everything is at its default but what this needs: one topic, a flush as soon as the daemon listens (or the last
    segment would wait for its age).

    Raises:
        ServerFailedError: the daemon died, or was not done in time.
    """
    directory.mkdir(parents=True)
    socket, log, config = directory / "control.sock", directory / "kbackupd.log", directory / "kbackupd.yaml"
    document = _document(directory, place=place, bootstrap=bootstrap, topic=topic)
    document["backup"] = dict(settings or {})
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    process = GuardedProcess(
        "kbackupd",
        kbackupd_command("run", "--config", str(config)),
        log=log,
        cwd=directory,
        env=place.environment,
    )
    try:
        deadline = Deadline(DEADLINE_SECONDS)
        while not (begun := logged(log, events.POSITIONS_RECOVERED)):
            _require(process, deadline, "did not get to work")
            time.sleep(0.002)
        startup_cpu = cpu_seconds(process.pid)
        asyncio.run(_flush(socket, topic, records, process, deadline))
        stored = logged(log, events.SEGMENT_STORED)
        while sum(int(str(line["records"])) for line in stored) < records:
            _require(process, deadline, "did not store everything")
            time.sleep(0.002)
            stored = logged(log, events.SEGMENT_STORED)
        cpu, peak = cpu_seconds(process.pid), peak_rss_bytes(process.pid)
        process.stop(deadline_seconds=60.0)
    finally:
        process.kill()
    until_full, records_full = _last_full(stored)
    return BackupRun(
        seconds=(until_full - logged_at(begun[0])) * records / records_full,
        all_durable_seconds=logged_at(stored[-1]) - logged_at(begun[0]),
        cpu_seconds=cpu - startup_cpu,
        startup_cpu_seconds=startup_cpu,
        peak_rss_bytes=peak,
        records=sum(int(str(line["records"])) for line in stored),
        segment_bytes=tuple(int(str(line["bytes"])) for line in stored),
    )


def _last_full(stored: list[Mapping[str, object]]) -> tuple[float, int]:
    """When the last segment was stored that its size had closed, and how many records were durable by then."""
    sizes = [int(str(line["bytes"])) for line in stored]
    last = max(index for index, size in enumerate(sizes) if size * 2 >= max(sizes))
    return logged_at(stored[last]), sum(int(str(line["records"])) for line in stored[: last + 1])


def back_up_in_parts(
    directory: Path, *, place: Place, bootstrap: str, topic: str, parts: int, load: Callable[[], None]
) -> None:
    """`load` and `kbackupd run --once` so many times: an archive of at least as many segments, of small runs.

    Raises:
        ServerFailedError: one did not end with 0.
    """
    directory.mkdir(parents=True)
    config = directory / "kbackupd.yaml"
    document = _document(directory, place=place, bootstrap=bootstrap, topic=topic)
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    for _ in range(parts):
        load()
        run_kbackupd(directory, "run", "--once", "--config", str(config), environment=place.environment).require(0)


def _document(directory: Path, *, place: Place, bootstrap: str, topic: str) -> dict[str, object]:
    (port,) = free_ports(1)
    return {
        "backup_id": "bench",
        "source": {"bootstrap_servers": [bootstrap], "topics": {"include": [topic]}, "internal_topics": False},
        "storage": place.storage(directory.name),
        "observability": {"listen": f"127.0.0.1:{port}"},
        "control": {"socket": str(directory / "control.sock")},
    }


async def _flush(socket: Path, topic: str, records: int, process: GuardedProcess, deadline: Deadline) -> None:
    """Until it covers all records: an early one covers only what is being fetched by then."""
    async with ControlClient(socket) as client:
        while True:
            try:
                report = await client.flush(topic)
                if sum(partition.durable_offset for partition in report.partitions) >= records:
                    return
            except KbackupError:  # the socket or the topic is not there yet
                pass
            _require(process, deadline, "took no flush")
            await asyncio.sleep(0.01)


def _require(process: GuardedProcess, deadline: Deadline, otherwise: str) -> None:
    if not process.alive or deadline.passed:
        raise process.failure(otherwise)

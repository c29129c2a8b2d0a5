"""What scenarios of S3 and of the process share: steady load, a daemon behind the proxy, and the final reckoning."""

from __future__ import annotations

import re
import zlib

from kbackupd.testbed.covered import flush_to_the_ends
from kbackupd.testbed.daemon import Daemon, Json
from kbackupd.testbed.exposure import exposure_of
from kbackupd.testbed.s3_proxy import S3Proxy
from kbackupd.testbed.soak_check import Model
from kbackupd.testbed.soak_topics import Generation
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.workload import LiveLoad, PlainStream, TransactionalStream
from tests.integration.capture.backup import Backup, problems
from tests.integration.conditions import PATIENCE_SECONDS, log_entries, reaches

TIER = "steady"
TIERS: list[Json] = [{"name": TIER, "topics": ["*"], "rpo": "1m", "rto": "15m"}]
SOON_SECONDS = 2.0
"""Exposure of a daemon that keeps up, with flushes every 300 ms, on a machine that others use too."""


class SteadyBackup:
    """One archive, its topics and all that was produced to them; `close` ends the load."""

    def __init__(self, backup: Backup, proxy: S3Proxy, names: list[str], *, seed: str) -> None:
        self.backup = backup
        self.proxy = proxy
        self.seed = zlib.crc32(seed.encode())
        self.generation = Generation(0)
        plain, packed, first, second = names
        self._sizes = {plain: 2, packed: 1, first: 1, second: 1}
        for topic, partitions in self._sizes.items():
            create_topic(backup.kafka.bootstrap, topic, partitions=partitions)
            self.generation.truth.know_topic(topic, partitions)
            self.generation.partitions[topic] = partitions
        self._streams: list[PlainStream | TransactionalStream] = [
            PlainStream(topic=plain, records_per_second=300),
            PlainStream(topic=packed, codec="zstd", records_per_second=200),
            TransactionalStream(topics=(first, second), records_per_second=100),
        ]
        self._load: LiveLoad | None = None

    @property
    def topics(self) -> list[str]:
        return list(self._sizes)

    def daemon(
        self,
        *,
        odd: tuple[str, ...] = (),
        program: list[str] | None = None,
        writer: str = "main",
        checkpoint_interval: str = "700ms",
        memory_limit: str = "384MiB",
    ) -> Daemon:
        """Behind the proxy, not started; see `Backup.daemon`."""
        return self.backup.daemon(
            *self.topics,
            endpoint=self.proxy.endpoint,
            odd=odd,
            program=program,
            writer=writer,
            tiers=TIERS,
            checkpoint_interval=checkpoint_interval,
            memory_limit=memory_limit,
        )

    def produce(self, *more: PlainStream) -> None:
        """Begin the load."""
        self._load = LiveLoad(
            self.backup.kafka.bootstrap, self.generation.truth, [*self._streams, *more], seed=self.seed
        )
        self._load.start()

    def settle(self) -> None:
        """End the load; all of it is acknowledged on return."""
        load, self._load = self._load, None
        if load is not None:
            load.stop()

    def close(self) -> None:
        self.settle()

    async def exact(self, daemon: Daemon) -> None:
        """The load ends, the daemon flushes and drains; then the archive is what was produced, and valid to the last
        byte."""
        self.settle()
        flush_to_the_ends(daemon, self.backup.kafka.bootstrap, self._sizes)
        assert daemon.stop() == 0
        await self.archive_is_exact()

    async def archive_is_exact(self) -> None:
        assert self.generation.truth.record_count > 0
        async with self.backup.archive() as archive:
            assert list(archive.damaged) == []
            assert await Model().compare_new(archive, self.generation, self.backup.kafka.bootstrap) == []
        await self.backup.validated()


def exposure(daemon: Daemon) -> float | None:
    """The worst that it tells, in seconds; None while it does not know or answer."""
    return exposure_of(daemon.status(), frozenset({TIER}))


async def exposed(daemon: Daemon, seconds: float) -> None:
    """Return when it says that so much would be lost."""
    patience = PATIENCE_SECONDS + seconds
    await reaches(lambda: (exposure(daemon) or 0.0) >= seconds, f"exposure rises to {seconds:g} s", seconds=patience)


async def recovered(daemon: Daemon) -> None:
    """Return when it is as in good weather: next to nothing would be lost, and nothing asks for a person."""

    def well() -> bool:
        told = exposure(daemon)
        return told is not None and told < SOON_SECONDS and problems(daemon) == {}

    await reaches(well, "exposure falls and every problem is over")


def complained(daemon: Daemon, *, since: int = 0) -> list[dict[str, object]]:
    """Its log's lines of level warning and above, from byte `since` on."""
    return [entry for entry in log_entries(daemon.log, since=since) if entry["level"] in ("warning", "error")]


async def stores(daemon: Daemon, segments: int, *, checkpoints: int = 0) -> None:
    """Return when it has stored so many more of both than it had."""

    def stored() -> tuple[float, float]:
        return metric(daemon, "kbackupd_segments_total"), metric(daemon, "kbackupd_checkpoints_total")

    before = stored()

    def enough() -> bool:
        now = stored()
        return now[0] >= before[0] + segments and now[1] >= before[1] + checkpoints

    await reaches(enough, f"{segments} segments and {checkpoints} checkpoints more")


def metric(daemon: Daemon, name: str) -> float:
    """Sum over the samples of one metric."""
    _, text = daemon.get("/metrics")
    found = [line for line in text.decode().splitlines() if re.match(rf"{name}[ {{]", line)]
    assert found, name
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)

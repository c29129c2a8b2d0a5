"""One campaign: topics on three brokers, load that is known record by record, a real daemon behind the proxies.

A scenario makes topics, starts the daemon, does harm, heals, and ends with `exact`: every record that was acknowledged
is in the archive once, byte for byte as the brokers have it, with no hole and no gap that the scenario does not name.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kbackupd.archive.archive import Archive
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import StorageSettings
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import Daemon, Json, Section
from kbackupd.testbed.odd_daemon import odd_command
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.truth import Record, Truth, compare_records, read_topic
from kbackupd.testbed.workload import LiveLoad, PlainStream, RecordMaker, TransactionalStream, produce
from kbackupd.validate.validate import validate
from tests.integration.capture.backup import Batches, flush, problems, states, topic_rows
from tests.integration.conditions import reaches
from tests.integration.verbatim import archived_batches, broker_batches, overrides

EVERYWHERE = [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
"""Replicas of three partitions, each led by another broker, with a copy on all of them."""


class Campaign:
    """
    Args:
        seed: of every record and of what happens at random.
    """

    def __init__(
        self, cluster: ProxiedCluster, s3: S3Server, bucket: str, prefix: str, directory: Path, *, seed: str
    ) -> None:
        self.cluster = cluster
        self.seed = seed
        self.truth = Truth()
        self.topics: dict[str, int] = {}
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._directory = directory
        self._daemon: Daemon | None = None
        self._produced = 0
        self._transactional: set[str] = set()
        """Topics that transactions were written to while brokers came and went."""

    # What is there ----------------------------------------------------------------------------------------------------

    async def topic(
        self, name: str, replicas: Sequence[Sequence[int]], *, config: Mapping[str, str] | None = None
    ) -> str:
        """Make a topic with one partition per entry of `replicas`, whose first node leads; returns its name."""
        await self.cluster.create_topic(name, replicas, config=config)
        self.topics[name] = len(replicas)
        self.truth.know_topic(name, len(replicas))
        return name

    async def fill(self, topic: str, *partitions: int, records: int = 200) -> None:
        """So many records to each of the partitions (none named: all), every one acknowledged."""
        self._produced += 1
        maker = RecordMaker(f"{self.seed}-{self._produced}")
        drafts = [
            maker.draft(partition) for partition in partitions or range(self.topics[topic]) for _ in range(records)
        ]
        await asyncio.to_thread(produce, self.cluster.inside, self.truth, topic, drafts)

    @asynccontextmanager
    async def load(self, *streams: PlainStream | TransactionalStream) -> AsyncIterator[None]:
        """Live load during the block; at its end all of it is acknowledged and every transaction decided."""
        for stream in streams:
            if isinstance(stream, TransactionalStream):
                self._transactional.update(stream.topics)
        load = LiveLoad(self.cluster.inside, self.truth, streams, seed=sum(self.seed.encode()))
        load.start()
        try:
            yield
        finally:
            await asyncio.to_thread(load.stop)

    def plain(self, rate: float = 150.0, *topics: str) -> list[PlainStream]:
        """Streams of so many records a second, to each of these topics (none named: all)."""
        return [PlainStream(topic=topic, records_per_second=rate) for topic in topics or self.topics]

    @property
    def daemon(self) -> Daemon:
        """The campaign's daemon; made at first use, for the topics there are by then."""
        if self._daemon is None:
            self.configure()
        assert self._daemon is not None
        return self._daemon

    def configure(
        self,
        *,
        include: Collection[str] = (),
        tiers: list[Json] | None = None,
        odd: tuple[str, ...] = (),
        **backup: Json,
    ) -> Daemon:
        """The daemon, not started: `include` (none: the campaign's topics), and keys of its `backup` section.

        Args:
            odd: options of `testbed.odd_daemon`; none: `kbackupd run` as users run it.
        """
        sections: dict[str, Section] = overrides(include or self.topics, **backup)
        self._daemon = Daemon(
            self._directory,
            bootstrap=self.cluster.outside,
            s3=self._s3,
            bucket=self._bucket,
            prefix=self._prefix,
            overrides=sections,
            tiers=tiers,
            program=odd_command(*odd) if odd else None,
        )
        return self._daemon

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()

    # What the daemon says ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await asyncio.to_thread(self.daemon.start)

    async def _told(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the daemon's status is so; what it says instead is in the error, and that it has died."""

        def holds() -> bool:
            self.daemon.require_running()
            return condition()

        try:
            await reaches(holds)
        except AssertionError as error:
            now = {topic: states(self.daemon, topic) for topic in self.topics}
            raise AssertionError(f"not {what}, but {now}; problems: {problems(self.daemon)}") from error

    async def followed(self, *topics: str) -> None:
        """Return when every partition of these topics (none named: all) is followed."""
        meant = {topic: {"following": self.topics[topic]} for topic in topics or self.topics}
        await self._told(
            lambda: all(states(self.daemon, topic) == wanted for topic, wanted in meant.items()), "followed"
        )

    async def state(self, topic: str, state: str, *, at_least: int = 1) -> None:
        """Return when so many partitions of `topic` are in `state`."""

        def there() -> bool:
            count = states(self.daemon, topic).get(state, 0)
            return isinstance(count, int) and count >= at_least

        await self._told(there, f"{at_least} {state}")

    def exposure(self, topic: str) -> float:
        """Seconds, of the worst partition; infinite while it is not known."""
        told = [row["exposure_seconds"] for row in topic_rows(self.daemon, topic)]
        return max((float(one) if isinstance(one, int | float) else math.inf for one in told), default=math.inf)

    async def exposed(self, topic: str, *, seconds: float = 0.0, below: float = math.inf) -> None:
        """Return when the exposure of `topic` is at least `seconds`, and less than `below`."""
        await self._told(lambda: seconds <= self.exposure(topic) < below, f"exposed for [{seconds}, {below}) s")

    async def blind(self, topic: str, spared: str, *, seconds: float) -> None:
        """Return when the exposure of `topic` is at least `seconds`, and thrice that of `spared`."""
        await self._told(
            lambda: self.exposure(topic) >= max(seconds, 3 * self.exposure(spared)),
            f"exposed for {seconds} s, and {spared} by far less",
        )

    # The end ----------------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Heal the cluster, let the daemon store all of it, and stop it in good order."""
        await self.cluster.heal()
        await self.followed()
        report = await flush(self.daemon)
        assert report.left_out == (), report.left_out
        assert await asyncio.to_thread(self.daemon.stop) == 0

    async def exact(self, *, except_for: Collection[str] = ()) -> None:
        """`finish`, and the archive is what was produced; topics named in `except_for` are the scenario's to judge."""
        await self.finish()
        async with self.archive() as archive:
            assert list(archive.damaged) == []
            newest = archive.newest()
            for topic, partitions in self.topics.items():
                assert newest[topic].partitions == partitions
                if topic in except_for:
                    continue
                read = await asyncio.to_thread(read_topic, self.cluster.inside, topic)
                logs = await self.logs(topic)
                for number in range(partitions):
                    where = f"{topic}/{number}"
                    history = archive.history(PartitionId(newest[topic].topic_id, number))
                    assert not history.holes, f"{where}: holes {history.holes}"
                    assert not history.gaps, f"{where}: gaps {history.gaps}"
                    assert history.branches == (0,), f"{where}: branches {history.branches}"
                    held = await archived_batches(archive, PartitionId(newest[topic].topic_id, number))
                    wanted = logs[number]
                    assert [offset for offset, _ in held] == [offset for offset, _ in wanted], where
                    assert held == wanted, f"{where}: bytes differ"
                    assert not (wrong := self._wrong(topic, number, read[number])), f"{where}: {wrong}"
        await self.valid()

    def _wrong(self, topic: str, partition: int, read: Sequence[Record]) -> list[str]:
        """What a committed reader does not find as it was acknowledged, or finds in addition.

        What a transactional producer gave up when it aborted may arrive late and fall into its next transaction
        (KIP-890; librdkafka keeps the epoch).
        """
        wanted = self.truth.records(topic, partition, seen=read)
        if topic in self._transactional:
            meant = {one.offset for one in wanted}
            read = [record for record in read if record.offset in meant]
        return compare_records(wanted, read)

    async def restore(self, topic: str, target: str) -> None:
        """`kbackupd restore` of a topic into the same cluster, under another name; complete."""
        finished = await asyncio.to_thread(self.daemon.restore, self.cluster.inside, {topic: target})
        finished.require(0)

    async def log(self, topic: str, partition: int = 0) -> Batches:
        """What its leader has on disk."""
        return (await self.logs(topic))[partition]

    async def logs(self, topic: str) -> list[Batches]:
        """As `log`, of every partition."""
        leaders = [row.leader for _, row in sorted((await self.cluster.partitions(topic)).items())]
        nodes = [self.cluster.node(leader) for leader in leaders]
        return [broker_batches(node, topic, number) for number, node in enumerate(nodes)]

    @property
    def storage(self) -> StorageSettings:
        return self._s3.storage(self._bucket, self._prefix)

    @asynccontextmanager
    async def archive(self) -> AsyncIterator[Archive]:
        store = await open_store(self.storage)
        try:
            yield await Archive.open(store, "main")
        finally:
            await store.close()

    async def valid(self) -> None:
        """A deep validation finds nothing wrong."""
        store = await open_store(self.storage)
        try:
            report = await validate(store, "main", deep=True)
        finally:
            await store.close()
        assert report.valid, report.findings

"""A cluster, a bucket and the lives of a daemon between them: whole pipelines in virtual time.

`Site` outlives every `Life`. A life is a `Pipeline` as `kbackupd run` wires it, without its servers; `run_life` runs it
beside a test's own script and may kill it at any turn of the event loop. `check` compares the archive, read by the
reading side, with what the cluster holds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from kbackupd.archive.archive import Archive
from kbackupd.archive.identity import identity_of, open_or_create
from kbackupd.archive.recovery import Recovery, recover
from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.pipeline import Pipeline, Resume
from kbackupd.capture.sampling import partition_samples
from kbackupd.capture.steering import Steering
from kbackupd.daemon.take_over import take_over
from kbackupd.flow.budget import MemoryBudget
from kbackupd.format.segment import NeedMore, open_footer
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import StoreUnavailableError
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Footer
from kbackupd.model.settings import (
    BackupSettings,
    DaemonSettings,
    FilesystemSettings,
    SourceSettings,
    StartPolicy,
    StorageSettings,
    TopicSelection,
)
from kbackupd.model.status import PartitionSample, PartitionState
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.faults import FaultStore
from kbackupd.store.memory import MemoryStore
from kbackupd.store.protocol import Buffer, ObjectInfo, ObjectStore
from kbackupd.store.scoped import ScopedStore
from tests.fake_broker import CLUSTER_ID, FakeCluster, FakeLog
from tests.virtual_time import Killed, run

BACKUP_ID = "main"

Result = TypeVar("Result")


class Wire:
    """The way to the store: uploads take their time, and a cut wire carries nothing more.

    What was on its way when it was cut is in `stragglers`: a real server may still store it, or not.
    """

    def __init__(self, inner: ObjectStore, *, seconds: Callable[[str], float]) -> None:
        self._inner = inner
        self._seconds = seconds
        self._on_the_way: dict[str, bytes] = {}
        self.cut = False

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def stragglers(self) -> dict[str, bytes]:
        return dict(self._on_the_way)

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        self._alive()
        data = b"".join(parts)
        self._on_the_way[key] = data
        seconds = self._seconds(key)
        await asyncio.sleep(seconds)
        self._alive()
        await self._inner.put_if_absent(key, [data])
        del self._on_the_way[key]
        await asyncio.sleep(seconds / 2)
        self._alive()

    async def get(self, key: str) -> bytes:
        self._alive()
        return await self._inner.get(key)

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        self._alive()
        return await self._inner.get_range(key, first_byte, length)

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        self._alive()
        return await self._inner.get_suffix(key, length)

    async def head(self, key: str) -> ObjectInfo:
        self._alive()
        return await self._inner.head(key)

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        self._alive()
        async for info in self._inner.list_from(prefix, start_after=start_after, limit=limit):
            yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        raise AssertionError("capture deletes nothing (invariant I2)")

    async def close(self) -> None:
        return

    def _alive(self) -> None:
        if self.cut:
            raise StoreUnavailableError("the process is dead")


class Life:
    """One start of the daemon."""

    def __init__(self, site: Site, store: ObjectStore, resume: Resume, settings: DaemonSettings) -> None:
        self.site = site
        self.recovery: Recovery = resume.recovery
        self.recovered = positions(resume.recovery)
        self.problems = Problems(site.clock)
        self.metrics = Metrics(site.clock, version="test")
        self.budget = MemoryBudget(site.budget_bytes)
        self.pipeline = Pipeline(
            settings=settings,
            source=site.cluster,
            store=store,
            resume=resume,
            budget=self.budget,
            clock=site.clock,
            metrics=self.metrics,
            problems=self.problems,
        )
        self.steering = Steering(self.pipeline, clock=site.clock)

    def reload(
        self, *, include: tuple[str, ...] | None = None, exclude: tuple[str, ...] | None = None, **backup: object
    ) -> None:
        """Other settings from now on, for this life and those after it."""
        site, topics = self.site, self.site.settings.source.topics
        chosen = TopicSelection(
            include=topics.include if include is None else include,
            exclude=topics.exclude if exclude is None else exclude,
        )
        site.settings = replace(site.settings, source=replace(site.settings.source, topics=chosen))
        site.with_settings(**backup)
        self.pipeline.reconfigure(site.settings)

    def partition(self, name: str, number: int = 0) -> PartitionCapture:
        """The open incarnation's."""
        return next(
            p
            for p in self.pipeline.roster.partitions.values()
            if p.topic == name and p.id.partition == number and not p.closed
        )

    def state(self, name: str, number: int = 0) -> PartitionState | None:
        """None: not seen yet."""
        found = [p for p in self.pipeline.roster.partitions.values() if p.topic == name and p.id.partition == number]
        return found[-1].state if found else None

    def sample(self, name: str, number: int = 0) -> PartitionSample:
        found = [s for s in partition_samples(self.pipeline, self.site.clock) if s.topic == name]
        return [s for s in found if s.partition == number][-1]

    async def until(self, met: Callable[[], bool], what: str, *, seconds: float = 300.0) -> None:
        """Wait (in virtual time) until `met`."""
        deadline = self.site.clock.monotonic() + seconds
        while not met():
            assert self.site.clock.monotonic() < deadline, f"waited {seconds:.0f} s in vain for: {what}"
            await asyncio.sleep(0.05)

    async def follows(self, name: str, number: int = 0) -> None:
        """Wait until everything of the partition is captured."""
        log = self.site.cluster.log(name, number)
        await self.until(
            lambda: any(
                p.id == log.id and p.position == log.high_watermark for p in self.pipeline.roster.partitions.values()
            ),
            f"{name}/{number} at the end of its log",
        )

    async def durable(self) -> None:
        """Wait until everything every leader has is durable."""
        cluster = self.site.cluster
        for topic in list(cluster.topics.values()):
            if topic.name not in cluster.hidden_topics:
                for log in topic.logs:
                    await self.follows(topic.name, log.id.partition)
        report = await self.steering.flush("*")
        meant = {name for name in cluster.topics if name not in cluster.hidden_topics}
        missed = [p for p in report.left_out if p.state != PartitionState.PAUSED and p.topic in meant]
        assert not missed, f"left out of the flush: {missed}"


Script = Callable[[Life], Awaitable[None]]


@dataclass(slots=True)
class Site:
    """Everything outside the daemon."""

    clock: ManualClock
    cluster: FakeCluster
    memory: MemoryStore
    faults: FaultStore
    settings: DaemonSettings
    budget_bytes: int = 64 << 20
    upload_seconds: Callable[[str], float] = lambda key: 0.01
    last_wire: Wire | None = None
    late: dict[str, bytes] = field(default_factory=dict)
    """Uploads of dead lives that are still on their way (`land_late`)."""

    @classmethod
    def new(
        cls,
        *,
        flush_interval_seconds: float = 2.0,
        checkpoint_interval_seconds: float = 5.0,
        segment_max_bytes: int = 1 << 20,
        start: StartPolicy = StartPolicy.EARLIEST,
        include: tuple[str, ...] = ("*",),
        writer: str = "main",
    ) -> Site:
        clock = ManualClock()
        memory = MemoryStore(clock=clock)
        settings = DaemonSettings(
            backup_id=BACKUP_ID,
            source=SourceSettings(bootstrap_servers=("fake:9092",), topics=TopicSelection(include=include)),
            storage=StorageSettings(backend=FilesystemSettings(path=Path("/nowhere"))),
            writer=writer,
            backup=BackupSettings(
                flush_interval_seconds=flush_interval_seconds,
                checkpoint_interval_seconds=checkpoint_interval_seconds,
                segment_max_bytes=segment_max_bytes,
                start=start,
                discovery_interval_seconds=5.0,
                compression_level=1,
            ),
        )
        return cls(clock, FakeCluster(clock), memory, FaultStore(memory), settings)

    async def start(self, store: ObjectStore | None = None) -> Life:
        """What `kbackupd run` does before it captures."""
        scoped = ScopedStore(self.faults if store is None else store, BACKUP_ID)
        _, resume = await take_over(self.settings, store=scoped, source=self.cluster, clock=self.clock)
        return Life(self, scoped, resume, self.settings)

    def run_life(self, script: Script, *, turns: int | None = None, seed: int = 0, stop: bool = True) -> bool:
        """One life beside `script`, then a drain (or not: `stop` False ends it like a kill); False if it was killed."""
        wire = Wire(self.faults, seconds=lambda key: self.upload_seconds(key))
        self.last_wire = wire

        def cut() -> None:
            wire.cut = True

        try:
            run(self._live(script, wire, stop), clock=self.clock, turns=turns, on_kill=cut, seed=seed)
        except Killed:
            self.land_stragglers(wire, seed)
            return False
        return stop

    async def _live(self, script: Script, wire: Wire, stop: bool) -> None:
        life = await self.start(wire)
        running = asyncio.create_task(life.pipeline.run())
        scripted = asyncio.ensure_future(script(life))
        try:
            await asyncio.wait({running, scripted}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
                raise AssertionError("the pipeline ended by itself")
            await scripted
            if not stop:
                wire.cut = True
                return
            life.pipeline.stop()
            async with asyncio.timeout(60):
                await running
            assert life.budget.reserved_bytes == 0, f"{life.budget.reserved_bytes} bytes of the budget leaked"
        finally:
            for task in (running, scripted):
                task.cancel()
            await asyncio.gather(running, scripted, return_exceptions=True)

    def land_stragglers(self, wire: Wire, seed: int) -> None:
        """Of the uploads under way when the process died, some are stored all the same, now or much later."""
        luck = random.Random(seed)
        for key, data in wire.stragglers.items():
            match luck.choice(("lost", "lost", "now", "late")):
                case "now" if key not in self.memory.objects:
                    self.memory.tamper(key, data)
                case "late":
                    self.late[key] = data

    @property
    def stragglers(self) -> dict[str, bytes]:
        """What the last life had on the way to the store when it ended."""
        return self.last_wire.stragglers if self.last_wire else {}

    def land_late(self) -> None:
        """What a dead life sent arrives at last."""
        for key, data in self.late.items():
            if key not in self.memory.objects:
                self.memory.tamper(key, data)
        self.late.clear()

    def with_settings(self, **backup: object) -> None:
        self.settings = replace(self.settings, backup=replace(self.settings.backup, **backup))  # type: ignore[arg-type]  # any field

    # Reading ----------------------------------------------------------------------------------------------------------

    def keys(self, prefix: str = "") -> list[str]:
        scope = f"{BACKUP_ID}/"
        return sorted(k.removeprefix(scope) for k in self.memory.objects if k.startswith(scope + prefix))

    def remove(self, key: str) -> None:
        self.memory.tamper(f"{BACKUP_ID}/{key}", None)

    def without_checkpoints(self) -> Site:
        """The same bucket after somebody deleted every checkpoint."""
        memory = MemoryStore(clock=self.clock)
        for key, data in self.memory.objects.items():
            if "/checkpoints/" not in key:
                memory.tamper(key, data)
        return replace(self, memory=memory, faults=FaultStore(memory))

    def recover(self) -> Recovery:
        """What the next life would find, without claiming anything."""

        async def look() -> Recovery:
            scoped = ScopedStore(self.memory, BACKUP_ID)
            document, _ = await open_or_create(
                scoped, backup_id=BACKUP_ID, cluster_id=CLUSTER_ID, start="earliest", clock=self.clock
            )
            epochs = len(self.keys(f"writers/{self.settings.writer}/"))
            return await recover(
                scoped,
                writer=self.settings.writer,
                writer_epoch=epochs + 1,
                identity=identity_of(document),
            )

        return run(look(), clock=self.clock)

    def footers(self) -> list[Footer]:
        """Of all segments stored at this moment; also from within a life."""
        opened = [open_footer(key, self._object(key), len(self._object(key))) for key in self.keys("segments/")]
        return [found[0] for found in opened if not isinstance(found, NeedMore)]

    def _object(self, key: str) -> bytes:
        return self.memory.objects[f"{BACKUP_ID}/{key}"]

    def read(self, reading: Coroutine[object, object, Result]) -> Result:
        """What somebody finds who reads when no life runs."""
        return run(reading, clock=self.clock)

    def archive(self) -> Archive:
        return run(Archive.open(self.memory, BACKUP_ID), clock=self.clock)

    def stored(self, archive: Archive, id: PartitionId) -> list[tuple[int, int, bytes]]:
        """(first, next, bytes) of every batch, as a restore reads them."""

        async def read() -> list[tuple[int, int, bytes]]:
            return [(b.first_offset, b.next_offset, bytes(b.data)) async for b in archive.read(id)]

        return run(read(), clock=self.clock)

    def check(self, *, causes: tuple[GapCause, ...] = ()) -> Archive:
        """The archive's newest history of every partition is the cluster's log: nothing lost, doubled or made up.

        Args:
            causes: of gaps that may be there, over offsets that the log has no more.
        """
        archive = self.archive()
        assert not archive.damaged
        for topic in self.cluster.topics.values():
            if topic.name in self.cluster.hidden_topics or not self.settings.source.topics.selects(topic.name):
                continue
            archived = archive.topic(topic.id)
            assert archived is not None, f"topic {topic.name} is not in the archive"
            assert archived.partitions == len(topic.logs)
            for log in topic.logs:
                self.check_log(archive, log, causes=causes)
        return archive

    def check_log(self, archive: Archive, log: FakeLog, *, causes: tuple[GapCause, ...] = ()) -> None:
        history = archive.history(log.id)
        assert not history.holes, f"{log.id}: holes nobody explains: {history.holes}"
        assert history.next_offset >= log.high_watermark, f"{log.id}: held to {history.next_offset} only"
        for gap in history.gaps:
            assert gap.cause in causes, f"{log.id}: {gap}"
        batches = self.stored(archive, log.id)
        for (_, end, _), (first, _, _) in pairwise(batches):
            assert end <= first, f"{log.id}: offsets delivered twice at {first}"
        for _, _, data in batches:
            assert data in log.ever, f"{log.id}: bytes that never were in the log"
        excluded = max((g.next_offset for g in history.gaps if g.cause == GapCause.EXCLUDED), default=0)
        begin = max(log.log_start_offset, history.first_offset, excluded)
        held = [data for _, end, data in batches if end > begin and data not in log.compacted]
        wanted = [b.data for b in log.batches if b.next_offset > begin and b.base_offset < log.high_watermark]
        assert held == wanted, f"{log.id}: the archive's batches are not the log's"


def positions(recovery: Recovery) -> dict[PartitionId, tuple[int, int, int, tuple[tuple[int, int], ...]]]:
    """Where every partition would go on: offset, branch, next branch, leader epochs."""
    return {
        id: (state.next_offset, state.branch, state.next_branch, tuple(state.leader_epochs))
        for id, state in recovery.state.partitions.items()
    }

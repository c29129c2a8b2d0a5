"""Lives of writers and roll-ups between them, in any order: what an archive says is the same with them and without.

Roll-ups are built while a daemon lives and after it was killed, by builders with other limits, by two at once, and by
builders that are killed between two of their own steps. Segments of a killed life land afterwards, between those that
were rolled up without them, and some are deleted (hazard 16). What is left must read as the same without `rollups/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.archive.describe import ArchiveDescription, describe_stored
from kbackupd.archive.pins import Pins
from kbackupd.archive.recovery import recover
from kbackupd.archive.rollup_build import RollupLimits, RollupReport, build_rollups
from kbackupd.format import keys
from kbackupd.model.errors import StoreUnavailableError, UsageError
from kbackupd.model.events import GapCause, Paused
from kbackupd.model.path import SealedSegment
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.planning import make_plan
from kbackupd.store.memory import MemoryStore
from kbackupd.store.protocol import Buffer
from kbackupd.store.scoped import ScopedStore
from kbackupd.validate.report import Code, Finding, Severity
from kbackupd.validate.validate import validate
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life
from tests.unit.archive.test_rollups import rolled_up, undamaged
from tests.unit.restore.planned import settings_for

WRITERS = ("main", "main", "main", "other")
NAMES = ("orders", "table")

NOT_THERE = (Code.OBJECT_MISSING, Code.SEQUENCE_UNFINISHED)

Deed = tuple[str, int]
"""What happens next, and a number that settles what it leaves open: whose turn, how many, which one."""

AT_THE_SOURCE = ("grow",) * 6 + ("begin", "commit", "abort", "cut", "expire", "corrupt", "delete", "widen", "pause")
IN_THE_DAEMON = ("store",) * 9 + ("seal",) * 4 + ("land",) * 2 + ("checkpoint",)
BETWEEN_LIVES = ("kill",) * 3 + ("late",) * 3 + ("delete a segment", "pin")
ROLLING_UP = ("roll up",) * 4 + ("roll up and be killed",) * 3 + ("roll up twice at once",)

DEEDS: st.SearchStrategy[list[Deed]] = st.lists(
    st.tuples(
        st.sampled_from(AT_THE_SOURCE + IN_THE_DAEMON + BETWEEN_LIVES + ROLLING_UP),
        st.integers(0, 59),
    ),
    min_size=30,
    max_size=90,
)


def limits_of(number: int) -> RollupLimits:
    """Small enough that a dozen segments have three levels; no two builders of a sequence need agree."""
    return RollupLimits(
        segments=(1, 2, 3)[number % 3],
        rows=(1_000, 4)[number % 2],
        fan_in=(2, 3)[number // 2 % 2],
        unsettled=(0, 1, 3)[number // 3 % 3],
        between=(1, 2)[number // 4 % 2],
    )


class KilledBuilder(ScopedStore):
    """The archive as a builder sees it that does not survive one of its writes, whether that had landed or not."""

    def __init__(self, inner: MemoryStore, *, survives: int, lands: bool) -> None:
        super().__init__(inner, BACKUP_ID)
        self._left = survives
        self._lands = lands

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        self._left -= 1
        if self._left >= 0 or self._lands:
            await super().put_if_absent(key, parts)
        if self._left < 0:
            raise StoreUnavailableError(f"killed at {key}")


class Site:
    """One source, its daemon's lives, and what of killed ones is still under way to the store."""

    def __init__(self, built: ArchiveBuilder) -> None:
        self.built = built
        self.topics = [built.topic(name, partitions=2) for name in NAMES]
        self.widened: set[TopicId] = set()
        self.life: Life | None = None
        self.flying: list[SealedSegment] = []
        self.late: list[SealedSegment] = []
        self.deleted = False
        self.pins: list[Pins] = []

    async def do(self, what: str, number: int) -> None:
        if what in AT_THE_SOURCE:
            self._happen(what, number, await self._alive(number))
        elif what in IN_THE_DAEMON:
            await self._work(what, number, await self._alive(number))
        elif what in BETWEEN_LIVES:
            await self._between(what, number)
        else:
            await self._roll_up(what, number)

    async def _alive(self, number: int) -> Life:
        if self.life is None:
            self.life = await self.built.start(WRITERS[number % len(WRITERS)])
            for topic in self.topics:
                # Of one that has grown the life before may not have said so durably.
                (self.life.see if topic in self.widened else self.life.know)(topic)
        return self.life

    def _happen(self, what: str, number: int, life: Life) -> None:
        topic = self.topics[number % len(self.topics)]
        partition = number // 2 % self.built.topics[topic].partitions
        log = self.built.log(topic, partition)
        self._catch_up(life, topic, partition)
        match what:
            case "grow":
                log.append([b"value"] * (1 + number % 3))
            case "begin":
                log.append([b"begun"], transactional=True, producer_id=number % 3)
            case "commit" | "abort":
                log.end_transaction(number % 3, committed=what == "commit")
            case "cut" if log.batches:
                log.truncate(int.from_bytes(log.batches[-1 - number % min(3, len(log.batches))][:8], "big"))
            case "expire":
                log.next_offset += 3
                log.log_start_offset = log.next_offset
            case "corrupt":
                log.next_offset += 2
                life.capture_corrupt(topic, partition, bytes(61), next_offset=log.next_offset)
            case "delete":
                life.deleted(topic)
                old = self.built.topics[topic]
                new = self.built.topic(old.name, partitions=1 + number % 3, previous=topic)
                self.topics[self.topics.index(topic)] = new
                life.know(new)
                return
            case "widen" if self.built.topics[topic].partitions < 4:
                self.built.topics[topic].partitions += 1
                self.built.regrown(topic, self.built.topics[topic].partitions - 1, first_offset=0)
                self.widened.add(topic)
                life.see(topic)
            case "pause":
                life.event(Paused(topics="*", paused=number % 2 == 0, at_ms=self.built.clock.now_ms()))
            case _:
                pass
        self._catch_up(life, topic, partition)

    def _catch_up(self, life: Life, topic: TopicId, partition: int) -> None:
        """What the broker's answers tell a daemon before it fetches, and what it then fetches."""
        log = self.built.log(topic, partition)
        life.know(topic)
        life.follow_cut(topic, partition)
        if life.position(topic, partition) < log.log_start_offset:
            life.gap(topic, partition, log.log_start_offset, GapCause.LOG_START_MOVED)
        life.capture(topic, partition)

    async def _work(self, what: str, number: int, life: Life) -> None:
        match what:
            case "store":
                await life.flush()
            case "seal":
                self.flying.append(life.seal())
            case "land" if self.flying:
                await life.arrive(self.flying.pop(number % len(self.flying)))
            case "checkpoint":
                await life.checkpoint()
            case _:
                pass

    async def _between(self, what: str, number: int) -> None:
        match what:
            case "kill":
                self.life, self.late, self.flying = None, [*self.late, *self.flying], []
            case "late" if self.late:
                sealed = self.late.pop(number % len(self.late))
                await self.built.scoped.put_if_absent(sealed.ref.key, sealed.parts)
            case "delete a segment" if held := [key for key in self.built.keys if keys.parse_segment_key(key)]:
                self.built.tamper(held[number % len(held)], None)
                self.deleted = True
            case "pin" if len(self.pins) < 2:
                self.pins.append((await Archive.open(self.built.store, BACKUP_ID)).pinned)
            case _:
                pass

    async def _roll_up(self, what: str, number: int) -> None:
        match what:
            case "roll up":
                sound(await rolled_up(self.built, limits_of(number)))
            case "roll up twice at once":
                for report in await asyncio.gather(
                    *(rolled_up(self.built, limits_of(one)) for one in (number, number + 7))
                ):
                    assert report.damaged == []
            case _:
                store = KilledBuilder(self.built.store, survives=number // 2 % 5, lands=number % 2 == 0)
                with suppress(StoreUnavailableError):  # or it had less to write than it survives
                    sound(await build_rollups(store, limits=limits_of(number)))


def sound(report: RollupReport) -> None:
    assert (report.damaged, report.raced) == ([], False)


@dataclass(frozen=True, kw_only=True)
class Told:
    """All that anybody learns from an archive's objects."""

    partitions: Mapping[PartitionId, object]
    topics: object
    lost: object
    pinned: Pins
    alone: Mapping[str, Mapping[PartitionId, object]]
    """Topic's name → what somebody who wants that one only learns of it."""
    then: Sequence[Mapping[PartitionId, object]]
    """As of every pin that was taken."""
    described: ArchiveDescription
    plan: RestorePlan | str
    findings: Sequence[Finding]
    """Of all but segments that are not there."""
    not_there: Sequence[Finding]
    recovered: Mapping[str, object]
    """Writer → what its next life would begin with."""


async def told(store: MemoryStore, site: Site) -> Told:
    archive = await Archive.open(store, BACKUP_ID)
    assert (archive.damaged, archive.catalog.damaged_rollups) == ((), ())
    report = await validate(store, BACKUP_ID, deep=True)
    try:
        plan: RestorePlan | str = make_plan(archive, settings_for("broker:9092", {}))
    except UsageError as error:
        plan = error.message
    return Told(
        partitions=of_partitions(archive),
        topics=(archive.topics, archive.newest()),
        lost=archive.lost,
        pinned=archive.pinned,
        alone={name: of_partitions(await Archive.open(store, BACKUP_ID, wanted=name.__eq__), name) for name in NAMES},
        then=[of_partitions(await Archive.open(store, BACKUP_ID, pinned=pinned)) for pinned in site.pins],
        described=undamaged((await describe_stored(store, BACKUP_ID))[1]),
        plan=plan,
        findings=[
            one
            for one in report.findings
            if one.code not in NOT_THERE and (one.severity is Severity.ERROR or "rollup" not in one.code)
        ],
        not_there=[one for one in report.findings if one.code in NOT_THERE],
        recovered={writer: await recovered(store, site, writer) for writer in sorted(set(WRITERS))},
    )


def of_partitions(archive: Archive, name: str | None = None) -> Mapping[PartitionId, object]:
    return {
        id: (archive.evidence(id), archive.history(id))
        for id in archive.partitions
        if name is None or archive.name_of(id) == name
    }


async def recovered(store: MemoryStore, site: Site, writer: str) -> object:
    identity = site.built.document.identity
    recovery = await recover(ScopedStore(store, BACKUP_ID), writer=writer, writer_epoch=99, identity=identity)
    return vars(recovery.state), recovery.earlier, recovery.footers_read, recovery.damaged


async def assert_rollups_change_nothing(site: Site) -> None:
    bare = MemoryStore(clock=site.built.clock)
    for key, data in site.built.store.objects.items():
        if not key.startswith(f"{BACKUP_ID}/{keys.ROLLUPS_PREFIX}"):
            bare.tamper(key, data)
    through, without = await told(site.built.store, site), await told(bare, site)
    compared = set(Told.__dataclass_fields__)
    if site.deleted:
        # Of a segment that was deleted a roll-up may be all that knows: without, it seems never to have landed.
        compared.remove("not_there")
        assert missing(through) >= missing(without)
    for name in sorted(compared):  # one after the other: the whole is too long to be read
        assert getattr(through, name) == getattr(without, name), name


def missing(told: Told) -> set[str | None]:
    return {one.object for one in told.not_there if one.code is Code.OBJECT_MISSING}


def play(deeds: Sequence[Deed]) -> None:
    async def play() -> None:
        site = Site(await ArchiveBuilder.create())
        for what, number in deeds:
            await site.do(what, number)
        await assert_rollups_change_nothing(site)
        sound(await rolled_up(site.built, limits_of(0)))
        await assert_rollups_change_nothing(site)
        again = await rolled_up(site.built, limits_of(0))
        assert (again.built, again.merged) == ([], [])

    asyncio.run(play())


@settings(max_examples=30)
@given(DEEDS)
def test_nobody_can_tell_whether_an_archive_has_rollups(deeds: list[Deed]) -> None:
    play(deeds)

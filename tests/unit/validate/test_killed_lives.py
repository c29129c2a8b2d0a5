"""A daemon killed at any moment leaves no false alarm, and the next life leaves nothing missing."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.model.events import GapCause
from kbackupd.model.path import SealedSegment
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.validate.report import Code, Severity
from kbackupd.validate.validate import validate
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life


class Chaos:
    """A source that grows, is cut back and loses its beginning; a daemon whose uploads land in any order, or never."""

    def __init__(self, built: ArchiveBuilder, rng: random.Random) -> None:
        self.built = built
        self.rng = rng
        self.topic = built.topic("orders", partitions=2)
        self.flying: list[SealedSegment] = []

    async def step(self, life: Life) -> None:
        partition = self.rng.randrange(2)
        log = self.built.log(self.topic, partition)
        match self.rng.choice(
            ["append", "append", "capture", "capture", "seal", "arrive", "arrive", "checkpoint", "cut", "expire"]
        ):
            case "append":
                log.append([b"value"] * self.rng.randrange(1, 4), codec=self.rng.randrange(5))
            case "capture":
                self.meet(life, partition)
                life.capture(
                    self.topic, partition, until=self.rng.choice([None, life.position(self.topic, partition) + 1])
                )
            case "seal":
                self.flying.append(life.seal())
            case "arrive" if self.flying:
                await life.arrive(self.flying.pop(self.rng.randrange(len(self.flying))))
            case "checkpoint":
                await life.checkpoint()
            case "cut" if log.batches:
                log.truncate(int.from_bytes(self.rng.choice(log.batches)[:8], "big"))
            case "expire" if log.batches:
                base = int.from_bytes(self.rng.choice(log.batches)[:8], "big")
                log.log_start_offset = max(log.log_start_offset, base)
            case _:
                pass

    def meet(self, life: Life, partition: int) -> None:
        """What the broker's answers tell the daemon before it fetches: the log was cut, or begins further on."""
        log = self.built.log(self.topic, partition)
        life.know(self.topic)
        life.follow_cut(self.topic, partition)
        if life.position(self.topic, partition) < log.log_start_offset:
            life.gap(self.topic, partition, log.log_start_offset, GapCause.LOG_START_MOVED)

    async def finish(self, life: Life) -> None:
        while self.flying:
            await life.arrive(self.flying.pop(0))
        for partition in range(2):
            # What was cut off between two lives is known for certain once something has grown in its place.
            self.built.log(self.topic, partition).append([b"last"])
            self.meet(life, partition)
            life.capture(self.topic, partition)
        await life.flush()
        await life.checkpoint()


async def errors(built: ArchiveBuilder, *, deep: bool = False) -> list[str]:
    report = await validate(built.store, BACKUP_ID, deep=deep)
    return [f"{one.code} {one.place}: {one.message}" for one in report.findings if one.severity is Severity.ERROR]


async def archived(built: ArchiveBuilder, topic: TopicId, partition: int) -> list[bytes]:
    archive = await Archive.open(built.store, BACKUP_ID)
    return [bytes(batch.data) async for batch in archive.read(PartitionId(topic, partition))]


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40))
def test_no_kill_leaves_a_false_alarm_and_the_last_life_leaves_nothing_missing(
    seed: int, lives: int, steps: int
) -> None:
    run_history(seed, lives, steps)


def run_history(seed: int, lives: int, steps: int) -> None:
    async def play() -> None:
        built = await ArchiveBuilder.create()
        chaos = Chaos(built, random.Random(seed))
        for _ in range(lives):
            life = await built.start()
            chaos.flying = []
            for _ in range(chaos.rng.randrange(steps)):
                await chaos.step(life)
            assert await errors(built) == []
        life = await built.start()
        chaos.flying = []
        await chaos.finish(life)
        assert await errors(built, deep=True) == []
        report = await validate(built.store, BACKUP_ID)
        archive = await Archive.open(built.store, BACKUP_ID)
        for partition in range(2):
            history = archive.history(PartitionId(chaos.topic, partition))
            log = built.log(chaos.topic, partition)
            assert history.holes == ()
            assert history.next_offset == max(log.next_offset, log.log_start_offset, history.first_offset)
            unfinished = [
                one
                for one in report.findings
                if one.code is Code.CONTINUITY_UNFINISHED
                and one.partition == partition
                and one.branch == history.branch
            ]
            assert unfinished == []
            kept = await archived(built, chaos.topic, partition)
            held = {int.from_bytes(batch[:8], "big"): batch for batch in kept}
            assert len(held) == len(kept)
            for batch in log.batches:
                base = int.from_bytes(batch[:8], "big")
                declared = any(gap.first_offset <= base < gap.next_offset for gap in history.gaps)
                if base >= max(log.log_start_offset, history.first_offset) and not declared:
                    assert held[base] == batch

    asyncio.run(play())


@pytest.mark.parametrize(("seed", "lives", "steps"), [(510509, 3, 16), (2425861982, 4, 17)])
def test_histories_that_once_raised_a_false_alarm_do_not(seed: int, lives: int, steps: int) -> None:
    """Segments with a topic's or a partition's first event lost, later ones stored: the rest must still make sense."""
    run_history(seed, lives, steps)

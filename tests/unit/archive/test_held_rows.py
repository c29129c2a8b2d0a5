"""Rows held compressed: of each partition they say what the footers say, and memory holds no value for a run."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive import rollup_rows, rollup_source
from kbackupd.archive.archive import Archive
from kbackupd.archive.catalog import load_catalog
from kbackupd.archive.evidence import gather_evidence
from kbackupd.archive.held_rows import HeldRows
from kbackupd.archive.history import PartitionEvidence, StoredRun, build_history
from kbackupd.archive.plain import RunSums
from kbackupd.archive.rollup_source import with_segments
from kbackupd.format import keys
from kbackupd.format.tables import COLUMNS, LEADER_EPOCHS, RUNS
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Run
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.unit.archive.test_rollup_memory import rows_of, source
from tests.unit.archive.test_rollups import Chaos, long_archive, rolled_up, rollup_keys


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a partition of a few runs lies in several."""
    monkeypatch.setattr(rollup_rows, "BLOCK_ROWS", 4)


async def of_footers(built: ArchiveBuilder) -> dict[PartitionId, PartitionEvidence]:
    """What the footers say, each read and kept as values."""
    return gather_evidence((await load_catalog(built.scoped, through_rollups=False)).segments)


async def assert_as_footers_say(built: ArchiveBuilder, *, through_rollups: bool = True) -> int:
    """Of every partition; how many of them were plain."""
    told = await of_footers(built)
    archive = await Archive.open(built.store, BACKUP_ID, through_rollups=through_rollups)
    plain = 0
    for id in archive.partitions:
        evidence = told.get(id) or PartitionEvidence(id=id)
        assert archive.evidence(id) == evidence
        some = archive.told(id)
        assert (some.samples, some.seen, some.gaps, some.truncations) == (
            evidence.samples,
            evidence.seen,
            evidence.gaps,
            evidence.truncations,
        )
        found, history = archive.plain(id), build_history(evidence)
        if found is None:
            continue
        plain += 1
        summed = build_history(found.evidence)
        for member in ("branch", "branches", "first_offset", "next_offset", "gaps", "holes", "open_transactions"):
            assert getattr(summed, member) == getattr(history, member)
        assert summed.samples == history.samples
        assert found.sums() == RunSums.of(stored.run for one in history.slices for stored in one.sources)
        assert found.has_transactions == bool(evidence.outcomes)
        assert found.unheard_of == (evidence == PartitionEvidence(id=id))
    assert set(told) <= set(archive.partitions)
    return plain


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(5, 30))
def test_a_partition_asked_for_is_what_the_footers_say_of_it(seed: int, lives: int, steps: int) -> None:
    async def play() -> None:
        built = await ArchiveBuilder.create()
        chaos = Chaos(built, seed)
        for _ in range(lives):
            await chaos.live(steps)
            if chaos.rng.random() < 0.7:
                await rolled_up(built)
        await assert_as_footers_say(built)
        await assert_as_footers_say(built, through_rollups=False)
        for key in rollup_keys(built):
            if chaos.rng.random() < 0.3:
                data = bytearray(built.data(key))
                data[chaos.rng.randrange(len(data))] ^= chaos.rng.randrange(1, 256)
                built.tamper(key, bytes(data) if chaos.rng.random() < 0.5 else None)
        await assert_as_footers_say(built)

    asyncio.run(play())


@pytest.mark.parametrize("through_rollups", [True, False])
async def test_a_log_captured_once_and_in_order_is_plain(through_rollups: bool) -> None:
    built = await long_archive(40)
    await rolled_up(built)
    assert await assert_as_footers_say(built, through_rollups=through_rollups) == 3


async def test_a_new_leader_epoch_between_and_inside_runs_leaves_a_log_plain() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    for number in range(12):
        if number % 3 == 1:
            built.log(orders, 0).truncate(built.log(orders, 0).next_offset)  # another leader, that lacks nothing
        built.log(orders, 0).append([b"value"])
        if number % 2:
            life.capture(orders, 0)
            await life.flush()
    await rolled_up(built)
    archive = await Archive.open(built.store, BACKUP_ID)
    epochs = [stored.run.leader_epochs for stored in archive.evidence(PartitionId(orders, 0)).runs]
    assert max(map(len, epochs)) == 2
    assert await assert_as_footers_say(built) == 1


async def test_what_a_dead_life_saw_does_not_count_when_its_segment_lands_after_the_next_one_began() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    killed = await built.start()
    killed.see(orders)
    late = killed.seal()
    log = built.log(orders, 0)
    log.append([b"deleted before anybody captured it"] * 6)
    log.log_start_offset = log.next_offset
    life = await built.start()
    life.see(orders)
    for _ in range(6):
        log.append([b"value"])
        life.capture(orders, 0)
        await life.flush()
    await built.scoped.put_if_absent(late.ref.key, late.parts)
    assert await assert_as_footers_say(built) == 1
    await rolled_up(built)
    assert await assert_as_footers_say(built) == 1
    archive = await Archive.open(built.store, BACKUP_ID)
    assert archive.history(PartitionId(orders, 0)).first_offset == 6


async def test_what_follows_itself_adds_up_as_its_stretches_do() -> None:
    """The short way and the long way to a partition's stretches."""
    rng = random.Random(20261126)
    ways = set()
    for _ in range(400):
        rows, epochs, at, epoch = [], [], rng.randrange(3), 1
        for _ in range(rng.randrange(1, 5)):
            length = rng.choice((0, 1, 3, 3, 3))
            first = at + rng.choice((0, 0, 0, 1, -1))
            mine = [(epoch, at + rng.choice((0, 0, 0, 0, 3, -1)))]
            if rng.random() < 0.1:
                epoch += rng.choice((1, -1))
                mine.append((epoch, at + length - 1))
            if rng.random() < 0.05:
                mine = []
            values = {
                "asked_offset": at,
                "first_offset": first,
                "next_offset": at + length,
                "branch": int(rng.random() < 0.05),
                "captured_ms": rng.randrange(9),
                "batches": rng.randrange(9),
                "records": rng.randrange(9),
                "flags": rng.choice((0, 0, 0, 0, 1, 2, 16)),
                "max_timestamp": rng.randrange(9),
                "stored_length": rng.randrange(9),
                "raw_length": rng.randrange(9),
                "epochs": len(mine),
            }
            rows.append(tuple(values.get(name, 0) for name in COLUMNS[RUNS]))
            epochs += [(0, 0, *one) for one in mine]
            at += length + (rng.random() < 0.1)
        columns = rollup_rows.columns_of(RUNS, rows), rollup_rows.columns_of(LEADER_EPOCHS, epochs)
        expected = list(rollup_rows.coalesced(rollup_rows.run_stretches(*columns)))
        assert list(rollup_rows.stretches_of(*columns)) == expected
        ways.add((len(expected) == 1, len(rows) > 1, bool(expected[0][15])))
    assert {(True, True, True), (False, True, True), (True, False, True), (True, False, False)} <= ways


async def test_an_opened_archive_holds_no_value_for_a_run() -> None:
    built = await long_archive(40)
    await rolled_up(built)
    gc.collect()
    before = values_of_runs()
    archive = await Archive.open(built.store, BACKUP_ID)
    assert values_of_runs() == before
    for id in archive.partitions:
        assert len(archive.evidence(id).runs) in (13, 14)
        assert archive.plain(id) is not None
    assert values_of_runs() == before  # of those that were asked for, too


class Answer(bytearray):
    """What a request brought; who holds a piece of it holds it all."""


class Answering(MemoryStore):
    """Knows which of its answers are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[weakref.ref[Answer]] = []

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        answer = Answer(await super().get_range(key, first_byte, length))
        self.answers.append(weakref.ref(answer))
        return cast("bytes", answer)


async def test_of_an_answer_that_brought_many_blocks_only_those_wanted_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = await long_archive(40)
    await rolled_up(built)
    store = Answering()
    for key, data in built.store.objects.items():
        store.tamper(key, data)
    # The first blocks that came with the footer come once more, with those before them.
    monkeypatch.setattr(rollup_source, "TAIL_READ_BYTES", 8_000)
    archive = await Archive.open(store, BACKUP_ID)
    assert len(archive.partitions) == 3
    gc.collect()
    assert store.answers
    assert [answer for answer in store.answers if answer() is not None] == []


def values_of_runs() -> int:
    gc.collect()
    return sum(isinstance(one, Run | StoredRun) for one in gc.get_objects())


@pytest.mark.parametrize("damage", range(12))
async def test_a_damaged_block_is_met_when_the_archive_is_opened_and_never_later(damage: int) -> None:
    built = await long_archive(40)
    await rolled_up(built)
    told = await of_footers(built)
    top = max(rollup_keys(built))
    at = keys.parse_rollup_key(top)
    assert at is not None
    assert at.level == 3
    data = bytearray(built.data(top))
    data[8 + damage * 40] ^= 1
    built.tamper(top, bytes(data))
    archive = await Archive.open(built.store, BACKUP_ID)
    assert [one.key for one in archive.catalog.damaged_rollups] == [top]
    for id in archive.partitions:
        assert archive.evidence(id) == told[id]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"flags": [0, 64]}, "no such flags"),
        ({"codec": [0, 2]}, "no such codec"),
        ({"segment": [-1, 0]}, "no such segment"),
        ({"partition": [0, 1, 0, 2]}, "rows out of order"),
    ],
)
async def test_rows_that_no_builder_writes_are_damage_though_their_digest_fits(
    values: dict[str, list[int]], reason: str
) -> None:
    """Of a defective builder: met when it is opened, for afterwards they are believed."""
    store = MemoryStore()
    count = max(map(len, values.values()))
    opened = await source(store, 0, RUNS, rows_of(RUNS, count, **values))
    with pytest.raises(CorruptObjectError, match=reason):
        await HeldRows.read(store, await with_segments(store, opened), None)

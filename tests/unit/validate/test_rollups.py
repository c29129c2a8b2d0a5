"""Validation of roll-ups: one that says anything else than the footers is found, and one that is gone is no error."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kbackupd.archive.rollup_build import RollupLimits, build_rollups
from kbackupd.archive.rollup_source import open_stored, read_tables
from kbackupd.format import keys
from kbackupd.format.rollup import RollupBody
from kbackupd.format.tables import COLUMNS, RUNS, SAMPLES, SEGMENTS, STRETCHES, Columns
from kbackupd.model.segment import Identity
from kbackupd.validate.report import Code, Finding, Severity
from kbackupd.validate.validate import validate
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.independent_rollup_reader import rollup
from tests.unit.validate.eventful import eventful_archive

LIMITS = RollupLimits(segments=4, fan_in=2, unsettled=1, between=1)


async def rolled_up_archive() -> tuple[ArchiveBuilder, str]:
    """And the key of its first roll-up."""
    built = await eventful_archive()
    await build_rollups(built.scoped, limits=LIMITS)
    return built, next(key for key in built.keys if keys.parse_rollup_key(key))


async def findings(built: ArchiveBuilder, *, deep: bool = True) -> list[Finding]:
    report = await validate(built.store, BACKUP_ID, deep=deep)
    return [one for one in report.findings if one.code.startswith("rollup") or one.severity is Severity.ERROR]


async def rewritten(built: ArchiveBuilder, key: str, change: Callable[[dict[str, Columns]], None]) -> None:
    """The roll-up with other rows, and every digest right: what a defective builder would store."""
    identity: Identity = built.document.identity
    opened = await open_stored(built.scoped, key, identity)
    tables = await read_tables(built.scoped, opened, COLUMNS)
    change(tables)
    body = RollupBody()
    for table in COLUMNS:
        if tables[table][0]:
            body.add(table, tables[table])
    built.tamper(key, b"".join(body.seal(key, identity, opened.footer.head).parts))


def moved(table: str, column: str) -> Callable[[dict[str, Columns]], None]:
    def change(tables: dict[str, Columns]) -> None:
        tables[table][COLUMNS[table].index(column)][0] += 1

    return change


async def test_a_sound_archive_with_rollups_is_valid() -> None:
    built, _ = await rolled_up_archive()
    assert await findings(built) == []


@pytest.mark.parametrize(
    ("table", "column"), [(RUNS, "records"), (RUNS, "position"), (SAMPLES, "high_watermark"), (STRETCHES, "records")]
)
async def test_a_row_that_no_footer_says_is_found_by_a_deep_look(table: str, column: str) -> None:
    """Hazard 59: a count that does not fit."""
    built, key = await rolled_up_archive()
    await rewritten(built, key, moved(table, column))
    assert await findings(built, deep=False) == []
    (finding,) = await findings(built)
    assert (finding.code, finding.object) == (Code.ROLLUP_CONTRADICTED, key)
    assert f"{column} in row 0 of {table}" in finding.message
    assert "kbackupd rollup" in finding.action


async def test_a_row_too_few_is_found() -> None:
    built, key = await rolled_up_archive()

    def shorten(tables: dict[str, Columns]) -> None:
        tables[SAMPLES] = [column[:-1] for column in tables[SAMPLES]]

    await rewritten(built, key, shorten)
    (finding,) = await findings(built)
    assert "the number of rows of samples" in finding.message


async def test_a_rollup_of_other_segments_than_are_there_is_found_without_a_deep_look() -> None:
    built, key = await rolled_up_archive()
    await rewritten(built, key, moved(SEGMENTS, "digest_2"))
    (finding,) = await findings(built, deep=False)
    assert finding.code == Code.ROLLUP_CONTRADICTED
    assert "sums up another object than segments/main/0000000001/" in finding.message


async def test_every_flip_truncation_deletion_and_swap_of_a_rollup_is_found() -> None:
    """Hazard 58. A deleted one is no error, for nothing is lost; it is told where another was made of it."""
    built = await eventful_archive()
    await build_rollups(built.scoped, limits=RollupLimits(segments=3, fan_in=2, unsettled=0, between=1))
    rng = random.Random(20260324)
    rollups = [key for key in built.keys if keys.parse_rollup_key(key)]
    sources = [ref["key"] for key in rollups for ref in rollup(built.data(key), key)["footer"]["sources"]]
    sound = {key: built.data(key) for key in built.keys}
    assert len(rollups) > len(sources) > 0

    async def told(changed: dict[str, bytes | None]) -> list[Finding]:
        for key, data in changed.items():
            built.tamper(key, data)
        found = await findings(built)
        for key in changed:
            built.tamper(key, sound[key])
        return found

    for key in rollups:
        data = sound[key]
        for position in rng.sample(range(len(data)), 40):
            flipped = data[:position] + bytes((data[position] ^ rng.randrange(1, 256),)) + data[position + 1 :]
            assert key in {one.object for one in await told({key: flipped})}, position
        for kept in (0, 1, len(data) // 2, len(data) - 1):
            assert key in {one.object for one in await told({key: data[:kept]})}, kept
        assert key in {one.object for one in await told({key: data + b"\0"})}
        gone = await told({key: None})
        assert not any(one.severity is Severity.ERROR for one in gone)
        assert (key in {one.object for one in gone}) == (key in sources)
        for other in [*(other for other in rollups if other != key), "backup.json"]:
            swapped = await told({key: sound[other], other: data})
            assert {key, other} <= {one.object for one in swapped}


async def plain_archive(segments: int) -> ArchiveBuilder:
    """Without a checkpoint; rolled up by twenties."""
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    for _ in range(segments):
        built.log(topic, 0).append([b"value"])
        life.capture(topic, 0)
        await life.flush()
    await build_rollups(built.scoped, limits=RollupLimits(segments=20, fan_in=16, unsettled=0))
    return built


async def test_what_a_rollup_covers_was_durable_and_must_be_there() -> None:
    """Hazard 16: of the newest segment of a life nothing else speaks."""
    built = await plain_archive(20)
    assert await findings(built) == []
    built.tamper([key for key in built.keys if keys.parse_segment_key(key)][-1], None)
    (finding,) = await findings(built)
    assert finding.code == Code.OBJECT_MISSING
    assert "it was durable: rollups/main/01/" in finding.message


async def test_segments_left_without_their_rollup_are_worth_a_word() -> None:
    built = await plain_archive(60)
    assert await findings(built) == []
    built.tamper(next(key for key in built.keys if keys.parse_rollup_key(key)), None)
    (finding,) = await findings(built)
    assert (finding.severity, finding.code) == (Severity.INFORMATION, Code.ROLLUP_MISSING)
    assert "20 segments" in finding.message

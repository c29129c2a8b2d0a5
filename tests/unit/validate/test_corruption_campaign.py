"""Thousands of ways to damage an archive: each is found, and the finding says where (hazards 16, 58, 59).

Every mutation is one change to one archive that is otherwise sound: a flipped bit pattern in one byte, a truncation, an
appended byte, a deletion, two objects exchanged. Only a deleted checkpoint is information, and the very last snapshot
of a kind can go unnoticed ("Threats" in docs/format.md): nothing later speaks of it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from kbackupd.archive.catalog import load_catalog
from kbackupd.format import keys
from kbackupd.model.segment import Footer, Run
from kbackupd.validate.report import Finding, Severity, ValidationReport
from kbackupd.validate.validate import validate
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.unit.validate.eventful import eventful_archive

FLIPS, TRUNCATIONS, EXTENSIONS = 1600, 300, 60
SEED = 20260324


@dataclass(frozen=True)
class Mutation:
    """New content of some objects; None deletes."""

    what: str
    contents: dict[str, bytes | None]
    position: int = -1
    """Of the flipped byte."""


@dataclass(frozen=True)
class Target:
    built: ArchiveBuilder
    footers: dict[str, Footer]

    def run_at(self, key: str, position: int) -> Run | None:
        footer = self.footers.get(key)
        runs = footer.runs if footer else ()
        return next((run for run in runs if run.position <= position < run.position + run.stored_bytes), None)


def flips(target: Target, rng: random.Random) -> list[Mutation]:
    """Every object gets its share, and a byte anywhere in all of them is as likely as any other."""
    places = [(key, position) for key in target.built.keys for position in range(len(target.built.data(key)))]
    chosen = rng.sample(places, FLIPS)
    chosen += [(key, rng.randrange(len(target.built.data(key)))) for key in target.built.keys for _ in range(4)]
    found = []
    for key, position in chosen:
        data = bytearray(target.built.data(key))
        data[position] ^= rng.randrange(1, 256)
        found.append(Mutation("flip", {key: bytes(data)}, position))
    return found


def truncations(target: Target, rng: random.Random) -> list[Mutation]:
    found = []
    for number in range(TRUNCATIONS):
        key = target.built.keys[number % len(target.built.keys)]
        data = target.built.data(key)
        kept = (0, len(data) - 1)[number % 2] if number < 2 * len(target.built.keys) else rng.randrange(len(data))
        found.append(Mutation("truncation", {key: data[:kept]}))
    for _ in range(EXTENSIONS):
        key = rng.choice(target.built.keys)
        found.append(Mutation("extension", {key: target.built.data(key) + rng.randbytes(rng.randrange(1, 80))}))
    return found


def deletions(target: Target) -> list[Mutation]:
    return [Mutation("deletion", {key: None}) for key in target.built.keys]


def swaps(target: Target) -> list[Mutation]:
    pairs = [(one, other) for one in target.built.keys for other in target.built.keys if one < other]
    return [Mutation("swap", {one: target.built.data(other), other: target.built.data(one)}) for one, other in pairs]


async def judged(target: Target, mutation: Mutation) -> ValidationReport:
    before = {key: target.built.data(key) for key in mutation.contents}
    for key, data in mutation.contents.items():
        target.built.tamper(key, data)
    try:
        return await validate(target.built.store, BACKUP_ID, deep=True)
    finally:
        for key, data in before.items():
            target.built.tamper(key, data)


def missed(target: Target, mutation: Mutation, report: ValidationReport) -> str | None:
    """Why the report does not tell what was done; None if it does."""
    errors = [one for one in report.findings if one.severity is Severity.ERROR]
    keys_hit = list(mutation.contents)
    if mutation.what == "deletion" and (
        keys.parse_checkpoint_key(keys_hit[0]) or keys_hit[0] in last_snapshots(target)
    ):
        return None if not errors else f"nothing can be said against its deletion: {errors}"
    if report.valid or not errors:
        return "not found"
    for key in keys_hit:
        # A text is judged by its digest in backup.json: exchanged for that, it can only be named.
        judges = report.findings if key == keys.RESTORE_GUIDE_KEY and keys.BACKUP_KEY in keys_hit else errors
        if not any(names(one, key) for one in judges):
            return f"{key} is not named: {errors}"
    if mutation.what == "flip":
        return misplaced(target.run_at(keys_hit[0], mutation.position), errors)
    return None


def last_snapshots(target: Target) -> list[str]:
    found = [at for key in target.built.keys if (at := keys.parse_snapshot_key(key))]
    return [keys.snapshot_key(*max(at for at in found if at.kind == kind)) for kind in ("groups", "cluster")]


def names(finding: Finding, key: str) -> bool:
    """The object, or of a deleted segment that no other object names all but the time in its key."""
    at = keys.parse_segment_key(key)
    prefix = keys.segment_seq_prefix(at.writer, at.writer_epoch, at.seq) if at else key
    return finding.object == key or finding.object == prefix + "*.kbs"


def misplaced(run: Run | None, errors: Sequence[Finding]) -> str | None:
    """Why nobody would find the run from the findings; None for a byte that belongs to no run."""
    if run is None:
        return None
    for one in errors:
        if (
            one.topic_id == run.id.topic_id
            and one.partition == run.id.partition
            and one.topic in ("orders", "table", "empty")
            and one.first_offset is not None
            and one.next_offset is not None
            and min(run.first_offset, run.asked_offset) <= one.first_offset < one.next_offset <= run.next_offset
            and one.action
        ):
            return None
    return f"topic, partition and offsets of {run} are not named: {errors}"


@pytest.fixture(scope="module")
def target() -> Target:
    async def build() -> Target:
        built = await eventful_archive()
        report = await validate(built.store, BACKUP_ID, deep=True)
        assert report.valid, report.findings
        assert report.checked.snapshots == 7
        catalog = await load_catalog(built.scoped)
        return Target(built, {segment.ref.key: segment.footer for segment in catalog.segments})

    return asyncio.run(build())


def test_every_flip_truncation_deletion_and_swap_is_found_and_placed(target: Target) -> None:
    rng = random.Random(SEED)
    mutations = [*flips(target, rng), *truncations(target, rng), *deletions(target), *swaps(target)]
    tried: Counter[str] = Counter()

    async def campaign() -> list[str]:
        failures = []
        for mutation in mutations:
            tried[mutation.what] += 1
            report = await judged(target, mutation)
            why = missed(target, mutation, report)
            if why is not None:
                failures.append(f"{mutation.what} at {mutation.position} of {list(mutation.contents)}: {why}")
        return failures

    failures = asyncio.run(campaign())
    assert not failures, f"{len(failures)} of {len(mutations)} went wrong: {failures[:5]}"
    assert sum(tried.values()) >= 2000
    assert set(tried) == {"flip", "truncation", "extension", "deletion", "swap"}

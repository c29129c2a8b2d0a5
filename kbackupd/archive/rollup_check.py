"""Does a roll-up say what the footers say that it sums up? Everything is made again from them, and compared.

Bounded memory: some topics at a time, as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from kbackupd.archive.rollup_draft import RollupDraft
from kbackupd.archive.rollup_source import OpenedRollup, UsableRollup, read_tables
from kbackupd.archive.segments import CatalogSegment, narrowed
from kbackupd.format.container import ROLLUP, check_magic
from kbackupd.format.tables import BY_TOPIC, COLUMNS, IN_FLIGHT, PARTITIONS, SEGMENTS, Columns
from kbackupd.model.errors import CorruptObjectError
from kbackupd.store.protocol import ObjectStore

ROWS_AT_ONCE = 300_000
_PIECE_BYTES = 4 << 20


def heads_differ(rollup: UsableRollup, segments: Sequence[CatalogSegment]) -> Iterator[str]:
    """What a roll-up's list of segments says that is not so; `segments` are those it covers, as far as readable."""
    held = {segment.place: segment for segment in segments}
    for row, place in enumerate(rollup.places()):
        segment = held.get(place)
        if segment is not None and (segment.ref, segment.size_bytes) != (rollup.ref(row), _size(rollup, row)):
            yield f"sums up another object than {segment.ref.key} is now"


def _size(rollup: UsableRollup, row: int) -> int:
    return rollup.segments[COLUMNS[SEGMENTS].index("size")][row]


async def check_bytes(store: ObjectStore, rollup: OpenedRollup) -> None:
    """Read every byte of it.

    Raises:
        CorruptObjectError: one is not as written.
        ObjectMissingError: it is gone.
        KbackupError: the store could not say for certain.
    """
    key, digest, at = rollup.ref.key, hashlib.sha256(), 0
    while at < rollup.footer.body_bytes:
        data = await store.get_range(key, at, min(_PIECE_BYTES, rollup.footer.body_bytes - at))
        if at == 0:
            check_magic(key, data, ROLLUP)
        digest.update(data)
        at += len(data)
    if digest.hexdigest() != rollup.footer.body_sha256:
        raise CorruptObjectError(key, "body: digest of magic and blocks does not fit")


async def rows_differ(store: ObjectStore, rollup: UsableRollup, segments: Sequence[CatalogSegment]) -> str | None:
    """The first thing it says that the footers do not; `segments` are all that it covers, in order, whole.

    Raises: as `check_bytes`.
    """
    head = rollup.opened.footer.head
    sums = await read_tables(store, rollup.opened, (PARTITIONS,))
    rows = [0] * len(head.topics)
    for topic, *counts in zip(sums[PARTITIONS][0], *sums[PARTITIONS][2:6], strict=True):
        rows[topic] += sum(counts)
    for batch in _batches(rows):
        names = {head.topics[topic][1] for topic in batch}
        incarnations = [row for row, (_, name) in enumerate(head.topics) if name in names]
        draft = RollupDraft(rollup.writer, rollup.opened.footer.identity)
        for segment in segments:
            draft.add(narrowed(segment, names.__contains__))
        made, said = draft.finished()
        found = await read_tables(store, rollup.opened, (*BY_TOPIC, SEGMENTS, IN_FLIGHT), incarnations)
        for table in (SEGMENTS, IN_FLIGHT, *BY_TOPIC):
            if made[table] != found[table]:
                return f"{_first_difference(table, made[table], found[table])} is not what the footers say"
        for member in ("topics", "events", "mentions", "earlier"):
            if getattr(said, member) != getattr(head, member):
                return f"its {member} are not what the footers say"
        previous = dict(head.previous)
        for row, segment in enumerate(segments):
            if (previous[row] if row in previous else rollup.ref(row - 1)) != segment.footer.previous:
                return f"its link before {segment.ref.key} is not what the footer says"
    return None


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    held = 0
    for topic, count in enumerate(rows):
        batch.append(topic)
        held += count
        if held >= ROWS_AT_ONCE:
            yield batch
            batch, held = [], 0
    if batch or not rows:
        yield batch


def _first_difference(table: str, made: Columns, found: Columns) -> str:
    if len(made[0]) != len(found[0]):
        return f"the number of rows of {table} ({len(found[0])}, {len(made[0])} expected)"
    for name, one, other in zip(COLUMNS[table], made, found, strict=True):
        for row, (expected, value) in enumerate(zip(one, other, strict=True)):
            if expected != value:
                return f"{name} in row {row} of {table} ({value}, {expected} expected)"
    return table

"""The rules for a roll-up's rows that hold at every level: their order, how they become blocks, and runs stretches.

Pure. What `docs/format.md`, "Roll-ups", says about the order and the sums of rows is decided here and nowhere else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from operator import itemgetter, le, lt

from kbackupd.format import keys
from kbackupd.format.rollup import Coverage, Mention, RollupBody
from kbackupd.format.tables import (
    BLOCK_ROWS,
    COLUMNS,
    GAPS,
    LEADER_EPOCHS,
    OPEN_TRANSACTIONS,
    OUTCOMES,
    RUNS,
    SAMPLES,
    SEEN,
    TRUNCATIONS,
    Columns,
    empty_columns,
)
from kbackupd.model.events import GapCause
from kbackupd.model.segment import RunFlag

GAP_CAUSES = tuple(GapCause)
"""A gap's cause is its index in here: the order of the specification."""

_CORRUPT = int(RunFlag.CORRUPT)

Row = tuple[int, ...]

ROWS_AT_ONCE = 1024
"""As Python numbers, where they have to be: these weigh ten times as much as in an array."""

OF_SEGMENTS = (RUNS, LEADER_EPOCHS, SAMPLES, OUTCOMES, OPEN_TRANSACTIONS, SEEN, GAPS, TRUNCATIONS)
"""Tables that repeat rows of footers, sorted by partition."""


class TableWriter:
    """Cuts one table's rows, as they come, into full blocks."""

    def __init__(self, body: RollupBody, table: str) -> None:
        self._body = body
        self._table = table
        self._waiting = empty_columns(table)

    def extend(self, columns: Sequence[array[int]], first: int = 0, following: int | None = None) -> None:
        """Append the rows `[first, following)` of `columns`."""
        following = len(columns[0]) if following is None else following
        while first < following:
            reached = min(following, first + BLOCK_ROWS - len(self._waiting[0]))
            for held, column in zip(self._waiting, columns, strict=True):
                held.extend(column[first:reached])
            first = reached
            if len(self._waiting[0]) == BLOCK_ROWS:
                self._body.add(self._table, self._waiting)
                self._waiting = empty_columns(self._table)

    def append_all(self, rows: Sequence[Row]) -> None:
        self.extend(columns_of(self._table, rows))

    def close(self) -> None:
        if self._waiting[0]:
            self._body.add(self._table, self._waiting)


class Mentions:
    """Which mentions of topics a roll-up keeps: what exceeds all before it."""

    def __init__(self) -> None:
        self._most: dict[int, int] = {}
        self.kept: list[Mention] = []

    def add(self, mention: Mention) -> None:
        if mention.partitions > self._most.get(mention.topic, 0):
            self._most[mention.topic] = mention.partitions
            self.kept.append(mention)


def coverage_of(ranges: Iterable[tuple[int, int, int]]) -> Coverage:
    """Ascending ranges of sequences; those that touch are joined."""
    joined: list[tuple[int, int, int]] = []
    for epoch, first, following in ranges:
        if joined and joined[-1][0] == epoch and joined[-1][2] == first:
            joined[-1] = (epoch, joined[-1][1], following)
        else:
            joined.append((epoch, first, following))
    return tuple(joined)


def rollup_key(writer: str, level: int, coverage: Coverage, generation: int) -> str:
    (first_epoch, first_seq, _), (last_epoch, _, following) = coverage[0], coverage[-1]
    return keys.rollup_key(keys.RollupKey(writer, level, first_epoch, first_seq, last_epoch, following - 1, generation))


def columns_of(table: str, rows: Iterable[Row]) -> Columns:
    """The rows as they come; few of them are Python numbers at a time."""
    columns, coming = empty_columns(table), iter(rows)
    while some := list(islice(coming, ROWS_AT_ONCE)):
        for column, values in zip(columns, zip(*some, strict=True), strict=True):
            column.extend(values)
    return columns


def sort_rows(columns: Columns) -> None:
    """By (topic, partition), in place; rows of one partition stay in the order in which they came."""
    places = list(zip(columns[0], columns[1], strict=True))
    order = sorted(range(len(places)), key=places.__getitem__)
    # One column after the other, so that none but the one at hand is there twice.
    for number in range(len(columns)):
        columns[number] = array("q", map(columns[number].__getitem__, order))


def groups_of(columns: Sequence[array[int]]) -> Iterator[tuple[tuple[int, int], int, int]]:
    """((topic, partition), first row, following row) of every partition in sorted rows."""
    at = 0
    for place, rows in groupby(zip(columns[0], columns[1], strict=True)):
        first, at = at, at + sum(1 for _ in rows)
        yield place, first, at


NO_SAMPLE: Row = (-1, 0, 0, 0, 0, 0, 0)
"""Of a partition's row in `partitions`: its last sample, if there is none."""


def partition_rows(tables: dict[str, Columns]) -> Iterator[Row]:
    """The rows of `partitions` from the sorted tables that they count."""
    counted: dict[tuple[int, int], list[int]] = {}
    last: dict[tuple[int, int], Row] = {}
    for number, table in enumerate((RUNS, OUTCOMES, OPEN_TRANSACTIONS, SAMPLES)):
        for place, first, following in groups_of(tables[table]):
            counted.setdefault(place, [0, 0, 0, 0])[number] = following - first
            if table == SAMPLES:
                last[place] = tuple(column[following - 1] for column in tables[SAMPLES][2:])
    for table in (SEEN, GAPS, TRUNCATIONS):
        for place, _, _ in groups_of(tables[table]):
            counted.setdefault(place, [0, 0, 0, 0])
    for place in sorted(counted):
        yield (*place, *counted[place], *last.get(place, NO_SAMPLE))


def run_stretches(runs: Sequence[array[int]], epochs: Sequence[array[int]]) -> Iterator[Row]:
    """Each run as a stretch of its own, in the order of `runs`."""
    names = COLUMNS[RUNS]
    take = itemgetter(
        *(
            names.index(name)
            for name in (
                "topic",
                "partition",
                "branch",
                "asked_offset",
                "next_offset",
                "batches",
                "records",
                "stored_length",
                "raw_length",
                "captured_ms",
                "max_timestamp",
                "first_offset",
                "flags",
                "epochs",
            )
        )
    )
    numbers, starts = epochs[2], epochs[3]
    at = 0
    for row in zip(*take(runs), strict=True):
        topic, partition, branch, asked, following, batches, records, stored, raw, captured, ms, first, flags, n = row
        begins = starts[at : at + n]
        first_epoch, last_epoch = (numbers[at], numbers[at + n - 1]) if n else (-1, -1)
        at += n
        plain = (
            not flags & _CORRUPT
            and n > 0
            and asked < following
            and asked <= first
            and asked <= begins[0]
            and begins[-1] < following
            and all(one <= other for one, other in pairwise(begins))
        )
        yield (
            topic,
            partition,
            branch,
            asked,
            following,
            1,
            batches,
            records,
            stored,
            raw,
            captured,
            captured,
            ms,
            first_epoch,
            last_epoch,
            int(plain),
        )


def stretches_of(runs: Sequence[array[int]], epochs: Sequence[array[int]]) -> Sequence[Row]:
    """What `coalesced` makes of the `run_stretches` of one partition; without a look at each where all are one."""
    names = COLUMNS[RUNS]
    asked, first, following = (runs[names.index(name)] for name in ("asked_offset", "first_offset", "next_offset"))
    branches, flags, counts = (runs[names.index(name)] for name in ("branch", "flags", "epochs"))
    numbers, starts = epochs[2:]
    if (
        asked
        and len(numbers) == len(asked)
        and counts.count(1) == len(asked)
        and branches.count(branches[0]) == len(asked)
        and following[:-1] == asked[1:]
        and not any(bits & _CORRUPT for bits in set(flags))
        and (numbers.count(numbers[0]) == len(numbers) or all(map(le, numbers, numbers[1:])))
        and all(map(lt, asked, following))
        and all(map(le, asked, first))
        and all(map(le, asked, starts))
        and all(map(lt, starts, following))
    ):
        batches, records, stored, raw = (
            sum(runs[names.index(name)]) for name in ("batches", "records", "stored_length", "raw_length")
        )
        captured, stamps = runs[names.index("captured_ms")], runs[names.index("max_timestamp")]
        return [
            (
                runs[0][0],
                runs[1][0],
                branches[0],
                asked[0],
                following[-1],
                len(asked),
                batches,
                records,
                stored,
                raw,
                min(captured),
                max(captured),
                max(stamps),
                numbers[0],
                numbers[-1],
                1,
            )
        ]
    # Of roll-ups put together: a topic has another number in each.
    return list(coalesced((0, *row[1:]) for row in run_stretches(runs, epochs)))


class Coalescing:
    """Neighbours that follow each other without a break become one; see the specification for what a break is.

    Holds one stretch: the last so far, which the next row may lengthen.
    """

    def __init__(self) -> None:
        self._held: Row | None = None

    def then(self, stretches: Iterable[Row]) -> Iterator[Row]:
        """The stretches that are complete, as the next rows show."""
        held = self._held
        for row in stretches:
            if held is not None:
                if held[15] and row[15] and held[:3] == row[:3] and held[4] == row[3] and held[14] <= row[13]:
                    held = (
                        *held[:4],
                        row[4],
                        held[5] + row[5],
                        held[6] + row[6],
                        held[7] + row[7],
                        held[8] + row[8],
                        held[9] + row[9],
                        min(held[10], row[10]),
                        max(held[11], row[11]),
                        max(held[12], row[12]),
                        held[13],
                        row[14],
                        1,
                    )
                    continue
                yield held
            held = row
        self._held = held

    def rest(self) -> Iterator[Row]:
        """The last one, when there are no more rows."""
        if self._held is not None:
            yield self._held


def coalesced(stretches: Iterable[Row]) -> Iterator[Row]:
    """All of them, as `Coalescing` makes them."""
    made = Coalescing()
    yield from made.then(stretches)
    yield from made.rest()

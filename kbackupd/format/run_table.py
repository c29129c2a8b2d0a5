"""A footer's table of runs: `Run`s <-> columns ("Columns of `runs`" in docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from msgspec import Struct

from kbackupd.format.columns import (
    Bit,
    Count,
    Int32,
    Int64,
    TopicIndex,
    Uint32,
    Violation,
    check_columns,
    check_indices,
    group_pairs,
    partition_ids,
)
from kbackupd.format.container import MAGIC_BYTES
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import CODEC_NONE, CODEC_ZSTD, RUN_FLAGS, Run

CODECS = (CODEC_NONE, CODEC_ZSTD)


class RunColumns(Struct):
    topic: list[Count]
    partition: list[Count]
    system: list[Bit]
    asked_offset: list[Count]
    first_offset: list[Count]
    next_offset: list[Count]
    branch: list[Count]
    replica: list[Int32]
    captured_ms: list[Int64]
    batches: list[Count]
    records: list[Count]
    flags: list[Count]
    base_timestamp: list[Int64]
    max_timestamp: list[Int64]
    largest_batch: list[Count]
    position: list[Count]
    stored_length: list[Count]
    raw_length: list[Count]
    codec: list[Count]
    crc32c: list[Uint32]


RUN_COLUMNS = RunColumns.__struct_fields__[2:]
"""What is said of a run itself, behind its topic and partition: here, and in a roll-up's table of runs."""

_RUN_FIELDS = Run._fields[1:-1]
"""Of a run, for each of `RUN_COLUMNS`: a `Run` has them in their order."""


class LeaderEpochColumns(Struct):
    run: list[Count]
    epoch: list[Int32]
    start_offset: list[Count]


def encode_runs(runs: Sequence[Run], topics: TopicIndex) -> RunColumns:
    return RunColumns(*topics.columns(run.id for run in runs), *run_columns(runs))


def run_columns(runs: Sequence[Run]) -> list[list[int]]:
    """The `RUN_COLUMNS` of `runs`."""
    columns = {name: list(map(attrgetter(name), runs)) for name in _RUN_FIELDS}
    columns["system"] = list(map(int, columns["system"]))
    columns["flags"] = list(map(int, columns["flags"]))
    columns["codec"] = list(map(CODECS.index, columns["codec"]))
    return list(columns.values())


def encode_leader_epochs(runs: Sequence[Run]) -> LeaderEpochColumns:
    rows = [(row, epoch, start) for row, run in enumerate(runs) for epoch, start in run.leader_epochs]
    return LeaderEpochColumns(
        [row for row, _, _ in rows], [epoch for _, epoch, _ in rows], [start for _, _, start in rows]
    )


def check_runs(
    table: RunColumns, leader_epochs: LeaderEpochColumns, ids: Sequence[TopicId], body_bytes: int
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Refuse what `decode_runs` would refuse, without making the runs; returns the leader epochs by row.

    Raises:
        Violation: a rule of the specification is broken.
    """
    count = check_columns("runs", table)
    check_columns("leader_epochs", leader_epochs)
    check_indices("runs: topic", table.topic, len(ids))
    check_indices("runs: flags", table.flags, len(RUN_FLAGS))
    check_indices("runs: codec", table.codec, len(CODECS))
    epochs = group_pairs("leader_epochs", leader_epochs.run, leader_epochs.epoch, leader_epochs.start_offset, count)
    _check_layout(table, body_bytes)
    return epochs


def decode_runs(
    table: RunColumns, leader_epochs: LeaderEpochColumns, ids: Sequence[TopicId], body_bytes: int
) -> tuple[Run, ...]:
    """The runs; raises as `check_runs`."""
    epochs = check_runs(table, leader_epochs, ids, body_bytes)
    keys = partition_ids("runs: topic", table.topic, table.partition, ids)
    columns = [getattr(table, name) for name in RUN_COLUMNS]
    return tuple(made_runs(keys, columns, (epochs.get(row, ()) for row in range(len(table.topic)))))


def made_runs(
    ids: Iterable[PartitionId],
    columns: Sequence[Iterable[int]],
    leader_epochs: Iterable[tuple[tuple[int, int], ...]],
) -> Iterator[Run]:
    """A run for each row of the `RUN_COLUMNS`; all are equally long, and their values were checked."""
    fields: dict[str, Iterable[Any]] = dict(zip(_RUN_FIELDS, columns, strict=True))
    fields["system"] = map((1).__eq__, fields["system"])
    fields["flags"] = map(RUN_FLAGS.__getitem__, fields["flags"])
    fields["codec"] = map(CODECS.__getitem__, fields["codec"])
    return map(Run._make, zip(ids, *fields.values(), leader_epochs, strict=True))


def _check_layout(table: RunColumns, body_bytes: int) -> None:
    """Runs lie one after the other behind the magic and fill the body; their offsets do not run backwards."""
    reached = MAGIC_BYTES
    for row, (position, stored, raw, codec, asked, first, following) in enumerate(
        zip(
            table.position,
            table.stored_length,
            table.raw_length,
            table.codec,
            table.asked_offset,
            table.first_offset,
            table.next_offset,
            strict=True,
        )
    ):
        if position != reached:
            raise Violation(f"runs: row {row} begins at byte {position}, the one before ends at {reached}")
        if codec == 0 and stored != raw:
            raise Violation(f"runs: row {row} is stored as it is, yet its lengths differ")
        if following < asked or following < first:
            raise Violation(f"runs: row {row} ends at offset {following}, before it begins")
        reached += stored
    if reached != body_bytes:
        raise Violation(f"runs: end at byte {reached}, the body at {body_bytes}")

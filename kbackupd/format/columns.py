"""Strict JSON: the types of members and columns, and one way for every violation to become a CorruptObjectError.

Bytes that passed their digest may still come from a defective writer. Whoever reads them gets a value in which every
index is in range and every column as long as its neighbours, or a CorruptObjectError that names the place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Identity, ObjectRef

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Offsets, lengths, sequences, indices: anything that counts from 0."""
Uint32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Bit = Annotated[int, Meta(ge=0, le=1)]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
TopicIdText = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{22}\Z")]
Range = tuple[Count, Count]

T = TypeVar("T")

_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}
_MAKING = threading.Lock()


class Violation(ValueError):
    """Well-formed JSON that breaks a rule of the specification; the message names the place."""


class Ref(Struct, frozen=True):
    key: str
    digest: Digest

    @classmethod
    def of(cls, ref: ObjectRef | None) -> Ref | None:
        return None if ref is None else cls(ref.key, ref.digest)

    def value(self) -> ObjectRef:
        return ObjectRef(self.key, self.digest)


def decode_json(key: str, what: str, data: bytes | memoryview, shape: type[T]) -> T:
    """`data` as `shape`; members that `shape` does not know are ignored.

    Raises:
        CorruptObjectError: not JSON, or another shape.
    """
    try:
        return _decoder_of(shape).decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as problem:
        raise CorruptObjectError(key, f"{what}: {problem}") from problem


def converted(value: object, shape: type[T]) -> T:
    """Plain data as `shape`.

    Raises:
        msgspec.ValidationError: another shape.
    """
    _decoder_of(shape)  # which knows the type from then on, for every thread
    return msgspec.convert(value, shape)


def _decoder_of(shape: type[T]) -> msgspec.json.Decoder[T]:
    """Made once and by one thread: two that meet a type for the first time at once crash the process within msgspec.

    Recovery and readers decode footers in threads, so the first two of a process came together now and then.
    """
    decoder = _DECODERS.get(shape)
    if decoder is None:
        with _MAKING:
            decoder = _DECODERS.setdefault(shape, msgspec.json.Decoder(shape))
    return decoder


def check_identity(key: str, found: Identity, expect: Identity | None) -> None:
    """Refuse an object that was written for another archive (invariant I7).

    Raises:
        CorruptObjectError: it was.
    """
    if expect is not None and found != expect:
        raise CorruptObjectError(
            key,
            f"envelope: belongs to another archive: backup {found.backup_id!r}, archive {found.archive_id!r}, cluster "
            f"{found.cluster_id!r} instead of {expect.backup_id!r}, {expect.archive_id!r}, {expect.cluster_id!r}",
            hint="an object of another archive was copied here; remove it, and restore the right one from a copy",
        )


def check_columns(name: str, table: Struct) -> int:
    """How many rows the table has.

    Raises:
        Violation: its columns differ in length.
    """
    lengths = {len(getattr(table, column)) for column in table.__struct_fields__}
    if len(lengths) != 1:
        raise Violation(f"{name}: columns differ in length: {sorted(lengths)}")
    return lengths.pop()


def check_indices(name: str, column: Sequence[int], limit: int) -> None:
    """Every value of `column` (none is negative by type) points at a row below `limit`."""
    if column and max(column) >= limit:
        raise Violation(f"{name}: index {max(column)} points beyond {limit} rows")


def check_ranges(name: str, ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Half-open ranges, none empty, ascending, not touching out of order."""
    reached = 0
    kept = tuple(ranges)
    for first, following in kept:
        if first < reached or first >= following:
            raise Violation(f"{name}: range [{first}, {following}) is empty or out of order")
        reached = following
    return kept


def group_pairs(
    name: str, rows: Sequence[int], epochs: Sequence[int], offsets: Sequence[int], limit: int
) -> dict[int, tuple[tuple[int, int], ...]]:
    """A side table of (leader epoch, start offset), keyed by the row it belongs to; ascending within a row."""
    check_indices(name, rows, limit)
    grouped: dict[int, list[tuple[int, int]]] = {}
    for row, epoch, offset in zip(rows, epochs, offsets, strict=True):
        pairs = grouped.setdefault(row, [])
        if pairs and pairs[-1][0] >= epoch:
            raise Violation(f"{name}: leader epochs of row {row} do not ascend")
        pairs.append((epoch, offset))
    return {row: tuple(pairs) for row, pairs in grouped.items()}


class TopicIndex:
    """The topic dictionary of a footer or checkpoint while it is written."""

    def __init__(self, names: Mapping[TopicId, str]) -> None:
        self.rows = [(str(topic_id), name) for topic_id, name in names.items()]
        self._index = {topic_id: row for row, topic_id in enumerate(names)}

    def index(self, topic_id: TopicId) -> int:
        try:
            return self._index[topic_id]
        except KeyError:
            raise ValueError(f"`topics` lacks {topic_id}, which a row mentions") from None

    def columns(self, ids: Iterable[PartitionId]) -> tuple[list[int], list[int]]:
        kept = list(ids)
        return [self.index(topic_id) for topic_id, _ in kept], [partition for _, partition in kept]


def partition_ids(
    name: str, topic: Sequence[int], partition: Sequence[int], ids: Sequence[TopicId]
) -> Iterable[PartitionId]:
    """The partitions that rows are about, from their two columns."""
    check_indices(name, topic, len(ids))
    return (PartitionId(ids[index], number) for index, number in zip(topic, partition, strict=True))

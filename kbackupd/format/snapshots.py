"""What every snapshot has in common as bytes: a container without runs, and the head of its footer.

"Snapshots" in docs/format.md; what stands in the footers of each kind is in `groups_snapshot` and `cluster_snapshot`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from kbackupd.format.columns import Count, Digest, Ref, Violation, decode_json
from kbackupd.format.container import MAGIC, MAGIC_BYTES, NeedMore, Tail, check_magic, encode_tail, parse_tail
from kbackupd.format.keys import SnapshotKey, SnapshotKind, parse_snapshot_key
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.segment import Identity
from kbackupd.model.snapshots import Content, PartState, ReadOutcome, Snapshot


@dataclass(frozen=True, slots=True)
class SnapshotFormat(Generic[Content]):
    """How one kind of snapshot becomes bytes and comes back."""

    kind: SnapshotKind
    encode: Callable[[Snapshot[Content]], tuple[bytes, str]]
    decode: Callable[[str, bytes, Identity | None], tuple[Snapshot[Content], str]]


class Head(Struct):
    """What the footer of every kind begins with."""

    writer: str
    writer_epoch: Count
    number: Count
    taken_ms: Count
    asked_ms: Count
    previous: Ref | None
    body_sha256: Digest


Footer = TypeVar("Footer", bound=Head)


def head_of(snapshot: Snapshot[Content], kind: str) -> tuple[str, int, int, int, int, Ref | None, str]:
    """The fields of `Head`, in their order."""
    return (
        snapshot.writer,
        snapshot.writer_epoch,
        snapshot.number,
        snapshot.taken_ms,
        snapshot.asked_ms,
        Ref.of(snapshot.previous),
        _body_sha256(kind),
    )


def _body_sha256(kind: str) -> str:
    return hashlib.sha256(MAGIC[kind]).hexdigest()


def part_columns(parts: Iterable[PartState]) -> tuple[list[ReadOutcome], list[str], list[int]]:
    """How each part was read: three columns, in the order that `part_of` takes them."""
    kept = list(parts)
    return [one.outcome for one in kept], [one.cause for one in kept], [one.answered_ms for one in kept]


def sealed(
    snapshot: Snapshot[Content], kind: SnapshotKind, footer: Footer, check: Callable[[Footer], None]
) -> tuple[bytes, str]:
    """The whole object, and its digest.

    Raises:
        ValueError: something that a reader would refuse.
    """
    tail, digest = encode_tail(
        kind=kind,
        key=snapshot.key,
        identity=snapshot.identity,
        footer_json=msgspec.json.encode(footer),
        body_bytes=MAGIC_BYTES,
    )
    data = MAGIC[kind] + tail
    try:
        opened(snapshot.key, data, snapshot.identity, kind, type(footer), check)
    except CorruptObjectError as problem:
        raise ValueError(f"a snapshot that no reader would take: {problem}") from problem
    return data, digest


def opened(
    key: str,
    data: bytes | memoryview,
    identity: Identity | None,
    kind: SnapshotKind,
    shape: type[Footer],
    check: Callable[[Footer], None],
) -> tuple[Tail, Footer]:
    """Everything in the whole object `data` checked, nothing built yet.

    Args:
        check: the rules of this kind; raises Violation.

    Raises:
        CorruptObjectError: anything is not as written, or of another archive than `identity`.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail = parse_tail(key, data, len(data), kind=kind, expect=identity)
    if isinstance(tail, NeedMore):
        raise CorruptObjectError(key, "object: its end is not all there")
    check_magic(key, data, kind)
    footer = decode_json(key, "footer", tail.footer_json, shape)
    try:
        if tail.body_bytes != MAGIC_BYTES or footer.body_sha256 != _body_sha256(kind):
            raise Violation("body: a snapshot has none but its magic")
        at = SnapshotKey(kind, footer.writer, footer.writer_epoch, footer.number, footer.taken_ms)
        if parse_snapshot_key(key) != at:
            raise Violation("writer, writer_epoch, number or taken_ms contradict the key")
        check(footer)
    except Violation as problem:
        raise CorruptObjectError(key, f"footer: {problem}") from problem
    return tail, footer


def snapshot_of(key: str, tail: Tail, footer: Head, content: Content) -> Snapshot[Content]:
    """The snapshot of an `opened` object, once its content is built."""
    return Snapshot(
        identity=tail.identity,
        key=key,
        writer=footer.writer,
        writer_epoch=footer.writer_epoch,
        number=footer.number,
        asked_ms=footer.asked_ms,
        taken_ms=footer.taken_ms,
        previous=None if footer.previous is None else footer.previous.value(),
        content=content,
    )


def rows_of(table: Struct) -> Iterable[tuple]:  # type: ignore[type-arg]  # one column, one type: the Struct says which
    """The rows of a table that is kept by columns."""
    return zip(*(getattr(table, name) for name in table.__struct_fields__), strict=True)


def part_of(outcome: ReadOutcome, cause: str, answered_ms: int) -> PartState:
    return PartState(outcome=outcome, cause=cause, answered_ms=answered_ms)

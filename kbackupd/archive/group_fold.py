"""From the records of one partition of `__consumer_offsets` to the positions they leave: as its coordinator replays it.

Pure. Newest wins; a null value deletes; what a transaction committed counts from its commit marker on, and then as of
the offset of its own record. Values stay bytes until somebody asks: a log has hundreds of commits for each position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kbackupd.archive.coordinator_items import (
    NO_PRODUCER_ID,
    CoordinatorBatch,
    CoordinatorMarker,
    CoordinatorRecord,
    LogItem,
    LostRange,
)
from kbackupd.format.committed_offsets import (
    GROUP_TYPES,
    OFFSET_KEY_VERSIONS,
    decode_key,
    decode_position,
    encode_offset_key,
)
from kbackupd.format.coordinator_fields import UnknownRecordError
from kbackupd.format.records import MalformedRecordError
from kbackupd.model.coordinators import CommittedPosition, GroupKey, OffsetKey

DELETE_RETENTION_MS = 86_400_000
"""Kafka's default of `delete.retention.ms`: so long, at least, a deletion can be read in a compacted log."""

_VERSION_BYTES = 2
_OFFSET_KEYS = frozenset(version.to_bytes(_VERSION_BYTES, "big") for version in OFFSET_KEY_VERSIONS)
_GROUP_KEYS = frozenset(version.to_bytes(_VERSION_BYTES, "big") for version in GROUP_TYPES)
_ANY_OFFSET_KEY = min(_OFFSET_KEYS)
_IN_BASE = -1
_LISTED = 100
"""Lost ranges of one partition that are told one by one; neighbours of one reason are one."""


class FoldedPosition(NamedTuple):
    key: OffsetKey
    position: CommittedPosition
    log_offset: int
    """Of the record that says so; −1: it stood in the base."""
    certain: bool
    """Nothing that is lost, or was compacted unseen, can have been a newer word on this key."""


class PendingPosition(NamedTuple):
    """Committed in a transaction that had not ended in this partition by the cut."""

    key: OffsetKey
    position: CommittedPosition
    log_offset: int
    producer_id: int
    producer_epoch: int


class _Held(NamedTuple):
    log_offset: int
    captured_ms: int
    value: bytes


class _Pending(NamedTuple):
    held: _Held
    producer_epoch: int


@dataclass(slots=True)
class GroupFold:
    """Fed with one partition's log in order; memory grows with the positions that are left, not with the log.

    Args:
        wanted: whose groups' records are kept.
        grown_ms: as of `Cut`; batches compacted and captured from then on may lack what was there at the cut.
        delete_retention_ms: of the topic; deletions older than that may be compacted away.
        base: positions that stood before the first item fed, where they are known.
        base_groups: of all groups of the base. Others are new, or were left out of it: no telling which.
    """

    wanted: Callable[[str], bool] | None = None
    grown_ms: int | None = None
    delete_retention_ms: int = DELETE_RETENTION_MS
    base: Mapping[OffsetKey, CommittedPosition] | None = None
    base_groups: frozenset[str] = frozenset()
    lost: list[LostRange] = field(default_factory=list)
    """What shakes the findings, in order; the last one says more were left out when there are too many."""
    unreadable: int = 0
    """Records that this version cannot read: newer than it, or malformed."""
    _positions: dict[bytes, _Held] = field(default_factory=dict)
    _groups: dict[str, dict[str, bytes | None]] = field(default_factory=dict)
    _pending: dict[int, dict[bytes, _Pending]] = field(default_factory=dict)
    _compacted: list[tuple[int, int]] = field(default_factory=list)
    _certain_from: int = 0
    _of_wanted: dict[bytes, bool] = field(default_factory=dict)
    _deleted: set[bytes] = field(default_factory=set)

    def feed(self, item: LogItem) -> None:
        match item:
            case CoordinatorBatch():
                self._batch(item)
            case CoordinatorMarker():
                self._marker(item)
            case LostRange():
                self._lose(item)

    @property
    def certain(self) -> bool:
        """Nothing below the cut is lost: a position that is not there, was not."""
        return not self._certain_from and not self.unreadable

    def positions(self) -> Iterator[FoldedPosition]:
        """Every position that is left, in no order. What cannot be decoded is counted in `unreadable`."""
        for key, held in self._positions.items():
            decoded = self._decoded(key, held)
            if decoded is not None:
                told = self.base is None or decoded[0].group in self.base_groups
                yield FoldedPosition(*decoded, held.log_offset, told and self._is_certain(held))
        for offset_key, position in (self.base or {}).items():
            if (
                key := encode_offset_key(offset_key)[_VERSION_BYTES:]
            ) not in self._positions and key not in self._deleted:
                yield FoldedPosition(offset_key, position, _IN_BASE, not self._certain_from)

    def pending(self) -> Iterator[PendingPosition]:
        """What would count if its transaction were known to be committed."""
        for producer_id, rows in self._pending.items():
            for key, row in rows.items():
                decoded = self._decoded(key, row.held)
                if decoded is not None:
                    yield PendingPosition(*decoded, row.held.log_offset, producer_id, row.producer_epoch)

    def groups(self) -> Mapping[str, Mapping[str, bytes | None]]:
        """Group → its type → the value of its newest record, None for deleted. A group that only commits has none."""
        return self._groups

    def _batch(self, batch: CoordinatorBatch) -> None:
        if batch.compacted:
            self._note_compaction(batch)
        pending = None
        for record in batch.records:
            version = record.key[:_VERSION_BYTES]
            if version in _OFFSET_KEYS:
                key = record.key[_VERSION_BYTES:]
                if self.wanted is not None and not self._wants(key):
                    continue
                if record.value is None:
                    self._delete(key)
                    continue
                held = _Held(record.offset, batch.captured_ms, record.value)
                if batch.producer_id == NO_PRODUCER_ID:
                    self._positions[key] = held
                else:
                    if pending is None:
                        pending = self._pending.setdefault(batch.producer_id, {})
                    pending[key] = _Pending(held, batch.producer_epoch)
            elif version in _GROUP_KEYS:
                self._group(record)
            elif len(version) < _VERSION_BYTES:
                self.unreadable += 1

    def _delete(self, key: bytes) -> None:
        self._positions.pop(key, None)
        if self.base is not None:
            self._deleted.add(key)
        for rows in self._pending.values():
            rows.pop(key, None)

    def _group(self, record: CoordinatorRecord) -> None:
        try:
            key = decode_key(record.key)
        except MalformedRecordError:
            self.unreadable += 1
            return
        if isinstance(key, GroupKey) and (self.wanted is None or self.wanted(key.group)):
            self._groups.setdefault(key.group, {})[key.type] = record.value

    def _marker(self, marker: CoordinatorMarker) -> None:
        ended = self._pending.pop(marker.producer_id, None)
        if ended is None or not marker.committed:
            return
        for key, row in ended.items():
            held = self._positions.get(key)
            if held is None or held.log_offset < row.held.log_offset:
                self._positions[key] = row.held

    def _lose(self, lost: LostRange) -> None:
        self._certain_from = max(self._certain_from, lost.next_offset)
        last = self.lost[-1] if self.lost else None
        if last is not None and (last.reason == lost.reason and last.next_offset == lost.first_offset):
            self.lost[-1] = LostRange(first_offset=last.first_offset, next_offset=lost.next_offset, reason=lost.reason)
        elif last is None or len(self.lost) < _LISTED:
            self.lost.append(lost)
        else:
            reason = "several reasons: too many ranges to list"
            self.lost[-1] = LostRange(first_offset=last.first_offset, next_offset=lost.next_offset, reason=reason)

    def _note_compaction(self, batch: CoordinatorBatch) -> None:
        if self.grown_ms is not None and batch.captured_ms >= self.grown_ms:
            reason = "compacted before it was captured, and after this instant"
            self._lose(LostRange(first_offset=batch.first_offset, next_offset=batch.next_offset, reason=reason))
        while self._compacted and self._compacted[-1][1] <= batch.captured_ms:
            self._compacted.pop()
        self._compacted.append((batch.first_offset, batch.captured_ms))

    def _is_certain(self, held: _Held) -> bool:
        if held.log_offset < self._certain_from:
            return False
        # A deletion above it can have come and gone while nobody captured, if that took longer than deletions last.
        above = bisect_right(self._compacted, (held.log_offset, held.captured_ms))
        return above == len(self._compacted) or (
            self._compacted[above][1] < held.captured_ms + self.delete_retention_ms
        )

    def _wants(self, key: bytes) -> bool:
        assert self.wanted is not None
        name = key[: 2 + int.from_bytes(key[:2], "big")]
        found = self._of_wanted.get(name)
        if found is None:
            # What is no UTF-8 is counted as unreadable where it is decoded, if it is kept.
            found = self._of_wanted[name] = self.wanted(name[2:].decode(errors="replace"))
        return found

    def _decoded(self, key: bytes, held: _Held) -> tuple[OffsetKey, CommittedPosition] | None:
        try:
            found = decode_key(_ANY_OFFSET_KEY + key)
            position = decode_position(held.value)
        except (MalformedRecordError, UnknownRecordError):
            self.unreadable += 1
            return None
        assert isinstance(found, OffsetKey)
        return found, position

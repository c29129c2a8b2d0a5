"""Transactions as batch headers tell them: where one begins in a partition, and the marker that ends it."""

from __future__ import annotations

import struct

from kbackupd.format.header import HEADER, HEADER_BYTES, BatchHeader
from kbackupd.model.path import MarkerSeen, TransactionBegun


class TransactionScan:
    """Which transactions begin and end in scanned batches, in offset order."""

    __slots__ = ("_open", "begun", "markers")

    def __init__(self) -> None:
        self.markers: list[MarkerSeen] = []
        self.begun: list[TransactionBegun] = []
        self._open: set[int] = set()

    def see(self, batch: memoryview) -> None:
        header = BatchHeader._make(HEADER.unpack_from(batch))
        producer_id = header.producer_id
        if not header.is_control:
            if producer_id not in self._open:
                self._open.add(producer_id)
                self.begun.append(
                    TransactionBegun(
                        offset=header.base_offset, producer_id=producer_id, producer_epoch=header.producer_epoch
                    )
                )
            return
        committed = marker_type(header, batch)
        if committed is None:
            return
        # By producer id alone: a fenced producer's transaction is aborted by a marker of the next epoch.
        self._open.discard(producer_id)
        self.markers.append(
            MarkerSeen(
                offset=header.base_offset,
                producer_id=producer_id,
                producer_epoch=header.producer_epoch,
                committed=committed,
            )
        )


def marker_type(header: BatchHeader, batch: memoryview) -> bool | None:
    """True for a commit marker, False for an abort marker, None for any other batch (also other control records).

    The key of a control record is version (i16) and type (i16: 0 abort, 1 commit), KIP-98; it is never compressed.
    """
    if not header.is_control or header.codec or header.record_count != 1 or header.is_legacy:
        return None
    position, varints = HEADER_BYTES, 0
    try:
        while varints < 4:
            # Record: length, attributes (one byte), timestamp delta, offset delta, key length.
            if varints == 1:
                position += 1
            while batch[position] & 0x80:
                position += 1
            position += 1
            varints += 1
        version, kind = struct.unpack_from(">hh", batch, position)
    except (IndexError, struct.error):
        return None
    return bool(kind) if version >= 0 and kind in (0, 1) else None

"""The digest by which what was produced is known again in the target. Pure.

It runs over what determines a consumer's view of a batch (codec, offsets, timestamps, the records with keys, values and
headers) and not over what a broker may fill in (base offset, leader epoch, largest timestamp).

XXH3 of 128 bits: it is compared within one run, against accidents and not against forgers, and takes a twelfth of the
processor time of SHA-256.
"""

from __future__ import annotations

import xxhash

from kbackupd.format.records import Buffer


def batch_digest(batch: Buffer) -> bytes:
    """Of one batch by itself, over the same bytes."""
    view = memoryview(batch)
    digest = xxhash.xxh3_128(view[21:35])
    digest.update(view[57:])
    return digest.digest()


class ContentDigest:
    """A running digest of one partition's batches, in order."""

    __slots__ = ("_hash", "batches", "data_bytes", "records")

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self.batches = 0
        self.records = 0
        self.data_bytes = 0

    def add(self, batch: Buffer, records: int, *, base_offset: int | None = None) -> None:
        """The next batch, of magic 2: attributes, last offset delta and base timestamp; then record count and payload.

        Between those lie the largest timestamp, which brokers correct, and producer id, epoch and sequence. Where holes
        are between batches, `base_offset` says where each lies.
        """
        view = memoryview(batch)
        if base_offset is not None:
            self._hash.update(base_offset.to_bytes(8, "big"))
        self._hash.update(view[21:35])
        self._hash.update(view[57:])
        self.batches += 1
        self.records += records
        self.data_bytes += len(batch)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

"""Bytes in several buffers treated as one object: size, checksum, comparison, without joining them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence

from crc32c import crc32c

from kbackupd.store.protocol import Buffer

COMPARE_CHUNK_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
"""Handed over at once: some socket buffers' worth, so that a slow peer holds the sender back."""
SMALL_BYTES = 64 << 10
"""Smaller buffers are gathered: copying them costs less than a step each of whoever takes the pieces."""


def total_bytes(parts: Sequence[Buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def crc32c_base64(parts: Sequence[Buffer]) -> str:
    """CRC-32C of the concatenation as S3 writes it in `x-amz-checksum-crc32c`: four bytes, big-endian, base64."""
    checksum = 0
    for part in parts:
        checksum = crc32c(part, checksum)
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def equal_bytes(parts: Sequence[Buffer], stored: Iterable[Buffer]) -> bool:
    """True when both are the same bytes, however they are cut."""
    ours = _pieces(parts)
    theirs = _pieces(stored)
    left, right = memoryview(b""), memoryview(b"")
    while True:
        if not left:
            left = next(ours, left)
        if not right:
            right = next(theirs, right)
        if not left or not right:
            return len(left) == len(right)
        length = min(len(left), len(right))
        if left[:length] != right[:length]:
            return False
        left, right = left[length:], right[length:]


def gathered(buffers: Iterable[Buffer], *, skip: int = 0) -> Iterator[Buffer]:
    """The bytes behind the first `skip`, in pieces of at most `PIECE_BYTES`; only what is small is copied.

    A segment of ten thousand partitions has ten thousand buffers of a few hundred bytes. Handed over one by one each of
    them was a system call and a turn of the event loop.
    """
    gathering = bytearray()
    for view in _pieces(buffers):
        if skip >= view.nbytes:
            skip -= view.nbytes
            continue
        if skip:
            view, skip = view[skip:], 0
        small = view.nbytes < SMALL_BYTES
        if gathering and not (small and len(gathering) + view.nbytes <= PIECE_BYTES):
            yield gathering
            gathering = bytearray()
        if small:
            gathering += view
        else:
            for first in range(0, view.nbytes, PIECE_BYTES):
                yield view[first : first + PIECE_BYTES]
    if gathering:
        yield gathering


def _pieces(buffers: Iterable[Buffer]) -> Iterator[memoryview]:
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if view:
            yield view

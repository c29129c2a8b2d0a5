"""A new file whose bytes are on the disk: written past the page cache where the file system allows it, then fsynced.

Nobody reads a segment soon after it was written. By way of the page cache, a backup at full speed has the kernel find a
fresh page for every one of its own, copy into it, and give it back: on a virtual machine that was a third of all the
processor time a passthrough backup took, and it drives out what others need there (a broker lives on it). So whole
blocks go to the disk from one aligned buffer (`O_DIRECT`). What the file system refuses to take that way, and the rest
behind the last whole block, goes through the cache and is given back at once.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kbackupd.store.buffers import gathered, total_bytes
from kbackupd.store.protocol import Buffer

PIECE_BYTES = 1 << 20
"""Written at once; smaller files are not worth the buffer."""
BLOCK_BYTES = 4096
"""Lengths and places of direct writes are multiples of this: no disk in use has larger blocks."""
_DIRECT = getattr(os, "O_DIRECT", 0)
"""0 where the system has no such thing."""


def write_synced(path: Path, parts: Sequence[Buffer]) -> None:
    """Create `path` with the concatenation of `parts`; on return its bytes are durable, its name is not.

    Raises:
        OSError: as the system says; what was written until then is left there.
    """
    direct = _DIRECT if total_bytes(parts) >= PIECE_BYTES else 0
    descriptor = _create(path, direct)
    try:
        if direct and fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT:
            _write_direct(descriptor, parts)
        else:
            for part in gathered(parts):
                _write_all(descriptor, memoryview(part).cast("B"))
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # advice, and some file systems take none
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _create(path: Path, direct: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    if direct:
        try:
            return os.open(path, flags | os.O_EXCL | direct, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The file system has no direct writes. It says so after it made the file.
            path.unlink(missing_ok=True)
    return os.open(path, flags | os.O_EXCL, 0o666)


def _write_direct(descriptor: int, parts: Sequence[Buffer]) -> None:
    piece = memoryview(mmap.mmap(-1, PIECE_BYTES))
    for filled in _pieces(parts, piece):
        blocks = filled - filled % BLOCK_BYTES
        _write_all(descriptor, piece[:blocks])
        if blocks < filled:
            _through_cache(descriptor)
            _write_all(descriptor, piece[blocks:filled])


def _pieces(parts: Sequence[Buffer], piece: memoryview) -> Iterator[int]:
    """Fill `piece` with what comes next of `parts`, again and again; yields how much is in it."""
    filled = 0
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            taken = min(len(rest), len(piece) - filled)
            piece[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
            if filled == len(piece):
                yield filled
                filled = 0
    if filled:
        yield filled


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        try:
            written = os.write(descriptor, view)
        except OSError as error:
            # A direct write the file system does not like after all: after a short one, or on a disk of larger blocks.
            if error.errno != errno.EINVAL or not fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT:
                raise
            _through_cache(descriptor)
        else:
            view = view[written:]


def _through_cache(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)

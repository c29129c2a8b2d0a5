"""Reading whole a local file that somebody named: compressed where its name ends in `.zst`."""

from __future__ import annotations

from pathlib import Path

import zstandard

from kbackupd.model.errors import CorruptObjectError, UsageError

COMPRESSED = ".zst"
_LARGEST_BYTES = 1 << 30
"""After decompression: a document beyond that is none of ours, and must not take the machine with it."""


def read_local(path: Path, what: str) -> bytes:
    """The file's content.

    Args:
        what: it should be, for messages: "the offset map".

    Raises:
        UsageError: there is no such file, or it cannot be read.
        CorruptObjectError: it does not decompress.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror or error}") from error
    return _decompressed(path, data) if path.name.endswith(COMPRESSED) else data


def to_local(path: Path, data: bytes) -> bytes:
    """What the file `path` has to hold so that `read_local` gives `data`."""
    return zstandard.ZstdCompressor(level=3).compress(data) if path.name.endswith(COMPRESSED) else data


def _decompressed(path: Path, data: bytes) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            content = reader.read(_LARGEST_BYTES)
            if reader.read(1):
                raise CorruptObjectError(str(path), f"more than {_LARGEST_BYTES} bytes are compressed in it")
            return content
    except zstandard.ZstdError as error:
        raise CorruptObjectError(str(path), f"does not decompress: {error}") from error

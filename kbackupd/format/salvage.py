"""Finding the next whole batch behind bytes that cannot be trusted."""

from __future__ import annotations

from typing import NamedTuple

from kbackupd.format.header import HEADER_BYTES, MalformedBatchError, crc_holds, parse_header


class FoundBatch(NamedTuple):
    position: int
    """Of its first byte."""
    base_offset: int


def next_good_batch(buf: bytes | memoryview, *, after_offset: int) -> FoundBatch | None:
    """The first batch behind the start of `buf` whose CRC-32C holds and whose base offset is above `after_offset`.

    Neither length nor offset of the bytes before it are believed: every position is tried whose magic byte says 2.
    """
    view = memoryview(buf)
    raw = bytes(buf)
    magic_at = raw.find(b"\x02", 17)
    while magic_at >= 0 and magic_at + HEADER_BYTES - 16 <= len(raw):
        position = magic_at - 16
        try:
            header = parse_header(view, position)
            whole = view[position : position + header.size_bytes]
            if len(whole) == header.size_bytes and header.base_offset > after_offset and crc_holds(header, whole):
                return FoundBatch(position, header.base_offset)
        except MalformedBatchError:
            pass
        magic_at = raw.find(b"\x02", magic_at + 1)
    return None

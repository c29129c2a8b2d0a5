"""zstd frames that are held for a while, in no more memory than their bytes take.

`ZstdCompressor.compress` makes room for the worst case, a little more than it was given, and shortens the result
without giving any of that back. What is dropped at once need not care. What is held, and counted by its length, must:
the blocks of a roll-up of 32 MiB weighed ten times as much until it was uploaded.
"""

from __future__ import annotations

import zstandard


def zstd_frame(compressor: zstandard.ZstdCompressor, data: bytes | memoryview) -> bytes:
    """`data` as one frame with its content's size, in memory of its own."""
    return bytes(memoryview(compressor.compress(data)))

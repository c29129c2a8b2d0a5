"""Tables of a roll-up: columns of integers <-> blocks of bytes ("Roll-ups" in docs/format.md).

A column is an `array` of signed 64-bit integers and is coded as planes of bytes: no number becomes a Python object on
the way, so a block costs microseconds, and memory is eight bytes a value.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated

import msgspec
import zstandard

from kbackupd.format.columns import Count, Digest
from kbackupd.format.frames import zstd_frame
from kbackupd.format.run_table import RUN_COLUMNS
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.segment import Sample

SEGMENTS = "segments"
IN_FLIGHT = "in_flight"
RUNS = "runs"
LEADER_EPOCHS = "leader_epochs"
OUTCOMES = "outcomes"
OPEN_TRANSACTIONS = "open_transactions"
SAMPLES = "samples"
SEEN = "seen"
GAPS = "gaps"
TRUNCATIONS = "truncations"
PARTITIONS = "partitions"
STRETCHES = "stretches"

_SAMPLE = Sample._fields[1:]
_ROW = ("topic", "partition", "segment")

COLUMNS: dict[str, tuple[str, ...]] = {
    RUNS: (*_ROW, *RUN_COLUMNS, "epochs"),
    LEADER_EPOCHS: ("topic", "partition", "epoch", "start_offset"),
    SAMPLES: (*_ROW, *_SAMPLE),
    OUTCOMES: (*_ROW, "offset", "producer_id", "producer_epoch", "committed"),
    OPEN_TRANSACTIONS: (*_ROW, "producer_id", "producer_epoch", "first_offset"),
    SEEN: (*_ROW, "first_offset", "log_start_offset", "high_watermark", "leader_epoch", "at_ms"),
    GAPS: (*_ROW, "branch", "first_offset", "next_offset", "cause", "at_ms"),
    TRUNCATIONS: (*_ROW, "branch", "parent", "offset", "leader_epoch", "at_ms"),
    PARTITIONS: (
        "topic",
        "partition",
        "runs",
        "outcomes",
        "open_transactions",
        "samples",
        "segment",
        *_SAMPLE,
    ),
    STRETCHES: (
        "topic",
        "partition",
        "branch",
        "asked_offset",
        "next_offset",
        "runs",
        "batches",
        "records",
        "stored_length",
        "raw_length",
        "first_captured_ms",
        "last_captured_ms",
        "max_timestamp",
        "first_epoch",
        "last_epoch",
        "plain",
    ),
    IN_FLIGHT: ("segment", "seq"),
    SEGMENTS: (
        "writer_epoch",
        "seq",
        "sealed_ms",
        "sealed_monotonic_ms",
        "size",
        "body_length",
        *(f"digest_{piece}" for piece in range(4)),
        *(f"body_sha256_{piece}" for piece in range(4)),
    ),
}
"""Table → its columns; in the order in which a writer lays the tables down: what all readers need is at the end."""

BY_TOPIC = tuple(name for name in COLUMNS if COLUMNS[name][:2] == ("topic", "partition"))
"""Tables sorted by topic and partition."""

BLOCK_ROWS = 2048
"""Of a full block: some 55 KB of runs."""
MAX_BLOCK_ROWS = 1 << 20

_LEVEL = 3

Columns = list["array[int]"]


class BlockRef(msgspec.Struct, frozen=True, array_like=True):
    """A block's place, and which rows of which table it holds."""

    table: str
    position: Count
    stored_length: Count
    rows: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_ROWS)]
    first_topic: Count
    first_partition: Count
    last_topic: Count
    last_partition: Count
    sha256: Digest

    @property
    def end(self) -> int:
        return self.position + self.stored_length

    def touches(self, topics: Sequence[int]) -> bool:
        """Whether it can hold rows of one of `topics`, ascending numbers; of a table that is sorted by them."""
        at = bisect_left(topics, self.first_topic)
        return at < len(topics) and topics[at] <= self.last_topic


def empty_columns(table: str) -> Columns:
    return [array("q") for _ in COLUMNS[table]]


def encode_block(columns: Sequence[array[int]]) -> bytes:
    """The rows as a block's stored bytes; the columns are equally long and not empty."""
    planes: list[bytes] = []
    for column in columns:
        plain = _big_endian(column).tobytes()
        planes += [plain[byte::8] for byte in range(8)]
    # A compressor of its own: blocks are made in threads, and one that two of them share ends the process.
    return zstd_frame(zstandard.ZstdCompressor(level=_LEVEL), b"".join(planes))


def decode_block(key: str, block: BlockRef, stored: bytes | memoryview) -> Columns:
    """The rows of a block of the object `key`, digest and size checked.

    Raises:
        CorruptObjectError: the bytes are not those that the index names, or not as many rows.
    """
    if hashlib.sha256(stored).hexdigest() != block.sha256:
        raise CorruptObjectError(key, f"{_at(block)}: digest does not fit")
    width = len(COLUMNS[block.table])
    expected = block.rows * width * 8
    try:
        if zstandard.frame_content_size(stored) != expected:
            raise CorruptObjectError(key, f"{_at(block)}: not {block.rows} rows of {width} columns")
        planes = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as problem:
        raise CorruptObjectError(key, f"{_at(block)}: does not decompress: {problem}") from problem
    columns: Columns = []
    for number in range(width):
        plain = bytearray(block.rows * 8)
        at = number * block.rows * 8
        for byte in range(8):
            plain[byte::8] = planes[at + byte * block.rows : at + (byte + 1) * block.rows]
        column = array("q")
        column.frombytes(plain)
        columns.append(_big_endian(column))
    return columns


def _at(block: BlockRef) -> str:
    return f"block of {block.table} at byte {block.position}"


def _big_endian(column: array[int]) -> array[int]:
    """Bytes swapped where this machine needs it: from memory's order to the format's and back."""
    if sys.byteorder == "big":
        return column
    swapped = column[:]
    swapped.byteswap()
    return swapped

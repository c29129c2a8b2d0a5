"""A segment's body: its magic and runs as they will be stored ("Containers" in docs/format.md).

All that is costly about sealing (zstd, CRC-32C, SHA-256), and nothing that depends on the segment's place in the chain:
bodies may be prepared in any order and several at once; only the footers are made one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import zstandard
from crc32c import crc32c

from kbackupd.format.container import MAGIC, MAGIC_BYTES, SEGMENT
from kbackupd.format.run import RunDraft, store_run
from kbackupd.model.segment import CODEC_NONE, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBody:
    """Magic and runs in `parts`, and what the footer will say of them."""

    parts: Sequence[bytes | memoryview]
    """The fetched chunks themselves where zstd gained nothing."""
    runs: tuple[Run, ...]
    size_bytes: int
    sha256: str
    saved_bytes: int
    """By how much the parts of newly compressed runs are smaller than the chunks they replace."""


def store_body(runs: Sequence[RunDraft], *, codec: Literal["zstd", "none"], level: int = 3) -> StoredBody:
    """Compress where that gains something, and checksum; CPU only, the interpreter lock is mostly free meanwhile.

    Args:
        level: of zstd.
    """
    # The checksum would be a second one over the same bytes; the size lets a reader allocate once.
    compressor = (
        zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
        if codec == "zstd"
        else None
    )
    parts: list[bytes | memoryview] = [MAGIC[SEGMENT]]
    digest = hashlib.sha256(MAGIC[SEGMENT])
    position = MAGIC_BYTES
    stored: list[Run] = []
    saved_bytes = 0
    for run in runs:
        form = store_run(run, compressor)
        checksum = 0
        for part in form.parts:
            checksum = crc32c(part, checksum)
            digest.update(part)
        parts += form.parts
        stored.append(_stored_run(run, position, form.stored_bytes, form.codec, checksum))
        position += form.stored_bytes
        if form.codec != CODEC_NONE:
            saved_bytes += run.raw_bytes - form.stored_bytes
    return StoredBody(
        parts=parts, runs=tuple(stored), size_bytes=position, sha256=digest.hexdigest(), saved_bytes=saved_bytes
    )


def _stored_run(draft: RunDraft, position: int, stored_bytes: int, codec: str, checksum: int) -> Run:
    return Run(
        id=draft.id,
        system=draft.system,
        asked_offset=draft.asked_offset,
        first_offset=draft.first_offset,
        next_offset=draft.next_offset,
        branch=draft.branch,
        replica=draft.replica,
        captured_ms=draft.captured_ms,
        batches=draft.batches,
        records=draft.records,
        flags=draft.flags,
        base_timestamp_ms=draft.base_timestamp_ms,
        max_timestamp_ms=draft.max_timestamp_ms,
        largest_batch_bytes=draft.largest_batch_bytes,
        position=position,
        stored_bytes=stored_bytes,
        raw_bytes=draft.raw_bytes,
        codec=codec,
        crc32c=checksum,
        leader_epochs=draft.leader_epochs,
    )

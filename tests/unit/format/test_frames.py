"""What was compressed and is held weighs what its bytes do (invariant I9): zstd's own answers weigh what went in."""

from __future__ import annotations

import random
import tracemalloc
from array import array
from collections.abc import Callable, Sequence

import pytest
import zstandard

from kbackupd.format.frames import zstd_frame
from kbackupd.format.run import RunDraft, store_run
from kbackupd.format.tables import encode_block
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import CODEC_ZSTD, RunFlag

DATA = random.Random(1).randbytes(20_000) + bytes(400_000)


def weight_of(make: Callable[[], Sequence[bytes | memoryview]]) -> tuple[int, int]:
    """How many bytes of memory stay taken by what `make` returns, and how long it is.

    Only what was asked for from this file counts: other threads of the process want memory meanwhile.
    """
    make()  # what is set up once is no part of it
    tracemalloc.start(16)
    try:
        made = make()
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__, all_frames=True)])
    finally:
        tracemalloc.stop()
    return sum(trace.size for trace in ours.traces), sum(map(len, made))


def test_a_frame_takes_the_memory_of_its_bytes_and_comes_back() -> None:
    compressor = zstandard.ZstdCompressor()
    taken, length = weight_of(lambda: [zstd_frame(compressor, DATA)])
    assert 20_000 < length < 25_000
    assert length < taken < length + 1_000
    assert zstandard.ZstdDecompressor().decompress(zstd_frame(compressor, memoryview(DATA))) == DATA


def test_a_stored_block_takes_the_memory_of_its_bytes_and_not_of_its_rows() -> None:
    """A roll-up holds all of its blocks until it is uploaded."""
    rng = random.Random(1)
    columns = [array("q", (rng.randrange(100) for _ in range(2048))) for _ in range(20)]
    taken, length = weight_of(lambda: [encode_block(columns)])
    assert length < 50_000
    assert length < taken < length + 1_000


@pytest.mark.parametrize("chunks", [[DATA], [DATA[:210_000], DATA[210_000:]]], ids=["one", "several"])
def test_what_compressing_a_run_saved_is_not_held_until_it_is_durable(chunks: list[bytes]) -> None:
    """The budget has it back when the segment is sealed (I9)."""
    draft = RunDraft(
        id=PartitionId(TopicId("b8tRS7h4TJ2Vt43Dp85v2A"), 0),
        system=False,
        asked_offset=0,
        first_offset=0,
        next_offset=1,
        branch=0,
        replica=1,
        captured_ms=0,
        batches=1,
        records=1,
        flags=RunFlag(0),
        base_timestamp_ms=0,
        max_timestamp_ms=0,
        largest_batch_bytes=len(DATA),
        leader_epochs=((0, 0),),
        chunks=list(chunks),
        compressed_bytes=0,
        raw_bytes=len(DATA),
    )
    compressor = zstandard.ZstdCompressor()
    taken, length = weight_of(lambda: store_run(draft, compressor).parts)
    assert store_run(draft, compressor).codec == CODEC_ZSTD
    assert length < 25_000
    assert length < taken < length + 1_000

"""`python -m bench.per_partition`: processor time of the steps that ten thousand partitions cost, one by one.

No broker and no store: each step by itself on made-up input, a one-record batch in every partition, the shortest of
some tries in the thread's own processor time. So it says the same on a busy machine, and what a change to one gained.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable
from itertools import count

from bench.figures import machine, markdown
from kbackupd.archive.partition_state import PartitionState as DurableState
from kbackupd.archive.writer_state import TopicState, WriterState
from kbackupd.format.batch import scan_batches
from kbackupd.format.checkpoint import encode_checkpoint
from kbackupd.format.keys import checkpoint_key
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.segment import RunDraft, SegmentDraft, open_footer, seal_over, store_body
from kbackupd.kafka.codec import int16, int32, string, uvarint
from kbackupd.kafka.wire import MetadataRequest
from kbackupd.kafka.wire_fetch import FetchRequest
from kbackupd.model.path import RecordBatches
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Checkpoint, Identity
from kbackupd.model.status import PartitionSample, PartitionState
from kbackupd.observe.exposure import aggregate

TOPICS, PARTITIONS = 200, 50
TRIES = 9
_NO_TAGS = b"\x00"
_IDENTITY = Identity(backup_id="main", archive_id="a", cluster_id="c")
_BATCH = build_batch([RawRecord(0, 0, 0, encode_body(b"key", b"v" * 200))], base_timestamp_ms=1)
_IDS = [PartitionId(TopicId(f"{topic:022d}"), number) for topic in range(TOPICS) for number in range(PARTITIONS)]


def main() -> int:
    runs = [_run(id) for id in _IDS]
    body = store_body(runs, codec="zstd")
    draft = SegmentDraft(
        identity=_IDENTITY,
        writer="main",
        writer_epoch=1,
        seq=0,
        previous=None,
        sealed_ms=1,
        sealed_monotonic_ms=1,
        topics={id.topic_id: f"bench.topic.{id.topic_id}" for id in _IDS},
        runs=runs,
    )
    sealed = seal_over(draft, body)
    tail = bytes(sealed.parts[-1])
    states = iter([_state() for _ in range(TRIES + 1)])
    applied = next(states)
    applied.apply(sealed.footer, sealed.ref)
    numbers = count()
    picture = _picture(applied, next(numbers))
    metadata, answer = _metadata_answer(), _fetch_answer()
    steps: list[tuple[str, Callable[[], object]]] = [
        ("metadata of all decoded", lambda: MetadataRequest(topics=None).decode(metadata, 0)),
        ("an answer of all decoded", lambda: _FETCH.decode(answer, 0)),
        ("a batch of each checked", lambda: [scan_batches(_BATCH, asked_offset=0) for _ in _IDS]),
        ("a run of each begun", lambda: [_run(id) for id in _IDS]),
        ("bodies compressed and checksummed", lambda: store_body(runs, codec="zstd")),
        ("sealed: footer made and checked", lambda: seal_over(draft, body)),
        ("durable: applied to the writer's state", lambda: next(states).apply(sealed.footer, sealed.ref)),
        ("checkpoint: picture of the state", lambda: _picture(applied, next(numbers))),
        ("checkpoint: encoded and checked", lambda: encode_checkpoint(picture)),
        ("footer read back", lambda: open_footer(sealed.ref.key, tail, sealed.size_bytes)),
        ("scrape: samples made and summed up", lambda: aggregate(_samples())),
    ]
    gc.disable()
    rows = [(f"{len(_IDS)} partitions", "processor time, ms")]
    rows += [(title, f"{1000 * _shortest(step):.1f}") for title, step in steps]
    print(f"{', '.join(f'{name} {value}' for name, value in machine().items())}\n{markdown(rows)}")
    return 0


def _shortest(step: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIES):
        began = time.thread_time()
        step()
        seconds.append(time.thread_time() - began)
    return min(seconds)


def _run(id: PartitionId) -> RunDraft:
    return RunDraft.of(
        RecordBatches(id=id, system=False, asked_offset=0, branch=0, replica=1, captured_ms=1, chunk=_BATCH, scan=_SCAN)
    )


def _state() -> WriterState:
    state = WriterState("main")
    for id in _IDS:
        state.topics[id.topic_id] = TopicState(
            id=id.topic_id, name=f"bench.{id.topic_id}", partitions=PARTITIONS, internal=False, configs={}
        )
    state.partitions = {id: DurableState(id=id, first_offset=0, next_offset=0) for id in _IDS}
    return state


def _picture(state: WriterState, number: int) -> Checkpoint:
    return state.picture(
        identity=_IDENTITY,
        key=checkpoint_key("main", 1, number),
        writer_epoch=1,
        number=number,
        sealed_ms=1,
        segments=(),
        states={},
    )()


def _samples() -> Iterable[PartitionSample]:
    return (
        PartitionSample(
            topic=id.topic_id,
            topic_id=id.topic_id,
            partition=id.partition,
            tier="standard",
            state=PartitionState.FOLLOWING,
            exposure_seconds=1.0,
            lag_records=0,
            durable_offset=1,
            high_watermark=1,
            log_start_offset=0,
            time_to_loss_seconds=None,
        )
        for id in _IDS
    )


def _metadata_answer() -> bytes:
    replicas = uvarint(2) + int32(1)
    rows = b"".join(
        int16(0) + int32(number) + int32(1) + int32(0) + 2 * replicas + uvarint(1) + _NO_TAGS
        for number in range(PARTITIONS)
    )
    topics = b"".join(
        int16(0)
        + string(f"bench.topic.{number:03}")
        + os.urandom(16)
        + b"\x00"
        + uvarint(PARTITIONS + 1)
        + rows
        + int32(-(2**31))
        + _NO_TAGS
        for number in range(TOPICS)
    )
    broker = int32(1) + string("127.0.0.1") + int32(9092) + string(None) + _NO_TAGS
    return int32(0) + uvarint(2) + broker + string("cluster") + int32(1) + uvarint(TOPICS + 1) + topics + _NO_TAGS


def _fetch_answer() -> bytes:
    rows = b"".join(
        struct.pack(">ihqqq", number, 0, 1, 1, 0)
        + uvarint(0)
        + int32(-1)
        + uvarint(len(_BATCH) + 1)
        + _BATCH
        + _NO_TAGS
        for number in range(PARTITIONS)
    )
    topics = b"".join(os.urandom(16) + uvarint(PARTITIONS + 1) + rows + _NO_TAGS for _ in range(TOPICS))
    return struct.pack(">ihi", 0, 0, 1) + uvarint(TOPICS + 1) + topics + _NO_TAGS


_SCAN = scan_batches(_BATCH, asked_offset=0)
_FETCH = FetchRequest(
    max_wait_ms=0,
    min_bytes=0,
    max_bytes=0,
    session_id=1,
    session_epoch=1,
    targets=(),
    forgotten=(),
    asked={},
    rack="",
)

if __name__ == "__main__":
    sys.exit(main())

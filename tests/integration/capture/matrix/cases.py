"""The topics of the matrix: how each is filled, and what its log must look like for the case to be the case."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from crc32c import crc32c

from kbackupd.format.codecs import CODEC_NAMES, NONE, SNAPPY, ZSTD
from kbackupd.format.header import BatchHeader
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.testbed.truth import Outcome
from kbackupd.testbed.workload import CODECS, Codec, Draft, RecordMaker
from tests.integration.capture.matrix.source import HANGING, SourceCluster

DAY_MS = 86_400_000
MAX_MESSAGE_BYTES = 10 << 20
BEYOND_INT32 = (1 << 31) - 5
BEYOND_UINT32 = (1 << 32) - 5
FAR = 1 << 50
UNKNOWN_CODEC = 5
UNKNOWN_CODEC_TOPIC = "codec-unknown"
_ANY_TIME = {"message.timestamp.after.max.ms": str((1 << 63) - 1)}
_HARDLY_DELETED = {"delete.retention.ms": str(DAY_MS)}
_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1",
}

Log = list[BatchHeader]
Logs = list[Log]
"""Per partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One topic, named after what is special about it."""

    name: str
    holds: Callable[[Logs], bool]
    """Whether the source's log is what the case is about, by its batches' headers."""
    partitions: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    fill: Callable[[SourceCluster, str], None] | None = None
    placed: Mapping[int, Sequence[bytes]] = field(default_factory=dict)
    """Per partition: batches put into the broker's log directory while it is down."""
    fill_placed: Callable[[SourceCluster, str], None] | None = None
    """Runs after that."""
    truthful: bool = True
    """Every record was produced by librdkafka, and nothing was deleted or compacted."""
    visible: int | None = None
    """Records a reader must see, where the truth does not tell; None: some."""
    undecided: int = 0
    """Records that a restore leaves out and lists: their transaction was open when the backup was made."""
    nameable: bool = True
    """confluent-kafka can decode every header name; at one that is not UTF-8 it raises SystemError."""
    restamped: bool = False
    """LogAppendTime: the restored records' timestamps have another type."""
    restored: bool = True
    dumped: bool = False
    """Kafka's own DumpLogSegments is shown it."""


def drafts(seed: str, count: int, *, partition: int | None = 0, stamp_ms: int | None = None) -> Iterator[Draft]:
    maker = RecordMaker(seed)
    return (maker.draft(partition)._replace(timestamp_ms=stamp_ms) for _ in range(count))


def _codec(codec: Codec) -> Case:
    def fill(source: SourceCluster, topic: str) -> None:
        source.produce(topic, _on_each(2, topic, 200), codec=codec)

    return Case(
        name=f"codec-{codec}",
        partitions=2,
        fill=fill,
        holds=lambda logs: all(CODEC_NAMES[h.codec] == codec for log in logs for h in log) and all(logs),
    )


def _fill_framed_snappy(source: SourceCluster, topic: str) -> None:
    bodies = [encode_body(b"%d" % number, bytes(number * 1_000), ()) for number in range(100)]
    source.produce_batches(topic, [build_batch(_records(bodies), codec=SNAPPY, base_timestamp_ms=1_760_000_000_000)])


def _fill_nulls(source: SourceCluster, topic: str) -> None:
    contents = (None, b"", b"0", b"\x00")
    source.produce(topic, (Draft(key, value, (), 0) for key in contents for value in contents))


def _fill_headers(source: SourceCluster, topic: str) -> None:
    variants: list[tuple[tuple[str, bytes | None], ...]] = [
        (),
        (("a", b"1"), ("b", b"2"), ("a", b"1"), ("a", b"0")),
        (("b", b"2"), ("a", b"1")),
        (("null", None), ("empty", b""), ("", None), ("", b"")),
        (("größe", b"\xff\xfe\x00\x80"), ("東京", "東京".encode("utf-16"))),
        tuple((f"header-{number}", b"%d" % number) for number in range(500)),
    ]
    source.produce(topic, (Draft(b"k", b"v", headers, 0) for headers in variants), codec="zstd")


def _fill_nameless_headers(source: SourceCluster, topic: str) -> None:
    bodies = [
        encode_body(b"k", b"v", ((b"\xff\xfe", None), (b"\xff\xfe", b""), (b"\xc3", b"\xc3"), (b"", b"\x00"))),
        encode_body(None, None, ((b"a\x00b", b"1"), (b"a\x00c", b"2"))),
        encode_body(b"", b"", ((b"n" * 70_000, b"v" * 70_000),)),
        encode_body(b"k", None, ((b"\x80", b"1"),) * 70_000),
    ]
    source.produce_batches(
        topic, [build_batch(_records(bodies), codec=codec, base_timestamp_ms=1) for codec in (NONE, ZSTD)]
    )


_STAMPS = (
    (-1, (0, 0, 0)),
    (0, (0, 1, 25 * DAY_MS)),
    (1_760_000_000_000, (0, 25 * DAY_MS, -25 * DAY_MS, 100 * 365 * DAY_MS, -1_760_000_000_000, -1_760_000_000_001)),
    (25 * DAY_MS, (0, -25 * DAY_MS, -25 * DAY_MS - 1)),
)


def _fill_timestamps(source: SourceCluster, topic: str) -> None:
    source.produce_batches(
        topic,
        [
            build_batch(
                (
                    RawRecord(0, delta, number, encode_body(b"%d" % base_ms, b"%d" % delta))
                    for number, delta in enumerate(deltas)
                ),
                codec=codec,
                base_timestamp_ms=base_ms,
            )
            for codec in (NONE, ZSTD)
            for base_ms, deltas in _STAMPS
        ],
    )


def _fill_log_append_time(source: SourceCluster, topic: str) -> None:
    for codec in ("none", "lz4"):
        source.produce(topic, drafts(codec, 60, stamp_ms=1_000_000_000_000), codec=codec)


def _fill_transactions(source: SourceCluster, topic: str) -> None:
    ends = (Outcome.COMMITTED, Outcome.ABORTED, Outcome.COMMITTED, Outcome.ABORTED, Outcome.ABORTED, Outcome.COMMITTED)
    for number, outcome in enumerate(ends):
        seed = f"{topic} {number}"
        source.transaction(
            topic, _on_each(2, seed, 20), outcome, transactional_id=f"{topic}-{number % 2}", codec=CODECS[number % 5]
        )
        if number % 3 == 0:
            source.produce(topic, _on_each(2, f"{seed} outside", 5))


def _fill_fenced(source: SourceCluster, topic: str) -> None:
    """A transaction left open by a producer that another one with its name pushed aside: aborted by a later epoch."""
    one = f"{topic}-one"
    source.transaction(topic, drafts("left", 10), Outcome.OPEN, transactional_id=one)
    source.transaction(topic, drafts("taken over", 10), Outcome.COMMITTED, transactional_id=one)
    source.produce(topic, drafts("outside", 3))


def _fill_hanging(source: SourceCluster, topic: str) -> None:
    source.produce(topic, drafts("before", 10))
    source.transaction(topic, drafts("hanging", 10), Outcome.OPEN, transactional_id=HANGING)
    source.transaction(topic, drafts("later, committed", 10), Outcome.COMMITTED)
    source.transaction(topic, drafts("later, aborted", 10), Outcome.ABORTED)
    source.produce(topic, drafts("after", 10))


def _fill_ending_in_marker(source: SourceCluster, topic: str) -> None:
    source.transaction(topic, drafts("kept", 10), Outcome.COMMITTED)
    source.transaction(topic, drafts("gone", 10, partition=1), Outcome.ABORTED)


def _fill_compacted(source: SourceCluster, topic: str) -> None:
    """Turn by turn the same keys again, some deleted; every turn's records are older than the next's by a segment."""
    start_ms = int(time.time() * 1000) - 3_600_000
    for turn in range(5):
        values = (
            Draft(b"key-%02d" % (n * (turn + 1) % 40), None if turn % 2 and not n % 3 else b"%d" % turn, (), 0)
            for n in range(60)
        )
        source.produce(topic, (draft._replace(timestamp_ms=start_ms + turn * 10_000) for draft in values))
        if turn == 1:
            # Of a producer's batches only the last must stay, emptied: the others leave holes between batches.
            overwritten = _records([encode_body(b"key-00", b"once")])
            batch = build_batch(overwritten, base_timestamp_ms=start_ms + 15_000)
            source.produce_batches(topic, [batch] * 3)
    # Its segment is the one that is not cleaned.
    source.produce(topic, [Draft(b"newest", b"now", (), 0)])
    source.until(topic, _is_cleaned)
    source.stop_cleaning(topic)


def _is_cleaned(log: Log) -> bool:
    return (
        any(h.has_holes and h.record_count for h in log)
        and any(not h.record_count for h in log)
        and any(h.has_delete_horizon for h in log)
        and _skips(log)
    )


def _skips(log: Log) -> bool:
    return any(a.next_offset < b.base_offset for a, b in itertools.pairwise(log))


def _fill_compacted_to_a_marker(source: SourceCluster, topic: str) -> None:
    """An aborted transaction of an hour ago; its marker, of now, has a segment to itself, which is not cleaned."""
    start_ms = int(time.time() * 1000) - 3_600_000
    source.transaction(topic, _keyed(30, start_ms), Outcome.ABORTED)
    source.until(topic, _is_a_marker)
    source.stop_cleaning(topic)


def _is_a_marker(log: Log) -> bool:
    return log[-1].is_control and not any(h.record_count for h in log[:-1])


def _keyed(count: int, stamp_ms: int) -> Iterator[Draft]:
    return (Draft(b"key-%d" % number, b"value", (), 0, stamp_ms) for number in range(count))


def _fill_maximum(source: SourceCluster, topic: str) -> None:
    """In every partition a batch of exactly the permitted size, which no answer to a fetch has room for."""
    for partition in range(3):
        batches = [_sized(1_000, partition), _sized(MAX_MESSAGE_BYTES, partition), _sized(2_000, partition)]
        source.produce_batches(topic, batches, partition=partition)
    # Small on the way, large when unpacked.
    source.produce(topic, [Draft(b"zeros", bytes(MAX_MESSAGE_BYTES), (), 0)], codec="zstd")


def _sized(size_bytes: int, partition: int) -> bytes:
    """A batch of one record, `size_bytes` long with its header."""
    value = b"%d" % partition * size_bytes
    surplus = len(_one(value)) - size_bytes
    batch = _one(value[surplus:])
    assert len(batch) == size_bytes
    return batch


def _one(value: bytes) -> bytes:
    return build_batch(_records([encode_body(b"large", value)]), base_timestamp_ms=1_760_000_000_000)


def _fill_beyond(source: SourceCluster, topic: str) -> None:
    source.produce(topic, _on_each(3, topic, 30), codec="lz4")
    source.transaction(topic, drafts("committed", 5), Outcome.COMMITTED)


def _fill_deleted(source: SourceCluster, topic: str) -> None:
    source.produce(topic, _on_each(3, topic, 100))
    source.produce(topic, _on_each(3, f"{topic} more", 20))
    source.delete_records(topic, 0, before=100)
    source.delete_records(topic, 1, before=53)
    source.delete_records(topic, 2)


def _fill_keyed(source: SourceCluster, topic: str) -> None:
    source.produce(topic, drafts(topic, 1_000, partition=None), codec="gzip")


def _on_each(partitions: int, seed: str, count: int) -> Iterable[Draft]:
    return [draft for number in range(partitions) for draft in drafts(f"{seed} {number}", count, partition=number)]


def _records(bodies: Sequence[bytes]) -> Iterator[RawRecord]:
    return (RawRecord(0, number, number, body) for number, body in enumerate(bodies))


def _batch(base_offset: int, values: Sequence[bytes]) -> bytes:
    """As a broker keeps it, that is with its place and leader epoch."""
    bodies = [encode_body(b"placed", value) for value in values]
    return build_batch(_records(bodies), base_offset=base_offset, base_timestamp_ms=1_760_000_000_000, leader_epoch=0)


def _emptied(base_offset: int, offsets: int) -> bytes:
    return build_batch(
        [], base_offset=base_offset, last_offset_delta=offsets - 1, base_timestamp_ms=1_760_000_000_000, leader_epoch=0
    )


def _of_unknown_codec(base_offset: int) -> bytes:
    """A batch from the future, checksum and all; the payload is no codec's."""
    batch = bytearray(_batch(base_offset, [b"one", b"two"]))
    batch[22] |= UNKNOWN_CODEC
    batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4, "big")
    return bytes(batch)


def _has(*kinds: Callable[[BatchHeader], bool]) -> Callable[[Logs], bool]:
    """Every kind of batch is somewhere."""
    return lambda logs: all(any(kind(h) for log in logs for h in log) for kind in kinds)


_FIRST_OF_A_HOLED = (RawRecord(0, 0, 2, encode_body(b"k2", b"v2")), RawRecord(0, 5, 6, encode_body(b"k6", None)))

CASES: tuple[Case, ...] = (
    *(_codec(codec) for codec in CODECS),
    Case(
        name="codec-snappy-in-blocks",
        fill=_fill_framed_snappy,
        holds=_has(lambda h: h.codec == SNAPPY),
        truthful=False,
        visible=100,
    ),
    Case(name="null-and-empty", fill=_fill_nulls, holds=lambda logs: sum(h.record_count for h in logs[0]) == 16),
    Case(name="headers", fill=_fill_headers, holds=lambda logs: sum(h.record_count for h in logs[0]) == 6),
    Case(
        name="headers-without-utf-8",
        fill=_fill_nameless_headers,
        holds=lambda logs: len(logs[0]) == 2,
        truthful=False,
        visible=8,
        nameable=False,
        dumped=True,
    ),
    Case(
        name="timestamps",
        config=_ANY_TIME,
        fill=_fill_timestamps,
        holds=_has(lambda h: h.base_timestamp == -1, lambda h: h.max_timestamp - h.base_timestamp > 25 * DAY_MS),
        truthful=False,
        visible=30,
    ),
    Case(
        name="log-append-time",
        config={"message.timestamp.type": "LogAppendTime"},
        fill=_fill_log_append_time,
        holds=lambda logs: all(h.is_log_append_time for h in logs[0]),
        restamped=True,
    ),
    Case(
        name="transactions",
        partitions=2,
        fill=_fill_transactions,
        holds=lambda logs: all(sum(h.is_control for h in log) == 6 for log in logs),
        dumped=True,
    ),
    Case(name="transaction-fenced", fill=_fill_fenced, holds=lambda logs: sum(h.is_control for h in logs[0]) == 2),
    Case(
        name="transaction-hanging",
        fill=_fill_hanging,
        holds=lambda logs: sum(h.is_control for h in logs[0]) == 2,
        undecided=10,
    ),
    Case(
        name="ending-in-a-marker",
        partitions=2,
        fill=_fill_ending_in_marker,
        holds=lambda logs: all(log[-1].is_control for log in logs),
    ),
    Case(
        name="compacted",
        config=_COMPACTED | _HARDLY_DELETED,
        fill=_fill_compacted,
        holds=lambda logs: _is_cleaned(logs[0]),
        truthful=False,
        dumped=True,
    ),
    Case(
        name="compacted-to-a-marker",
        config=_COMPACTED,
        fill=_fill_compacted_to_a_marker,
        holds=lambda logs: _is_a_marker(logs[0]),
        visible=0,
    ),
    Case(
        name="ending-in-an-empty-batch",
        placed={
            0: (
                _batch(0, [b"one", b"two", b"three"]),
                build_batch(_FIRST_OF_A_HOLED, base_offset=3, last_offset_delta=8, base_timestamp_ms=5, leader_epoch=0),
                build_batch(
                    _FIRST_OF_A_HOLED, base_offset=14, base_timestamp_ms=7, leader_epoch=0, delete_horizon=True
                ),
                _emptied(21, 9),
            ),
            1: (_emptied(40, 2),),
        },
        partitions=2,
        holds=lambda logs: all(log[-1].record_count == 0 for log in logs),
        truthful=False,
        visible=7,
        dumped=True,
    ),
    Case(
        name="maximum-size",
        partitions=3,
        config={"max.message.bytes": str(MAX_MESSAGE_BYTES)},
        fill=_fill_maximum,
        holds=lambda logs: all(max(h.size_bytes for h in log) == MAX_MESSAGE_BYTES for log in logs),
        truthful=False,
        visible=10,
    ),
    Case(
        name="offsets-beyond-2-31",
        partitions=3,
        config=_ANY_TIME,
        placed={
            0: (_batch(BEYOND_INT32, [b"one", b"two"]),),
            1: (_batch(BEYOND_UINT32, [b"one", b"two"]),),
            2: (_batch(FAR, [b"one", b"two"]),),
        },
        fill_placed=_fill_beyond,
        # Each log crosses its limit inside a batch.
        holds=lambda logs: all(
            any(h.base_offset < 1 << bits < h.next_offset for h in log)
            for bits, log in zip((31, 32), logs, strict=False)
        ),
        truthful=False,
        visible=3 * 32 + 5,
        dumped=True,
    ),
    Case(name="empty", partitions=3, holds=lambda logs: not any(logs)),
    Case(
        name="leading-records-deleted",
        partitions=3,
        fill=_fill_deleted,
        holds=lambda logs: all(logs),
        truthful=False,
        visible=20 + 67,
    ),
    Case(name="keyed", partitions=4, fill=_fill_keyed, holds=lambda logs: all(logs)),
    Case(
        name=UNKNOWN_CODEC_TOPIC,
        placed={0: (_batch(0, [b"before"]), _of_unknown_codec(1), _batch(3, [b"after"]))},
        holds=_has(lambda h: h.codec == UNKNOWN_CODEC),
        restored=False,
    ),
)

"""What was produced, known exactly; what is in a topic, read by an independent client; and the difference in words.

`Truth` keeps a digest of 16 bytes per acknowledged record, about 50 bytes in all, so a test can remember millions.
`read_topic` is confluent-kafka (librdkafka), which shares no code with kbackupd. `raw_log` is the broker's own files.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple, NewType, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.process import Deadline, ServerFailedError

Isolation = Literal["read_committed", "read_uncommitted"]
Headers = tuple[tuple[str, bytes | None], ...]
Transaction = NewType("Transaction", int)

NO_TRANSACTION = Transaction(-1)
_DIGEST_BYTES = 16
# A batch of messages is waited for that long, however few have come: it ends every reading, so it is short.
_POLL_SECONDS = 0.05
_LENGTH = struct.Struct(">q")
_SWAP = ".log.swap"
_REPLACED_SECONDS = 120.0
_BATCH_START = struct.Struct(">qi")
_LAST_OFFSET_DELTA = struct.Struct(">i")


class Outcome(IntEnum):
    """What became of the transaction a record belongs to."""

    NONE = 0
    """Not in a transaction: visible to everybody."""
    OPEN = 1
    COMMITTED = 2
    ABORTED = 3
    UNKNOWN = 4
    """The producer was told neither; only reading the source can tell."""


class Record(NamedTuple):
    """One record as the independent client read it."""

    partition: int
    offset: int
    timestamp_ms: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Headers


NOWHERE_SAID = -1
"""Stands for the offset of a record that a broker said it has, and not where."""


class Expected(NamedTuple):
    """One record as it must be; contents by digest."""

    offset: int
    timestamp_ms: int
    digest: bytes
    outcome: Outcome = Outcome.NONE


def content_digest(key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    """Digest of everything a record carries except offset and timestamp; null, empty, order and doubles all count."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    parts: list[bytes | None] = [key, value]
    for name, content in headers:
        parts += (name.encode(), content)
    for part in parts:
        if part is None:
            digest.update(_LENGTH.pack(-1))
        else:
            digest.update(_LENGTH.pack(len(part)))
            digest.update(part)
    return digest.digest()


@dataclass(slots=True)
class _Column:
    """The acknowledged records of one partition, in order of acknowledgement."""

    offsets: array[int] = field(default_factory=lambda: array("q"))
    timestamps: array[int] = field(default_factory=lambda: array("q"))
    transactions: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)
    content_bytes: int = 0


class Truth:
    """Every acknowledged record per (topic, partition), with the outcome of its transaction. Thread-safe.

    Records that were sent but neither acknowledged nor surely lost (a delivery time-out) are counted as doubts: while
    a partition has one that could be visible, `records` refuses to state its contents. Of a batch that was sent again
    a broker may only say that it has it (DUPLICATE_SEQUENCE_NUMBER): where it lies, a reader of the source must tell.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns: dict[tuple[str, int], _Column] = {}
        self._outcomes: list[Outcome] = []
        self._doubts: list[tuple[str, int, Transaction, str]] = []

    def know_topic(self, topic: str, partitions: int) -> None:
        """Expect these partitions, even if nothing is ever produced to them."""
        with self._lock:
            for partition in range(partitions):
                self._columns.setdefault((topic, partition), _Column())

    def begin(self) -> Transaction:
        with self._lock:
            self._outcomes.append(Outcome.OPEN)
            return Transaction(len(self._outcomes) - 1)

    def decide(self, transaction: Transaction, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[transaction] = outcome

    def acknowledge(
        self,
        topic: str,
        partition: int,
        *,
        offset: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        transaction: Transaction = NO_TRANSACTION,
    ) -> None:
        """The broker said this record is at this offset; `NOWHERE_SAID`: that it has it.

        Args:
            timestamp_ms: as it was sent; where the broker stamps records itself (LogAppendTime) they have another one.
        """
        digest = content_digest(key, value, headers)
        with self._lock:
            column = self._columns.setdefault((topic, partition), _Column())
            column.offsets.append(offset)
            column.timestamps.append(timestamp_ms)
            column.transactions.append(transaction)
            column.digests += digest
            column.content_bytes += len(key or b"") + len(value or b"")

    def doubt(self, topic: str, partition: int, reason: str, transaction: Transaction = NO_TRANSACTION) -> None:
        """A record was sent there (partition -1: not yet chosen) and its fate or its place is not known."""
        with self._lock:
            self._doubts.append((topic, partition, transaction, reason))

    @property
    def partitions(self) -> list[tuple[str, int]]:
        with self._lock:
            return sorted(self._columns)

    @property
    def topics(self) -> dict[str, int]:
        """Partition count per topic."""
        counts: Counter[str] = Counter(topic for topic, _ in self.partitions)
        return dict(counts)

    @property
    def record_count(self) -> int:
        """Acknowledged records, aborted ones included."""
        with self._lock:
            return sum(len(column.offsets) for column in self._columns.values())

    @property
    def content_bytes(self) -> int:
        """Bytes of keys and values acknowledged."""
        with self._lock:
            return sum(column.content_bytes for column in self._columns.values())

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many transactions ended how."""
        with self._lock:
            return Counter(self._outcomes)

    def records(
        self,
        topic: str,
        partition: int,
        *,
        isolation: Isolation = "read_committed",
        seen: Sequence[Record] = (),
    ) -> list[Expected]:
        """What a consumer of that isolation level must see, by ascending offset.

        Args:
            seen: what a reader of the source found there: it tells where those records lie of which the broker only
                said that it has them.

        Raises:
            LookupError: the partition's contents cannot be stated, because of unsure records or unknown outcomes.
        """
        with self._lock:
            if doubts := self._visible_doubts(topic, partition, isolation):
                reasons = ", ".join(dict.fromkeys(doubts))
                raise LookupError(f"{topic}-{partition}: {len(doubts)} sent records of unknown fate: {reasons}")
            column = self._columns[topic, partition]
            found = []
            for i, (offset, stamp, number) in enumerate(
                zip(column.offsets, column.timestamps, column.transactions, strict=True)
            ):
                outcome = self._outcome(Transaction(number))
                if isolation == "read_committed":
                    if outcome is Outcome.UNKNOWN:
                        raise LookupError(
                            f"{topic}-{partition}: offset {offset} is in a transaction of unknown outcome"
                        )
                    if outcome in (Outcome.ABORTED, Outcome.OPEN):
                        continue
                digest = bytes(column.digests[i * _DIGEST_BYTES : (i + 1) * _DIGEST_BYTES])
                found.append(Expected(offset, stamp, digest, outcome))
        found.sort()
        return _placed(found, seen, f"{topic}-{partition}")

    def _outcome(self, transaction: Transaction) -> Outcome:
        return Outcome.NONE if transaction == NO_TRANSACTION else self._outcomes[transaction]

    def _visible_doubts(self, topic: str, partition: int, isolation: Isolation) -> list[str]:
        hidden = (Outcome.ABORTED, Outcome.OPEN) if isolation == "read_committed" else ()
        return [
            reason
            for name, number, transaction, reason in self._doubts
            if name == topic and number in (partition, -1) and self._outcome(transaction) not in hidden
        ]


def _placed(found: list[Expected], seen: Sequence[Record], where: str) -> list[Expected]:
    """`found`, ascending, with the records of unknown place where a reader saw their contents."""
    unplaced = [one for one in found if one.offset == NOWHERE_SAID]
    if not unplaced:
        return found
    known = found[len(unplaced) :]
    taken = {one.offset for one in known}
    free: dict[bytes, list[Record]] = {}
    for record in seen:
        if record.offset not in taken:
            free.setdefault(content_digest(record.key, record.value, record.headers), []).append(record)
    for one in unplaced:
        places = free.pop(one.digest, [])
        if len(places) != 1:
            raise LookupError(f"{where}: a record that a broker said it has lies at {len(places)} places: {places}")
        known.append(one._replace(offset=places[0].offset))
    return sorted(known)


def expected(records: Sequence[Record]) -> list[Expected]:
    """Read records as the expectation for another reading, e.g. the source's for the restored topic's."""
    return [Expected(r.offset, r.timestamp_ms, content_digest(r.key, r.value, r.headers)) for r in records]


def read_topic(
    bootstrap: str, topic: str, *, isolation: Isolation = "read_committed", deadline_seconds: float = 120.0
) -> dict[int, list[Record]]:
    """Everything in `topic` up to its present end (last stable offset for read_committed), per partition.

    A topic that ends in control markers, or is empty, ends as well: the end is the client's end-of-partition event,
    not a count of records.

    Raises:
        ServerFailedError: no such topic, a broker error, or not at the end of every partition in time.
    """
    deadline = Deadline(deadline_seconds)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"testbed-{uuid.uuid4()}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "fetch.wait.max.ms": 100,
            "fetch.message.max.bytes": 16 << 20,
            "receive.message.max.bytes": 200 << 20,
            "log_level": 0,
        }
    )
    try:
        metadata = consumer.list_topics(topic, timeout=deadline.remaining).topics[topic]
        if metadata.error is not None:
            raise ServerFailedError(f"cannot read topic {topic}: {metadata.error.str()}")
        found: dict[int, list[Record]] = {partition: [] for partition in sorted(metadata.partitions)}
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in found])
        unfinished = set(found)
        while unfinished:
            if deadline.passed:
                raise ServerFailedError(
                    f"{topic}: partitions {sorted(unfinished)} not read after {deadline_seconds:g} s"
                )
            for message in consumer.consume(num_messages=2_000, timeout=_POLL_SECONDS):
                partition = message.partition()
                assert partition is not None
                if (error := message.error()) is None:
                    found[partition].append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(partition)
                elif not error.retriable():
                    raise ServerFailedError(f"reading {topic}-{partition}: {error.str()}")
        return found
    finally:
        consumer.close()


def _record(message: Message) -> Record:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    timestamp_type, timestamp_ms = message.timestamp()
    # Typed as either a list of pairs or a mapping, with text or bytes; read, it is always pairs of text and bytes.
    headers = cast(Headers, tuple(message.headers() or ()))
    return Record(partition, offset, timestamp_ms, timestamp_type, message.key(), message.value(), headers)


def compare_records(
    wanted: Sequence[Expected],
    actual: Sequence[Record],
    *,
    offsets: bool = True,
    timestamps: bool = True,
    limit: int = 10,
) -> list[str]:
    """Differences in words, at most `limit` and a closing count; empty means equal.

    Args:
        wanted: by ascending offset.
        actual: in the order read.
        offsets: True: same offsets; False (a restore that renumbers): same records in the same order.
        timestamps: False where the target stamps records itself (LogAppendTime).
    """
    differences = list(_by_offset(wanted, actual, timestamps) if offsets else _by_order(wanted, actual, timestamps))
    if len(differences) > limit:
        return [*differences[:limit], f"… and {len(differences) - limit} more differences"]
    return differences


def _by_offset(wanted: Sequence[Expected], actual: Sequence[Record], timestamps: bool) -> Iterator[str]:
    by_offset: dict[int, Record] = {}
    previous = -1
    for record in actual:
        if record.offset in by_offset:
            yield f"offset {record.offset}: read twice"
        elif record.offset < previous:
            yield f"offset {record.offset}: read after offset {previous}"
        by_offset[record.offset] = record
        previous = record.offset
    for one in wanted:
        found = by_offset.pop(one.offset, None)
        if found is None:
            yield f"offset {one.offset}: missing ({one.outcome.name.lower()})"
        else:
            yield from _content(f"offset {one.offset}", one, found, timestamps)
    for extra in by_offset.values():
        yield f"offset {extra.offset}: not expected: {_show(extra)}"


def _by_order(wanted: Sequence[Expected], actual: Sequence[Record], timestamps: bool) -> Iterator[str]:
    if len(wanted) != len(actual):
        yield f"{len(wanted)} records expected, {len(actual)} read"
        digests = [content_digest(r.key, r.value, r.headers) for r in actual]
        surplus = Counter(digests)
        for one in wanted:
            if surplus[one.digest] > 0:
                surplus[one.digest] -= 1
            else:
                yield f"source offset {one.offset}: missing"
        for record, digest in zip(actual, digests, strict=True):
            if surplus[digest] > 0:
                surplus[digest] -= 1
                yield f"offset {record.offset}: not expected, or doubled: {_show(record)}"
        return
    for one, found in zip(wanted, actual, strict=True):
        yield from _content(f"source offset {one.offset}, read at {found.offset}", one, found, timestamps)


def _content(where: str, one: Expected, found: Record, timestamps: bool) -> Iterator[str]:
    if content_digest(found.key, found.value, found.headers) != one.digest:
        yield f"{where}: other contents than produced: {_show(found)}"
    if timestamps and found.timestamp_ms != one.timestamp_ms:
        yield f"{where}: timestamp {found.timestamp_ms}, produced with {one.timestamp_ms}"


def _show(record: Record) -> str:
    def short(content: bytes | None) -> str:
        if content is None:
            return "null"
        return repr(content) if len(content) <= 40 else f"{content[:40]!r}… ({len(content)} bytes)"

    return f"key {short(record.key)}, value {short(record.value)}, headers {record.headers!r:.120}"


def raw_log(server: KafkaServer, topic: str, partition: int) -> bytes:
    """The broker's own log files of one partition, concatenated by base offset: what verbatim means.

    Read it while nothing is being produced, or expect a partial batch at the end.

    Raises:
        FileNotFoundError: this node has no such partition.
        ServerFailedError: its files are being replaced all the time.
    """
    directory = server.log_dir(topic, partition)
    deadline = Deadline(_REPLACED_SECONDS)
    while not deadline.passed:
        files = _log_files(directory)
        if not files:
            raise FileNotFoundError(f"no log files in {directory}")
        try:
            data = b"".join((directory / name).read_bytes() for name in sorted(files))
        except FileNotFoundError:
            continue
        # The log cleaner replaces files one by one; what is ready, and not in its place yet, ends in .swap.
        if _log_files(directory) == files and not any(name.endswith(_SWAP) for name in files):
            return data
        time.sleep(0.05)
    raise ServerFailedError(f"the files in {directory} are still being replaced")


def _log_files(directory: Path) -> dict[str, int]:
    """Names, which sort by base offset, and inodes, which tell a new file of an old name."""
    with os.scandir(directory) as entries:
        return {entry.name: entry.inode() for entry in entries if entry.name.endswith((".log", _SWAP))}


class RawBatch(NamedTuple):
    """One batch of a raw log; offsets are half-open."""

    first_offset: int
    next_offset: int
    data: bytes


def split_batches(raw: bytes) -> Iterator[RawBatch]:
    """The whole batches of format 2 in `raw`, written anew here so as to share nothing with `format/`.

    Raises:
        ValueError: `raw` ends within a batch.
    """
    position = 0
    while position < len(raw):
        if len(raw) - position < 61:
            raise ValueError(f"{len(raw) - position} bytes at {position} are no batch")
        base_offset, length = _BATCH_START.unpack_from(raw, position)
        end = position + 12 + length
        if end > len(raw):
            raise ValueError(f"the batch at byte {position} (offset {base_offset}) is cut off")
        (delta,) = _LAST_OFFSET_DELTA.unpack_from(raw, position + 23)
        yield RawBatch(base_offset, base_offset + delta + 1, raw[position:end])
        position = end

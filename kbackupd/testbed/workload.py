"""Load whose every record is known: independent producers (librdkafka) that report into a `Truth`.

Records are drawn from a seed: null, empty and ordinary keys and values, tombstones, headers that are doubled, null or
not UTF-8. Every producer is idempotent and waits long, so a slow or restarting broker costs time, not certainty.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kbackupd.testbed.process import Deadline
from kbackupd.testbed.truth import NO_TRANSACTION, NOWHERE_SAID, Headers, Outcome, Transaction, Truth

Codec = Literal["none", "gzip", "snappy", "lz4", "zstd"]
CODECS: tuple[Codec, ...] = ("none", "gzip", "snappy", "lz4", "zstd")

_DELIVERY_TIMEOUT_MS = 300_000
_FLUSH_DEADLINE_SECONDS = 300.0
_TRANSACTION_CALL_SECONDS = 30.0
_ANY_PARTITION = -1
_WORDS = (
    "order",
    "payment",
    "refund",
    "customer",
    "invoice",
    "shipment",
    "Übergröße",
    "naïve",
    "東京",
    "pending",
    "paid",
)


class Draft(NamedTuple):
    """A record to be produced; `timestamp_ms` None: now. 0 is now as well: librdkafka takes it so."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class RecordMaker:
    """Endless varied records from a seed; same seed, same records."""

    def __init__(self, seed: int | str, *, value_bytes: int = 400, null_keys: bool = True) -> None:
        self._random = random.Random(seed)
        self._value_bytes = value_bytes
        self._null_keys = null_keys
        self._serial = 0

    def draft(self, partition: int | None = None) -> Draft:
        self._serial += 1
        return Draft(self._key(), self._value(), self._headers(), partition)

    def _key(self) -> bytes | None:
        kind = self._random.random()
        if kind < 0.10:
            return None if self._null_keys else b"not null"
        if kind < 0.12:
            return b""
        return f"key-{self._random.randrange(1_000)}".encode()

    def _value(self) -> bytes | None:
        kind = self._random.random()
        if kind < 0.05:
            return None
        if kind < 0.07:
            return b""
        if kind < 0.15:
            return self._random.randbytes(self._random.randrange(1, self._value_bytes))
        words = " ".join(self._random.choices(_WORDS, k=max(1, self._value_bytes // 10)))
        return f'{{"serial": {self._serial}, "amount": {self._random.randrange(10_000)}, "note": "{words}"}}'.encode()

    def _headers(self) -> Headers:
        kind = self._random.random()
        if kind < 0.6:
            return ()
        if kind < 0.7:
            return (("trace", self._random.randbytes(8)), ("trace", b"second of the same name"), ("empty", b""))
        if kind < 0.8:
            return (("null", None), ("", b"no name"))
        if kind < 0.9:
            return (("binary", b"\xff\xfe\x00\x80"), ("größe", b"1"))
        return (("source", b"testbed"),)


class _TruthfulProducer:
    """A confluent-kafka producer whose delivery reports go to a `Truth`."""

    def __init__(
        self,
        bootstrap: str,
        truth: Truth,
        *,
        codec: Codec,
        transactional_id: str = "",
        timeout_ms: int = _DELIVERY_TIMEOUT_MS,
    ) -> None:
        self._bootstrap = bootstrap
        self._transactional_id = transactional_id
        self._truth = truth
        self._transaction = NO_TRANSACTION
        settings: dict[str, str | int | bool] = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            # A leader that knows nothing of a producer takes any sequence as its first. Were the first batch refused
            # with a second one under way, that would land in its place, and the first, sent again, be a "duplicate"
            # that nobody has: acknowledged by the brokers, and lost by them.
            "max.in.flight.requests.per.connection": 1,
            "compression.type": codec,
            "linger.ms": 20,
            "message.timeout.ms": timeout_ms,
            "message.max.bytes": 20 << 20,
            "queue.buffering.max.messages": 100_000,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,
        }
        if transactional_id:
            # It must outlive a broker that is away for a while; the message time-out may not exceed it.
            settings |= {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
            }
        self.client = Producer(settings)

    def send(self, topic: str, draft: Draft) -> None:
        """Queue one record; waits when the queue is full.

        Its stamp is decided here, never by librdkafka: of a batch that was sent again because the first answer was lost
        a broker tells the newest stamp for all its records, so that a delivery report does not tell what a record has.
        """
        transaction = self._transaction
        timestamp_ms = draft.timestamp_ms or time.time_ns() // 1_000_000

        def delivered(error: KafkaError | None, message: Message) -> None:
            self._report(topic, draft, timestamp_ms, transaction, error, message)

        partition = _ANY_PARTITION if draft.partition is None else draft.partition
        while True:
            try:
                self.client.produce(
                    topic,
                    draft.value,
                    draft.key,
                    partition=partition,
                    on_delivery=delivered,
                    timestamp=timestamp_ms,
                    headers=list(draft.headers),
                )
            except BufferError:
                self.client.poll(0.1)
                continue
            self.client.poll(0)
            return

    def _report(
        self,
        topic: str,
        draft: Draft,
        timestamp_ms: int,
        transaction: Transaction,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None:
            self._truth.doubt(topic, -1 if partition is None else partition, str(error), transaction)
            return
        self._truth.acknowledge(
            topic,
            partition,
            offset=NOWHERE_SAID if offset is None or offset < 0 else offset,
            timestamp_ms=timestamp_ms,
            key=draft.key,
            value=draft.value,
            headers=draft.headers,
            transaction=transaction,
        )

    def flush(self) -> None:
        """Return when every queued record was reported on.

        Raises:
            TimeoutError: some were not, not even as failed.
        """
        if left := self.client.flush(_FLUSH_DEADLINE_SECONDS):
            raise TimeoutError(f"{left} records without a delivery report after {_FLUSH_DEADLINE_SECONDS:g} s")

    def begin(self) -> None:
        self.client.begin_transaction()
        self._transaction = self._truth.begin()

    def initialise(self) -> None:
        _initialise(self.client)

    def end(self, *, commit: bool) -> Outcome:
        """End the transaction; whatever happens the truth learns what is known of it.

        Raises:
            KafkaException: fatal for this producer; the outcome is recorded as unknown.
        """
        transaction = self._transaction
        self.flush()
        deadline = Deadline(_FLUSH_DEADLINE_SECONDS)
        while True:
            try:
                if commit:
                    self.client.commit_transaction(_TRANSACTION_CALL_SECONDS)
                else:
                    self.client.abort_transaction(_TRANSACTION_CALL_SECONDS)
            except KafkaException as error:
                problem: KafkaError = error.args[0]
                if problem.txn_requires_abort() and commit:
                    commit = False
                elif not problem.retriable() or deadline.passed:
                    self._truth.decide(transaction, Outcome.UNKNOWN)
                    raise
            else:
                outcome = Outcome.COMMITTED if commit else Outcome.ABORTED
                self._truth.decide(transaction, outcome)
                self._transaction = NO_TRANSACTION
                return outcome

    def settle(self) -> None:
        """Return when the markers of the last transaction are in every log; nothing can be sent after that.

        A commit is answered before its markers are written, and until they are no committed reader sees the records.
        But the coordinator gives the id to another producer only when it is done with the last transaction.
        """
        _initialise(
            Producer({"bootstrap.servers": self._bootstrap, "transactional.id": self._transactional_id, "log_level": 0})
        )


def _initialise(client: Producer) -> None:
    """Take over the client's transactional id."""
    deadline = Deadline(_FLUSH_DEADLINE_SECONDS)
    while True:
        try:
            client.init_transactions(_TRANSACTION_CALL_SECONDS)
        except KafkaException as error:
            if not error.args[0].retriable() or deadline.passed:
                raise
        else:
            return


def produce(bootstrap: str, truth: Truth, topic: str, drafts: Iterable[Draft], *, codec: Codec = "none") -> None:
    """Produce `drafts` outside any transaction; on return all are acknowledged and in the truth."""
    producer = _TruthfulProducer(bootstrap, truth, codec=codec)
    for draft in drafts:
        producer.send(topic, draft)
    producer.flush()


def produce_transaction(
    bootstrap: str,
    truth: Truth,
    drafts: Iterable[tuple[str, Draft]],
    *,
    outcome: Outcome,
    codec: Codec = "none",
    transactional_id: str = "",
    timeout_ms: int = _DELIVERY_TIMEOUT_MS,
) -> None:
    """Produce (topic, draft) pairs in one transaction and commit it, abort it, or leave it open (hanging).

    On return its markers are in the logs. An open one stays until the broker aborts it after `timeout_ms` or another
    producer takes its id.
    """
    transactions = Transactions(bootstrap, truth, codec=codec, transactional_id=transactional_id, timeout_ms=timeout_ms)
    transactions.produce(drafts, outcome=outcome)
    if outcome is not Outcome.OPEN:
        transactions.settle()


class Transactions:
    """One producer's transactions, one after the other; it takes the id over when it is made.

    Where there are many: a producer of each one's own waits half a second for its id, and so does `settle`.
    """

    def __init__(
        self,
        bootstrap: str,
        truth: Truth,
        *,
        codec: Codec = "none",
        transactional_id: str = "",
        timeout_ms: int = _DELIVERY_TIMEOUT_MS,
    ) -> None:
        self._producer = _TruthfulProducer(
            bootstrap,
            truth,
            codec=codec,
            transactional_id=transactional_id or f"testbed-{uuid.uuid4()}",
            timeout_ms=timeout_ms,
        )
        self._producer.initialise()

    def produce(self, drafts: Iterable[tuple[str, Draft]], *, outcome: Outcome) -> None:
        """The next transaction; after one that is left open there is none."""
        self._producer.begin()
        for topic, draft in drafts:
            self._producer.send(topic, draft)
        if outcome is Outcome.OPEN:
            self._producer.flush()
            return
        self._producer.end(commit=outcome is Outcome.COMMITTED)

    def settle(self) -> None:
        """On return the markers of all of them are in the logs; there is no further one."""
        self._producer.settle()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainStream:
    """An idempotent producer writing to one topic; librdkafka chooses partitions by key."""

    topic: str
    codec: Codec = "none"
    records_per_second: float = 200.0
    value_bytes: int = 400
    null_keys: bool = True
    """False where the topic is compacted: it takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionalStream:
    """A transactional producer writing to several topics, committing or aborting at random."""

    topics: tuple[str, ...]
    codec: Codec = "none"
    records_per_second: float = 100.0
    records_per_transaction: int = 20
    abort_share: float = 0.3
    value_bytes: int = 200


class LiveLoad:
    """Streams in threads of their own until stopped; as a context manager it stops at the end of the block.

    Args:
        seed: of all records and of every commit-or-abort decision; also part of the transactional ids.
    """

    def __init__(
        self, bootstrap: str, truth: Truth, streams: Sequence[PlainStream | TransactionalStream], *, seed: int = 1
    ) -> None:
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        for number, stream in enumerate(streams):
            writer: _Writer
            if isinstance(stream, PlainStream):
                writer = _PlainWriter(bootstrap, truth, stream, f"{seed}-{number}")
            else:
                writer = _TransactionalWriter(bootstrap, truth, stream, f"{seed}-{number}")
            thread = threading.Thread(target=self._run, args=(writer,), name=f"load-{number}", daemon=True)
            self._threads.append(thread)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop producing; on return everything sent is acknowledged, every transaction decided and its markers written.

        Raises:
            ExceptionGroup: a stream failed; the truth then says what is unsure.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise BaseExceptionGroup("live load failed", self._errors)

    @property
    def failed(self) -> bool:
        return bool(self._errors)

    def __enter__(self) -> LiveLoad:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, writer: _Writer) -> None:
        try:
            writer.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - kept for stop(), which raises it where somebody looks
            self._errors.append(error)


class _Writer(ABC):
    @abstractmethod
    def run(self, stop: threading.Event) -> None:
        """Produce until `stop`, then settle everything."""


class _PlainWriter(_Writer):
    def __init__(self, bootstrap: str, truth: Truth, stream: PlainStream, seed: str) -> None:
        self._producer = _TruthfulProducer(bootstrap, truth, codec=stream.codec)
        self._stream = stream
        self._maker = RecordMaker(seed, value_bytes=stream.value_bytes, null_keys=stream.null_keys)

    def run(self, stop: threading.Event) -> None:
        pace = _Pace(self._stream.records_per_second)
        while not stop.is_set():
            for _ in range(pace.due()):
                self._producer.send(self._stream.topic, self._maker.draft())
            stop.wait(0.02)
            self._producer.client.poll(0)
        self._producer.flush()


class _TransactionalWriter(_Writer):
    def __init__(self, bootstrap: str, truth: Truth, stream: TransactionalStream, seed: str) -> None:
        self._producer = _TruthfulProducer(
            bootstrap, truth, codec=stream.codec, transactional_id=f"testbed-{seed}-{uuid.uuid4()}"
        )
        self._stream = stream
        self._maker = RecordMaker(seed, value_bytes=stream.value_bytes)
        self._random = random.Random(f"{seed}-decisions")

    def run(self, stop: threading.Event) -> None:
        self._producer.initialise()
        pace = _Pace(self._stream.records_per_second)
        while not stop.is_set():
            self._producer.begin()
            commit = self._random.random() >= self._stream.abort_share
            try:
                self._send_some(pace, stop)
            except KafkaException as error:
                if not error.args[0].txn_requires_abort():
                    raise
                commit = False
            self._producer.end(commit=commit)
        self._producer.settle()

    def _send_some(self, pace: _Pace, stop: threading.Event) -> None:
        for _ in range(self._stream.records_per_transaction):
            while not stop.is_set() and not pace.due(at_most=1):
                stop.wait(0.01)
            self._producer.send(self._random.choice(self._stream.topics), self._maker.draft())


class _Pace:
    """How many records are due by now at a steady rate; a stall is caught up by at most a second's worth."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._allowance = 0.0
        self._last = time.monotonic()

    def due(self, *, at_most: int | None = None) -> int:
        now = time.monotonic()
        self._allowance = min(self._per_second, self._allowance + (now - self._last) * self._per_second)
        self._last = now
        count = int(self._allowance) if at_most is None else min(at_most, int(self._allowance))
        self._allowance -= count
        return count

"""Stored batches of one partition → batches a broker takes from an idempotent producer. Pure; no I/O, no clock.

Owns the choice between the fast path (only the header changes) and the slow path (records are rebuilt one by one, each
keeping its key, value and headers as one untouched slice), the sequence numbers, and the exact count of everything that
is kept, dropped or cannot be kept. Batches come in offset order; every offset is produced at most once (invariant I8).
What is wanted `cut` says; a batch that is wanted whole takes the fast path though its records had to be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kbackupd.format.batch import MalformedBatchError
from kbackupd.format.codecs import PayloadError, UnknownCodecError
from kbackupd.format.header import BatchHeader
from kbackupd.format.records import (
    MalformedRecordError,
    RawRecord,
    build_batch,
    rewrite_for_produce,
    timestamp_bounds,
)
from kbackupd.format.stored_records import Record, payload_of, records_of
from kbackupd.model.positions import OffsetRange
from kbackupd.model.scope import RecordsOf
from kbackupd.restore.cut import EVERYTHING, Fate, PartitionCut, Reach
from kbackupd.restore.offset_map import OffsetMap
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, ProduceBatch, ProducerIdentity, RawBatch
from kbackupd.restore.provenance import Provenance
from kbackupd.restore.tally import Tally
from kbackupd.restore.visibility import Outcomes, Visibility

_UNDECODABLE = (UnknownCodecError, PayloadError, MalformedRecordError, MalformedBatchError)


class SourceBatch(Protocol):
    """A batch as the archive hands it out; records outside `[first_offset, next_offset)` are not to be restored."""

    @property
    def header(self) -> BatchHeader: ...

    @property
    def data(self) -> bytes | memoryview: ...

    @property
    def first_offset(self) -> int: ...

    @property
    def next_offset(self) -> int: ...


class PartitionRewriter:
    """Turns one partition's stored batches into batches to produce, in order.

    Args:
        producer: whose sequence they continue.
        max_batch_bytes: the target's `max.message.bytes`; a larger batch is rebuilt as several.
        cut: what is wanted of the partition.
        records_of: whose records are, of transactional producers.
        provenance: adds headers to every record; None: records stay as they are.
        next_sequence: of the first batch.
        splits_at_holes: each batch holds consecutive offsets of the source, so that they can be kept.
    """

    def __init__(
        self,
        *,
        outcomes: Outcomes,
        producer: ProducerIdentity,
        max_batch_bytes: int,
        cut: PartitionCut = EVERYTHING,
        records_of: RecordsOf = RecordsOf.COMMITTED,
        provenance: Provenance | None = None,
        next_sequence: int = 0,
        splits_at_holes: bool = False,
    ) -> None:
        self.tally = Tally()
        self.offset_map = OffsetMap(identity=splits_at_holes)
        self._outcomes = outcomes
        self._producer = producer
        self._max_batch_bytes = max_batch_bytes
        self._cut = cut
        self._uncommitted = records_of is RecordsOf.UNCOMMITTED
        self._provenance = provenance
        self._next_sequence = next_sequence
        self._splits_at_holes = splits_at_holes

    def rewrite(self, batch: SourceBatch) -> list[ProduceBatch]:
        """What to produce for `batch`: usually one batch; none if nothing is visible, several if too big."""
        header = batch.header
        if header.is_control:
            self.tally.control_batches += 1
            return []
        if header.record_count == 0:
            self.tally.empty_batches += 1
            return []
        reach = self._cut.of_batch(header)
        if reach is Reach.NONE:
            self.tally.cut_away += header.record_count
            return []
        visibility = self._visibility(header)
        if not visibility.kept and not self._uncommitted:
            self._drop(header, visibility)
            return []
        produced = self._produce(batch, reach)
        if restored := sum(each.records for each in produced):
            self._note_restored(header, visibility, restored)
        return produced

    def _visibility(self, header: BatchHeader) -> Visibility:
        if not header.is_transactional:
            return Visibility.COMMITTED
        return self._outcomes.of_batch(header.producer_id, header.base_offset)

    def _drop(self, header: BatchHeader, visibility: Visibility) -> None:
        if visibility is Visibility.ABORTED:
            self.tally.aborted += header.record_count
        else:
            self.tally.undecided += header.record_count
            self.tally.note(visibility, header, header.record_count)

    def _note_restored(self, header: BatchHeader, visibility: Visibility, records: int) -> None:
        """Count and list what came of a transaction that is not plainly committed."""
        match visibility:
            case Visibility.COMMITTED:
                return
            case Visibility.UNKNOWN:
                self.tally.unknown_outcome += records
                self.tally.note(visibility, header, records)
            case Visibility.ABORTED:
                self.tally.restored_aborted += records
            case Visibility.UNDECIDED:
                self.tally.restored_undecided += records
                self.tally.note(visibility, header, records)

    def _fits_fast_path(self, batch: SourceBatch) -> bool:
        header = batch.header
        return (
            self._provenance is None
            and not header.is_legacy
            and not header.has_holes
            and not header.is_log_append_time
            and not header.has_delete_horizon
            and header.size_bytes <= self._max_batch_bytes
            and batch.first_offset <= header.base_offset
            and header.next_offset <= batch.next_offset
        )

    def _produce(self, batch: SourceBatch, reach: Reach) -> list[ProduceBatch]:
        """The batch as it is where it may pass and is wanted whole, else what is wanted of its records."""
        header, filters = batch.header, not self._cut.filter.is_empty
        fits = self._fits_fast_path(batch)
        if fits and reach is Reach.ALL and not filters:
            return [self._fast(batch)]
        try:
            payload = None if header.is_legacy else payload_of(header, batch.data)
            if fits and payload is not None and not filters and self._cut.window:
                least, most = timestamp_bounds(payload, header.record_count)
                within = self._cut.of_timestamps(header.base_timestamp + least, header.base_timestamp + most)
                if within is Reach.NONE:
                    self.tally.cut_away += header.record_count
                    return []
                if within is Reach.ALL and self._cut.offsets.hold(header.base_offset, header.next_offset):
                    return [self._fast(batch)]
            records = list(records_of(header, batch.data, payload))
            kept = self._wanted(batch, records, ask=filters or reach is Reach.SOME)
        except _UNDECODABLE as problem:
            self.tally.add_missing(
                OffsetRange(header.base_offset, header.next_offset),
                header.record_count,
                _unreadable(header, problem, looked_into=fits),
            )
            return []
        if fits and len(kept) == len(records):
            return [self._fast(batch)]
        return self._slow(header, kept)

    def _wanted(self, batch: SourceBatch, records: list[Record], *, ask: bool) -> list[Record]:
        """Those to be restored, as they will be; the others are counted. `ask`: the cut, for each of them."""
        inside = [record for record in records if batch.first_offset <= record.offset < batch.next_offset]
        kept, cut_away = inside, 0
        if ask:
            of_record = self._cut.of_record
            fates = [of_record(record.offset, record.timestamp_ms, record.body) for record in inside]
            kept = [record for record, fate in zip(inside, fates, strict=True) if fate is Fate.KEPT]
            cut_away = fates.count(Fate.CUT_AWAY)
        if (provenance := self._provenance) is not None:
            kept = [record._replace(body=provenance.added(record.body, record.offset)) for record in kept]
        # Only now: a record that does not decode makes the whole batch missing, and nothing may be counted twice.
        self.tally.outside += len(records) - len(inside)
        self.tally.cut_away += cut_away
        self.tally.filtered += len(inside) - len(kept) - cut_away
        return kept

    def _fast(self, batch: SourceBatch) -> ProduceBatch:
        header = batch.header
        sequence = self._take_sequence(header.record_count)
        data = rewrite_for_produce(
            batch.data,
            producer_id=self._producer.producer_id,
            producer_epoch=self._producer.producer_epoch,
            base_sequence=sequence,
        )
        self.tally.fast_batches += 1
        self.offset_map.append(header.base_offset, header.record_count)
        return self._produced(data, header.record_count, sequence, header.base_offset, header.max_timestamp)

    def _slow(self, header: BatchHeader, kept: list[Record]) -> list[ProduceBatch]:
        tally = self.tally
        tally.slow_batches += bool(kept)
        if header.is_log_append_time:
            tally.restamped += len(kept)
        if header.is_legacy:
            tally.converted += len(kept)
        if not self._splits_at_holes:
            return list(self._build(header, kept))
        return [batch for stretch in _stretches(kept) for batch in self._build(header, stretch)]

    def _build(self, header: BatchHeader, records: list[Record]) -> Iterator[ProduceBatch]:
        """Batches of `records`, halved until each fits the target."""
        if not records:
            return
        sequence = self._next_sequence
        base_timestamp_ms = records[0].timestamp_ms
        data = build_batch(
            (
                RawRecord(record.attributes, record.timestamp_ms - base_timestamp_ms, number, record.body)
                for number, record in enumerate(records)
            ),
            codec=header.codec,
            base_timestamp_ms=base_timestamp_ms,
            producer_id=self._producer.producer_id,
            producer_epoch=self._producer.producer_epoch,
            base_sequence=sequence,
        )
        if len(data) > self._max_batch_bytes:
            if len(records) == 1:
                offset = records[0].offset
                self.tally.add_missing(
                    OffsetRange(offset, offset + 1),
                    1,
                    f"a record of {len(data)} bytes exceeds the target's max.message.bytes, {self._max_batch_bytes}",
                )
                return
            middle = len(records) // 2
            yield from self._build(header, records[:middle])
            yield from self._build(header, records[middle:])
            return
        self._take_sequence(len(records))
        for record in records:
            self.offset_map.append(record.offset)
        newest_ms = max(record.timestamp_ms for record in records)
        yield self._produced(data, len(records), sequence, records[0].offset, newest_ms)

    def _take_sequence(self, records: int) -> int:
        sequence = self._next_sequence
        self._next_sequence = (sequence + records) % SEQUENCE_MODULUS
        return sequence

    def _produced(
        self, data: RawBatch, records: int, sequence: int, source_first_offset: int, max_timestamp_ms: int
    ) -> ProduceBatch:
        tally = self.tally
        tally.restored += records
        oldest_ms = tally.oldest_max_timestamp_ms
        if max_timestamp_ms >= 0 and (oldest_ms is None or max_timestamp_ms < oldest_ms):
            tally.oldest_max_timestamp_ms = max_timestamp_ms
        return ProduceBatch(
            data=data,
            records=records,
            base_sequence=sequence,
            source_first_offset=source_first_offset,
        )


def _stretches(records: list[Record]) -> Iterator[list[Record]]:
    """`records` cut where an offset is missing."""
    start = 0
    for number in range(1, len(records) + 1):
        if number == len(records) or records[number].offset != records[number - 1].offset + 1:
            yield records[start:number]
            start = number


def _unreadable(header: BatchHeader, problem: Exception, *, looked_into: bool) -> str:
    if looked_into:
        return f"which records of the batch are wanted cannot be told: {problem}"
    if isinstance(problem, UnknownCodecError):
        why = "holes" if header.has_holes else "size, range or timestamp type"
        return f"{problem}, and the batch cannot be produced as it is ({why})"
    return f"the batch cannot be produced as it is, and its records do not decode: {problem}"

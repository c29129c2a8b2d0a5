"""Batches of nothing, which carry a log to the offset where the restored part begins; they are deleted again. Pure.

Markers would do as well, but brokers take some hundred filler records in the time of one marker. Fillers are visible
until the log start is moved past them, so they serve only before the first restored record.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from kbackupd.format.codecs import ZSTD
from kbackupd.format.records import RawRecord, build_batch, encode_body, rewrite_for_produce
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, Holds, ProduceBatch, ProducerIdentity

FILLER_RECORDS = 500_000
"""Of one batch, 357 kB: below Kafka's own default of max.message.bytes."""
_NO_TIMESTAMP_MS = -1
"""Segments keep their largest timestamp: a filler's would lead every look-up by time astray."""


def filler_batches(
    first_offset: int,
    next_offset: int,
    *,
    producer: ProducerIdentity,
    first_sequence: int,
    records_per_batch: int = FILLER_RECORDS,
) -> Iterator[ProduceBatch]:
    """Batches for `[first_offset, next_offset)`; the batch behind them has the sequence behind theirs."""
    sequence = first_sequence
    for offset in range(first_offset, next_offset, records_per_batch):
        records = min(records_per_batch, next_offset - offset)
        data = rewrite_for_produce(
            _batch(records),
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            base_sequence=sequence,
        )
        yield ProduceBatch(
            data=data,
            records=records,
            base_sequence=sequence,
            source_first_offset=offset,
            holds=Holds.FILLER,
        )
        sequence = (sequence + records) % SEQUENCE_MODULUS


@lru_cache(maxsize=4)
def _batch(records: int) -> bytes:
    body = encode_body(None, None)
    empty = (RawRecord(0, 0, number, body) for number in range(records))
    return build_batch(empty, codec=ZSTD, base_timestamp_ms=_NO_TIMESTAMP_MS)

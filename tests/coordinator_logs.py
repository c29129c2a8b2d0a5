"""Coordinators' logs for tests: what they write, appended to a `SourceLog` as brokers do."""

from __future__ import annotations

from collections.abc import Sequence

from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.model.coordinators import CommittedPosition, OffsetKey, TransactionEntry, TransactionState
from kbackupd.model.positions import TopicId
from tests.archive_builder import SourceLog
from tests.unit.format.coordinator_bytes import (
    group_key,
    offset_key,
    position_value,
    transaction_value,
    transactional_id_key,
)

Rows = Sequence[tuple[bytes, bytes | None]]


def append(
    log: SourceLog,
    rows: Rows,
    *,
    producer_id: int = -1,
    producer_epoch: int = -1,
    codec: int = 0,
    timestamp_ms: int = 1_000,
) -> None:
    """One batch with these keys and values; with a producer id it is in a transaction."""
    log.add(
        build_batch(
            [RawRecord(0, 0, number, encode_body(key, value)) for number, (key, value) in enumerate(rows)],
            codec=codec,
            base_offset=log.next_offset,
            base_timestamp_ms=timestamp_ms,
            leader_epoch=log.leader_epoch,
            transactional=producer_id >= 0,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=0 if producer_id >= 0 else -1,
        )
    )


def commit(
    log: SourceLog,
    group: str,
    offset: int,
    *,
    topic: str = "orders",
    partition: int = 0,
    producer_id: int = -1,
    metadata: str = "",
    leader_epoch: int = -1,
    version: int = 4,
    topic_id: TopicId | None = None,
) -> None:
    value = CommittedPosition(offset, leader_epoch, metadata, 1_000 + offset, -1, topic_id)
    row = (offset_key(OffsetKey(group, topic, partition)), position_value(value, version))
    append(log, [row], producer_id=producer_id, producer_epoch=0 if producer_id >= 0 else -1)


def forget(log: SourceLog, group: str, *, topic: str = "orders", partition: int = 0) -> None:
    """The position is deleted: the group was, or it expired."""
    append(log, [(offset_key(OffsetKey(group, topic, partition)), None)])


def group_record(log: SourceLog, group: str, value: bytes | None, *, version: int = 2) -> None:
    append(log, [(group_key(group, version), value)])


def transaction(
    log: SourceLog,
    transactional_id: str,
    state: TransactionState | None,
    *,
    producer_id: int = 7,
    producer_epoch: int = 0,
    partitions: Sequence[tuple[str, int]] = (),
    started_ms: int = 100,
    updated_ms: int = 200,
    client_version: int = 0,
    previous_producer_id: int = -1,
) -> None:
    """A record of the transaction coordinator; None: the transactional id expired."""
    value = None
    if state is not None:
        value = transaction_value(
            TransactionEntry(
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                timeout_ms=60_000,
                state=state,
                partitions=tuple(partitions),
                updated_ms=updated_ms,
                started_ms=started_ms,
                previous_producer_id=previous_producer_id,
                client_version=client_version,
            )
        )
    append(log, [(transactional_id_key(transactional_id), value)], timestamp_ms=updated_ms)

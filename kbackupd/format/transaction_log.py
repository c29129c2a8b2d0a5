"""Records of `__transaction_state`: what a transaction coordinator decided, and when.

Source: `TransactionLogKey` and `TransactionLogValue` among the message definitions of Apache Kafka's transaction
coordinator (0.11 to 4.3), KIP-98, KIP-890, KIP-915; docs/internal-topics.md.
"""

from __future__ import annotations

from kbackupd.format.coordinator_fields import FieldReader, UnknownRecordError, tagged_int16, tagged_int64
from kbackupd.format.records import MalformedRecordError
from kbackupd.model.coordinators import TransactionEntry, TransactionState

_PREVIOUS_PRODUCER_ID, _NEXT_PRODUCER_ID, _CLIENT_VERSION, _NEXT_PRODUCER_EPOCH = range(4)
"""Tags, from value version 1 on."""
_STATES = {int(state): state for state in TransactionState}
_WHAT = "transaction"


def decode_transactional_id(key: bytes) -> str:
    """The key of a record.

    Raises:
        MalformedRecordError: the bytes are no such key.
        UnknownRecordError: a version above 0.
    """
    reader = FieldReader("key of __transaction_state", key)
    version = reader.int16()
    if version != 0:
        raise _unknown_version("transaction key", version)
    found = reader.string()
    reader.end()
    return found


def decode_transaction(value: bytes) -> TransactionEntry:
    """The value of a record.

    Raises:
        MalformedRecordError: the bytes are no such value.
        UnknownRecordError: a version above 1, or a state that did not exist.
    """
    reader = FieldReader(_WHAT, value)
    version = reader.int16()
    if version not in (0, 1):
        raise _unknown_version(_WHAT, version)
    reader.flexible = version == 1
    producer_id, producer_epoch = reader.int64(), reader.int16()
    timeout_ms, number = reader.int32(), reader.int8()
    partitions = _partitions(reader)
    updated_ms, started_ms = reader.int64(), reader.int64()
    tags = reader.tags()
    reader.end()
    state = _STATES.get(number)
    if state is None:
        raise UnknownRecordError("transaction state", number)
    return TransactionEntry(
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        timeout_ms=timeout_ms,
        state=state,
        partitions=partitions,
        updated_ms=updated_ms,
        started_ms=started_ms,
        previous_producer_id=tagged_int64(tags, _PREVIOUS_PRODUCER_ID, -1, _WHAT),
        next_producer_id=tagged_int64(tags, _NEXT_PRODUCER_ID, -1, _WHAT),
        next_producer_epoch=tagged_int16(tags, _NEXT_PRODUCER_EPOCH, -1, _WHAT),
        client_version=tagged_int16(tags, _CLIENT_VERSION, 0, _WHAT),
    )


def _partitions(reader: FieldReader) -> tuple[tuple[str, int], ...]:
    """As Kafka keeps them: numbers by topic. Null (outside of a transaction) is none."""
    found: list[tuple[str, int]] = []
    for _ in range(reader.array_length() or 0):
        topic = reader.string()
        count = reader.array_length()
        if count is None:
            raise MalformedRecordError(f"{_WHAT}: null where partition numbers must be")
        found += [(topic, reader.int32()) for _ in range(count)]
        reader.tags()
    return tuple(found)


def _unknown_version(what: str, version: int) -> ValueError:
    if version < 0:
        return MalformedRecordError(f"{what}: senseless version {version}")
    return UnknownRecordError(f"{what} version", version)

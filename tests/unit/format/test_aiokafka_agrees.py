"""aiokafka's own batch builder and reader, which share no line with ours, see the same batches."""

from __future__ import annotations

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.format.codecs import CODEC_NAMES, decompress_payload
from kbackupd.format.header import HEADER_BYTES, crc_holds
from kbackupd.format.records import (
    RawRecord,
    build_batch,
    decode_record,
    encode_body,
    iter_records,
    rewrite_for_produce,
)
from kbackupd.model.segment import RunFlag

NOW_MS = 1_774_300_000_000
RECORDS = [
    (0, NOW_MS, b"key", b"value" * 50, [("a", b"1"), ("a", None), ("ü", b"")]),
    (1, NOW_MS - 25 * 86_400_000, None, b"", []),
    (2, 0, b"", None, []),
]


def built_by_aiokafka(codec: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=1,
        producer_id=4001,
        producer_epoch=2,
        base_sequence=17,
        batch_size=1 << 20,
    )
    for offset, timestamp, key, value, headers in RECORDS:
        assert builder.append(offset, timestamp=timestamp, key=key, value=value, headers=headers)
    return bytes(builder.build())


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_batches_built_by_aiokafka_are_read_field_by_field(codec: int) -> None:
    data = built_by_aiokafka(codec)
    [(header, part)] = iter_batches(data)
    assert crc_holds(header, part)
    assert (header.codec, header.record_count, header.next_offset) == (codec, 3, 3)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (4001, 2, 17)
    assert (header.base_timestamp, header.max_timestamp) == (NOW_MS, NOW_MS)
    found = [
        (record.offset_delta, NOW_MS + record.timestamp_delta, *decode_record(record.body))
        for record in iter_records(decompress_payload(codec, part[HEADER_BYTES:]), header.record_count)
    ]
    assert found == [
        (offset, timestamp, key, value, tuple((name.encode(), content) for name, content in headers))
        for offset, timestamp, key, value, headers in RECORDS
    ]


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_batches_built_by_aiokafka_scan_whole(codec: int) -> None:
    data = built_by_aiokafka(codec)
    scan = scan_batches(data, asked_offset=0)
    assert (scan.good_bytes, scan.batches, scan.records, scan.next_offset) == (len(data), 1, 3, 3)
    assert scan.flags == RunFlag.TRANSACTIONAL
    assert scan.compressed_bytes == (len(data) if codec else 0)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_aiokafka_reads_what_we_build(codec: int) -> None:
    kept = [
        RawRecord(0, timestamp - NOW_MS, offset, encode_body(key, value, [(n.encode(), c) for n, c in headers]))
        for offset, timestamp, key, value, headers in RECORDS
    ]
    data = build_batch(kept, codec=codec, base_offset=2**33, base_timestamp_ms=NOW_MS)
    records = MemoryRecords(data)
    batch = records.next_batch()
    assert isinstance(batch, DefaultRecordBatch)
    assert batch.validate_crc()
    found = [(r.offset - 2**33, r.timestamp, r.key, r.value, list(r.headers)) for r in batch]
    assert found == RECORDS


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_aiokafka_reads_what_we_rewrite_for_produce(codec: int) -> None:
    ours = rewrite_for_produce(built_by_aiokafka(codec), producer_id=9, producer_epoch=1, base_sequence=5)
    batch = MemoryRecords(bytes(ours)).next_batch()
    assert isinstance(batch, DefaultRecordBatch)
    assert batch.validate_crc()
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (9, 1, 5)
    assert not batch.is_transactional
    assert [(r.key, r.value) for r in batch] == [(key, value) for _, _, key, value, _ in RECORDS]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2])
def test_legacy_message_sets_built_by_aiokafka_scan_whole(magic: int, codec: int) -> None:
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=1 << 20)
    for offset in range(3):
        assert builder.append(offset, timestamp=NOW_MS + offset, key=b"k", value=b"v" * 100)
    data = bytes(builder.build())
    scan = scan_batches(data, asked_offset=0)
    assert (scan.good_bytes, scan.corrupt_bytes, scan.flags) == (len(data), 0, RunFlag.LEGACY_MAGIC)
    # A wrapper says nothing of what is inside: a client writes offset and time 0, the broker the last message's.
    assert (scan.batches, scan.next_offset) == ((1, 1) if codec else (3, 3))
    assert scan.compressed_bytes == (len(data) if codec else 0)
    if not codec:
        assert scan.max_timestamp_ms == (NOW_MS + 2 if magic else -1)

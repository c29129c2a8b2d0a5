"""`--deep` against segments whose checksums all hold and which nevertheless lie: a defective writer, no flipped bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from crc32c import crc32c

from kbackupd.format.batch import scan_batches
from kbackupd.format.codecs import GZIP, compress_payload
from kbackupd.format.header import CRC_COVERS_FROM
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.segment import RunDraft, SegmentDraft, seal
from kbackupd.model.path import RecordBatches
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import TransactionOutcome
from kbackupd.validate.report import Code, Finding, Severity
from kbackupd.validate.validate import validate
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.unit.format.test_legacy import message

TOPIC = TopicId("AAAAAAAAAAAAAAAAAAAAAA")
ID = PartitionId(TOPIC, 3)


def batch(values: list[bytes], *, base_offset: int = 0, codec: int = 0, last_offset_delta: int | None = None) -> bytes:
    records = [RawRecord(0, 0, number, encode_body(None, value)) for number, value in enumerate(values)]
    return build_batch(
        records, base_offset=base_offset, codec=codec, base_timestamp_ms=7, last_offset_delta=last_offset_delta
    )


def with_crc(data: bytearray) -> bytes:
    """`data`, changed by the test, with a checksum that holds again."""
    data[17:21] = crc32c(bytes(data[CRC_COVERS_FROM:])).to_bytes(4, "big")
    return bytes(data)


def drafted(data: bytes, **lies: int) -> RunDraft:
    scan = scan_batches(data, asked_offset=0)
    draft = RunDraft.of(
        RecordBatches(id=ID, system=False, asked_offset=0, branch=0, replica=1, captured_ms=0, chunk=data, scan=scan)
    )
    for name, value in lies.items():
        setattr(draft, name, value)
    return draft


async def deep_findings(run: RunDraft, *, outcomes: tuple[TransactionOutcome, ...] = ()) -> list[Finding]:
    """What deep validation says of an archive with this one run, its continuity left out."""
    built = await ArchiveBuilder.create()
    await built.start()
    sealed = seal(
        SegmentDraft(
            identity=built.document.identity,
            writer="main",
            writer_epoch=1,
            seq=0,
            previous=None,
            sealed_ms=0,
            sealed_monotonic_ms=0,
            topics={TOPIC: "orders"},
            runs=[run],
            outcomes=outcomes,
        ),
        codec="zstd",
    )
    await built.scoped.put_if_absent(sealed.ref.key, sealed.parts)
    report = await validate(built.store, BACKUP_ID, deep=True)
    return [one for one in report.findings if one.code.value.startswith("content.")]


async def test_a_run_that_is_what_its_index_says_has_no_finding() -> None:
    for codec in range(5):
        data = batch([b"a", b"b"], codec=codec) + batch([b"c"], base_offset=2, codec=codec)
        assert await deep_findings(drafted(data)) == []


@pytest.mark.parametrize(
    "lie",
    [
        {"batches": 3},
        {"records": 4},
        {"next_offset": 4},
        {"first_offset": 1},
        {"flags": 2},
        {"base_timestamp_ms": 6},
        {"max_timestamp_ms": 8},
        {"largest_batch_bytes": 1},
    ],
    ids=lambda lie: next(iter(lie)),
)
async def test_an_index_row_that_counts_otherwise_than_the_batches_is_told(lie: dict[str, int]) -> None:
    (finding,) = await deep_findings(drafted(batch([b"a", b"b"]) + batch([b"c"], base_offset=2), **lie))
    assert finding.severity is Severity.ERROR
    assert (finding.topic, finding.partition) == ("orders", 3)
    assert next(iter(lie)).removesuffix("_ms").removesuffix("_bytes") in finding.message


@pytest.mark.parametrize("count", [1, 3])
async def test_a_batch_whose_payload_holds_more_or_fewer_records_than_its_header_says_is_told(count: int) -> None:
    data = bytearray(batch([b"a", b"b"], base_offset=0, last_offset_delta=5))
    data[57:61] = count.to_bytes(4, "big")
    (finding,) = await deep_findings(drafted(with_crc(data)))
    assert finding.code is Code.CONTENT_BATCH
    assert (finding.first_offset, finding.next_offset) == (0, 6)


async def test_a_batch_whose_payload_does_not_decompress_is_told_by_its_offsets_and_not_its_runs() -> None:
    broken = bytearray(batch([b"b" * 50], base_offset=1, codec=4))
    broken[-10:] = b"\0" * 10
    data = batch([b"a"], codec=4) + with_crc(broken) + batch([b"c"], base_offset=2, codec=4)
    (finding,) = await deep_findings(drafted(data))
    assert finding.severity is Severity.ERROR
    assert (finding.first_offset, finding.next_offset) == (1, 2)


async def test_records_out_of_order_inside_a_batch_are_told() -> None:
    records = [RawRecord(0, 0, delta, encode_body(None, b"x")) for delta in (1, 0)]
    (finding,) = await deep_findings(drafted(build_batch(records, base_timestamp_ms=7, last_offset_delta=1)))
    assert "out of order" in finding.message


async def test_a_codec_nobody_knows_yet_is_kept_and_is_information() -> None:
    data = bytearray(batch([b"a"]))
    data[22] |= 7
    (finding,) = await deep_findings(drafted(with_crc(data)))
    assert (finding.severity, finding.code) == (Severity.INFORMATION, Code.CONTENT_OPAQUE)


async def test_a_marker_that_the_outcomes_table_lacks_or_invents_is_told() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    log = built.log(topic, 0)
    log.append([b"a"], transactional=True, producer_id=9)
    marker = log.end_transaction(9, committed=True)
    (lacking,) = await deep_findings(drafted(b"".join(log.batches)))
    assert "not in the outcomes table" in lacking.message
    true = TransactionOutcome(id=ID, offset=1, producer_id=9, producer_epoch=0, committed=True)
    assert marker
    assert await deep_findings(drafted(b"".join(log.batches)), outcomes=(true,)) == []
    wrong = replace(true, committed=False)
    assert len(await deep_findings(drafted(b"".join(log.batches)), outcomes=(wrong,))) == 2


@pytest.mark.parametrize("magic", [0, 1])
async def test_a_legacy_wrapper_that_no_restore_could_unwrap_is_found(magic: int) -> None:
    inside = message(0, b"k", b"v", magic=magic)
    good = message(0, None, compress_payload(GZIP, inside), magic=magic, attributes=GZIP)
    bad = message(0, None, b"no gzip at all", magic=magic, attributes=GZIP)

    assert await deep_findings(drafted(good)) == []
    [finding] = await deep_findings(drafted(bad))

    assert (finding.severity, finding.code, finding.object is not None) == (Severity.ERROR, Code.CONTENT_BATCH, True)

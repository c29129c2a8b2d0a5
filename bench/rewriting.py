"""What a restore's own work costs, without store and broker: `python -m bench.rewriting [--record-bytes 500]`.

Processor time of turning stored batches into batches to produce, by what is wanted of them. Each figure is the best of
a few rounds over the same batches in memory.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import NamedTuple

from kbackupd.format.codecs import CODEC_NAMES, NONE, ZSTD
from kbackupd.format.header import BatchHeader, parse_header
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.model.scope import RecordPatterns, TimeWindow
from kbackupd.restore.cut import EVERYTHING, PartitionCut, RecordFilter
from kbackupd.restore.produce_batch import ProducerIdentity
from kbackupd.restore.provenance import Provenance
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.visibility import Outcomes

_BASE_MS = 1_760_000_000_000
_SPREAD_MS = 5_000
_TOTAL_BYTES = 64 << 20
_BATCH_BYTES = 64 << 10
_ROUNDS = 3
_WORDS = ("order", "payment", "refund", "customer", "invoice", "shipment", "pending", "paid")


class Stored(NamedTuple):
    header: BatchHeader
    data: memoryview
    first_offset: int
    next_offset: int


def stored_batches(codec: int, record_bytes: int, *, log_append_time: bool = False) -> list[Stored]:
    """Batches of shuffled timestamps, all within the same few seconds."""
    chance = random.Random(record_bytes)
    found: list[Stored] = []
    offset = 0
    count = max(_BATCH_BYTES // (record_bytes + 20), 1)
    while offset * (record_bytes + 20) < _TOTAL_BYTES:
        bodies = [encode_body(b"key-%d" % n, _value(chance, offset + n, record_bytes)) for n in range(count)]
        records = [RawRecord(0, chance.randrange(_SPREAD_MS), n, body) for n, body in enumerate(bodies)]
        data = build_batch(
            records,
            codec=codec,
            base_offset=offset,
            base_timestamp_ms=_BASE_MS,
            log_append_time=log_append_time,
        )
        found.append(Stored(parse_header(data, 0), memoryview(data), 0, offset + count))
        offset += count
    return found


def _value(chance: random.Random, serial: int, size: int) -> bytes:
    text = f'{{"serial": {serial}, "amount": {chance.randrange(10_000)}, "note": "'
    while len(text) < size:
        text += chance.choice(_WORDS) + " "
    return f'{text[: size - 2]}"}}'.encode()


def measure(name: str, batches: list[Stored], record_bytes: int, cut: PartitionCut, provenance: bool = False) -> None:
    best = float("inf")
    for _ in range(_ROUNDS):
        rewriter = PartitionRewriter(
            outcomes=Outcomes(()),
            producer=ProducerIdentity(1, 0),
            max_batch_bytes=16 << 20,
            cut=cut,
            provenance=Provenance("orders", 0) if provenance else None,
        )
        began = time.process_time()
        for batch in batches:
            rewriter.rewrite(batch)
        best = min(best, time.process_time() - began)
    records = sum(batch.header.record_count for batch in batches)
    raw_bytes = records * (record_bytes + 20)
    tally = rewriter.tally
    print(
        f"{name:44} {records / best / 1e3:7.0f} k records/s {best / raw_bytes * (1 << 30):6.2f} CPU s/GiB"
        f"   restored {tally.restored}, fast {tally.fast_batches}, slow {tally.slow_batches}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record-bytes", type=int, default=500)
    size = parser.parse_args().record_bytes
    for codec in (NONE, ZSTD):
        print(f"{CODEC_NAMES[codec]}, records of {size} B")
        batches = stored_batches(codec, size)
        for name, cut in (
            ("everything", EVERYTHING),
            ("window, by headers", PartitionCut(window=TimeWindow(end_ms=_BASE_MS + _SPREAD_MS))),
            ("window, by timestamps: all inside", PartitionCut(window=TimeWindow(start_ms=_BASE_MS))),
            ("window, by timestamps: all outside", PartitionCut(window=TimeWindow(end_ms=_BASE_MS))),
            ("window, every batch cut", PartitionCut(window=TimeWindow(end_ms=_BASE_MS + _SPREAD_MS // 2))),
            ("filter, nothing found", PartitionCut(filter=RecordFilter(RecordPatterns(value="nowhere")))),
            ("filter, a tenth found", PartitionCut(filter=RecordFilter(RecordPatterns(key="7$")))),
        ):
            measure(f"  {name}", batches, size, cut)
        measure("  provenance headers", batches, size, EVERYTHING, provenance=True)
        measure("  LogAppendTime", stored_batches(codec, size, log_append_time=True), size, EVERYTHING)


if __name__ == "__main__":
    main()

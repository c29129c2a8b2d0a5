"""A reader of roll-ups, written from docs/format.md alone, without a line of kbackupd; see independent_reader.py."""

from __future__ import annotations

import hashlib
from typing import Any

import zstandard

from tests.independent_reader import container, need

AT = "topic partition segment "
SAMPLE = "sent_ms answered_ms log_start_offset last_stable_offset high_watermark leader_epoch"
COLUMNS = {
    "segments": "writer_epoch seq sealed_ms sealed_monotonic_ms size body_length "
    "digest_0 digest_1 digest_2 digest_3 body_0 body_1 body_2 body_3",
    "in_flight": "segment seq",
    "runs": AT + "system asked_offset first_offset next_offset branch replica captured_ms batches records flags "
    "base_timestamp max_timestamp largest_batch position stored_length raw_length codec crc32c epochs",
    "leader_epochs": "topic partition epoch start_offset",
    "outcomes": AT + "offset producer_id producer_epoch committed",
    "open_transactions": AT + "producer_id producer_epoch first_offset",
    "samples": AT + SAMPLE,
    "seen": AT + "first_offset log_start_offset high_watermark leader_epoch at_ms",
    "gaps": AT + "branch first_offset next_offset cause at_ms",
    "truncations": AT + "branch parent offset leader_epoch at_ms",
    "partitions": "topic partition runs outcomes open_transactions samples segment " + SAMPLE,
    "stretches": "topic partition branch asked_offset next_offset runs batches records stored_length raw_length "
    "first_captured_ms last_captured_ms max_timestamp first_epoch last_epoch plain",
}


def rollup(data: bytes, key: str | None = None) -> dict[str, Any]:
    """A roll-up's footer, and its tables as rows of named numbers."""
    found = container(data, key)
    footer = found["footer"]
    tables: dict[str, list[dict[str, int]]] = {name: [] for name in COLUMNS}
    index = footer["blocks"]
    at = 8
    for row in range(len(index["table"])):
        block = {column: values[row] for column, values in index.items()}
        need(block["position"] == at, "blocks follow each other")
        at += block["stored_length"]
        stored = data[block["position"] : at]
        need(hashlib.sha256(stored).hexdigest() == block["sha256"], "block: digest")
        tables[block["table"]] += rows_of(zstandard.ZstdDecompressor().decompress(stored), COLUMNS[block["table"]])
    return {"footer": footer, "tables": tables}


def rows_of(content: bytes, columns: str) -> list[dict[str, int]]:
    names = columns.split()
    count = len(content) // 8 // len(names)
    need(len(content) == count * 8 * len(names), "block: whole rows")
    rows: list[dict[str, int]] = [{} for _ in range(count)]
    for number, name in enumerate(names):
        planes = content[number * 8 * count : (number + 1) * 8 * count]
        for row in range(count):
            rows[row][name] = int.from_bytes(planes[row::count], "big", signed=True)
    return rows

"""A reader of archive format 1, written from docs/format.md alone, without a line of kbackupd.

python tests/independent_reader.py OBJECT_FILE [KEY]     prints what a container or document holds
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import zstandard

MAGIC = {
    f"KB{name}".encode() + b"\0\0\1": kind
    for name, kind in zip(
        ("SEG", "CKP", "GRP", "CLU", "RUP"), ("segment", "checkpoint", "groups", "cluster", "rollup"), strict=True
    )
}
END = b"KBEND\0\0\1"


def need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def document(data: bytes) -> dict[str, Any]:
    """The DOCUMENT of backup.json or of a claim."""
    head, tail = b'{"sha256":"', b'","document":'
    inner = data[len(head) + 64 + len(tail) : -2]
    need(data == head + hashlib.sha256(inner).hexdigest().encode() + tail + inner + b"}\n", "document: digest or shape")
    return dict(json.loads(inner))


def container(data: bytes, key: str | None = None) -> dict[str, Any]:
    """A segment or checkpoint: digest, envelope, footer and, for a segment, every run with its decompressed bytes."""
    need(len(data) >= 64 and data[-8:] == END, "trailer: end magic")
    footer_length, envelope_length, body_length = struct.unpack_from(">IIQ", data, len(data) - 56)
    need(body_length + footer_length + envelope_length + 56 == len(data), "trailer: lengths")
    body, tail = data[:body_length], data[body_length:-40]
    digest = hashlib.sha256(tail).digest()
    need(digest == data[-40:-8], "digest of footer, envelope and trailer")
    envelope = json.loads(tail[footer_length:-16])
    need(envelope["format"] == 1 and not envelope["incompatible"], "envelope: not for this reader")
    need(key is None or envelope["key"] == key, "envelope: object found under another key")
    need(MAGIC.get(body[:8]) == envelope["kind"], "magic")
    footer = json.loads(zstandard.ZstdDecompressor().decompress(tail[:footer_length]))
    need(hashlib.sha256(body).hexdigest() == footer["body_sha256"], "digest of magic and runs")
    table = footer.get("runs", {"position": []})
    rows = [{column: values[row] for column, values in table.items()} for row in range(len(table["position"]))]
    runs = []
    for run in rows:
        stored = body[run["position"] : run["position"] + run["stored_length"]]
        raw = zstandard.ZstdDecompressor().decompress(stored) if run["codec"] == 1 else stored
        need(len(raw) == run["raw_length"], f"run at {run['position']}: raw length")
        topic_id, name = footer["topics"][run["topic"]]
        runs.append({**run, "topic_id": topic_id, "name": name, "bytes": raw})
    return {"digest": digest.hex(), "envelope": envelope, "footer": footer, "runs": runs}


def show(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(path: str, key: str | None = None) -> None:
    data = Path(path).read_bytes()
    if data[:1] == b"{":
        show(json.dumps(document(data), indent=2))
        return
    found = container(data, key)
    show(" ".join((found["envelope"]["kind"], found["envelope"]["key"], found["digest"])))
    for run in found["runs"]:
        offsets = f"[{run['first_offset']}, {run['next_offset']})"
        show(f"{run['name']}/{run['partition']} {offsets} {run['batches']} batches, {len(run['bytes'])} bytes")
    for event in found["footer"].get("events", []) if "runs" in found["footer"] else []:
        show(json.dumps(event))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A roll-up's bytes: blocks and footer come back as they were written, and nothing else is taken for them."""

from __future__ import annotations

import hashlib
import random
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format import keys
from kbackupd.format.container import TAIL_READ_BYTES, NeedMore
from kbackupd.format.rollup import Mention, RollupBody, RollupHead, SealedRollup, open_rollup
from kbackupd.format.tables import COLUMNS, IN_FLIGHT, SAMPLES, SEGMENTS, BlockRef, decode_block, encode_block
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.events import Paused, TopicSeen
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import EarlierEpoch, Identity, ObjectRef
from tests.independent_rollup_reader import rollup

IDENTITY = Identity(backup_id="main", archive_id="9f3b", cluster_id="c")
ORDERS, TABLE = TopicId("b8tRS7h4TJ2Vt43Dp85v2A"), TopicId("u4bWkOHxQv-Zr0fyrqtXCw")
KEY = keys.rollup_key(keys.RollupKey("main", 1, 2, 5, 3, 0, 0))

values = st.integers(-(2**63), 2**63 - 1)


def block_of(table: str, stored: bytes, rows: int) -> BlockRef:
    return BlockRef(table, 8, len(stored), rows, 0, 0, 0, 0, hashlib.sha256(stored).hexdigest())


@given(st.lists(st.tuples(values, values), min_size=1, max_size=300))
def test_a_block_comes_back_as_it_was_written(rows: list[tuple[int, int]]) -> None:
    columns = [array("q", column) for column in zip(*rows, strict=True)]
    stored = encode_block(columns)
    assert decode_block(KEY, block_of(IN_FLIGHT, stored, len(rows)), stored) == columns


def test_blocks_that_are_made_in_several_threads_at_once_are_the_same_bytes() -> None:
    """Roll-ups are sealed in threads. A compressor that two of them shared ended the process, or spoiled a block."""
    rng = random.Random(1)
    tables = [[array("q", (rng.randrange(1000) for _ in range(2048))) for _ in range(9)] for _ in range(4)]
    alone = [encode_block(columns) for columns in tables]
    with ThreadPoolExecutor(len(tables)) as threads:
        assert list(threads.map(encode_block, tables * 50)) == alone * 50


def test_a_damaged_or_shorter_block_is_refused() -> None:
    stored = encode_block([array("q", (1, 2)), array("q", (3, 4))])
    with pytest.raises(CorruptObjectError, match="digest does not fit"):
        decode_block(KEY, block_of(IN_FLIGHT, stored, 2), stored[:-1] + b"\0")
    with pytest.raises(CorruptObjectError, match="not 3 rows of 2 columns"):
        decode_block(KEY, block_of(IN_FLIGHT, stored, 3), stored)


def head(**changes: object) -> RollupHead:
    said: dict[str, object] = {
        "level": 1,
        "generation": 0,
        "coverage": ((2, 5, 7), (3, 0, 1)),
        "sources": (ObjectRef("rollups/x", "0" * 64),),
        "topics": ((ORDERS, "orders"), (TABLE, "table")),
        "events": (
            (0, TopicSeen(topic_id=TABLE, name="table", partitions=2, internal=False, at_ms=7)),
            (2, Paused(topics="ord*", paused=True, at_ms=9)),
        ),
        "mentions": (Mention(0, 1, 2, False), Mention(1, 0, 4, True)),
        "earlier": ((2, (EarlierEpoch(writer_epoch=2, durable=((0, 7),), last=None),)),),
        "previous": ((0, None), (2, ObjectRef("segments/x", "1" * 64))),
    }
    return RollupHead(**{**said, **changes})  # type: ignore[arg-type]


def sealed(**changes: object) -> SealedRollup:
    body = RollupBody()
    body.add(SAMPLES, [array("q", (0, 1)) for _ in COLUMNS[SAMPLES]])
    body.add(SEGMENTS, [array("q", (1, 2, 3)) for _ in COLUMNS[SEGMENTS]])
    return body.seal(KEY, IDENTITY, head(**changes))


def test_a_footer_comes_back_as_it_was_written_from_the_objects_end() -> None:
    made = sealed()
    data = b"".join(made.parts)
    opened = open_rollup(KEY, data[-TAIL_READ_BYTES:], len(data), IDENTITY)
    assert not isinstance(opened, NeedMore)
    footer, ref = opened
    assert (footer, ref) == (made.footer, made.ref)
    assert footer.head == head()
    assert footer.segments == 3
    assert isinstance(open_rollup(KEY, data[-100:], len(data), IDENTITY), NeedMore)


def test_a_stranger_reads_what_was_written() -> None:
    data = b"".join(sealed().parts)
    found = rollup(data, KEY)
    assert found["tables"]["segments"][1]["seq"] == 2
    assert [row["topic"] for row in found["tables"]["samples"]] == [0, 1]
    assert found["footer"]["coverage"] == [[2, 5, 7], [3, 0, 1]]
    assert found["footer"]["events"][1] == [2, {"type": "paused", "topics": "ord*", "paused": True, "at_ms": 9}]


def read_all(data: bytes) -> None:
    opened = open_rollup(KEY, data, len(data), IDENTITY)
    assert not isinstance(opened, NeedMore)
    for block in opened[0].blocks:
        decode_block(KEY, block, data[block.position : block.end])


def test_every_flipped_byte_is_found_by_the_footer_or_by_its_block() -> None:
    data = b"".join(sealed().parts)
    for position in range(8, len(data)):
        hit = bytearray(data)
        hit[position] ^= 0x41
        with pytest.raises(CorruptObjectError):
            read_all(bytes(hit))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"level": 2}, "contradict the key"),
        ({"coverage": ((2, 5, 7), (3, 1, 2))}, "contradict the key"),
        ({"coverage": ((2, 5, 8), (3, 0, 1))}, "not one row of segments"),
        ({"coverage": ((3, 0, 1), (2, 5, 7))}, "out of order"),
        ({"mentions": (Mention(3, 1, 2, False),)}, "points beyond 3 rows"),
        ({"mentions": (Mention(0, 2, 2, False),)}, "points beyond 2 rows"),
    ],
)
def test_a_rollup_that_no_reader_would_take_is_never_written(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        sealed(**changes)


def test_a_key_is_made_and_taken_apart() -> None:
    assert KEY == "rollups/main/01/0000000002-0000000000000005-0000000003-0000000000000000-0000.kbr"
    assert keys.parse_rollup_key(KEY) == keys.RollupKey("main", 1, 2, 5, 3, 0, 0)
    assert keys.parse_rollup_key(KEY.replace("/01/", "/1/")) is None

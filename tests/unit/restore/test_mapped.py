"""Positions of the source → positions of the target, and the document that keeps them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.offset_map import decode_offset_map, encode_offset_map
from kbackupd.model.errors import CorruptObjectError, RefusedError, UnsupportedFormatError
from kbackupd.model.offset_map import (
    Exactness,
    MappedPosition,
    OffsetMapDocument,
    OffsetsMode,
    PartitionMap,
    TopicMap,
)
from kbackupd.model.positions import TopicId
from kbackupd.restore.offset_map import OffsetMap

Steps = list[tuple[int, int]]
"""(offsets that were not restored, records that were)"""

STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=15)


def partition_map(
    steps: Steps, *, first: int = 0, target_first: int = 0, trailing: int = 0, mode: OffsetsMode = OffsetsMode.COMPACT
) -> PartitionMap:
    """The map a restore leaves that met `steps` from source offset `first` on, then `trailing` unrestored offsets."""
    runs, position = OffsetMap(), first
    for hole, count in steps:
        position += hole
        runs.append(position, count)
        position += count
    mapped = list(runs.runs(target_first_offset=target_first))
    return PartitionMap(
        source_partition=0,
        target_partition=0,
        source_first_offset=first,
        source_next_offset=position + trailing,
        target_first_offset=target_first,
        target_next_offset=target_first + runs.records,
        complete=True,
        source_offsets=[run.source_offset for run in mapped],
        target_offsets=[run.target_offset for run in mapped],
        counts=[run.count for run in mapped],
        mode=mode,
    )


def document_of(*partitions: PartitionMap) -> OffsetMapDocument:
    topic = TopicMap(
        source="orders",
        topic_id=TopicId("AAAAAAAAAAAAAAAAAAAAAQ"),
        target="orders-réstored",
        target_topic_id=TopicId("AAAAAAAAAAAAAAAAAAAAAg"),
        partitions=partitions,
    )
    return OffsetMapDocument(
        archive="s3://bucket/main",
        backup_id="main",
        archive_id="a",
        source_cluster_id="s",
        target_cluster_id="t",
        made_ms=1,
        topics=(topic,),
    )


@given(STEPS, st.integers(0, 50), st.integers(0, 50), st.integers(0, 3))
def test_hazard_32_a_position_maps_to_the_first_restored_record_at_or_after_it(
    steps: Steps, first: int, target_first: int, trailing: int
) -> None:
    one = partition_map(steps, first=first, target_first=target_first, trailing=trailing)
    records: dict[int, int] = {}
    position = first
    for hole, count in steps:
        for offset in range(position + hole, position + hole + count):
            records[offset] = target_first + len(records)
        position += hole + count

    for asked in range(first - 3, position + trailing + 4):
        at_or_after = [offset for offset in sorted(records) if offset >= asked]
        expected = records[at_or_after[0]] if at_or_after else target_first + len(records)
        answer = one.mapped(asked)
        assert answer.target_offset == expected
        if asked in records:
            assert answer.exactness is Exactness.EXACT
        elif asked < first:
            assert answer.exactness is Exactness.BEFORE_START
        else:
            assert answer.exactness is (Exactness.NEXT if at_or_after else Exactness.END)


def test_with_preserved_offsets_every_position_of_the_range_is_its_own() -> None:
    one = partition_map([(2, 3), (1, 1)], first=10, target_first=10, trailing=1, mode=OffsetsMode.PRESERVE)
    one = replace(one, target_next_offset=one.source_next_offset)

    assert [(one.mapped(p).target_offset, one.mapped(p).exactness) for p in (9, 10, 15, 17, 18, 99)] == [
        (10, Exactness.BEFORE_START),
        (10, Exactness.EXACT),
        (15, Exactness.EXACT),
        (17, Exactness.EXACT),
        (18, Exactness.END),
        (18, Exactness.END),
    ]


def test_a_partition_without_records_has_only_an_end() -> None:
    one = partition_map([], first=7, target_first=3, trailing=2)

    assert one.mapped(8) == MappedPosition(8, 3, Exactness.END)
    assert one.mapped(0) == MappedPosition(0, 3, Exactness.BEFORE_START)


@given(STEPS)
def test_a_document_comes_back_as_it_was_written(steps: Steps) -> None:
    written = document_of(partition_map(steps), partition_map([]))

    read = decode_offset_map("map.json", encode_offset_map(written))

    assert replace(read, digest="") == written


def test_the_digest_is_what_the_document_says_it_is() -> None:
    written = json.loads(encode_offset_map(document_of(partition_map([(1, 2)]))))

    digest = written.pop("digest")

    canonical = json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert digest == "sha256:" + hashlib.sha256(canonical).hexdigest()


def test_a_map_laid_out_anew_is_still_the_same_map() -> None:
    data = encode_offset_map(document_of(partition_map([(1, 2)])))

    assert decode_offset_map("map.json", json.dumps(json.loads(data), indent=4).encode()) == decode_offset_map(
        "m", data
    )


def test_a_changed_number_is_found() -> None:
    data = encode_offset_map(document_of(partition_map([(1, 2)])))

    with pytest.raises(CorruptObjectError, match="digest does not fit"):
        decode_offset_map("map.json", data.replace(b'"counts":[2]', b'"counts":[1]'))


def test_a_map_that_was_cut_off_is_damaged_and_a_later_format_is_refused() -> None:
    data = encode_offset_map(document_of())

    with pytest.raises(CorruptObjectError, match="cut off"):
        decode_offset_map("map.json", data[:-20])
    with pytest.raises(UnsupportedFormatError, match="format 2"):
        decode_offset_map("map.json", data.replace(b'"format":1', b'"format":2'))
    with pytest.raises(RefusedError, match="kind 'offset-plan'"):
        decode_offset_map("map.json", data.replace(b'"offset-map"', b'"offset-plan"'))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"counts": [2]}, "differ in length"),
        ({"source_offsets": [1, 2]}, "overlaps"),
        ({"target_offsets": [0, 1]}, "overlaps"),
        ({"source_next_offset": 3}, "beyond its ranges"),
    ],
)
def test_runs_that_contradict_each_other_are_refused(changes: dict[str, object], problem: str) -> None:
    one = replace(partition_map([(1, 2), (1, 2)]), **changes)  # type: ignore[arg-type]

    with pytest.raises(CorruptObjectError, match=problem):
        decode_offset_map("map.json", encode_offset_map(document_of(one)))


def test_hazard_35_a_hundred_thousand_runs_are_a_file_of_some_megabytes() -> None:
    count = 100_000
    one = partition_map([(1, 1)] * count)

    assert len(encode_offset_map(document_of(one))) < 25 * count

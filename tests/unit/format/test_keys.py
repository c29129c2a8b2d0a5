"""Keys: their order is the archive's order, and only one key names one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.keys import (
    CheckpointKey,
    ClaimKey,
    SegmentKey,
    SnapshotKey,
    SnapshotKind,
    checkpoint_key,
    checkpoints_prefix,
    claim_key,
    claims_prefix,
    parse_checkpoint_key,
    parse_claim_key,
    parse_segment_key,
    parse_snapshot_key,
    segment_key,
    segment_seq_prefix,
    segments_prefix,
    snapshot_key,
    snapshot_number_prefix,
    snapshots_prefix,
    writer_checkpoints_prefix,
    writer_segments_prefix,
)

WRITERS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
EPOCHS = st.integers(0, 10**10 - 1)
SEQS = st.integers(0, 10**16 - 1)
SEGMENT_KEYS = st.builds(SegmentKey, WRITERS, EPOCHS, SEQS, st.integers(0, 10**13 - 1))


def test_keys_are_spelled_as_the_specification_says() -> None:
    assert claim_key("main", 7) == "writers/main/0000000007.json"
    assert segment_key("main", 7, 3, 1_774_300_000_000) == (
        "segments/main/0000000007/0000000000000003-1774300000000.kbs"
    )
    assert snapshot_key("groups", "main", 7, 2, 1_774_300_000_000) == (
        "groups/main/0000000007/0000000000000002-1774300000000.kbn"
    )
    assert checkpoint_key("main", 7, 2) == "checkpoints/main/0000000007/0000000000000002.kbc"


@given(SEGMENT_KEYS)
def test_segment_keys_come_back(key: SegmentKey) -> None:
    text = segment_key(*key)
    assert parse_segment_key(text) == key
    assert text.startswith(segment_seq_prefix(key.writer, key.writer_epoch, key.seq))
    assert text.startswith(segments_prefix(key.writer, key.writer_epoch))
    assert text.startswith(writer_segments_prefix(key.writer))
    assert parse_checkpoint_key(text) is None
    assert parse_claim_key(text) is None


@given(WRITERS, EPOCHS, SEQS)
def test_claim_and_checkpoint_keys_come_back(writer: str, epoch: int, number: int) -> None:
    claim, checkpoint = claim_key(writer, epoch), checkpoint_key(writer, epoch, number)
    assert parse_claim_key(claim) == ClaimKey(writer, epoch)
    assert parse_checkpoint_key(checkpoint) == CheckpointKey(writer, epoch, number)
    assert claim.startswith(claims_prefix(writer))
    assert checkpoint.startswith(checkpoints_prefix(writer, epoch))
    assert checkpoint.startswith(writer_checkpoints_prefix(writer))


@given(st.sampled_from(("groups", "cluster")), SEGMENT_KEYS)
def test_snapshot_keys_come_back(kind: SnapshotKind, key: SegmentKey) -> None:
    text = snapshot_key(kind, *key)
    assert parse_snapshot_key(text) == SnapshotKey(kind, *key)
    assert text.startswith(snapshot_number_prefix(kind, key.writer, key.writer_epoch, key.seq))
    assert text.startswith(snapshots_prefix(kind, key.writer, key.writer_epoch))
    assert parse_segment_key(text) is None
    assert parse_checkpoint_key(text) is None


@given(SEGMENT_KEYS, SEGMENT_KEYS)
def test_a_writers_keys_sort_as_its_epochs_and_sequences_do(one: SegmentKey, other: SegmentKey) -> None:
    other = other._replace(writer=one.writer)
    assert (segment_key(*one) < segment_key(*other)) == (one < other)


@given(SEGMENT_KEYS, st.integers(0, 10**16 - 1))
def test_a_listing_after_a_sequences_prefix_shows_it_and_all_later_ones(key: SegmentKey, seq: int) -> None:
    after = segment_seq_prefix(key.writer, key.writer_epoch, seq)
    assert (segment_key(*key) > after) == (key.seq >= seq)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "segments/main/0000000007/0000000000000003-1774300000000.kbs.tmp",
        "segments/main/0000000007/0000000000000003-1774300000000.kbs\n",
        "segments/main/7/3-1774300000000.kbs",
        "segments/main/0000000007/00000000000000003-1774300000000.kbs",
        "segments//0000000007/0000000000000003-1774300000000.kbs",
        "segments/../0000000007/0000000000000003-1774300000000.kbs",
        "segments/a b/0000000007/0000000000000003-1774300000000.kbs",
        "segments/main/000000000７/0000000000000003-1774300000000.kbs",
        "prefix/segments/main/0000000007/0000000000000003-1774300000000.kbs",
        "checkpoints/main/0000000007/2.kbc",
        "groups/main/0000000007/0000000000000003-1774300000000.kbs",
        "group/main/0000000007/0000000000000003-1774300000000.kbn",
        "writers/main/7.json",
        "writers/ma/in/0000000007.json",
        "backup.json",
    ],
)
def test_other_keys_are_no_keys_of_ours(key: str) -> None:
    assert parse_segment_key(key) is None
    assert parse_checkpoint_key(key) is None
    assert parse_claim_key(key) is None
    assert parse_snapshot_key(key) is None


@pytest.mark.parametrize("writer", ["", ".hidden", "a/b", "a b", "ä", "x" * 64, "main\n"])
def test_a_writer_name_that_would_break_a_key_is_refused(writer: str) -> None:
    with pytest.raises(ValueError, match="not a writer name"):
        segment_key(writer, 1, 0, 0)


@pytest.mark.parametrize(("epoch", "seq", "sealed_ms"), [(-1, 0, 0), (10**10, 0, 0), (0, 10**16, 0), (0, 0, -1)])
def test_numbers_that_would_break_the_order_of_keys_are_refused(epoch: int, seq: int, sealed_ms: int) -> None:
    with pytest.raises(ValueError, match="does not fit a key"):
        segment_key("main", epoch, seq, sealed_ms)

"""Footers, checkpoints, snapshots: every value comes back, a wrong one is refused by name, never by another error."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.checkpoint import decode_checkpoint, encode_checkpoint
from kbackupd.format.cluster_snapshot import decode_cluster, encode_cluster
from kbackupd.format.container import SEGMENT as SEGMENT_KIND
from kbackupd.format.container import NeedMore, Tail, parse_tail
from kbackupd.format.footer import check_footer, decode_footer, encode_footer
from kbackupd.format.groups_snapshot import decode_groups, encode_groups
from kbackupd.format.segment import open_footer, seal
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Checkpoint, Footer
from kbackupd.model.snapshots import ClusterContent, GroupsContent, Snapshot
from tests.unit.format.samples import (
    CLUSTER_KEY,
    GROUPS_KEY,
    IDENTITY,
    example_checkpoint,
    example_cluster,
    example_draft,
    example_groups,
)
from tests.unit.format.strategies import checkpoints, cluster_snapshots, footers, groups_snapshots
from tests.unit.format.surgery import put_together, resealed, take_apart

SEGMENT = seal(example_draft(), codec="none")
SEGMENT_BYTES = b"".join(SEGMENT.parts)
CHECKPOINT = example_checkpoint()
CHECKPOINT_BYTES = encode_checkpoint(CHECKPOINT)
GROUPS_BYTES, CLUSTER_BYTES = encode_groups(example_groups())[0], encode_cluster(example_cluster())[0]


def tail(footer_json: bytes, body_bytes: int) -> Tail:
    return Tail(kind="segment", identity=IDENTITY, footer_json=footer_json, body_bytes=body_bytes, digest="")


@given(footers())
def test_any_footer_comes_back_as_it_was(footer: Footer) -> None:
    assert decode_footer(footer.key, tail(encode_footer(footer), footer.body_bytes)) == footer


@given(checkpoints())
def test_any_checkpoint_comes_back_as_it_was(checkpoint: Checkpoint) -> None:
    assert decode_checkpoint(checkpoint.key, encode_checkpoint(checkpoint), IDENTITY) == checkpoint


@given(groups_snapshots())
def test_any_snapshot_of_groups_comes_back_as_it_was(snapshot: Snapshot[GroupsContent]) -> None:
    data, digest = encode_groups(snapshot)
    assert decode_groups(snapshot.key, data, IDENTITY) == (snapshot, digest)


@given(cluster_snapshots())
def test_any_snapshot_of_the_cluster_comes_back_as_it_was(snapshot: Snapshot[ClusterContent]) -> None:
    data, digest = encode_cluster(snapshot)
    assert decode_cluster(snapshot.key, data, IDENTITY) == (snapshot, digest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def mutate(value: Any, data: st.DataObject) -> Any:
    """Replace, drop, repeat or add one thing somewhere inside `value`."""
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or data.draw(st.integers(0, 5)) == 0:
        return data.draw(JSON)
    if isinstance(value, dict):
        name = data.draw(st.sampled_from(sorted(value)))
        if data.draw(st.integers(0, 9)) == 0:
            return {key: kept for key, kept in value.items() if key != name}
        return {**value, name: mutate(value[name], data)}
    row = data.draw(st.integers(0, len(value) - 1))
    changes = (value[:row] + value[row + 1 :], [*value, value[row]], [*value[:row], None, *value[row + 1 :]])
    choice = data.draw(st.integers(0, 8))
    if choice < len(changes):
        return changes[choice]
    return [*value[:row], mutate(value[row], data), *value[row + 1 :]]


@given(st.data())
def test_a_footer_of_any_other_content_is_refused_by_name_or_holds_together(data: st.DataObject) -> None:
    body, footer, envelope = take_apart(SEGMENT_BYTES)
    mutated = put_together(body, json.dumps(mutate(footer, data)).encode(), json.dumps(envelope).encode())
    with contextlib.suppress(CorruptObjectError):
        opened = open_footer(SEGMENT.ref.key, mutated, len(mutated))
        assert isinstance(opened, tuple)
        assert opened[0].body_bytes == len(body)
        encode_footer(opened[0])


@given(st.data())
def test_a_checkpoint_of_any_other_content_is_refused_by_name_or_holds_together(data: st.DataObject) -> None:
    body, footer, envelope = take_apart(CHECKPOINT_BYTES)
    mutated = put_together(body, json.dumps(mutate(footer, data)).encode(), json.dumps(envelope).encode())
    with contextlib.suppress(CorruptObjectError):
        read = decode_checkpoint(CHECKPOINT.key, mutated)
        assert decode_checkpoint(CHECKPOINT.key, encode_checkpoint(read)) == read


@given(st.data())
def test_a_snapshot_of_any_other_content_is_refused_by_name_or_holds_together(data: st.DataObject) -> None:
    for whole, key, decode in ((GROUPS_BYTES, GROUPS_KEY, decode_groups), (CLUSTER_BYTES, CLUSTER_KEY, decode_cluster)):
        body, footer, envelope = take_apart(whole)
        mutated = put_together(body, json.dumps(mutate(footer, data)).encode(), json.dumps(envelope).encode())
        with contextlib.suppress(CorruptObjectError):
            decode(key, mutated)


@pytest.mark.parametrize(
    "footer_json",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"writer": "\xff"}',
        b'{"writer": "\\ud800"}',
        b'{"unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_footer_that_is_no_such_json_is_refused_by_name(footer_json: bytes) -> None:
    body, _, envelope = take_apart(SEGMENT_BYTES)
    wrong = put_together(body, footer_json, json.dumps(envelope).encode())
    with pytest.raises(CorruptObjectError, match="footer: "):
        open_footer(SEGMENT.ref.key, wrong, len(wrong))


def test_members_that_a_compatible_feature_added_are_ignored() -> None:
    newer = resealed(
        SEGMENT_BYTES,
        footer=lambda footer: footer.update(sub_index=[1, 2, 3]),
        envelope=lambda envelope: envelope.update(compatible=["sub-index"], hint="later"),
    )
    opened = open_footer(SEGMENT.ref.key, newer, len(newer), IDENTITY)
    assert isinstance(opened, tuple)
    assert opened[0] == SEGMENT.footer


def edits() -> list[Any]:
    def edit(name: str, change: Any, message: str) -> Any:
        return pytest.param(change, message, id=name)

    return [
        edit("another sequence", lambda f: f.update(seq=4), "contradict the key"),
        edit("another time", lambda f: f.update(sealed_ms=1), "contradict the key"),
        edit("a topic twice", lambda f: f["topics"].append(f["topics"][0]), "stands twice"),
        edit("a topic id of another shape", lambda f: f["topics"].append(["short", "name"]), "matching regex"),
        edit("in flight after itself", lambda f: f.update(in_flight=[1, 3]), "in_flight"),
        edit("in flight out of order", lambda f: f.update(in_flight=[2, 1]), "in_flight"),
        edit("an earlier epoch that is later", lambda f: f["earlier"][0].update(writer_epoch=7), "earlier"),
        edit("an empty range", lambda f: f["earlier"][0].update(durable=[[3, 3]]), "empty or out of order"),
        edit("overlapping ranges", lambda f: f["earlier"][0].update(durable=[[0, 3], [2, 5]]), "out of order"),
        edit("a flag of the future", lambda f: f["runs"]["flags"].__setitem__(0, 64), "runs: flags"),
        edit("a run codec of the future", lambda f: f["runs"]["codec"].__setitem__(0, 2), "runs: codec"),
        edit("plain bytes of two lengths", lambda f: f["runs"]["raw_length"].__setitem__(0, 1), "lengths differ"),
        edit("offsets that go back", lambda f: f["runs"]["next_offset"].__setitem__(0, 3), "before it begins"),
        edit("runs that do not fill the body", lambda f: [column.pop() for column in f["runs"].values()], "the body"),
        edit("leader epochs that go back", lambda f: f["leader_epochs"].update(run=[0] * 4), "do not ascend"),
        edit("a crc of 33 bits", lambda f: f["runs"]["crc32c"].__setitem__(0, 2**32), "4294967295"),
        edit("an unknown event", lambda f: f["events"][0].update(type="merged"), "Invalid value 'merged'"),
        edit("an event of no topic", lambda f: f["events"][0].update(topic=9), "index 9 points beyond 3 topics"),
        edit("a gap that ends before it begins", lambda f: f["events"][4].update(next_offset=1), "ends before"),
        edit("a digest of another length", lambda f: f["previous"].update(digest="ab"), "matching regex"),
        edit("a missing member", lambda f: f.pop("samples"), "missing required field `samples`"),
        edit("a true for a number", lambda f: f["samples"]["sent_ms"].__setitem__(0, True), "got `bool`"),
        edit("a number beyond 64 bits", lambda f: f.update(sealed_monotonic_ms=2**63), "sealed_monotonic_ms"),
    ]


@pytest.mark.parametrize(("edit", "message"), edits())
def test_a_footer_that_breaks_a_rule_is_refused_and_the_rule_is_named(edit: Any, message: str) -> None:
    wrong = resealed(SEGMENT_BYTES, footer=edit)
    with pytest.raises(CorruptObjectError, match="footer: ") as caught:
        open_footer(SEGMENT.ref.key, wrong, len(wrong))
    assert message in caught.value.reason
    # What is asked before writing refuses all that reading refuses, and in the same words.
    tail = parse_tail(SEGMENT.ref.key, wrong, len(wrong), kind=SEGMENT_KIND)
    assert not isinstance(tail, NeedMore)
    with pytest.raises(CorruptObjectError) as checked:
        check_footer(SEGMENT.ref.key, tail)
    assert checked.value.reason == caught.value.reason


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.update(number=3), "contradict the key"),
        (lambda f: f.update(body_sha256=hashlib.sha256(b"").hexdigest()), "none but its magic"),
        (lambda f: f["topics"].append(f["topics"][0]), "stands twice"),
        (lambda f: f["partitions"]["next_branch"].pop(), "columns differ in length"),
        (lambda f: f["partitions"].update(topic=[0, 2]), "index 2 points beyond 2 rows"),
        (lambda f: f["leader_epochs"].update(row=[0, 1, 2]), "index 2 points beyond 2 rows"),
        (lambda f: f.update(coverage={"-1": []}), "is not a writer epoch"),
        (lambda f: f.update(coverage={"7": [[4, 0]]}), "empty or out of order"),
    ],
)
def test_a_checkpoint_that_breaks_a_rule_is_refused_and_the_rule_is_named(edit: Any, message: str) -> None:
    with pytest.raises(CorruptObjectError) as caught:
        decode_checkpoint(CHECKPOINT.key, resealed(CHECKPOINT_BYTES, footer=edit))
    assert message in caught.value.reason


def test_what_mentions_an_unknown_topic_is_not_written() -> None:
    draft = replace(example_draft(), topics={TopicId("b8tRS7h4TJ2Vt43Dp85v2A"): "orders"})
    with pytest.raises(ValueError, match="YQ2DlcVbQvyGVSgFl1rqpA"):
        seal(draft, codec="none")
    with pytest.raises(ValueError, match="b8tRS7h4TJ2Vt43Dp85v2A"):
        encode_checkpoint(replace(CHECKPOINT, topics=()))


def test_objects_of_another_archive_are_refused_by_name() -> None:
    stranger = replace(IDENTITY, cluster_id="another")
    with pytest.raises(CorruptObjectError, match="belongs to another archive"):
        open_footer(SEGMENT.ref.key, SEGMENT_BYTES, len(SEGMENT_BYTES), stranger)
    with pytest.raises(CorruptObjectError, match="belongs to another archive"):
        decode_checkpoint(CHECKPOINT.key, CHECKPOINT_BYTES, stranger)


def test_what_no_reader_would_take_is_not_written_in_the_first_place() -> None:
    with pytest.raises(ValueError, match=r"no reader would take.*in_flight"):
        seal(replace(example_draft(), in_flight=(2, 1)), codec="none")
    with pytest.raises(ValueError, match=r"no reader would take.*contradict the key"):
        encode_checkpoint(replace(CHECKPOINT, number=9))

"""Plans as files, and the rows that people write down."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.groups.document import csv_of, decode_plan, encode_plan
from kbackupd.groups.execute import rollback_plan
from kbackupd.groups.plan import PlanKind
from kbackupd.groups.positions_file import parse_positions
from kbackupd.groups.state import GroupInTarget
from kbackupd.groups.strategies import GivenPosition
from kbackupd.model.errors import CorruptObjectError, RefusedError, UsageError
from tests.unit.groups.examples import group, plan_of, row

PLAN = plan_of(row(9, current=7, metadata="märk"), row(None, partition=1))


def test_a_plan_comes_back_as_it_was_written_however_it_is_laid_out() -> None:
    data = encode_plan(PLAN)

    assert decode_plan("p", data) == PLAN
    assert decode_plan("p", json.dumps(json.loads(data)).encode()) == PLAN


def test_the_rows_are_what_scripts_rest_on() -> None:
    rows = json.loads(encode_plan(PLAN))["partitions"]

    assert {key: rows[0][key] for key in ("group", "topic", "partition", "current_offset", "new_offset", "reason")} == {
        "group": "g",
        "topic": "orders",
        "partition": 0,
        "current_offset": 7,
        "new_offset": 9,
        "reason": "because",
    }
    assert rows[1]["new_offset"] is None


def test_the_digest_can_be_worked_out_with_stock_tools() -> None:
    document = json.loads(encode_plan(PLAN))
    digest = document.pop("digest")

    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert digest == "sha256:" + hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"new_offset": 9', b'"new_offset": 8'), (b'"target_cluster_id": "here"', b'"target_cluster_id": "hexe"')],
)
def test_a_plan_that_was_edited_is_refused(old: bytes, new: bytes) -> None:
    data = encode_plan(PLAN)
    assert old in data

    with pytest.raises(RefusedError, match="was edited or damaged"):
        decode_plan("p", data.replace(old, new))


def test_a_row_taken_out_is_an_edit_too() -> None:
    document = json.loads(encode_plan(PLAN))
    document["partitions"].pop()

    with pytest.raises(RefusedError, match="was edited or damaged"):
        decode_plan("p", json.dumps(document).encode())


def test_a_plan_is_no_rollback_and_half_a_file_is_none() -> None:
    with pytest.raises(RefusedError, match="not the offset-rollback"):
        decode_plan("p", encode_plan(PLAN), PlanKind.ROLLBACK)
    with pytest.raises(CorruptObjectError, match="cut off"):
        decode_plan("p", encode_plan(PLAN)[:-30])


def test_a_rollback_puts_back_what_was_there_and_knows_what_it_undoes() -> None:
    undoing = rollback_plan(PLAN, {"g": group({0: 7})}, made_ms=5)

    assert [(one.partition, one.current_offset, one.new_offset) for one in undoing.partitions] == [
        (0, 9, 7),
        (1, None, None),
    ]
    assert (undoing.kind, undoing.undoes, undoing.absent_groups) == (PlanKind.ROLLBACK, PLAN.digest, ())
    assert rollback_plan(PLAN, {"g": GroupInTarget(group_id="g")}, made_ms=5).absent_groups == ("g",)


def test_a_plans_csv_is_a_file_of_positions() -> None:
    text = csv_of(PLAN)

    assert [line["new_offset"] for line in csv.DictReader(io.StringIO(text))] == ["9", ""]
    assert parse_positions("p.csv", text.encode()) == [
        GivenPosition(group="g", topic="orders", partition=0, offset=9),
        GivenPosition(group="g", topic="orders", partition=1, offset=None),
    ]
    assert parse_positions("p.json", encode_plan(PLAN)) == parse_positions("p.csv", text.encode())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.json", "[]", "has no positions"),
        ("p.json", "{", "not JSON"),
        ("p.json", '{"rows": []}', "neither a list of rows nor a plan"),
        ("p.json", '[{"topic": "t", "partition": 0, "offst": 1}]', "row 1: 'offst' is not known"),
        ("p.json", '[{"topic": "t", "partition": 0}]', "row 1: no offset"),
        ("p.json", '[{"topic": "t", "partition": 0, "offset": 1, "new_offset": 1}]', "both offset and new_offset"),
        ("p.json", '[{"topic": "t", "partition": 0, "offset": -1}]', "offset is -1"),
        ("p.json", '[{"topic": "t", "partition": 0, "offset": 1.5}]', "offset is 1.5"),
        ("p.json", '[{"topic": "t", "partition": true, "offset": 1}]', "partition is True"),
        ("p.json", '[{"partition": 0, "offset": 1}]', "no topic"),
        ("p.json", '[{"topic": "t", "offset": 1}]', "no partition"),
        ("p.json", '[{"group": "", "topic": "t", "partition": 0, "offset": 1}]', "group is not a name"),
        ("p.csv", "topic,partition,offset\nt,0\n", "line 2: not as many fields"),
        ("p.csv", "topic,partition,offset\nt,0,1,2\n", "line 2: not as many fields"),
        ("p.csv", "topic,partition,offset\nt,x,1\n", "partition is 'x'"),
        ("p.csv", "topic,partition,offset\n", "has no positions"),
    ],
)
def test_a_row_that_is_wrong_is_named(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_positions(name, text.encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_positions_or_a_usage_error(data: bytes) -> None:
    for name in ("p.json", "p.csv"):
        with contextlib.suppress(UsageError):
            parse_positions(name, data)

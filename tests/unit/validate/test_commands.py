"""`list`, `describe`, `validate` and `dump` as their users call them: output, JSON and exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from kbackupd.cli.main import main
from kbackupd.format import keys
from kbackupd.model.clock import iso
from tests.archive_builder import ArchiveBuilder
from tests.unit.cli.conftest import restored_logging
from tests.unit.validate.eventful import eventful_archive

__all__ = ["restored_logging"]


@pytest.fixture(scope="module")
def built() -> ArchiveBuilder:
    return asyncio.run(eventful_archive())


@pytest.fixture
def where(built: ArchiveBuilder, tmp_path: Path) -> Path:
    """The eventful archive as a directory of files, for this test to damage."""
    for key, data in built.store.objects.items():
        path = tmp_path / "archives" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "archives"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def at(where: Path) -> tuple[str, str, str, str]:
    return "--path", f"file://{where}", "--backup-id", "main"


def test_list_shows_every_archive_and_its_json_is_one_object(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "--path", f"file://{where}") == 0
    assert "main" in capsys.readouterr().out
    assert call("list", "--path", f"file://{where}", "--format", "json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["backup_id"] for one in listed["archives"]] == ["main"]


@pytest.mark.parametrize("output", ["text", "json"])
def test_list_of_an_id_that_no_archive_has_ends_with_4_and_names_those_there_are(
    output: str, where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(path: Path) -> str:
        assert call("list", "--path", f"file://{path}", "--backup-id", "mian", "--format", output) == 4
        told = capsys.readouterr()
        assert told.out == ""
        assert f"no such object: file://{path}/mian/backup.json" in told.err
        return told.err

    assert "there is main" in said(where)
    (empty := tmp_path / "empty").mkdir()
    assert "PATH ends before its id" in said(empty)


def test_describe_names_topics_offsets_gaps_and_writers(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("describe", *at(where)) == 0
    text = capsys.readouterr().out
    for part in ("orders", "empty", "[30, 36): log_start_moved", "deleted", "started 3 times"):
        assert part in text
    assert call("describe", *at(where), "--format", "json") == 0
    described = json.loads(capsys.readouterr().out)
    assert {topic["name"] for topic in described["topics"]} == {"orders", "table", "empty"}


def test_describe_at_an_instant_shows_the_configuration_of_then(
    where: Path, built: ArchiveBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = sorted(
        one.taken_ms for key in built.keys if (one := keys.parse_snapshot_key(key)) and one.kind == "cluster"
    )
    assert call("describe", *at(where), "--at", str(taken[0])) == 0
    assert "retention.ms=604800000" in capsys.readouterr().out
    assert call("describe", *at(where), "--at", iso(taken[-1])) == 0
    text = capsys.readouterr().out
    assert "retention.ms=120000" in text
    assert "not known; denied: CLUSTER_AUTHORIZATION_FAILED (31)" in text


def test_groups_shows_positions_and_what_was_not_answered(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("groups", *at(where)) == 0
    text = capsys.readouterr().out
    for part in ("billing", "orders", "group fraud: failed: no answer in time", "grant it Describe on the Cluster"):
        assert part in text
    assert call("groups", *at(where), "--group", "b*", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    (billing,) = report["groups"]
    (position,) = billing["positions"]
    assert (billing["group_id"], position["topic"], position["offset"]) == ("billing", "orders", 8)
    assert report["complete"] is False


def test_groups_before_the_first_snapshot_ends_with_6_and_seconds_are_refused_with_2(
    where: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("groups", *at(where), "--at", "2026-01-01T00:00:00Z") == 6
    assert "the first snapshot is of 2026-01-01T00:00:0" in capsys.readouterr().err
    assert call("groups", *at(where), "--at", "1774310400") == 2
    said = capsys.readouterr().err
    assert "1970-01-21" in said
    assert "2026-03-24T00:00:00.000Z if it is seconds" in said
    assert "1774310400000 was probably meant" in said


def test_a_valid_archive_ends_with_0_and_its_json_counts_what_was_read(
    where: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("validate", *at(where), "--deep") == 0
    assert capsys.readouterr().out.startswith("VALID")
    assert call("validate", *at(where), "--deep", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is True
    assert report["checked"]["body_bytes"] > 0
    assert {one["severity"] for one in report["findings"]} == {"information"}


def test_a_flipped_byte_ends_with_3_and_names_object_topic_partition_and_offsets(
    where: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "segments/main/0000000001/0000000000000000-1767225600000.kbs"
    data = bytearray((where / "main" / key).read_bytes())
    data[200] ^= 1
    (where / "main" / key).write_bytes(bytes(data))
    assert call("validate", *at(where)) == 0
    capsys.readouterr()
    assert call("validate", *at(where), "--deep") == 3
    text = capsys.readouterr().out
    assert text.startswith("NOT VALID")
    assert f"orders/0 offsets [3, 6) in {key}" in text or f"orders/0 offsets [0, 30) in {key}" in text


def test_expectations_are_checked(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("validate", *at(where), "--expect-topic", "orders") == 0
    assert call("validate", *at(where), "--expect-topic", "payments") == 3
    assert call("validate", *at(where), "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z") == 3
    assert "not known to be up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no archive was named"),
        (("--path", "/plain/directory", "--backup-id", "main"), "file://"),
        (("--path", "file:///tmp"), "--backup-id is missing"),
        (("--path", "file:///tmp", "--backup-id", "../main"), "no backup id"),
        (("--path", "file:///tmp", "--backup-id", "main", "--from", "1711234800"), "1711234800000 was probably meant"),
        (("--path", "file:///tmp", "--backup-id", "main", "--from", "yesterday"), "not an instant"),
        (("--path", "file:///tmp", "--backup-id", "main", "--tolerance", "15"), "--tolerance"),
        (
            ("--path", "file:///tmp", "--backup-id", "main", "--from", "2026-01-02", "--to", "2026-01-01"),
            "--from is not before --to",
        ),
        (
            ("--path", "file:///tmp", "--backup-id", "main", "--from", "2026-01-02", "--to", "9999-01-01"),
            "--to: 9999-01-01T00:00:00.000Z is in the future",
        ),
    ],
)
def test_a_wrong_call_ends_with_2_and_says_how_to_do_it(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("validate", *arguments) == 2
    assert said in capsys.readouterr().err


def test_no_archive_ends_with_4_and_never_as_valid(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("validate", "describe"):
        assert call(verb, "--path", f"file://{where}", "--backup-id", "mian") == 4
        assert "kbackupd list" in capsys.readouterr().err


def test_dump_writes_a_partition_and_refuses_to_overwrite(
    where: Path, built: ArchiveBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "00000000000000000000.log"
    order = ("dump", *at(where), "--topic", "orders", "--partition", "1", "--output", str(out))
    assert call(*order) == 0
    assert out.stat().st_size > 0
    assert "in " + str(out) in capsys.readouterr().out
    assert call(*order) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--topic", "order", "--partition", "0"), "did you mean orders"),
        (("--topic", "orders", "--partition", "9"), "it has 0 to 1"),
        (("--topic", "orders", "--partition", "0", "--branch", "7"), "it has 0, 1"),
        (("--topic", "orders", "--partition", "0", "--topic-id", "A" * 22), "no incarnation"),
        (("--topic", "orders", "--partition", "0", "--from", "5", "--to", "5"), "--from is not before --to"),
        (("--topic", "orders", "--partition", "0", "--from", "1000000"), "has no record batch of orders/0 from offset"),
    ],
)
def test_dump_of_what_is_not_there_ends_with_2_and_says_what_there_is(
    where: Path, tmp_path: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("dump", *at(where), *arguments, "--output", str(tmp_path / "0.log")) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "0.log").exists()


def test_dump_to_where_no_file_can_be_is_the_users_mistake_and_not_a_fault_of_ours(
    where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("x" * 300)
    assert call("dump", *at(where), "--topic", "orders", "--partition", "0", "--output", str(out)) == 2
    said = capsys.readouterr().err
    assert "File name too long" in said
    assert "fault of kbackupd" not in said


def test_dump_over_a_hole_writes_what_there_is_and_ends_with_6(
    where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (where / "main" / "segments/main/0000000002/0000000000000000-1767225605000.kbs").unlink()
    out = tmp_path / "0.log"
    assert call("dump", *at(where), "--topic", "orders", "--partition", "0", "--output", str(out)) == 6
    assert out.exists()
    assert "[36, 42)" in capsys.readouterr().err

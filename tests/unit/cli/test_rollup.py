"""`kbackupd rollup` as its users call it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from kbackupd.cli.main import main
from tests.archive_builder import ArchiveBuilder
from tests.unit.cli.conftest import restored_logging
from tests.unit.validate.eventful import eventful_archive

__all__ = ["restored_logging"]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    stored(asyncio.run(eventful_archive()), tmp_path)
    return tmp_path


def stored(built: ArchiveBuilder, directory: Path) -> None:
    for key, data in built.store.objects.items():
        path = directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def test_a_short_archive_has_nothing_to_roll_up_and_says_so(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("rollup", "--path", f"file://{where}", "--backup-id", "main") == 0
    printed = capsys.readouterr().out
    assert "nothing to roll up" in printed
    assert "0 roll-ups and 8 footers are what a reader opens now" in printed
    assert call("rollup", "--path", f"file://{where}", "--backup-id", "main", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["uncovered"] == 8


def test_a_long_archive_is_rolled_up_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def long() -> ArchiveBuilder:
        built = await ArchiveBuilder.create()
        topic = built.topic("orders")
        life = await built.start()
        for _ in range(300):
            built.log(topic, 0).append([b"value"])
            life.capture(topic, 0)
            await life.flush()
        return built

    stored(asyncio.run(long()), tmp_path)
    arguments = ("rollup", "--path", f"file://{tmp_path}", "--backup-id", "main")
    assert call(*arguments) == 0
    printed = capsys.readouterr()
    assert "1 roll-up made" in printed.out
    assert "1 from the footers of 256 segments, 0 from others" in printed.out
    assert "1 roll-up and 44 footers are what a reader opens now" in printed.out
    assert printed.err.startswith("rollups/main/01/")
    assert call(*arguments) == 0
    assert "nothing to roll up" in capsys.readouterr().out


def test_where_no_archive_is_there_is_nothing_to_do_and_the_exit_code_says_so(
    where: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("rollup", "--path", f"file://{where}", "--backup-id", "other") == 4
    assert "kbackupd list" in capsys.readouterr().err
    (where / "main" / "backup.json").unlink()
    assert call("rollup", "--path", f"file://{where}", "--backup-id", "main") == 3
    assert "backup.json is missing" in capsys.readouterr().err

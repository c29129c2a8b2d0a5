"""What `list` shows where there is little room."""

from __future__ import annotations

import pytest
from rich.console import Console

from kbackupd.archive.describe import ArchiveSummary
from kbackupd.cli.archive_text import print_archives

CLUSTER, ARCHIVE = "5L6g3nShT-eMCtK--X86sw", "q1Sh-9_zRSuErEq8Vcy0TQ"


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_ids_are_never_folded_so_that_they_can_be_copied(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    archive = ArchiveSummary(
        backup_id="production",
        created_ms=1_764_100_000_000,
        last_sealed_ms=1_764_100_900_000,
        objects=1_234_567,
        stored_bytes=123_456_789_012,
        writers=("main",),
        cluster_id=CLUSTER,
        archive_id=ARCHIVE,
        problem=None,
    )

    print_archives(Console(width=width, force_terminal=True, color_system=None), "s3://backups", [archive])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("BACKUP ID")
    assert any(line.startswith("production ") for line in lines)
    assert any(CLUSTER in line for line in lines), lines
    assert any(ARCHIVE in line for line in lines) == (width == 160)
    assert all(len(line) <= width for line in lines)


def test_a_path_without_archives_says_where_a_path_ends(capsys: pytest.CaptureFixture[str]) -> None:
    print_archives(Console(width=200, color_system=None), "s3://backups", [])

    assert capsys.readouterr().out.splitlines() == [
        "no archives under s3://backups (an archive is PATH/BACKUP_ID/, so PATH ends before its id)"
    ]

"""How text and tables fit a terminal, whatever its width."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console, Group
from rich.text import Text

from kbackupd.cli.output import fitting, plain_table, print_sections, say

COMMAND = "  to undo: kbackupd offset-reset rollback --plan a-restore.offset-plan.json.rollback.json --config …"
PROSE = "  orders: achieved between one instant and another, of four partitions the farthest from it"


def terminal(width: int) -> Console:
    return Console(width=width, force_terminal=True, color_system=None)


def test_a_command_is_one_line_however_narrow_the_terminal_so_that_it_can_be_copied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_sections(terminal(40), [Text(COMMAND), Group(Text(COMMAND))])

    assert capsys.readouterr().out.splitlines() == [COMMAND, "", COMMAND]


@pytest.mark.parametrize("grouped", [False, True])
def test_prose_is_folded_between_words_and_what_follows_is_indented(
    capsys: pytest.CaptureFixture[str], grouped: bool
) -> None:
    print_sections(terminal(40), [Group(Text(f"to know:\n{PROSE}")) if grouped else Text(f"to know:\n{PROSE}")])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "to know:"
    assert all(len(line) <= 40 for line in lines)
    assert all(line.startswith("    ") for line in lines[2:])
    assert " ".join(line.strip() for line in lines[1:]) == PROSE.strip()


def test_a_word_that_is_longer_than_a_line_is_left_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    path = "s3://bucket/" + "a" * 60

    print_sections(terminal(40), [Text(f"from {path}")])

    assert capsys.readouterr().out.splitlines() == ["from", f"  {path}"]


def test_piped_nothing_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_sections(Console(width=40, force_terminal=False), [Text(PROSE)])

    assert capsys.readouterr().out.splitlines() == [PROSE]


def test_what_comes_behind_something_printed_is_parted_from_it_by_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_sections(terminal(40), [Text("a report")])
    print_sections(terminal(40), [Text("and its groups")], behind=True)

    assert capsys.readouterr().out == "a report\n\nand its groups\n"


@pytest.mark.parametrize(("width", "columns"), [(40, 3), (24, 2), (5, 1)])
def test_of_several_tables_the_richest_is_shown_that_needs_no_folding(width: int, columns: int) -> None:
    console = terminal(width)
    tables = [plain_table(console) for _ in range(3)]
    for table, count in zip(tables, (3, 2, 1), strict=True):
        for _ in range(count):
            table.add_column("TEN LETTRS")

    assert fitting(console, tables) is tables[3 - columns]


def test_a_hint_is_folded_as_reports_are_and_piped_it_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = (
        "hint: delete the topics that are not empty, if nobody needs them\n      or restore under other names, beside"
    )
    say([hint])
    assert capsys.readouterr().err == hint + "\n"

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    say([hint])

    assert capsys.readouterr().err.splitlines() == [
        "hint: delete the topics that are not",
        "        empty, if nobody needs them",
        "      or restore under other names,",
        "        beside",
    ]

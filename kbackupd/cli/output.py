"""How verbs print: text for people, JSON for programs, and tables that fit whatever they are printed to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum

import msgspec
from rich.box import Box
from rich.console import Console, RenderableType
from rich.table import Table

PIPED_COLUMNS = 1000
"""Width assumed where there is no terminal: nothing is ever wrapped or cut there."""

_RULED = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")


class OutputFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def count_of(count: int, noun: str, plural: str = "") -> str:
    """`1 segment`, `1,204 segments`; `plural` where it is not the noun and an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"


def stdout_console() -> Console:
    """Colours and the real width on a terminal; plain lines otherwise."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(highlight=False, markup=False, emoji=False, color_system=None, width=PIPED_COLUMNS)


def plain_table(console: Console) -> Table:
    """An empty table with a ruled header and no other lines; piped, without even that."""
    return Table(
        box=_RULED if console.is_terminal else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if console.is_terminal else 2, 0, 0),
        header_style="bold",
        show_header=True,
    )


def print_sections(console: Console, sections: Sequence[RenderableType]) -> None:
    """`sections` with an empty line between, without the blanks rich pads lines with."""
    with console.capture() as capture:
        for number, section in enumerate(sections):
            if number:
                console.print()
            console.print(section)
    for line in capture.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def print_json(report: object) -> None:
    """`report` (dataclasses, plain data) as indented JSON on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")

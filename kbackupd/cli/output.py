"""How verbs print: text for people, JSON for programs, and tables that fit whatever they are printed to."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec
from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PIPED_COLUMNS = 1000
"""Width assumed where there is no terminal: nothing is ever wrapped or cut there."""

_COMMAND = re.compile(r"\b(kbackupd [a-z]|kafka-[a-z-]+\.sh )")
"""A line with one is never folded: it is there to be copied, and the terminal folds it without cutting it in two."""

_INDENT = re.compile(r"^(hint: )?\s*")

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


def say(lines: Sequence[str]) -> None:
    """On stderr, folded as `print_sections` does."""
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    for text in lines:
        for line in folded(console, Text(text)):
            print(line.plain.rstrip(), file=sys.stderr)


def fitting(console: Console, tables: Sequence[Table]) -> Table:
    """The first of `tables`, the richest one first, that the terminal has room for; else the last. Piped, the first."""
    if not console.is_terminal:
        return tables[0]
    room = console.options.update(width=PIPED_COLUMNS)
    return next((one for one in tables if console.measure(one, options=room).maximum <= console.width), tables[-1])


def print_sections(console: Console, sections: Sequence[RenderableType], *, behind: bool = False) -> None:
    """`sections` with an empty line between, without the blanks rich pads lines with.

    Text is folded between words, what follows is indented; a line with a command stays whole. `behind`: an empty line
    first, for something else was printed before.
    """
    with console.capture() as capture:
        for number, section in enumerate(sections):
            if number or behind:
                console.print()
            for part in _parts(section):
                if isinstance(part, Text):
                    for line in folded(console, part):
                        console.print(line, soft_wrap=True)
                else:
                    console.print(part)
    sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def _parts(section: RenderableType) -> Iterator[RenderableType]:
    if isinstance(section, Group):
        for part in section.renderables:
            yield from _parts(part)
    else:
        yield section


def folded(console: Console, text: Text) -> Iterator[Text]:
    """The lines of `text`; a word that is longer than a line is left to the terminal."""
    for line in text.split("\n", allow_blank=True):
        plain = line.plain
        if not console.is_terminal or cell_len(plain) <= console.width or _COMMAND.search(plain):
            yield line
            continue
        hang = len(plain) - len(_INDENT.sub("", plain)) + 2
        breaks: list[int] = []
        begin = 0
        for word in re.finditer(r"\S+\s*", plain):
            room = console.width - (hang if breaks else 0)
            if word.start() > hang - 2 and cell_len(plain[begin : word.end()].rstrip()) > room:
                breaks.append(word.start())
                begin = word.start()
        first, *rest = line.divide(breaks)
        yield first
        for piece in rest:
            yield Text(" " * hang) + piece


def print_json(report: object) -> None:
    """`report` (dataclasses, plain data) as indented JSON on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")

"""Figures of a run over many partitions, beside the aims they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    title: str
    value: str
    aim: str = ""
    reached: bool | None = None
    """None where there is no aim."""


def held(title: str, value: float, unit: str, *, digits: int = 1, most: float | None = None, aim: str = "") -> Figure:
    """A figure that should be at most `most`; `aim` words it where the number alone does not."""
    return Figure(
        title=title,
        value=f"{value:.{digits}f} {unit}".strip(),
        aim="" if most is None else aim or f"<= {most:g} {unit}".strip(),
        reached=None if most is None else value <= most,
    )


def as_table(figures: Sequence[Figure]) -> str:
    """As Markdown: the lines that docs/performance.md needs."""
    rows = [("", "figure", "aim", "reached")]
    words = {True: "yes", False: "**no**", None: ""}
    rows += [(one.title, one.value, one.aim, words[one.reached]) for one in figures]
    return markdown(rows)

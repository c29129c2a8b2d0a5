"""What is wrong with a configuration, where it says so, and how all of it is refused at once.

Nothing here may hold a secret: messages quote values only where `fields` does, and `load` blots secrets out of what is
left (hazard 48).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from kbackupd.model.errors import ConfigurationError

KeyPath = tuple[str | int, ...]


class Refusal(ValueError):
    """A value that cannot be taken; the text quotes the whole value with `repr`, or not at all."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a line of a file, a variable, or nowhere (the default)."""

    file: str = ""
    line: int = 0
    variable: str = ""

    def __str__(self) -> str:
        if self.variable:
            return f"environment {self.variable}"
        if self.file:
            return f"{self.file}:{self.line}" if self.line else self.file
        return "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    origin: Origin
    path: KeyPath
    message: str
    hint: str = ""

    @property
    def where(self) -> str:
        return f"{self.origin}: {dotted(self.path)}" if self.path else str(self.origin)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class RefusedConfigurationError(ConfigurationError):
    """Every problem of one configuration; a single one reads as a plain sentence with its hint."""

    def __init__(self, subject: str, problems: Sequence[Problem]) -> None:
        ordered = tuple(sorted(problems, key=lambda p: (p.origin.variable, p.origin.line, str(p.path))))
        if len(ordered) == 1:
            super().__init__(ordered[0].message, hint=ordered[0].hint, where=ordered[0].where)
        else:
            listed = "".join(f"\n  {problem}" for problem in ordered)
            super().__init__(
                f"{len(ordered)} problems{listed}",
                hint="`kbackupd config reference` lists every key",
                where=subject,
            )
        self.problems = ordered


def dotted(path: KeyPath) -> str:
    """`("tiers", 0, "rpo")` → `tiers[0].rpo`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(wrong: str, known: Sequence[str], *, cutoff: float = 0.6) -> str:
    """A hint that names the nearest known name, or "" if none is near."""
    near = get_close_matches(wrong, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else ""

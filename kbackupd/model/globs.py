"""Topic globs (`*`, `?`, `[…]`, case-sensitive), and what a single `*` of one stood for. The dialect is `fnmatch`'s."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

_SPECIAL = frozenset("*?[")


def is_literal(glob: str) -> bool:
    """Whether it can only match itself."""
    return not _SPECIAL & set(glob)


def stars_in(glob: str) -> int:
    """How many `*` of it are wildcards; one in brackets is not."""
    return sum(item == "*" for item in _items(glob))


def taken_by_star(glob: str, name: str) -> str | None:
    """What the one `*` of `glob` stands for in `name`; None where the glob does not match.

    Raises:
        ValueError: there is no `*`, or more than one: which took what would be anybody's guess.
    """
    items = list(_items(glob))
    if items.count("*") != 1:
        raise ValueError(f"{glob!r} has not exactly one *")
    if not fnmatchcase(name, glob):
        return None
    # Every other item stands for exactly one character.
    before = items.index("*")
    return name[before : len(name) - (len(items) - before - 1)]


def _items(glob: str) -> Iterator[str]:
    """The glob's items: `*`, `?`, a class in brackets, or a character."""
    position = 0
    while position < len(glob):
        end = position + 1
        if glob[position] == "[":
            # As fnmatch: a bracket right behind the opening one (or its !) belongs to the class, an open one is itself.
            inside = end + (glob[end : end + 1] == "!")
            closing = glob.find("]", inside + 1)
            end = closing + 1 if closing >= 0 else end
        yield glob[position:end]
        position = end

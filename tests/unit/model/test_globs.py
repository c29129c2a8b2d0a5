"""Globs over topic names, and what their `*` stood for."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kbackupd.model.globs import stars_in, taken_by_star

_CHARACTERS = st.text(alphabet="ab!*?[]-", max_size=8)


@pytest.mark.parametrize(
    ("glob", "name", "taken"),
    [
        ("orders-*", "orders-eu", "eu"),
        ("*", "orders", "orders"),
        ("*-orders", "eu-orders", "eu"),
        ("a*a", "aa", ""),
        ("?[ab]*[!c]", "xaYd", "Y"),
        ("[*]*", "*x", "x"),
        ("[]*]*", "]x", "x"),
        ("orders-*", "payments", None),
    ],
)
def test_what_the_star_of_a_glob_stood_for(glob: str, name: str, taken: str | None) -> None:
    assert taken_by_star(glob, name) == taken


@pytest.mark.parametrize("glob", ["orders", "*-*", "**", "[*]"])
def test_with_no_star_or_several_it_is_nobodys_guess(glob: str) -> None:
    with pytest.raises(ValueError, match="not exactly one"):
        taken_by_star(glob, "x")


@given(before=_CHARACTERS, after=_CHARACTERS, name=st.text(alphabet="ab!*?[]-", max_size=12))
def test_what_is_taken_is_what_fnmatch_leaves_to_the_star(before: str, after: str, name: str) -> None:
    glob = f"{before}*{after}"
    assume(stars_in(glob) == 1 and stars_in(before) == stars_in(after) == 0)
    taken = taken_by_star(glob, name)
    assert (taken is not None) == fnmatchcase(name, glob)
    if taken is not None:
        ends = [at for at in range(len(name) + 1) if name[at:].startswith(taken)]
        assert any(fnmatchcase(name[:at], before) and fnmatchcase(name[at + len(taken) :], after) for at in ends)

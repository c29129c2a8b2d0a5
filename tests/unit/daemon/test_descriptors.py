"""The limit of open files: taken as far as it goes, and refused in one sentence where it is too low."""

from __future__ import annotations

import resource

import pytest

from kbackupd.daemon import descriptors
from kbackupd.model.errors import ConfigurationError


class Limits:
    """The kernel's side."""

    def __init__(self, soft: int, hard: int, *, fixed: bool = False) -> None:
        self.now = (soft, hard)
        self._fixed = fixed

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if self._fixed:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


def under(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)


def test_the_limit_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(32, 4096)
    under(limits, monkeypatch)
    assert descriptors.allow_descriptors() == 4096
    assert limits.now == (4096, 4096)


def test_where_it_cannot_be_raised_what_there_is_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    under(Limits(1024, resource.RLIM_INFINITY, fixed=True), monkeypatch)
    assert descriptors.allow_descriptors() == 1024


def test_no_limit_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    under(Limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY), monkeypatch)
    assert descriptors.allow_descriptors() == resource.RLIM_INFINITY


def test_too_few_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    under(Limits(24, 24), monkeypatch)
    with pytest.raises(ConfigurationError, match="may have 24 files and connections open, and needs 64") as refused:
        descriptors.allow_descriptors()
    assert "LimitNOFILE" in refused.value.hint

"""Ctrl-C of a demo ends it as Ctrl-C, whatever a library in between makes of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from kbackupd.testbed import demo


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As they were, for the tests behind it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_c_library_met_is_still_one(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tell(_: demo.Demo) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as met:
            raise TypeError("expected configuration property name as type unicode string") from met

    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(demo.Demo, "tell", tell)

    assert demo.main() == 130
    assert capsys.readouterr().out == "interrupted; nothing is left running\n"


def test_an_error_that_nobody_asked_for_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(_: demo.Demo) -> None:
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(demo.Demo, "tell", tell)

    with pytest.raises(TypeError, match="a mistake of ours"):
        demo.main()

"""The soak itself, for about a minute: what `make soak` does for hours must hold for two rounds of a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbackupd.testbed.soak import soak
from kbackupd.testbed.soak_run import Options


@pytest.mark.timeout(900)
def test_two_rounds_of_random_faults_leave_an_archive_that_is_exactly_what_was_produced(short_path: Path) -> None:
    told: list[str] = []
    options = Options(seed=60, rounds=2, round_seconds=12.0, nodes=1, rate=0.4, breaks=(0.5, 2.0))
    passed = soak(options, short_path / "soak", told.append)
    report = "\n".join(told)
    assert passed, report
    # That it looked at something: faults struck, the daemon was started again, and records came back.
    figures = {line.split()[0]: line for line in told if line.startswith("  ")}
    assert "SIG" in figures["faults"]
    assert "differences  0" in figures["differences"]
    restored = int(figures["restored"].split()[1].replace(",", ""))
    assert restored > 3_000, report

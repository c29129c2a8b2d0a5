"""The share of `memory_limit` that may hold data (I9)."""

from __future__ import annotations

import gc

import pytest

from kbackupd.daemon import memory
from kbackupd.daemon.memory import RESERVE_BYTES, SMALLEST_BUDGET_BYTES, budget_bytes, rss_bytes
from kbackupd.model.errors import ConfigurationError


def test_the_budget_is_what_the_process_as_it_stands_and_the_reserve_leave() -> None:
    limit = 4 << 30
    gc.collect()  # it is done before a budget is told, and may leave the process much smaller
    budget = budget_bytes(limit)
    assert abs(budget - (limit - rss_bytes() - RESERVE_BYTES)) < 64 << 20


def test_a_limit_that_leaves_too_little_is_refused_and_says_how_much_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, mib = 100 << 20, 1 << 20
    monkeypatch.setattr(memory, "rss_bytes", lambda: resident)

    leaves = r"leaves 31\.0 MiB for data: the process itself takes 100\.0 MiB"
    with pytest.raises(ConfigurationError, match=leaves) as refused:
        budget_bytes(resident + RESERVE_BYTES + SMALLEST_BUDGET_BYTES - mib)

    assert refused.value.hint == "set it to 276.0 MiB or more"
    assert budget_bytes(resident + RESERVE_BYTES + SMALLEST_BUDGET_BYTES) == SMALLEST_BUDGET_BYTES

"""The share of `memory_limit` that may hold data (I9)."""

from __future__ import annotations

import pytest

from kbackupd.daemon.memory import RESERVE_BYTES, SMALLEST_BUDGET_BYTES, budget_bytes, rss_bytes
from kbackupd.model.errors import ConfigurationError


def test_the_budget_is_what_the_process_as_it_stands_and_the_reserve_leave() -> None:
    limit = 4 << 30
    budget = budget_bytes(limit)
    assert abs(budget - (limit - rss_bytes() - RESERVE_BYTES)) < 64 << 20


def test_a_limit_that_leaves_too_little_is_refused_and_says_how_much_would_do() -> None:
    with pytest.raises(ConfigurationError, match="leaves") as refused:
        budget_bytes(rss_bytes() + RESERVE_BYTES + SMALLEST_BUDGET_BYTES // 2)
    assert "set it to" in refused.value.hint

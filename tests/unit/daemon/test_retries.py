"""What the log says of a store that fails again and again: little, and how often it happened."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from kbackupd.daemon.archive_store import retry_listener
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import StoreUnavailableError
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    """Here log lines are what it is about."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    yield
    structlog.configure(**before)


SLOW_DOWN = StoreUnavailableError("503 SlowDown", cause="throttled")
RESET = StoreUnavailableError("reset by peer", cause="reset")


def test_an_hour_of_failing_tries_is_a_line_a_minute_for_each_kind_and_the_counts_tell_all_of_them() -> None:
    clock = ManualClock()
    problems = Problems(clock)
    metrics = Metrics(clock, version="0", backup_id="b", writer="w")
    retried = retry_listener(metrics, problems, clock)
    with capture_logs() as lines:
        for _ in range(3600):
            retried("put", SLOW_DOWN, 1)
            retried("put", SLOW_DOWN, 2)
            retried("list", RESET, 2)
            clock.advance(1.0)
    told = [line for line in lines if line["log_level"] == "warning"]
    assert {line["event"] for line in told} == {events.STORE_RETRIED}
    assert len(told) == 2 * 60
    # All but those of the last minute, which nobody has had to report yet.
    assert sum(line["count"] for line in told if line["operation"] == "put") == 3600 - 59
    assert {problem.subject for problem in problems.current()} == {"store put", "store list"}


def test_one_failed_try_is_everyday_life_and_neither_said_nor_a_problem() -> None:
    clock = ManualClock()
    problems = Problems(clock)
    retried = retry_listener(Metrics(clock, version="0", backup_id="b", writer="w"), problems, clock)
    with capture_logs() as lines:
        retried("put", SLOW_DOWN, 1)
    assert [line["log_level"] for line in lines] == ["debug"]
    assert problems.current() == ()

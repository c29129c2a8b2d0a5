from __future__ import annotations

from kbackupd.model.clock import ManualClock
from kbackupd.observe.problems import Problems
from kbackupd.observe.repeats import RepeatLimiter


def test_the_first_is_reported_at_once_and_the_rest_once_a_minute_with_their_count() -> None:
    clock = ManualClock()
    repeats = RepeatLimiter(clock, interval_seconds=60)
    assert repeats.admit("broker 2") == 1
    assert [repeats.admit("broker 2") for _ in range(5)] == [None] * 5
    clock.advance(60)
    assert repeats.admit("broker 2") == 6
    assert repeats.admit("broker 2") is None


def test_keys_do_not_silence_each_other() -> None:
    repeats = RepeatLimiter(ManualClock())
    assert repeats.admit("broker 1") == 1
    assert repeats.admit("broker 2") == 1


def test_after_recovery_the_next_occurrence_is_reported_at_once_and_nothing_is_uncounted() -> None:
    repeats = RepeatLimiter(ManualClock())
    for _ in range(3):
        repeats.admit("broker 2")
    assert repeats.forget("broker 2") == 2
    assert repeats.forget("broker 2") == 0
    assert repeats.admit("broker 2") == 1


def test_memory_is_bounded_whatever_the_keys_are() -> None:
    repeats = RepeatLimiter(ManualClock(), capacity=2)
    for key in ("a", "b", "c"):
        assert repeats.admit(key) == 1
    assert repeats.admit("c") is None
    assert repeats.admit("a") == 1


def test_a_wall_clock_that_steps_back_does_not_silence_anything() -> None:
    clock = ManualClock()
    repeats = RepeatLimiter(clock, interval_seconds=60)
    repeats.admit("x")
    clock.step_wall(-3_600_000)
    clock.advance(61)
    assert repeats.admit("x") == 1


def test_a_problem_keeps_its_beginning_counts_and_shows_its_newest_message() -> None:
    clock = ManualClock()
    problems = Problems(clock)
    began = clock.now_ms()
    problems.report("s3", "timed out", hint="wait")
    clock.advance(30)
    problems.report("s3", "503 SlowDown", hint="lower the rate")
    (problem,) = problems.current()
    assert (problem.subject, problem.message, problem.hint) == ("s3", "503 SlowDown", "lower the rate")
    assert (problem.since_ms, problem.count) == (began, 2)


def test_a_problem_that_is_over_is_gone() -> None:
    problems = Problems(ManualClock())
    problems.report("s3", "timed out")
    problems.clear("s3")
    problems.clear("never there")
    assert problems.current() == ()


def test_during_a_total_outage_the_list_stays_short_and_says_that_there_are_more() -> None:
    problems = Problems(ManualClock(), capacity=3)
    for n in range(10):
        problems.report(f"orders/{n}", "no leader")
    assert [p.subject for p in problems.current()] == ["orders/0", "orders/1", "orders/2", "(others)"]
    assert problems.current()[-1].count == 7
    problems.clear("orders/1")
    assert [p.subject for p in problems.current()] == ["orders/0", "orders/2"]

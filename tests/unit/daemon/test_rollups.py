"""When the daemon has its archive rolled up, in virtual time; the process that would do it is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.snapshots import Snapshots
from kbackupd.capture.source import Source
from kbackupd.daemon.errand import Errand
from kbackupd.daemon.life import DaemonLife
from kbackupd.daemon.rollup_messages import RollupFailed, RollupMade
from kbackupd.daemon.rollups import SUBJECT, Rollups
from kbackupd.daemon.service import Service
from kbackupd.daemon.systemd import Heartbeat, ServiceManager
from kbackupd.model.clock import ManualClock
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore
from tests.fake_groups import FakeCoordinators
from tests.unit.capture.site import BACKUP_ID, Site
from tests.virtual_time import run

HOUR = 3600.0
UNAVAILABLE = RollupFailed(message="the store is away", hint="bring it back")


def made(*, due_in: int | None = 100, uncovered: int = 20, damaged: int = 0) -> RollupMade:
    return RollupMade(
        built=1,
        merged=0,
        segments=256,
        stored_bytes=1000,
        uncovered=uncovered,
        due_in={} if due_in is None else {"main": due_in},
        damaged=damaged,
        damaged_key="rollups/main/x" if damaged else "",
    )


class Rolling:
    """A daemon's roll-ups with a runner that answers as it is told."""

    def __init__(self, interval_seconds: float = HOUR) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics(self.clock, version="1")
        self.problems = Problems(self.clock)
        self.began = self.clock.monotonic()
        self.stored = 0
        self.answer: RollupMade | RollupFailed | Exception = made()
        self.takes_seconds = 0.0
        self.stored_meanwhile = 0
        self.runs: list[int] = []
        """Begun so many seconds after the start."""
        self.killed = 0
        self.rollups = Rollups(
            roll_up=self._roll_up,
            writer="main",
            stored=lambda: self.stored,
            interval_seconds=interval_seconds,
            metrics=self.metrics,
            problems=self.problems,
        )
        self.metrics.watch_rollups(self.rollups.not_rolled_up)

    async def _roll_up(self) -> RollupMade | RollupFailed:
        self.runs.append(round(self.clock.monotonic() - self.began))
        try:
            await asyncio.sleep(self.takes_seconds)
        except asyncio.CancelledError:
            self.killed += 1
            raise
        self.stored += self.stored_meanwhile
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def live(self, script: Coroutine[None, None, None]) -> None:
        async def life() -> None:
            task = asyncio.create_task(self.rollups.run())
            await script
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

        run(life(), clock=self.clock)

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("kbackupd_rollup_runs_total", {"outcome": outcome})

    def not_rolled_up(self) -> float | None:
        return self.metrics.registry.get_sample_value("kbackupd_segments_not_rolled_up")

    def complaints(self) -> list[tuple[str, str, str]]:
        return [(one.subject, one.message, one.hint) for one in self.problems.current()]


def test_the_first_run_comes_one_interval_after_the_start_so_that_a_crash_loop_rolls_nothing_up() -> None:
    rolling = Rolling()

    async def script() -> None:
        await asyncio.sleep(HOUR - 1)
        assert rolling.runs == []
        assert rolling.not_rolled_up() is None
        await asyncio.sleep(2)
        assert rolling.runs == [HOUR]
        assert rolling.not_rolled_up() == 20

    rolling.live(script())


def test_an_idle_daemon_starts_one_process_for_what_earlier_lives_left_and_none_after_that() -> None:
    rolling = Rolling()
    rolling.live(asyncio.sleep(100 * HOUR))
    assert rolling.runs == [HOUR]


def test_a_run_is_due_again_once_as_much_was_stored_as_the_last_one_said_it_takes() -> None:
    rolling = Rolling()

    async def script() -> None:
        await asyncio.sleep(1.5 * HOUR)
        rolling.stored = 99
        await asyncio.sleep(HOUR)
        assert len(rolling.runs) == 1
        assert rolling.not_rolled_up() == 20 + 99
        rolling.stored = 100
        await asyncio.sleep(HOUR)
        assert rolling.runs == [HOUR, 3 * HOUR]

    rolling.live(script())


def test_what_is_stored_during_a_run_counts_towards_the_next_one() -> None:
    rolling = Rolling()
    rolling.takes_seconds, rolling.stored_meanwhile = 60.0, 100
    rolling.live(asyncio.sleep(2.5 * HOUR))
    assert rolling.runs == [HOUR, 2 * HOUR + 60]


def test_after_another_builder_was_met_the_next_interval_looks_again() -> None:
    rolling = Rolling()
    rolling.answer = made(due_in=None)
    rolling.live(asyncio.sleep(2.5 * HOUR))
    assert rolling.runs == [HOUR, 2 * HOUR]


def test_a_failure_is_a_problem_with_a_remedy_until_a_run_succeeds() -> None:
    rolling = Rolling()
    rolling.answer = UNAVAILABLE

    async def script() -> None:
        await asyncio.sleep(HOUR + 30)
        assert rolling.complaints() == [(SUBJECT, "the store is away", "bring it back")]
        assert (rolling.count("failed"), rolling.count("ok"), rolling.count("timeout")) == (1, 0, 0)
        rolling.answer = made()
        await asyncio.sleep(60)
        assert rolling.complaints() == []
        assert rolling.count("ok") == 1

    rolling.live(script())


def test_what_keeps_failing_is_tried_less_and_less_soon_and_at_the_interval_in_the_end() -> None:
    rolling = Rolling()
    rolling.answer = UNAVAILABLE
    rolling.live(asyncio.sleep(5 * HOUR))
    gaps = [later - earlier for earlier, later in zip(rolling.runs, rolling.runs[1:], strict=False)]
    assert gaps == [60, 120, 240, 480, 960, 1920, HOUR, HOUR]


def test_one_that_ran_into_its_deadline_is_counted_apart() -> None:
    rolling = Rolling()
    rolling.answer = RollupFailed(message="ended after 6h", timed_out=True)
    rolling.live(asyncio.sleep(HOUR + 30))
    assert (rolling.count("timeout"), rolling.count("failed")) == (1, 0)


def test_a_fault_ends_a_round_and_not_the_loop() -> None:
    rolling = Rolling()
    rolling.answer = ZeroDivisionError("oops")

    async def script() -> None:
        await asyncio.sleep(HOUR + 30)
        ((_, message, hint),) = rolling.complaints()
        assert message == "unexpected ZeroDivisionError: oops"
        assert "report it" in hint
        rolling.answer = made()
        await asyncio.sleep(HOUR)
        assert rolling.complaints() == []

    rolling.live(script())


def test_damaged_objects_are_a_note_until_a_run_finds_none() -> None:
    rolling = Rolling()
    rolling.answer = made(damaged=2, due_in=0)

    async def script() -> None:
        await asyncio.sleep(HOUR + 1)
        (note,) = rolling.problems.notes()
        assert note.message == "2 objects are damaged and were left out, rollups/main/x first"
        assert rolling.complaints() == []
        rolling.answer = made()
        await asyncio.sleep(HOUR)
        assert rolling.problems.notes() == ()

    rolling.live(script())


def test_a_drain_ends_the_process_that_is_under_way() -> None:
    rolling = Rolling()
    rolling.takes_seconds = 1e6
    rolling.live(asyncio.sleep(HOUR + 5))
    assert (rolling.runs, rolling.killed) == ([HOUR], 1)


def test_a_reload_to_another_interval_holds_from_now_on() -> None:
    rolling = Rolling(interval_seconds=24 * HOUR)

    async def script() -> None:
        await asyncio.sleep(10)
        rolling.rollups.every(60.0)
        await asyncio.sleep(61)
        assert rolling.runs == [70]

    rolling.live(script())


@pytest.mark.parametrize("first", [HOUR, 0.0])
def test_off_is_never_until_a_reload_says_otherwise(first: float) -> None:
    rolling = Rolling(interval_seconds=first)

    async def script() -> None:
        await asyncio.sleep(10)
        rolling.rollups.every(0.0)
        await asyncio.sleep(100 * HOUR)
        assert rolling.runs == []
        rolling.rollups.every(HOUR)
        await asyncio.sleep(HOUR + 1)
        assert rolling.runs == [100 * HOUR + 10 + HOUR]

    rolling.live(script())


def test_what_is_switched_off_is_no_problem_any_more() -> None:
    rolling = Rolling()
    rolling.answer = UNAVAILABLE

    async def script() -> None:
        await asyncio.sleep(HOUR + 1)
        assert rolling.complaints()
        rolling.takes_seconds = 90.0
        await asyncio.sleep(60)
        rolling.rollups.every(0.0)
        await asyncio.sleep(HOUR)
        assert rolling.count("failed") == 2
        assert rolling.complaints() == []

    rolling.live(script())


def test_the_interval_counts_from_the_end_of_a_run_that_is_longer_than_it() -> None:
    rolling = Rolling()
    rolling.takes_seconds = 3 * HOUR
    rolling.answer = made(due_in=0)
    rolling.live(asyncio.sleep(5.5 * HOUR))
    assert rolling.runs == [HOUR, 5 * HOUR]


class Lived:
    """A whole life of the daemon over a fake cluster, whose roll-ups take as long as nobody ends them."""

    def __init__(self, site: Site, errand: Errand | None = None) -> None:
        site.with_settings(memory_limit_bytes=1 << 40)  # of this process, which is the tests' own
        self.site = site
        self.begun = asyncio.Event()
        self.stored_when_ended: list[int] = []
        metrics, problems = Metrics(site.clock, version="1"), Problems(site.clock)
        service = Service(settings=site.settings, clock=site.clock, metrics=metrics, problems=problems)
        self.life = DaemonLife(
            settings=site.settings,
            source=site.cluster,
            questions=FakeCoordinators(site.clock),
            store=ScopedStore(site.memory, BACKUP_ID),
            service=service,
            heart=Heartbeat(ServiceManager(), health=service.health, clock=site.clock),
            clock=site.clock,
            metrics=metrics,
            problems=problems,
            errand=errand,
            roll_up=self._roll_up,
        )

    async def _roll_up(self) -> RollupMade | RollupFailed:
        self.begun.set()
        try:
            await asyncio.sleep(1e6)
        finally:
            self.stored_when_ended.append(len(self.site.keys("segments/")))
        raise AssertionError("nobody waits for so long")


def test_a_life_ends_its_roll_up_before_the_last_flush_and_not_after_it() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    lived = Lived(site)

    async def script() -> None:
        running = asyncio.create_task(lived.life.run())
        await lived.begun.wait()
        log.append(5)
        before = len(site.keys("segments/"))
        await asyncio.sleep(1)
        lived.life.stop()
        await running
        assert lived.stored_when_ended == [before]
        assert len(site.keys("segments/")) > before

    run(script(), clock=site.clock)


def test_a_life_that_was_stopped_while_it_took_over_rolls_nothing_up() -> None:
    lived = Lived(Site.new())

    async def script() -> None:
        lived.life.stop()
        await lived.life.run()
        assert not lived.begun.is_set()

    run(script(), clock=lived.site.clock)


class Day(Errand):
    """Takes a day, as `run --once` may over a large cluster."""

    async def begin(self, store: ObjectStore) -> None:
        pass

    async def run(self, pipeline: Pipeline, snapshots: Snapshots, *, source: Source, problems: Problems) -> None:
        running = asyncio.create_task(pipeline.run())
        await asyncio.sleep(24 * HOUR)
        pipeline.stop()
        await running

    def stop(self) -> None:
        raise AssertionError("nobody stops it")


def test_a_life_with_an_errand_rolls_nothing_up() -> None:
    lived = Lived(Site.new(), Day())
    run(lived.life.run(), clock=lived.site.clock)
    assert not lived.begun.is_set()

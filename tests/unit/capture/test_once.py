"""`run --once`: it ends where logs ended when it began, whatever becomes of them, and says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import pytest

from kbackupd.capture.once_progress import OncePhase, OnceProgress
from kbackupd.capture.snapshots import Snapshots
from kbackupd.daemon.once import OnceErrand
from kbackupd.daemon.once_report import OnceReport, OnceVerdict
from kbackupd.kafka.types import KafkaErrorCode, OffsetAnswer, TopicPartition
from kbackupd.model.errors import (
    ConfigurationError,
    FencedError,
    IncompleteError,
    KafkaUnavailableError,
    StoreUnavailableError,
    principal,
)
from kbackupd.model.events import GapCause
from kbackupd.model.settings import SourceSettings, StartPolicy, StorageSettings, TopicSelection
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore
from kbackupd.validate.report import Code
from tests.fake_broker import FakeLog
from tests.fake_groups import FakeCoordinators
from tests.unit.capture.site import BACKUP_ID, Life, Site, Wire
from tests.virtual_time import Killed, run

PATIENCE_SECONDS = 60.0


class OnceRun:
    """One run of `--once` at a site; a script may do to the cluster what it likes beside it."""

    def __init__(self, site: Site, *, timeout_seconds: float | None = None, deep: bool = False) -> None:
        self.site = site
        self.groups = FakeCoordinators(site.clock)
        self.progress = OnceProgress(began_at=site.clock.monotonic())
        self.errand = OnceErrand(
            site.settings,
            clock=site.clock,
            progress=self.progress,
            timeout_seconds=timeout_seconds,
            patience_seconds=PATIENCE_SECONDS,
            deep=deep,
            opening=self._reopened,
        )
        self.life: Life | None = None

    async def _reopened(self, _: StorageSettings) -> ObjectStore:
        return self.site.memory

    async def go(self, script: Callable[[OnceRun], Awaitable[None]] | None = None) -> OnceReport:
        site = self.site
        wire = site.last_wire = Wire(site.faults, seconds=lambda key: site.upload_seconds(key))
        await self.errand.begin(ScopedStore(wire, BACKUP_ID))
        life = self.life = await site.start(wire)
        snapshots = Snapshots(
            source=self.groups,
            store=ScopedStore(wire, BACKUP_ID),
            identity=life.pipeline.identity,
            writer=site.settings.writer,
            writer_epoch=life.pipeline.writer_epoch,
            interval_seconds=60.0,
            clock=site.clock,
            metrics=life.metrics,
            problems=life.problems,
        )
        scripted = asyncio.ensure_future(script(self)) if script is not None else None
        try:
            await self.errand.run(life.pipeline, snapshots, source=site.cluster, problems=life.problems)
            if scripted is not None and scripted.done():
                await scripted
        finally:
            if scripted is not None:
                scripted.cancel()
                await asyncio.gather(scripted, return_exceptions=True)
        assert life.budget.reserved_bytes == 0
        assert self.errand.report is not None
        return self.errand.report

    async def noted(self) -> None:
        """Return when leaders have told where their logs end."""
        assert self.life is not None
        await self.life.until(lambda: self.progress.phase is OncePhase.CAPTURING, "ends noted")

    def stop(self) -> None:
        """As the first signal does."""
        assert self.life is not None
        self.errand.stop()
        self.life.pipeline.stop()


def with_a(*records: int) -> Site:
    """A site with one topic, `a`: so many records in each of its partitions."""
    site = Site.new()
    for log, count in zip(site.cluster.create("a", len(records)).logs, records, strict=True):
        if count:
            log.append(count)
    return site


def half_captured() -> tuple[Site, FakeLog]:
    """Ten batches of topic `a` that an earlier run captured, and ten since that its leader tells of and keeps back."""
    site = with_a(0)
    log = site.cluster.log("a")
    append_each(log, 10)
    once(site)
    append_each(log, 10)
    site.cluster.throttle_ms = 1_000
    return site, log


def append_each(log: FakeLog, batches: int) -> None:
    """A record in each."""
    for _ in range(batches):
        log.append(1)


def once(
    site: Site, script: Callable[[OnceRun], Awaitable[None]] | None = None, *, timeout_seconds: float | None = None
) -> OnceReport:
    one = OnceRun(site, timeout_seconds=timeout_seconds)
    return run(one.go(script), clock=site.clock)


def failure(
    site: Site, script: Callable[[OnceRun], Awaitable[None]] | None = None, *, timeout_seconds: float | None = None
) -> BaseException:
    """What ends a run that makes no report."""
    with pytest.raises(BaseExceptionGroup) as failed:
        once(site, script, timeout_seconds=timeout_seconds)
    return principal(failed.value)


def missing(report: OnceReport) -> list[tuple[str, str]]:
    return [(one.name, one.fate) for one in report.missing]


def held(site: Site, name: str, partition: int = 0) -> int:
    return site.archive().history(site.cluster.log(name, partition).id).next_offset


def test_it_captures_to_the_ends_of_the_start_and_exits_0() -> None:
    site = Site.new()
    site.cluster.create("a", 3)
    site.cluster.create("empty", 2)
    site.cluster.create("__consumer_offsets", 2, internal=True)
    for number in range(3):
        site.cluster.log("a", number).append(10 * (number + 1))
    site.cluster.log("__consumer_offsets", 1).append(4)
    began_ms = site.clock.now_ms()
    report = once(site)
    assert (report.verdict, report.exit_code) == (OnceVerdict.COMPLETE, 0)
    assert (report.partitions, report.partitions_complete) == (7, 7)
    assert (report.records, report.segments) == (64, 1)
    assert report.complete_as_of_ms is not None
    assert report.complete_as_of_ms >= began_ms
    assert report.validation is not None
    assert report.validation.valid
    assert [(row.topic, row.partitions, row.records) for row in report.topics] == [
        ("__consumer_offsets", 2, 4),
        ("a", 3, 60),
    ]
    site.check()


def test_asked_for_it_validation_reads_every_byte_and_shows_how_far_it_is() -> None:
    site = with_a(50)
    one = OnceRun(site, deep=True)
    report = run(one.go(), clock=site.clock)
    assert report.validation is not None
    assert report.validation.deep
    assert report.validation.checked.body_bytes > 0
    assert one.progress.bodies_read_bytes == one.progress.bodies_bytes == report.validation.checked.body_bytes


def test_a_cluster_without_topics_is_complete_and_nothing_waits() -> None:
    site = Site.new()
    report = once(site)
    assert (report.verdict, report.partitions, report.records, report.segments) == (OnceVerdict.COMPLETE, 0, 0, 0)


def test_a_second_run_captures_only_what_is_new() -> None:
    site = with_a(100, 100)
    once(site)
    site.cluster.log("a", 1).append(7)
    report = once(site)
    assert (report.verdict, report.records, report.partitions_complete) == (OnceVerdict.COMPLETE, 7, 2)
    assert report.writer_epoch == 2
    assert once(site).records == 0
    site.check()


def test_a_daemon_goes_on_where_it_ended_and_it_where_a_daemon_ended() -> None:
    site = with_a(10)
    assert site.run_life(Life.durable)
    site.cluster.log("a").append(5)
    assert once(site).records == 5
    site.cluster.log("a").append(3)
    assert site.run_life(Life.durable)
    site.check()


def test_producers_that_never_stop_do_not_keep_it_from_ending() -> None:
    site = Site.new()
    site.cluster.create("busy")
    log = site.cluster.log("busy")
    log.append(50)

    async def produce(_: OnceRun) -> None:
        while True:
            log.append(5)
            await asyncio.sleep(0.01)

    report = once(site, produce)
    assert report.verdict is OnceVerdict.COMPLETE
    assert report.total_seconds < 10
    history = site.archive().history(log.id)
    assert 50 <= history.next_offset < log.high_watermark
    assert not history.holes


def test_a_topic_that_ends_in_a_transaction_marker_is_complete() -> None:
    """Hazard 25."""
    site = Site.new()
    site.cluster.create("a")
    site.cluster.log("a").append(3, producer_id=7, transactional=True)
    site.cluster.log("a").end_transaction(7, committed=True)
    site.cluster.log("a").append(2, producer_id=8, transactional=True)
    report = once(site)
    assert (report.verdict, report.records) == (OnceVerdict.COMPLETE, 6)
    site.check()


def test_a_tail_that_compaction_emptied_ends_the_partition_properly() -> None:
    """Hazard 8: below the high watermark there is nothing any more, and nothing will come."""
    site = Site.new()
    site.cluster.create("compacted", 2)
    for number in range(2):
        log = site.cluster.log("compacted", number)
        for _ in range(5):
            log.append(2)
    site.cluster.log("compacted", 0).compact(keep=[0, 2])
    site.cluster.log("compacted", 1).compact(keep=[])
    report = once(site)
    assert (report.verdict, report.partitions_complete) == (OnceVerdict.COMPLETE, 2)
    assert report.total_seconds < PATIENCE_SECONDS
    assert held(site, "compacted", 0) == 4


def test_a_tier_that_is_slow_never_lets_records_in_it_pass_for_an_empty_tail() -> None:
    """KIP-405: what remote storage has not delivered within the wait is answered as nothing, and without an error."""
    site = Site.new()
    site.cluster.create("tiered").configs["remote.storage.enable"] = "true"
    log = site.cluster.log("tiered")
    for _ in range(5):
        log.append(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeLog, "read", lambda *_args, **_options: b"")
        report = once(site)
    assert (report.verdict, missing(report)) == (OnceVerdict.INCOMPLETE, [("tiered/0", "unfinished")])
    assert (report.missing[0].first_offset, report.missing[0].next_offset) == (0, 10)


def test_a_busy_neighbour_never_lets_a_full_log_pass_for_an_empty_tail() -> None:
    """A slow reader is not one that has nothing left: only an answer with room proves that."""
    site = Site.new()
    site.settings = replace(site.settings, source=replace(site.settings.source, rate_limit_bytes_per_second=400))
    site.cluster.create("slow", 2)
    for number in range(2):
        for _ in range(40):
            site.cluster.log("slow", number).append(1, value=b"x" * 100)
    report = once(site)
    assert report.verdict is OnceVerdict.COMPLETE
    assert report.records == 80
    site.check()


def test_a_paused_partition_is_named_and_nothing_waits_for_it() -> None:
    site = Site.new()
    site.cluster.create("held")
    site.cluster.create("free")
    site.cluster.log("held").append(5)

    async def pause(life: Life) -> None:
        await life.durable()
        await life.steering.pause("held")

    assert site.run_life(pause)
    site.cluster.log("held").append(4)
    site.cluster.log("free").append(3)
    report = once(site)
    assert (report.verdict, report.exit_code) == (OnceVerdict.INCOMPLETE, 6)
    (part,) = report.missing
    assert (part.name, part.fate, part.first_offset, part.next_offset) == ("held/0", "paused", 5, 9)
    assert report.total_seconds < PATIENCE_SECONDS
    assert held(site, "free") == 3


def test_what_never_answers_ends_the_run_after_its_patience_and_everything_else_is_complete() -> None:
    """Hazards 1, 41."""
    site = with_a(10, 10, 10, 10)
    site.cluster.down.add(2)
    report = once(site)
    assert report.exit_code == 6
    assert missing(report) == [("a/1", "stuck"), ("a/3", "stuck")]
    assert all("leader" in one.reason for one in report.missing)
    assert PATIENCE_SECONDS <= report.total_seconds < PATIENCE_SECONDS + 30
    assert (held(site, "a", 0), held(site, "a", 2)) == (10, 10)


def test_partitions_of_a_broker_that_does_not_answer_at_the_start_are_shown_as_held_up() -> None:
    """Hazard 44: known from an earlier run they wait in its session, and have not failed themselves."""
    site = with_a(5, 5)
    once(site)
    site.cluster.cut_off.add(2)
    one = OnceRun(site)
    assert missing(run(one.go(), clock=site.clock)) == [("a/1", "stuck")]
    assert one.progress.held_up == {"retrying": 1}


def test_a_leader_that_comes_back_in_time_is_waited_for_and_its_end_is_noted_then() -> None:
    site = with_a(0, 10)
    site.cluster.down.add(2)

    async def repair(_: OnceRun) -> None:
        await asyncio.sleep(PATIENCE_SECONDS / 2)
        site.cluster.down.clear()
        site.cluster.changed()

    report = once(site, repair)
    assert (report.verdict, report.partitions_complete) == (OnceVerdict.COMPLETE, 2)
    site.check()


def test_a_partition_that_always_fails_is_named_with_its_reason() -> None:
    site = with_a(5, 5)

    async def deny(_: OnceRun) -> None:
        site.cluster.log("a", 0).error = KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED

    report = once(site, deny)
    assert missing(report) == [("a/0", "stuck")]
    assert "TOPIC_AUTHORIZATION_FAILED" in report.missing[0].reason


def test_a_topic_that_permissions_hide_since_an_earlier_run_is_missing() -> None:
    site = Site.new()
    site.cluster.create("hidden")
    site.cluster.log("hidden").append(5)
    once(site)
    site.cluster.hidden_topics.add("hidden")
    report = once(site)
    assert (report.exit_code, missing(report)) == (6, [("hidden/0", "stuck")])
    assert "permissions hide" in report.missing[0].reason


def test_a_topic_that_metadata_answers_with_an_error_is_missing_until_it_does_not() -> None:
    site = Site.new()
    site.cluster.create("odd")
    site.cluster.create("good")
    site.cluster.topic_errors["odd"] = KafkaErrorCode.UNKNOWN_SERVER_ERROR
    assert missing(once(site)) == [("odd", "unread")]

    async def repair(_: OnceRun) -> None:
        await asyncio.sleep(10)
        site.cluster.topic_errors.clear()

    report = once(site, repair)
    assert (report.verdict, report.partitions) == (OnceVerdict.COMPLETE, 2)


def test_a_missing_literal_topic_is_no_success() -> None:
    """Hazard 12."""
    site = Site.new(include=("orders", "there"))
    site.cluster.create("there")
    report = once(site)
    assert (report.exit_code, missing(report)) == (6, [("orders", "unread")])


def test_a_topic_deleted_meanwhile_ends_and_what_was_not_captured_of_it_is_told() -> None:
    site = Site.new()
    site.cluster.create("gone")
    site.cluster.create("stays")
    site.cluster.create("empty")
    site.cluster.log("gone").append(5)
    site.cluster.log("stays").append(5)

    async def delete(one: OnceRun) -> None:
        site.cluster.log("gone").error = KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
        await asyncio.sleep(3)
        site.cluster.delete("gone")
        site.cluster.delete("empty")

    report = once(site, delete)
    assert (report.exit_code, missing(report)) == (6, [("gone/0", "deleted")])
    assert report.total_seconds < PATIENCE_SECONDS


def test_a_topic_deleted_after_its_end_was_captured_is_complete() -> None:
    site = Site.new()
    site.cluster.create("gone")
    site.cluster.create("slow")
    site.cluster.log("gone").append(5)
    site.cluster.log("slow").append(5)
    gone = site.cluster.log("gone").id

    async def delete(one: OnceRun) -> None:
        site.cluster.log("slow").error = KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
        await asyncio.sleep(10)
        site.cluster.delete("gone")
        await asyncio.sleep(10)
        site.cluster.log("slow").error = 0

    report = once(site, delete)
    assert (report.verdict, report.records) == (OnceVerdict.COMPLETE, 10)
    assert site.archive().history(gone).next_offset == 5


def test_a_topic_deleted_before_capture_met_it_does_not_keep_it_waiting() -> None:
    site = Site.new()
    site.cluster.create("a")
    with_ghost = site.cluster.create("ghost")
    with_ghost.logs[0].append(4)
    shown = site.cluster.picture()
    site.cluster.delete("ghost")
    # A broker that lags behind shows it once more, to the first who asks.
    site.cluster.lagging.append(shown)
    report = once(site)
    assert report.total_seconds < PATIENCE_SECONDS
    assert (report.verdict, report.partitions) == (OnceVerdict.COMPLETE, 1)


def test_a_topic_that_capture_has_not_met_and_that_metadata_answers_with_an_error_is_not_called_deleted() -> None:
    """Invariant I5."""
    site = Site.new()
    site.cluster.create("a")
    site.cluster.create("odd")
    site.cluster.log("odd").append(3)
    without = site.cluster.picture()
    without = replace(without, topics=tuple(topic for topic in without.topics if topic.name != "odd"))

    async def break_(one: OnceRun) -> None:
        # Discovery looked first, and before "odd" was there; the ends were noted of both.
        await one.noted()
        assert one.life is not None
        assert one.life.state("odd") is None
        site.cluster.topic_errors["odd"] = KafkaErrorCode.LEADER_NOT_AVAILABLE
        await asyncio.sleep(PATIENCE_SECONDS / 2)
        site.cluster.topic_errors.clear()

    site.cluster.lagging.append(without)
    report = once(site, break_)
    assert (report.verdict, report.partitions, report.records) == (OnceVerdict.COMPLETE, 2, 3)
    site.check()


def test_retention_that_passes_the_noted_end_ends_it_with_a_declared_gap() -> None:
    """Hazard 11."""
    site, log = half_captured()

    async def expire(one: OnceRun) -> None:
        await one.noted()
        append_each(log, 10)
        log.delete_records(25)
        site.cluster.throttle_ms = 0

    report = once(site, expire)
    assert (report.verdict, report.exit_code) == (OnceVerdict.DECLARED_GAPS, 6)
    (gap,) = report.gaps
    assert (gap.name, gap.first_offset, gap.next_offset, gap.cause) == ("a/0", 10, 25, GapCause.LOG_START_MOVED)
    assert not report.missing
    assert report.total_seconds < PATIENCE_SECONDS
    # Told once: to the next run, which finds nothing more gone, the archive is as complete as it can be.
    assert once(site).verdict is OnceVerdict.COMPLETE


def test_corrupt_bytes_are_a_declared_gap_where_good_ones_follow_and_missing_at_the_end_of_a_log() -> None:
    site = Site.new()
    site.cluster.create("middle")
    site.cluster.create("last")
    for name, bad in (("middle", 1), ("last", 2)):
        append_each(site.cluster.log(name), 3)
        site.cluster.log(name).corrupt(bad)
    report = once(site)
    assert (report.verdict, report.exit_code) == (OnceVerdict.INCOMPLETE, 6)
    assert missing(report) == [("last/0", "stuck")]
    assert (report.missing[0].first_offset, report.missing[0].next_offset) == (2, 3)
    assert "fails its CRC" in report.missing[0].reason
    (gap,) = report.gaps
    assert (gap.name, gap.first_offset, gap.next_offset, gap.cause) == ("middle/0", 1, 2, GapCause.CORRUPT_AT_SOURCE)
    assert PATIENCE_SECONDS <= report.total_seconds < 2 * PATIENCE_SECONDS


def test_a_log_cut_above_what_was_captured_ends_after_its_patience_and_is_told() -> None:
    """Hazard 21: what an unclean election took between the start and its capture is in neither log any more."""
    site = with_a(0)
    log = site.cluster.log("a")
    append_each(log, 20)
    site.cluster.throttle_ms = 1_000

    async def cut(one: OnceRun) -> None:
        await one.noted()
        log.truncate(14)
        site.cluster.throttle_ms = 0

    report = once(site, cut)
    assert (report.exit_code, missing(report)) == (6, [("a/0", "cut")])
    assert (report.missing[0].first_offset, report.missing[0].next_offset) == (14, 20)
    assert PATIENCE_SECONDS <= report.total_seconds < 2 * PATIENCE_SECONDS
    site.check()


def test_a_log_cut_below_what_was_captured_goes_on_to_the_end_of_what_is_left_and_the_loss_is_told() -> None:
    """Hazard 21."""
    site, log = half_captured()

    async def cut(one: OnceRun) -> None:
        await one.noted()
        log.hidden = 10  # a new leader that does not know yet how much all replicas have
        site.cluster.throttle_ms = 0
        await asyncio.sleep(5)
        log.hidden = 0
        log.truncate(6)
        log.append(1)

    report = once(site, cut)
    assert (report.exit_code, missing(report)) == (6, [("a/0", "cut")])
    assert (report.missing[0].first_offset, report.missing[0].next_offset) == (10, 20)
    assert report.total_seconds < PATIENCE_SECONDS
    site.check()


def test_a_cut_log_whose_leader_does_not_know_yet_how_much_was_committed_is_waited_for() -> None:
    """Hazard 43: below the cut it shows, what follows is there all the same, and the report says it was captured."""
    site, log = half_captured()

    async def cut(one: OnceRun) -> None:
        await one.noted()
        log.hidden = 10
        site.cluster.throttle_ms = 0
        await asyncio.sleep(5)
        log.truncate(6)
        append_each(log, 8)
        await asyncio.sleep(5)
        log.hidden = 0
        site.cluster.changed()

    report = once(site, cut)
    assert (report.exit_code, missing(report)) == (6, [("a/0", "cut")])
    assert held(site, "a") == 14
    site.check()


def test_a_log_lost_while_nothing_ran_is_not_taken_for_captured_because_its_offsets_are_lower() -> None:
    site = with_a(0)
    log = site.cluster.log("a")
    append_each(log, 20)
    once(site)
    log.lose()
    for _ in range(5):
        log.append(1, value=b"new")
    report = once(site)
    assert (report.verdict, report.records) == (OnceVerdict.COMPLETE, 5)
    site.check()


def test_the_time_given_ends_it_with_what_it_has() -> None:
    site = with_a(5, 0)
    site.cluster.down.add(2)
    report = once(site, timeout_seconds=10)
    assert (report.exit_code, report.timed_out) == (6, True)
    assert 10 <= report.total_seconds < 15
    assert held(site, "a", 0) == 5


def test_stopped_it_drains_and_says_how_far_it_came_and_the_next_run_goes_on() -> None:
    site = with_a(5, 5)
    site.cluster.down.add(2)

    async def stop(one: OnceRun) -> None:
        await asyncio.sleep(5)
        one.stop()

    report = once(site, stop)
    assert (report.verdict, report.exit_code, report.interrupted) == (OnceVerdict.INCOMPLETE, 6, True)
    assert (report.records, report.validation) == (5, None)
    site.cluster.down.clear()
    report = once(site)
    assert (report.verdict, report.records) == (OnceVerdict.COMPLETE, 5)
    site.check()


@pytest.mark.parametrize("turns", range(40, 400, 12))
def test_killed_at_any_moment_the_next_run_completes_the_archive(turns: int) -> None:
    """Hazard 57."""
    site = Site.new(segment_max_bytes=2_000)
    site.cluster.create("a", 2)
    for number in range(2):
        for _ in range(30):
            site.cluster.log("a", number).append(3)
    one = OnceRun(site)

    def cut() -> None:
        if site.last_wire is not None:
            site.last_wire.cut = True

    try:
        run(one.go(), clock=site.clock, turns=turns, on_kill=cut)
    except Killed:
        if site.last_wire is not None:
            site.land_stragglers(site.last_wire, turns)
    site.land_late()
    report = once(site)
    assert report.verdict is OnceVerdict.COMPLETE, report
    site.check()


def test_start_latest_without_an_archive_is_refused_before_anything_is_written() -> None:
    """Hazard 24."""
    site = Site.new(start=StartPolicy.LATEST)
    site.cluster.create("a")
    with pytest.raises(ConfigurationError, match="would back up nothing") as refused:
        once(site)
    assert refused.value.exit_code == 2
    assert not site.memory.objects


def test_start_latest_with_an_archive_captures_what_came_since() -> None:
    site = Site.new(start=StartPolicy.LATEST)
    site.cluster.create("a")
    site.cluster.log("a").append(5)
    assert site.run_life(Life.durable)
    site.cluster.log("a").append(3)
    report = once(site)
    assert (report.verdict, report.records) == (OnceVerdict.COMPLETE, 3)


def test_a_store_that_takes_nothing_is_unreachable_and_not_a_list_of_partitions() -> None:
    """Hazard 51."""
    site = with_a(5)

    async def fail(_: OnceRun) -> None:
        site.upload_seconds = lambda key: 1e6 if "segments/" in key else 0.01

    cause = failure(site, fail)
    assert isinstance(cause, StoreUnavailableError)
    assert "took nothing for 60 s" in cause.message


def test_a_cluster_that_does_not_answer_after_the_start_is_unreachable() -> None:
    site = with_a(0)

    async def away(_: OnceRun) -> None:
        site.cluster.metadata_fails = 1_000_000

    assert isinstance(failure(site, away), KafkaUnavailableError)


def test_another_start_fences_it() -> None:
    """Hazard 18."""
    site = with_a(5, 0)
    site.cluster.down.add(2)

    async def rival(_: OnceRun) -> None:
        await asyncio.sleep(5)
        await site.start()

    assert isinstance(failure(site, rival), FencedError)


def test_an_object_that_vanishes_before_validation_is_found_by_it() -> None:
    """Hazard 16: exit code 3 says that the archive is not what this run made of it."""
    site = with_a(5)
    once(site)
    lost = site.keys("segments/")[0]
    site.remove(lost)
    site.cluster.log("a").append(5)
    report = once(site)
    assert (report.verdict, report.exit_code) == (OnceVerdict.NOT_VALID, 3)
    assert report.validation is not None
    assert Code.OBJECT_MISSING in {finding.code for finding in report.validation.findings}


def test_a_snapshot_that_cannot_be_read_is_missing() -> None:
    """Hazard 15."""
    site = with_a(0)
    one = OnceRun(site)
    one.groups.down.add(1)
    report = run(one.go(), clock=site.clock)
    assert report.exit_code == 6
    assert {part.name for part in report.missing if part.what == "snapshot"}


def test_a_snapshot_of_which_permissions_hide_something_is_told_and_lacks_nothing() -> None:
    """Hazard 15."""
    site = with_a(0)
    one = OnceRun(site)
    one.groups.may_describe = False
    report = run(one.go(), clock=site.clock)
    assert (report.verdict, report.snapshots_hidden) == (OnceVerdict.COMPLETE, ("groups",))
    assert once(site).snapshots_hidden == ()


def test_a_snapshot_that_fails_at_first_is_asked_for_again_and_the_run_is_complete() -> None:
    site = with_a(0)
    one = OnceRun(site)
    one.groups.down.add(1)

    async def repair(_: OnceRun) -> None:
        await asyncio.sleep(PATIENCE_SECONDS / 2)
        one.groups.down.clear()

    report = run(one.go(repair), clock=site.clock)
    assert (report.verdict, report.missing) == (OnceVerdict.COMPLETE, ())


def test_stopped_while_it_validates_it_reports_what_it_captured_and_that_nothing_was_validated() -> None:
    site = with_a(5)
    one = OnceRun(site)

    async def never(_: StorageSettings) -> ObjectStore:
        await asyncio.Event().wait()
        raise AssertionError

    one.errand._opening = never

    async def stop(it: OnceRun) -> None:
        assert it.life is not None
        await it.life.until(lambda: it.progress.phase is OncePhase.VALIDATING, "validation")
        it.stop()

    report = run(one.go(stop), clock=site.clock)
    assert (report.exit_code, report.interrupted, report.records, report.validation) == (6, True, 5, None)
    site.check()


def test_a_drain_after_the_time_given_takes_no_longer_than_shutdown_timeout() -> None:
    """Hazard 50."""
    site = with_a(5, 0)
    site.cluster.down.add(2)
    site.upload_seconds = lambda key: 1e6 if "segments/" in key else 0.01
    began = site.clock.monotonic()
    cause = failure(site, timeout_seconds=10)
    assert isinstance(cause, IncompleteError)
    assert "backup.shutdown_timeout (30 s)" in cause.message
    assert 40 <= site.clock.monotonic() - began < 50


def test_two_thousand_partitions_are_noted_with_a_handful_of_requests() -> None:
    """Hazard 56."""
    site = Site.new()
    for number in range(20):
        site.cluster.create(f"topic-{number}", 100)
    requests: list[int] = []
    honest = site.cluster.list_offsets

    async def counting(
        node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, OffsetAnswer]:
        requests.append(len(asked))
        return await honest(node_id, asked)

    site.cluster.list_offsets = counting  # type: ignore[method-assign]  # the same, counted
    report = once(site)
    assert (report.verdict, report.partitions_complete) == (OnceVerdict.COMPLETE, 2_000)
    # Two questions to each of two leaders, from capture's look-ups and from the run.
    assert len(requests) <= 12
    assert report.total_seconds < 30


def test_topics_made_while_it_runs_are_not_waited_for() -> None:
    site = with_a(2, 2)
    site.cluster.down.add(2)  # so that ends are still being asked for when the topic is there

    async def create(one: OnceRun) -> None:
        await one.noted()
        for log in site.cluster.create("late", 3).logs:
            log.append(1)
            log.error = KafkaErrorCode.UNKNOWN_SERVER_ERROR
        life = one.life
        assert life is not None
        await life.until(lambda: life.state("late") is not None, "capture has met it")
        site.cluster.down.clear()
        site.cluster.changed()

    report = once(site, create)
    assert (report.verdict, report.partitions, report.records) == (OnceVerdict.COMPLETE, 2, 4)
    assert report.total_seconds < PATIENCE_SECONDS


def test_only_selected_topics_count() -> None:
    site = Site.new()
    site.settings = replace(
        site.settings, source=SourceSettings(bootstrap_servers=("x:1",), topics=TopicSelection(exclude=("noise*",)))
    )
    site.cluster.create("noise-1")
    site.cluster.create("a")
    assert once(site).partitions == 1

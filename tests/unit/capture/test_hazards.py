"""Single stories, each a hazard by name: what cluster, store or operator do, and what the archive then says."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.capture.roll import RollReason
from kbackupd.capture.sampling import partition_samples
from kbackupd.kafka.types import NO_TOPIC_ID
from kbackupd.model.errors import FencedError, RefusedError, StoreUnavailableError, UsageError
from kbackupd.model.events import GapCause, TopicDeleted, TopicExcluded, TopicSeen
from kbackupd.model.segment import RunFlag
from kbackupd.model.settings import StartPolicy, TopicSelection
from kbackupd.model.status import PartitionState
from tests.unit.capture.site import BACKUP_ID, Life, Site
from tests.virtual_time import run


def reasons(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += reasons(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def gaps(site: Site, name: str, number: int = 0) -> list[tuple[int, int, GapCause]]:
    id = site.cluster.log(name, number).id
    return [(g.first_offset, g.next_offset, g.cause) for g in site.archive().history(id).gaps]


# Topics and partitions ------------------------------------------------------------------------------------------------


def test_topics_and_partitions_made_while_running_are_captured_from_their_beginning() -> None:
    """Hazard 5."""
    site = Site.new(start=StartPolicy.LATEST)
    site.cluster.create("old").logs[0].append(3)

    async def script(life: Life) -> None:
        await life.follows("old")
        site.cluster.create("new").logs[0].append(4)
        site.cluster.add_partitions("old", 1)
        site.cluster.log("old", 1).append(5)
        await life.durable()

    site.run_life(script)
    site.check(causes=(GapCause.EXCLUDED,))
    assert gaps(site, "old") == [(0, 3, GapCause.EXCLUDED)]
    assert gaps(site, "old", 1) == gaps(site, "new") == []


def test_latest_skips_only_what_was_there_when_the_archive_was_made_and_says_so() -> None:
    """Hazard 24."""
    site = Site.new(start=StartPolicy.LATEST)
    site.cluster.create("orders").logs[0].append(7)
    site.run_life(Life.durable)
    site.cluster.create("later").logs[0].append(2)
    site.cluster.log("orders").append(2)
    site.run_life(Life.durable)
    assert gaps(site, "orders") == [(0, 7, GapCause.EXCLUDED)]
    assert gaps(site, "later") == []
    site.check(causes=(GapCause.EXCLUDED,))


def test_empty_topics_and_partitions_are_on_record() -> None:
    """Hazard 6."""
    site = Site.new()
    empty = site.cluster.create("empty", 3, first_offset=17)

    async def script(life: Life) -> None:
        await life.durable()

    site.run_life(script)
    archive = site.archive()
    events = [event for id in archive.partitions for event in archive.evidence(id).seen]
    seen = {e.id.partition: e.first_offset for e in events if e.id.topic_id == empty.id}
    assert seen == {0: 17, 1: 17, 2: 17}


def test_a_missing_literal_topic_is_a_visible_problem_until_it_appears() -> None:
    """Hazard 12."""
    site = Site.new(include=("payments",))

    async def script(life: Life) -> None:
        await life.until(lambda: life.pipeline.discovery.rounds > 0, "a look around")
        assert [p.subject for p in life.problems.current()] == ["topic payments"]
        site.cluster.create("payments").logs[0].append()
        await life.durable()
        assert life.problems.current() == ()

    site.run_life(script)
    site.check()


def test_a_topic_deleted_and_recreated_under_way_is_two_incarnations_and_nothing_is_mixed() -> None:
    """Hazard 20, the new log longer than the old position."""
    site = Site.new()
    old = site.cluster.create("orders").logs[0]
    old.append(3)

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.cluster.delete("orders")
        new = site.cluster.create("orders").logs[0]
        for _ in range(5):
            new.append(4)
        await life.durable()
        await life.until(lambda: life.pipeline.roster.partitions[old.id].closed, "the old incarnation closed")
        await life.durable()

    site.run_life(script)
    archive = site.check()
    site.check_log(archive, old)
    newest = archive.newest()["orders"]
    assert newest.topic_id == site.cluster.topics["orders"].id
    assert newest.previous == old.id.topic_id


def test_a_topic_recreated_while_the_daemon_is_down_starts_anew() -> None:
    """Hazard 20."""
    site = Site.new()
    old = site.cluster.create("orders").logs[0]
    old.append(3)
    site.run_life(Life.durable)
    site.cluster.delete("orders")
    site.cluster.create("orders").logs[0].append(9)
    site.run_life(Life.durable)
    site.check_log(site.check(), old)


def test_what_a_deleted_topic_had_beyond_the_archive_is_a_gap_with_its_cause() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def script(life: Life) -> None:
        await life.follows("orders")
        await life.steering.pause("orders")
        log.append(5)
        partition = life.partition("orders")
        partition.proof.high_watermark = 8
        site.cluster.delete("orders")
        await life.until(lambda: partition.closed, "the topic closed")
        life.pipeline.seal(RollReason.FLUSH)
        await life.pipeline.all_durable()

    site.run_life(script)
    history = site.archive().history(log.id)
    assert [(g.first_offset, g.next_offset, g.cause) for g in history.gaps] == [(3, 8, GapCause.TOPIC_DELETED)]
    assert any(isinstance(e, TopicDeleted) for s in site.archive().catalog.segments for e in s.footer.events)


def test_a_broker_that_lags_behind_a_recreation_closes_neither_incarnation_for_good() -> None:
    """Hazard 20: metadata of two brokers in turn; the newer incarnation keeps its position through all of it."""
    site = Site.new()
    site.cluster.create("orders").logs[0].append(3)
    before = site.cluster.picture()

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.cluster.delete("orders")
        log = site.cluster.create("orders").logs[0]
        log.append(4)
        await life.follows("orders")
        for _ in range(6):
            site.cluster.lagging.extend([before, site.cluster.picture()])
            life.pipeline.roster.metadata_wanted.set()
            log.append(1)
            await asyncio.sleep(2)
        site.cluster.lagging.clear()
        log.append(2)
        await life.durable()

    site.run_life(script)
    site.check(causes=(GapCause.TOPIC_DELETED,))
    assert gaps(site, "orders") == []


def test_a_topic_wrongly_believed_gone_goes_on_where_it_was_even_after_a_kill() -> None:
    """Invariant I5: a deletion gap moves no position, so what it spans is fetched should the topic prove alive."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def believe(life: Life) -> None:
        await life.follows("orders")
        topic = site.cluster.topics.pop("orders")
        partition = life.partition("orders")
        partition.proof.high_watermark = 9
        await life.until(lambda: partition.closed, "the topic closed")
        life.pipeline.seal(RollReason.FLUSH)
        await life.pipeline.all_durable()
        site.cluster.topics["orders"] = topic
        log.append(20)
        life.pipeline.roster.metadata_wanted.set()
        await life.until(lambda: not partition.closed, "the topic open again")

    site.run_life(believe, stop=False)
    site.run_life(Life.durable)
    site.check()


def test_a_topic_wrongly_believed_gone_is_not_called_deleted_once_it_has_come_back() -> None:
    """Validation would stop looking at it, and a restore would not say what of it was never seen."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def believe(life: Life) -> None:
        await life.follows("orders")
        topic = site.cluster.topics.pop("orders")
        partition = life.partition("orders")
        await life.until(lambda: partition.closed, "the topic closed")
        life.pipeline.seal(RollReason.FLUSH)
        await life.pipeline.all_durable()
        gone = (await Archive.open(site.memory, BACKUP_ID)).topic(topic.id)
        assert gone is not None
        assert gone.deleted_ms is not None
        site.cluster.topics["orders"] = topic
        life.pipeline.roster.metadata_wanted.set()
        await life.durable()

    site.run_life(believe)
    topic = site.check().topic(log.id.topic_id)
    assert topic is not None
    assert topic.deleted_ms is None


def test_an_error_in_metadata_is_never_a_deletion() -> None:
    """Invariant I5 and hazard 19: a row with an error and no topic id is 'cannot say'."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def script(life: Life) -> None:
        await life.follows("orders")
        sound = site.cluster.picture()
        broken = replace(
            sound, topics=tuple(replace(t, error_code=5, topic_id=NO_TOPIC_ID, partitions=()) for t in sound.topics)
        )
        for _ in range(5):
            site.cluster.lagging.append(broken)
            life.pipeline.roster.metadata_wanted.set()
            await asyncio.sleep(2)
        assert not life.partition("orders").closed
        log.append(1)
        await life.durable()

    site.run_life(script)
    site.check()


def test_a_topic_hidden_by_permissions_is_a_problem_and_not_a_deletion() -> None:
    """Invariant I5."""
    site = Site.new()
    site.cluster.create("orders").logs[0].append(3)

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.cluster.hidden_topics.add("orders")
        await asyncio.sleep(30)
        assert not life.partition("orders").closed
        assert "topic orders" in [p.subject for p in life.problems.current()]

    site.run_life(script)


def test_a_topic_excluded_by_configuration_is_told_once_and_taken_up_again() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)
    site.run_life(Life.durable)
    included = site.settings
    site.settings = replace(included, source=replace(included.source, topics=TopicSelection(include=("other",))))
    site.run_life(_a_while)
    site.run_life(_a_while)
    log.append(3)
    site.settings = included
    site.run_life(Life.durable)
    site.check()
    told = [e for s in site.archive().catalog.segments for e in s.footer.events if isinstance(e, TopicExcluded)]
    assert len(told) == 1


def test_a_change_of_configuration_or_partition_count_is_on_record() -> None:
    site = Site.new()
    topic = site.cluster.create("orders", 1, retention_ms="1")

    async def script(life: Life) -> None:
        await life.follows("orders")
        topic.configs["retention_ms"] = "2"
        site.cluster.add_partitions("orders", 2)
        await asyncio.sleep(70)
        await life.durable()

    site.run_life(script)
    seen = [e for s in site.archive().catalog.segments for e in s.footer.events if isinstance(e, TopicSeen)]
    assert (seen[0].partitions, seen[0].configs) == (1, {"retention_ms": "1"})
    assert (seen[-1].partitions, seen[-1].configs) == (3, {"retention_ms": "2"})


# Logs that are not what they were -------------------------------------------------------------------------------------


def test_retention_that_overtakes_a_paused_backup_leaves_a_gap_with_its_cause() -> None:
    """Hazard 11."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(3)

    async def script(life: Life) -> None:
        await life.follows("orders")
        await life.steering.pause("orders")
        for _ in range(4):
            log.append(5)
        log.delete_records(13)
        await life.steering.resume("orders")
        await life.durable()

    site.run_life(script)
    site.check(causes=(GapCause.LOG_START_MOVED,))
    assert gaps(site, "orders") == [(3, 13, GapCause.LOG_START_MOVED)]


def test_a_log_cut_by_an_unclean_election_goes_on_on_a_branch_and_the_old_tail_is_kept() -> None:
    """Hazard 21."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(4):
        log.append(5)

    async def script(life: Life) -> None:
        await life.durable()
        log.truncate(10, leader_id=2)
        log.append(7)
        await life.durable()

    site.run_life(script)
    archive = site.check()
    history = archive.history(log.id)
    assert history.branches == (0, 1)
    assert [(s.branch, s.first_offset) for s in history.lineage] == [(0, 0), (1, 10)]
    assert archive.history(log.id, branch=0).next_offset == 20


@pytest.mark.parametrize("regrown", [2, 9, 40], ids=["shorter", "as long", "longer"])
@pytest.mark.parametrize("down", [False, True], ids=["while running", "while down"])
def test_a_log_lost_and_regrown_is_captured_from_its_new_beginning(regrown: int, down: bool) -> None:
    """Hazards 20 and 21: nothing of the new log is missed, wherever it ends."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(3):
        log.append(3)

    def lose() -> None:
        log.lose()
        for _ in range(regrown):
            log.append(1)

    async def script(life: Life) -> None:
        await life.durable()
        if not down:
            lose()
            await life.durable()

    site.run_life(script)
    if down:
        lose()
        site.run_life(Life.durable)
    site.check()


def test_a_log_regrown_from_below_where_it_began_is_captured_whole_though_no_batch_was_held_of_it() -> None:
    """Hazard 21, found by killing at random: without a batch there is no leader epoch to compare."""
    site = Site.new()
    log = site.cluster.create("orders", first_offset=3).logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        log.lose()
        for _ in range(5):
            log.append(2)
        await life.durable()

    site.run_life(script)
    archive = site.check()
    assert archive.history(log.id).first_offset == 0


@pytest.mark.parametrize("down", [False, True], ids=["while it runs", "while it is down"])
def test_a_log_lost_twice_is_captured_whole_though_of_the_first_new_one_nothing_was_left_to_hold(down: bool) -> None:
    """Hazards 11 and 21: behind a branch and a gap alone, no leader epoch tells that the log is another one again."""
    site = Site.new()
    log = site.cluster.create("orders", first_offset=30).logs[0]
    for _ in range(3):
        log.append(3)

    def lose(*, regrown: int, gone: int) -> None:
        log.lose()
        for _ in range(regrown):
            log.append(1)
        log.delete_records(gone)

    async def script(life: Life) -> None:
        await life.durable()
        if not down:
            lose(regrown=6, gone=6)
            await life.durable()
            lose(regrown=10, gone=0)
            await life.durable()

    site.run_life(script)
    if down:
        lose(regrown=6, gone=6)
        site.run_life(Life.durable)
        lose(regrown=10, gone=0)
        site.run_life(Life.durable)
    archive = site.check()
    assert archive.history(log.id).gaps == ()


def test_an_idle_log_that_was_only_cut_is_followed_and_its_exposure_stays_low() -> None:
    """The diverging answer itself is the proof: nothing more is ever said about a log that does not grow again."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(5)
    log.append(5)

    async def script(life: Life) -> None:
        await life.durable()
        log.truncate(5)
        await life.until(lambda: life.partition("orders").branch == 1, "the branch")
        await asyncio.sleep(60)
        sample = life.sample("orders")
        assert sample.state == PartitionState.FOLLOWING
        assert sample.exposure_seconds is not None
        assert sample.exposure_seconds < 3
        assert (sample.durable_offset, sample.high_watermark, sample.lag_records) == (5, 5, 0)

    site.run_life(script)
    site.check()


def test_after_a_truncation_nothing_is_called_durable_that_is_only_of_the_old_log() -> None:
    """Hazards 21 and 43: the store hangs while the log is cut and grows again."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(10)

    async def script(life: Life) -> None:
        await life.durable()
        site.upload_seconds = lambda key: 40.0
        log.append(10)
        await asyncio.sleep(5)
        log.truncate(10)
        log.append(6)
        await life.until(lambda: life.partition("orders").position == 16, "the new log fetched")
        for _ in range(60):
            sample = life.sample("orders")
            on_new_branch = [r.next_offset for f in site.footers() for r in f.runs if r.branch == 1]
            assert sample.durable_offset <= max([10, *on_new_branch])
            assert sample.lag_records == 16 - sample.durable_offset
            await asyncio.sleep(1)
        site.upload_seconds = lambda key: 0.01

    site.run_life(script)


def test_a_compacted_tail_neither_ends_the_partition_nor_is_fetched_for_ever() -> None:
    """Hazard 8."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(6):
        log.append(5)
    log.compact([0, 25])

    async def script(life: Life) -> None:
        await life.durable()
        fetches = site.cluster.fetches
        await asyncio.sleep(10)
        assert site.cluster.fetches - fetches < 60

    site.run_life(script)
    archive = site.check()
    flags = [stored.run.flags for id in archive.partitions for stored in archive.evidence(id).runs]
    assert RunFlag.HOLES in flags[0]


def test_a_topic_that_ends_in_a_transaction_marker_is_complete() -> None:
    """Hazard 25."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(2, producer_id=7, transactional=True)
    log.end_transaction(7, committed=True)
    site.run_life(Life.durable)
    history = site.check().history(log.id)
    assert history.next_offset == 3
    assert [(o.offset, o.committed) for o in history.outcomes] == [(2, True)]
    assert history.open_transactions == ()


def test_a_batch_larger_than_any_fetch_size_does_not_stall_the_partition_nor_its_neighbours() -> None:
    """Hazard 23."""
    site = Site.new()
    site.cluster.create("orders", 3)
    for number in range(3):
        site.cluster.log("orders", number).append()
    site.cluster.log("orders", 0).append(value=b"x" * 12_000_000)
    site.cluster.log("orders", 2).append(value=b"x" * 9_000_000)
    for number in range(3):
        site.cluster.log("orders", number).append()
    site.run_life(Life.durable)
    site.check()


def test_a_batch_that_stays_corrupt_is_kept_as_it_is_in_a_run_of_its_own_with_a_gap_over_it() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(3):
        log.append(5)
    log.corrupt(5)
    site.run_life(Life.durable)
    archive = site.archive()
    history = archive.history(log.id)
    assert [(g.first_offset, g.next_offset, g.cause) for g in history.gaps] == [(5, 10, GapCause.CORRUPT_AT_SOURCE)]
    assert [stored.run.raw_bytes for stored in history.corrupt_runs] == [len(log.batches[1].data)]
    assert [first for first, _, _ in site.stored(archive, log.id)] == [0, 10]


def test_a_batch_found_corrupt_while_what_follows_it_is_under_way_is_neither_skipped_nor_stored_twice() -> None:
    """The next request leaves before the CRCs of the last answer are checked."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(12):
        log.append(5, value=b"x" * 60_000)
    log.corrupt(20)
    site.run_life(Life.durable)
    assert gaps(site, "orders") == [(20, 25, GapCause.CORRUPT_AT_SOURCE)]
    stored = [first for first, _, _ in site.stored(site.archive(), log.id)]
    assert stored == [first for first in range(0, 60, 5) if first != 20]


def test_a_log_cut_while_what_follows_the_last_answer_is_under_way_goes_on_on_a_branch() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(40):
        log.append(5, value=b"x" * 60_000)

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders") is not None and life.partition("orders").position > 50, "a start")
        log.truncate(20)
        for _ in range(60):
            log.append(5, value=b"y" * 60_000)
        await life.durable()

    site.run_life(script)
    site.check()


def test_a_topic_that_was_hidden_and_then_deleted_leaves_no_problem_behind() -> None:
    site = Site.new()
    site.cluster.create("orders", 1).logs[0].append(1)

    async def script(life: Life) -> None:
        await life.durable()
        site.cluster.hidden_topics.add("orders")
        await life.until(lambda: any("hide it" in p.message for p in life.problems.current()), "a problem")
        partition = life.partition("orders")
        site.cluster.delete("orders")
        site.cluster.hidden_topics.clear()
        await life.until(lambda: partition.closed, "the topic closed")
        assert life.problems.current() == ()

    site.run_life(script)


def test_a_corrupt_last_batch_waits_for_the_next_good_one_and_says_so() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(5)
    log.append(5)
    log.corrupt(5)

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders") == PartitionState.QUARANTINED, "quarantine")
        assert any("no good batch follows" in p.message for p in life.problems.current())
        log.append(5)
        await life.durable()

    site.run_life(script)
    assert gaps(site, "orders") == [(5, 10, GapCause.CORRUPT_AT_SOURCE)]


# Brokers and stores that fail -----------------------------------------------------------------------------------------


def test_one_partition_s_errors_leave_its_neighbours_alone_and_end_when_they_end() -> None:
    """Hazards 1 and 41, P6."""
    site = Site.new()
    site.cluster.create("orders", 4)
    bad = site.cluster.log("orders", 0)
    bad.error = 29

    async def script(life: Life) -> None:
        for number in (1, 2, 3):
            site.cluster.log("orders", number).append(3)
        bad.append(3)
        for number in (1, 2, 3):
            await life.follows("orders", number)
        await life.until(lambda: life.state("orders") == PartitionState.QUARANTINED, "quarantine")
        report = await life.steering.flush("orders")
        assert [p.durable_offset for p in report.partitions if p.partition > 0] == [3, 3, 3]
        assert [(p.partition, p.state, p.reason, p.durable_offset) for p in report.left_out] == [
            (0, PartitionState.QUARANTINED, "the broker answered TOPIC_AUTHORIZATION_FAILED", -1)
        ]
        labels = {"cause": "TOPIC_AUTHORIZATION_FAILED"}
        assert (life.metrics.registry.get_sample_value("kbackupd_partition_failures_total", labels) or 0) >= 8
        assert any("TOPIC_AUTHORIZATION_FAILED" in p.message and p.hint for p in life.problems.current())
        bad.error = 0
        await life.durable()
        assert life.problems.current() == ()

    site.run_life(script)
    site.check()


def test_a_leaderless_partition_waits_visibly_and_goes_on_under_its_new_leader() -> None:
    """Hazard 41."""
    site = Site.new()
    site.cluster.create("orders", 2)
    for number in range(2):
        site.cluster.log("orders", number).append(2)

    async def script(life: Life) -> None:
        await life.durable()
        site.cluster.down.add(1)
        site.cluster.log("orders", 1).append(2)
        await life.follows("orders", 1)
        await life.until(lambda: life.state("orders") == PartitionState.RETRYING, "a visible state")
        site.cluster.log("orders").elect(2)
        site.cluster.log("orders").append(4)
        await life.durable()

    site.run_life(script)
    site.check()


def test_a_broker_that_never_answers_keeps_no_other_broker_s_new_partitions_waiting() -> None:
    """Hazard 40, P6."""
    site = Site.new()
    site.cluster.create("first")
    site.cluster.silent.add(1)

    async def script(life: Life) -> None:
        await asyncio.sleep(1)
        site.cluster.create("orders", 2)
        site.cluster.log("orders", 1).append(2)
        life.pipeline.roster.metadata_wanted.set()
        begun = site.clock.monotonic()
        await life.follows("orders", 1)
        assert site.clock.monotonic() - begun < 5
        site.cluster.silent.clear()
        await life.durable()

    site.run_life(script)
    site.check()


def test_a_throttled_daemon_obeys_and_its_throttled_answers_prove_nothing() -> None:
    site = Site.new()
    site.cluster.create("orders").logs[0].append(2)

    async def script(life: Life) -> None:
        await life.durable()
        site.cluster.throttle_ms = 1_000
        site.cluster.log("orders").append(2)
        fetches = site.cluster.fetches
        await asyncio.sleep(60)
        assert site.cluster.fetches - fetches < 70
        assert (life.sample("orders").exposure_seconds or 0) > 55
        site.cluster.throttle_ms = 0
        await life.durable()

    site.run_life(script)
    site.check()


def test_exposure_grows_while_a_broker_is_silent_and_falls_when_it_answers() -> None:
    """Hazards 43 and 44."""
    site = Site.new()
    site.cluster.create("orders").logs[0].append(2)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(5)
        assert (life.sample("orders").exposure_seconds or 9) < 2
        site.cluster.down.add(1)
        await asyncio.sleep(60)
        sample = life.sample("orders")
        assert (sample.exposure_seconds or 0) > 55
        assert sample.state in (PartitionState.RETRYING, PartitionState.QUARANTINED)
        site.cluster.down.clear()
        await life.until(lambda: (life.sample("orders").exposure_seconds or 99) < 2, "exposure falls")

    site.run_life(script)


def test_a_paused_partition_s_exposure_grows_and_it_keeps_its_position() -> None:
    site = Site.new()
    site.cluster.create("orders").logs[0].append(2)

    async def script(life: Life) -> None:
        await life.durable()
        await life.steering.pause("orders")
        site.cluster.log("orders").append(5)
        await asyncio.sleep(60)
        sample = life.sample("orders")
        assert sample.state == PartitionState.PAUSED
        assert (sample.exposure_seconds or 0) > 55
        assert life.partition("orders").position == 2

    site.run_life(script)


def test_an_answer_under_way_when_its_partition_is_paused_moves_nothing() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(2)

    async def script(life: Life) -> None:
        await life.durable()
        for _ in range(20):
            log.append(3)
            await asyncio.sleep(0.003)
            at = life.partition("orders").position
            await life.steering.pause("orders")
            assert life.partition("orders").position == at
            await asyncio.sleep(1)
            assert life.partition("orders").position == at
            await life.steering.resume("orders")
        await life.durable()

    site.run_life(script)
    site.check()


def test_an_outage_of_the_store_stops_fetching_at_the_budget_and_loses_nothing() -> None:
    """Hazard 51: Kafka is the spool."""
    site = Site.new(segment_max_bytes=1 << 20)
    site.budget_bytes = 24 << 20
    site.cluster.create("orders", 2)

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.faults.fail("put", times=None, key_part="segments/")
        for number in range(120):
            site.cluster.log("orders", number % 2).append(value=b"x" * 500_000)
        peak = 0
        for _ in range(600):
            peak = max(peak, life.budget.reserved_bytes)
            await asyncio.sleep(0.1)
        assert peak <= site.budget_bytes * 1.25
        assert life.partition("orders").position < 60
        assert "uploads" in [p.subject for p in life.problems.current()]
        site.faults.heal()
        await life.durable()

    site.run_life(script)
    site.check()


def test_a_segment_that_stalls_while_later_ones_land_is_captured_again_after_a_kill() -> None:
    """Hazards 2 and 7."""
    site = Site.new(flush_interval_seconds=1)
    log = site.cluster.create("orders").logs[0]
    site.cluster.create("other").logs[0].append(1)

    async def script(life: Life) -> None:
        await life.durable()
        site.faults.stall("put", key_part="segments/")
        for _ in range(6):
            log.append(2)
            await asyncio.sleep(1.5)
        assert life.sample("orders").durable_offset == 0

    site.run_life(script, stop=False)
    site.faults.heal()
    assert site.recover().state.partitions[log.id].next_offset == 0
    site.run_life(Life.durable)
    archive = site.check()
    first = next(s for s in archive.catalog.segments if s.place.writer_epoch == 2)
    ((epoch, durable),) = [(e.writer_epoch, e.durable) for e in first.footer.earlier]
    assert epoch == 1
    assert len(durable) == 2, "the stalled sequence is the hole between what is durable"


def test_a_truncation_told_only_behind_a_lost_segment_does_not_hide_what_is_captured_later() -> None:
    """Hazard 21: readers take the newest branch, so the life that resumes below it opens a newer one."""
    site = Site.new(flush_interval_seconds=1)
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        site.faults.stall("put", key_part="segments/")
        for _ in range(4):
            log.append(5)
        await asyncio.sleep(3)
        log.truncate(15)
        log.append(3)
        await asyncio.sleep(5)
        assert life.partition("orders").branch == 1

    site.run_life(script, stop=False)
    site.faults.heal()
    log.append(4)
    site.run_life(Life.durable)
    history = site.check().history(log.id)
    assert history.branch == 2


async def _losing_a_first_event(life: Life) -> None:
    """The segment that tells of `orders` stalls, a later one with its partition's records may land; then a kill."""
    site = life.site
    await life.durable()
    site.faults.stall("put", key_part="segments/")
    log = site.cluster.create("orders").logs[0]
    log.leader_id = 9
    life.pipeline.roster.metadata_wanted.set()
    await life.until(lambda: any(t.name == "orders" for t in life.pipeline.roster.topics.values()), "sight")
    await asyncio.sleep(2)
    log.elect(1)
    log.append(3)
    await life.follows("orders")
    await asyncio.sleep(3)


def test_the_first_event_of_a_topic_lost_while_its_partition_s_landed_is_told_again() -> None:
    """Found by killing at random: the next life's first checkpoint could not be written, for ever."""
    site = Site.new(flush_interval_seconds=0.5)
    site.cluster.create("other")

    site.run_life(_losing_a_first_event, stop=False)
    site.faults.heal()
    site.run_life(Life.durable)
    archive = site.check()
    seen = [
        e for s in archive.catalog.segments for e in s.footer.events if isinstance(e, TopicSeen) and e.name == "orders"
    ]
    assert [e.partitions for e in seen] == [1]


def test_a_topic_whose_first_event_was_lost_and_that_is_gone_by_now_is_closed_with_all_its_partitions() -> None:
    """Found by killing at random: one that stayed open was waited for by every flush, for ever."""
    site = Site.new(flush_interval_seconds=0.5)
    site.cluster.create("other")

    site.run_life(_losing_a_first_event, stop=False)
    site.faults.heal()
    gone = site.cluster.delete("orders").logs[0]

    async def closed(life: Life) -> None:
        await life.until(lambda: life.pipeline.roster.partitions[gone.id].closed, "the partition closed")
        await life.durable()

    site.run_life(closed)


def test_retention_after_a_partition_s_first_event_was_lost_leaves_a_gap_and_no_hole() -> None:
    """Hazard 11, found by killing at random: bytes of it are stored, so readers begin there."""
    site = Site.new(flush_interval_seconds=0.5)
    site.cluster.create("other")

    async def script(life: Life) -> None:
        await life.durable()
        site.faults.stall("put", key_part="segments/")
        log = site.cluster.create("orders").logs[0]
        life.pipeline.roster.metadata_wanted.set()
        await life.follows("orders")
        await asyncio.sleep(3)
        log.append(3)
        await life.follows("orders")
        await asyncio.sleep(3)
        log.append(3)
        log.delete_records(6)
        log.append(3)

    site.run_life(script, stop=False)
    site.faults.heal()
    site.run_life(Life.durable)
    site.check(causes=(GapCause.LOG_START_MOVED,))


def test_a_failed_final_flush_is_an_error() -> None:
    """Hazard 50."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        site.faults.fail("put", times=None, key_part="segments/")
        log.append(3)
        await life.follows("orders")

    with pytest.raises(TimeoutError):
        site.run_life(script)


def test_a_failed_final_checkpoint_is_an_error() -> None:
    """Hazard 50."""
    site = Site.new(checkpoint_interval_seconds=3_600)
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.faults.fail("put", times=None, key_part="checkpoints/")
        log.append(3)
        await life.follows("orders")

    with pytest.raises(ExceptionGroup) as failure:
        site.run_life(script)
    assert [type(error) for error in reasons(failure.value)] == [StoreUnavailableError]


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.1, 0.499, 0.501, 1.0, 1.7, 2.0, 2.01])
def test_a_drain_that_begins_at_any_moment_ends_and_leaves_all_it_fetched_durable(delay: float) -> None:
    site = Site.new()
    site.upload_seconds = lambda key: 0.7
    site.cluster.create("orders", 3)
    captured: dict[int, int] = {}

    async def script(life: Life) -> None:
        await life.follows("orders", 2)
        for number in range(9):
            site.cluster.log("orders", number % 3).append(4)
            await asyncio.sleep(delay / 9)
        captured.update({n: life.partition("orders", n).position for n in range(3)})

    site.run_life(script)
    state = site.recover().state
    for number, position in captured.items():
        assert state.partitions[site.cluster.log("orders", number).id].next_offset >= position
    site.run_life(Life.durable)
    site.check()


def test_resuming_during_the_drain_does_not_keep_it_from_ending() -> None:
    site = Site.new()
    site.cluster.create("orders").logs[0].append(3)

    async def script(life: Life) -> None:
        await life.durable()
        await life.steering.pause("orders")
        life.pipeline.stop()
        await life.steering.resume("orders")

    assert site.run_life(script)


# Two daemons, two lives -----------------------------------------------------------------------------------------------


def test_a_second_daemon_fences_the_first_and_nothing_is_lost() -> None:
    """Hazard 18: the first ends with FencedError, whatever both wrote meanwhile reads as one."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def both() -> None:
        first = await site.start()
        running = asyncio.create_task(first.pipeline.run())
        log.append(3)
        await first.follows("orders")
        second = await site.start()
        taken_over = asyncio.create_task(second.pipeline.run())
        log.append(3)
        with pytest.raises(ExceptionGroup) as ended:
            await running
        assert {type(error) for error in reasons(ended.value)} == {FencedError}
        assert FencedError.exit_code == 7
        log.append(3)
        await second.durable()
        second.pipeline.stop()
        await taken_over

    run(both(), clock=site.clock)
    site.check()


def test_a_writer_that_was_renamed_after_a_log_was_cut_is_refused_and_the_old_name_goes_on() -> None:
    """Readers follow the old name's branch: what the new one stored below it would never be read."""
    site = Site.new(writer="first")
    log = site.cluster.create("orders").logs[0]
    log.append(9)
    site.run_life(Life.durable)
    log.truncate(6)
    log.append(3)
    site.run_life(Life.durable)
    site.settings = replace(site.settings, writer="second")
    with pytest.raises(RefusedError, match="'first' has seen logs cut") as refused:
        site.run_life(Life.durable)
    assert "set writer: first again" in refused.value.hint
    site.settings = replace(site.settings, writer="first")
    log.append(4)
    site.run_life(Life.durable)
    site.check()


def test_a_renamed_writer_goes_on_where_no_log_was_ever_cut() -> None:
    site = Site.new(writer="first")
    log = site.cluster.create("orders").logs[0]
    log.append(9)
    site.run_life(Life.durable)
    site.settings = replace(site.settings, writer="second")
    log.append(3)
    site.run_life(Life.durable)
    site.check()


def test_a_zombie_s_segment_that_lands_late_changes_neither_coverage_nor_branch() -> None:
    """Hazards 18 and 21: the next life has gone on without it; its bytes may serve, its story may not."""
    site = Site.new(flush_interval_seconds=1)
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        log.append(5)
        await life.durable()
        site.upload_seconds = lambda key: 1_000.0
        log.append(5)
        log.append(5)
        await life.follows("orders")
        log.truncate(10)
        log.append(2)
        await life.until(lambda: life.partition("orders").branch == 1, "the branch")
        await life.follows("orders")
        await asyncio.sleep(3)

    site.run_life(script, stop=False)
    zombie = {key: data for key, data in site.stragglers.items() if "/segments/" in key}
    assert zombie
    site.upload_seconds = lambda key: 0.01
    log.append(3)
    log.delete_records(2)
    site.run_life(Life.durable)
    for key, data in zombie.items():
        site.memory.tamper(key, data)
    site.check(causes=(GapCause.LOG_START_MOVED,))
    log.append(4)
    site.run_life(Life.durable)
    site.check(causes=(GapCause.LOG_START_MOVED,))


def test_pauses_survive_a_restart_and_so_does_their_end() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    other = site.cluster.create("other").logs[0]

    async def pause(life: Life) -> None:
        await life.durable()
        assert (await life.steering.pause("ord*")).durable

    async def paused(life: Life) -> None:
        log.append(3)
        other.append(3)
        await life.follows("other")
        assert life.sample("orders").state == PartitionState.PAUSED
        site.cluster.create("order-lines").logs[0].append(1)
        life.pipeline.roster.metadata_wanted.set()
        await life.until(lambda: any(t.name == "order-lines" for t in life.pipeline.roster.topics.values()), "sight")
        assert life.state("order-lines") == PartitionState.PAUSED
        with pytest.raises(UsageError, match=r"is paused by 'ord\*'"):
            await life.steering.resume("orders")
        await life.steering.resume("*")

    site.run_life(pause, stop=False)
    site.run_life(paused, stop=False)
    site.run_life(Life.durable)
    site.check()


def test_a_clock_stepped_back_an_hour_between_two_lives_changes_nothing() -> None:
    """Hazard 55: order is (writer, epoch, sequence); stamps never decrease."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    for _ in range(3):
        log.append(4)
        site.run_life(Life.durable)
        site.clock.step_wall(-3_600_000)
    archive = site.check()
    stamps = [s.footer.sealed_ms for s in archive.catalog.segments]
    assert stamps == sorted(stamps)
    epochs = [s.place.writer_epoch for s in archive.catalog.segments]
    assert epochs == sorted(epochs)


def test_a_clock_stepped_back_before_a_checkpoint_lets_no_later_segment_be_stamped_earlier() -> None:
    """Hazard 55: the checkpoint's own stamp is no measure of the segments'."""
    site = Site.new(checkpoint_interval_seconds=2)
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        log.append(4)
        await life.durable()
        site.clock.step_wall(-3_600_000)
        await asyncio.sleep(5)

    site.run_life(script)
    site.run_life(script)
    stamps = [s.footer.sealed_ms for s in site.check().catalog.segments]
    assert stamps == sorted(stamps)


def test_names_never_start_over_after_a_restart() -> None:
    """Hazard 4: every life has an epoch of its own, so sequence 0 of one never meets that of another."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    before: dict[str, bytes] = {}
    for _ in range(3):
        log.append(2)
        site.run_life(Life.durable)
        after = site.memory.objects
        assert {key: after[key] for key in before} == before
        before = after
    site.check()


# Flush and quiet ------------------------------------------------------------------------------------------------------


def test_flush_returns_when_what_the_leaders_have_now_is_durable_and_says_so() -> None:
    site = Site.new(flush_interval_seconds=3_600, checkpoint_interval_seconds=3_600)
    site.upload_seconds = lambda key: 2.0
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        await life.follows("orders")
        log.append(9)
        report = await life.steering.flush("orders")
        assert [p.durable_offset for p in report.partitions] == [9]
        assert report.outcome == "stored"
        assert [key for key in site.keys("segments/") if key in report.segments] == list(report.segments)
        again = await life.steering.flush("orders")
        assert again.outcome == "nothing new"
        assert [p.durable_offset for p in again.partitions] == [9]
        with pytest.raises(UsageError):
            await life.steering.flush("nothing-like-it")

    site.run_life(script)


def test_flush_of_a_log_that_is_cut_meanwhile_does_not_wait_for_an_end_that_never_comes() -> None:
    """Hazard 43: progress against a frozen end."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]
    log.append(5)

    async def script(life: Life) -> None:
        await life.durable()
        log.append(10)
        flush = asyncio.create_task(life.steering.flush("orders"))
        await asyncio.sleep(0.003)
        log.truncate(5)
        begun = site.clock.monotonic()
        await flush
        assert site.clock.monotonic() - begun < 30

    site.run_life(script)
    site.check()


def test_an_idle_hour_makes_six_segments_of_samples_with_their_checkpoints_and_nothing_else() -> None:
    """Hazard 56a: one for every round of quiet samples, without which the archive could not tell that it was up to
    date; and in between nothing, whatever our own checkpoints and commits write to the cluster.
    """
    site = Site.new(flush_interval_seconds=10)
    site.cluster.create("orders").logs[0].append(2)
    site.cluster.create("__consumer_offsets", internal=True)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(20)
        before = site.keys()
        await asyncio.sleep(500)
        assert site.keys() == before
        await asyncio.sleep(3_600 - 500)
        new = sorted(set(site.keys()) - set(before))
        assert len([key for key in new if key.startswith("segments/")]) == 6
        assert len([key for key in new if key.startswith("checkpoints/")]) == 6
        assert len(new) == 12
        rounds = [footer for footer in site.footers() if footer.key in new]
        assert all(not footer.runs and not footer.events and footer.samples for footer in rounds)

    site.run_life(script)


def test_our_own_commits_alone_force_no_flush_before_the_checkpoint_interval() -> None:
    """Hazard 56a."""
    site = Site.new(flush_interval_seconds=1, checkpoint_interval_seconds=30)
    commits = site.cluster.create("__consumer_offsets", internal=True).logs[0]

    async def script(life: Life) -> None:
        await life.durable()
        before = len(site.keys("segments/"))
        for _ in range(60):
            commits.append()
            await asyncio.sleep(1)
        assert len(site.keys("segments/")) - before <= 2
        await life.durable()

    site.run_life(script)
    site.check()


def test_ten_thousand_partitions_start_with_a_handful_of_requests() -> None:
    """Hazard 56: no serial start-up, no request, task or socket for each partition."""
    site = Site.new()
    site.cluster.create("big", 2_000)

    async def script(life: Life) -> None:
        begun = site.clock.monotonic()
        await life.until(
            lambda: (
                len(life.pipeline.roster.partitions) == 2_000
                and all(p.state == PartitionState.FOLLOWING for p in life.pipeline.roster.partitions.values())
            ),
            "all followed",
        )
        assert site.clock.monotonic() - begun < 5
        assert site.cluster.fetches < 20
        assert len(asyncio.all_tasks()) < 20
        assert sum(1 for _ in partition_samples(life.pipeline, site.clock)) == 2_000

    site.run_life(script)


async def _a_while(life: Life) -> None:
    await asyncio.sleep(5)

"""Recovery point and recovery time beside their targets, and what a report says for people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from kbackupd.archive.archive import Archive
from kbackupd.cli.restore_targets_text import recovery_document, recovery_lines
from kbackupd.cli.restore_text import print_report
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import StoreDeniedError
from kbackupd.model.positions import TopicId
from kbackupd.model.scope import RestoreScope
from kbackupd.model.settings import TierSettings
from kbackupd.model.snapshots import Acl
from kbackupd.restore.acls import AclLeft, AclSelection, AclsOutcome
from kbackupd.restore.course import Course
from kbackupd.restore.plan import PlannedCut
from kbackupd.restore.recovery_point import oldest, recovery_point_ms
from kbackupd.restore.report import RestoreReport, TopicReport, Verdict, verdict_of
from kbackupd.restore.restore import ended
from kbackupd.restore.stored import StoredRestores
from kbackupd.restore.targets import by_tier
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.unit.restore.planned import plan_of, settings_for
from tests.unit.restore.test_resume import ID, IDENTITY, begun

BEGAN_MS = 1_790_000_000_000
TIERS = (
    TierSettings(name="critical", topics=("orders*",), rpo_seconds=60.0, rto_seconds=900.0),
    TierSettings(name="standard", topics=("logs",), rpo_seconds=3_600.0, rto_seconds=14_400.0),
)


def topic(name: str, *, point_ms: int | None = BEGAN_MS - 30_000, created: bool = True) -> TopicReport:
    return TopicReport(
        source=name,
        target=f"{name}-restored",
        topic_id=TopicId("x" * 21 + "A"),
        target_topic_id=TopicId("y" * 21 + "A"),
        created=created,
        appended=not created,
        replicas=1,
        recovery_point_ms=point_ms,
        target_partitions=0,
        partitions=(),
        config_applied={},
        config_held={},
        config_held_because=(),
        config_refused={},
        config_command="",
    )


def report(*topics: TopicReport) -> RestoreReport:
    return RestoreReport(
        verdict=Verdict.COMPLETE,
        archive="memory:",
        backup_id=BACKUP_ID,
        archive_id="a",
        source_cluster_id="source",
        target_cluster_id="target",
        cut=PlannedCut(),
        topics=topics,
        not_there=(),
        notes=(),
        acls=None,
        filling=None,
        damaged=(),
        partitions=0,
        records_restored=0,
        bytes_restored=0,
        records_found=0,
        records_cut_away=0,
        records_filtered=0,
        records_aborted=0,
        records_undecided=0,
        records_missing=0,
        began_ms=BEGAN_MS,
        first_began_ms=BEGAN_MS,
        restore_seconds=500.0,
        verify_seconds=100.0,
        total_seconds=600.0,
        bytes_per_second=0.0,
        peak_buffered_bytes=0,
    )


async def point_at(built: ArchiveBuilder, at_ms: int) -> int | None:
    plan = await plan_of(built, settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms)))
    return plan.topics[0].recovery_point_ms


class TestRecoveryPoint:
    async def test_it_is_when_the_question_was_sent_whose_answer_is_covered(self) -> None:
        built = await ArchiveBuilder.create()
        orders = built.topic("orders")
        built.log(orders, 0).append([b"v"] * 3)
        life = await built.start()
        life.see(orders)
        life.capture(orders, 0)
        life.sample(orders, 0)
        captured_ms = built.clock.now_ms()
        built.clock.advance(60)
        built.log(orders, 0).append([b"lost"])
        life.sample(orders, 0)
        await life.flush()

        archive = await Archive.open(built.store, BACKUP_ID)
        history = archive.history(built.log(orders, 0).id)
        plan = await plan_of(built, settings_for("kafka:9092", {}))

        assert recovery_point_ms(history) == captured_ms - 5
        assert plan.topics[0].recovery_point_ms == captured_ms - 5
        assert recovery_point_ms(replace(history, branches=(0, 1))) is None, "samples do not tell of which branch"

    async def test_an_answer_without_a_high_watermark_proves_nothing(self) -> None:
        built = await ArchiveBuilder.create()
        orders = built.topic("orders")
        built.log(orders, 0).append([b"v"])
        life = await built.start()
        life.see(orders)
        life.capture(orders, 0)
        await life.flush()
        archive = await Archive.open(built.store, BACKUP_ID)
        history = archive.history(built.log(orders, 0).id)
        [told] = history.samples
        silent = told._replace(sent_ms=told.sent_ms + 60_000, answered_ms=told.answered_ms + 60_000, high_watermark=-1)

        assert recovery_point_ms(replace(history, samples=(told, silent))) == told.sent_ms
        assert recovery_point_ms(replace(history, samples=(silent,))) is None

    async def test_as_of_an_instant_it_is_that_instant_where_nothing_more_came_until_then(self) -> None:
        built = await ArchiveBuilder.create()
        orders = built.topic("orders")
        life = await built.start()
        life.see(orders)
        built.log(orders, 0).append([b"v"])
        life.capture(orders, 0)
        heard_ms = built.clock.now_ms()
        built.clock.advance(60)
        life.sample(orders, 0)
        repeated_ms = built.clock.now_ms()
        built.clock.advance(60)
        built.log(orders, 0).append([b"more"])
        life.capture(orders, 0)
        await life.flush()

        assert await point_at(built, heard_ms + 10_000) == heard_ms + 10_000, "it is exact"
        assert await point_at(built, repeated_ms + 10_000) == repeated_ms - 5, "the last question before it"
        assert await point_at(built, built.clock.now_ms()) == built.clock.now_ms() - 1_005, "a flush takes a second"

    async def test_as_of_an_instant_before_a_log_was_cut_back_it_is_known_for_a_cut_has_its_branch(self) -> None:
        built = await ArchiveBuilder.create()
        orders = built.topic("orders")
        life, log = await built.start(), built.log(orders, 0)
        log.append([b"a"])
        log.append([b"lost"])
        life.capture(orders, 0)
        heard_ms = built.clock.now_ms()
        built.clock.advance(60)
        log.truncate(1)
        life.follow_cut(orders, 0)
        log.append([b"instead"])
        life.capture(orders, 0)
        await life.flush()

        assert await point_at(built, heard_ms) == heard_ms - 5

    async def test_as_of_an_instant_at_which_capture_was_behind_and_stayed_so_it_is_not_known(self) -> None:
        built = await ArchiveBuilder.create()
        orders = built.topic("orders")
        life, log = await built.start(), built.log(orders, 0)
        log.append([b"a"])
        life.capture(orders, 0)
        log.append([b"b"])
        built.clock.advance(1)
        life.sample(orders, 0)
        await life.flush()

        assert await point_at(built, built.clock.now_ms()) is None

    async def test_as_of_an_instant_whose_records_may_have_been_compacted_away_it_is_not_known(self) -> None:
        built = await ArchiveBuilder.create()
        orders = built.topic("orders")
        life, log = await built.start(), built.log(orders, 0)
        for value in (b"a", b"b", b"c"):
            log.append([value])
        life.see(orders)
        life.sample(orders, 0)
        at_ms = built.clock.now_ms()
        built.clock.advance(10)
        log.append([b"d"])
        log.compact([0, 3])
        life.capture(orders, 0)
        await life.flush()

        assert await point_at(built, at_ms) is None

    def test_of_several_partitions_it_is_the_oldest_and_unknown_if_one_is(self) -> None:
        assert oldest([5, 3, 4]) == 3
        assert oldest([5, None]) is None
        assert oldest([]) is None


class TestTiers:
    def test_each_tier_has_its_topics_their_oldest_point_and_both_targets(self) -> None:
        done = report(topic("orders"), topic("orders-eu", point_ms=BEGAN_MS - 90_000), topic("logs"), topic("else"))

        critical, standard, none = by_tier(done, TIERS)

        assert (critical.topics, critical.rpo_seconds, critical.rpo_met) == (("orders", "orders-eu"), 90.0, False)
        assert (critical.rto_seconds, critical.rto_met) == (600.0, True)
        assert (standard.rpo_seconds, standard.rpo_met) == (30.0, True)
        assert (none.tier, none.rpo_met, none.rto_met) == ("untiered", None, None)

    def test_what_is_lost_counts_to_the_disaster_where_somebody_knows_it(self) -> None:
        [result] = by_tier(report(topic("orders")), TIERS, BEGAN_MS - 20_000)

        assert (result.rpo_seconds, result.rpo_met) == (10.0, True)
        [before] = by_tier(report(topic("orders")), TIERS, BEGAN_MS - 40_000)
        assert before.rpo_seconds == 0.0, "everything that there was by then is there"

    def test_a_restore_that_was_gone_on_with_took_from_its_first_run_on(self) -> None:
        [result] = by_tier(replace(report(topic("orders")), first_began_ms=BEGAN_MS - 400_000), TIERS)

        assert (result.rto_seconds, result.rto_met) == (1_000.0, False)

    def test_what_nothing_proves_is_not_known_and_not_met_either(self) -> None:
        [result] = by_tier(report(topic("orders", point_ms=None)), TIERS)

        assert (result.rpo_seconds, result.rpo_met) == (None, None)
        assert "not known" in next(recovery_lines(report(topic("orders", point_ms=None)), TIERS, None))


def test_people_read_actual_beside_target_and_programs_numbers() -> None:
    done = report(topic("orders", point_ms=BEGAN_MS - 90_000))

    lines = list(recovery_lines(done, TIERS, None))
    document = recovery_document(done, TIERS, None)

    assert "or later, 1m30s before the restore was begun" in lines[0]
    assert lines[2] == "  critical (1 topic): RPO 1m30s of 1m00s, MISSED; RTO 10m00s of 15m00s, met"
    assert (document["rpo_seconds"], document["rto_seconds"]) == (90.0, 600.0)
    assert recovery_document(done, None, None)["tiers"] is None


def test_the_report_tells_notes_and_replicas_and_what_became_of_acls(capsys: pytest.CaptureFixture[str]) -> None:
    kept, refused, left = (Acl("TOPIC", name, "LITERAL", "User:a", "*", "READ", "ALLOW") for name in ("k", "r", "*"))
    outcome = AclsOutcome(
        selection=AclSelection(
            known_ms=BEGAN_MS, apply=(kept, refused), left=(AclLeft(acl=left, reason="all"),), others=2
        ),
        applied=1,
        refused=(AclLeft(acl=refused, reason="POLICY_VIOLATION (44)"),),
    )

    done = report(topic("orders"), topic("old", created=False))
    print_report(Console(width=200), replace(done, notes=("a quota slows it",), acls=outcome))

    text = capsys.readouterr().out
    assert "a quota slows it" in text
    assert "created with 1 replica, the target's default.replication.factor: orders-restored\n" in text
    assert "refused: ALLOW User:a READ on topic r from *: POLICY_VIOLATION (44)" in text
    assert "1 ACL set, as they were at" in text
    assert "left out: ALLOW User:a READ on topic * from *: all" in text
    assert "2 ACLs of the archive concern nothing that is restored" in text


@pytest.mark.parametrize(("width", "shown"), [(80, False), (100, True)])
def test_on_a_narrow_terminal_columns_of_zeros_leave_their_room_to_names(
    capsys: pytest.CaptureFixture[str], width: int, shown: bool
) -> None:
    console = Console(width=width, force_terminal=True, color_system=None)

    print_report(console, report(topic("eu-orders")))

    text = capsys.readouterr().out
    assert "\neu-orders  eu-orders-restored  " in text
    assert ("ABORTED  UNDECIDED  MISSING" in text) is shown


@pytest.mark.parametrize(("refused", "verdict"), [(False, Verdict.COMPLETE), (True, Verdict.INCOMPLETE)])
def test_an_acl_that_was_refused_makes_the_restore_incomplete(refused: bool, verdict: Verdict) -> None:
    assert verdict_of((topic("orders"),), damaged=False, refused=refused) is verdict


@pytest.mark.parametrize("refused", [False, True])
async def test_a_restore_whose_acls_were_refused_is_not_over_and_can_be_run_again(refused: bool) -> None:
    acl = Acl("TOPIC", "orders", "LITERAL", "User:a", "*", "READ", "ALLOW")
    selection = AclSelection(known_ms=BEGAN_MS, apply=(acl,), left=(), others=0)
    outcome = AclsOutcome(selection=selection, applied=1 - refused, refused=(AclLeft(acl=acl, reason="no"),) * refused)
    store = MemoryStore()
    course = Course(restores=StoredRestores(store), identity=IDENTITY, clock=SystemClock(), _begun=begun())

    await course.end(replace(report(topic("orders")), acls=outcome))

    assert [key for key in store.objects if key.endswith("done.json")] == ([] if refused else [f"plans/{ID}/done.json"])


async def test_a_store_that_is_gone_at_the_very_end_costs_nobody_the_report() -> None:
    class Expired(MemoryStore):
        async def put_if_absent(self, key: str, parts: object) -> None:
            raise StoreDeniedError(f"{key}: the token has expired")

    course = Course(restores=StoredRestores(Expired()), identity=IDENTITY, clock=SystemClock(), _begun=begun())
    done = replace(report(topic("orders")), notes=("a quota slowed it",))

    told = await ended(course, done)

    assert (told.verdict, told.notes[0]) == (Verdict.COMPLETE, "a quota slowed it")
    assert "could not be written down" in told.notes[1]
    assert "the token has expired" in told.notes[1]

"""Recorded ACLs: which of them a restore sets, under which names, and what keeps it from beginning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from kbackupd.archive.snapshots import SnapshotLog
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.kafka.wire_cluster import DescribeAclsRequest
from kbackupd.model.errors import RefusedError
from kbackupd.model.scope import RestoreScope
from kbackupd.model.settings import RestoredGroups
from kbackupd.model.snapshots import NEVER_MS, Acl, PartState, ReadOutcome
from kbackupd.restore.acls import AclSelection, select_acls
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.preflight import PreflightError, TargetDeniedError, examine_target
from kbackupd.restore.target_acls import apply_acls, recorded_acls
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import ArchiveBuilder
from tests.unit.format.samples import IDENTITY, NOW_MS, example_cluster
from tests.unit.restore.forged_target import ForgedTarget
from tests.unit.restore.planned import archive_everything, plan_of, settings_for


def topic(name: str, pattern: str = "LITERAL", *, permission: str = "ALLOW") -> Acl:
    return Acl("TOPIC", name, pattern, "User:app", "*", "READ", permission)


def group(name: str, pattern: str = "LITERAL") -> Acl:
    return Acl("GROUP", name, pattern, "User:app", "*", "READ", "ALLOW")


def selected(
    *acls: Acl, topics: Mapping[str, str] | None = None, groups: tuple[str, ...] | None = None
) -> AclSelection:
    named = {"orders": "orders", "eu-payments": "eu-payments"} if topics is None else topics
    return select_acls(acls, known_ms=NOW_MS, topics=named, groups=groups)


class TestWhichAndUnderWhichName:
    def test_an_acl_of_a_restored_topic_follows_it_to_its_new_name(self) -> None:
        chosen = selected(topic("orders"), topic("else"), topics={"orders": "orders-restored"})

        assert chosen.apply == (topic("orders-restored"),)
        assert (chosen.left, chosen.others) == ((), 1)

    def test_a_prefix_is_kept_for_topics_that_keep_it_and_narrowed_for_those_that_do_not(self) -> None:
        acl = topic("eu-", "PREFIXED")

        assert selected(acl).apply == (acl,)
        assert selected(acl, topics={"eu-payments": "restored"}).apply == (topic("restored"),)
        assert selected(acl, topics={"orders": "eu-orders"}).apply == (), "it never was about this topic"

    def test_a_prefix_over_a_hundred_topics_is_set_once(self) -> None:
        acl = topic("t-", "PREFIXED")

        assert selected(acl, topics={f"t-{n}": f"t-{n}" for n in range(100)}).apply == (acl,)

    @pytest.mark.parametrize("permission", ["ALLOW", "DENY"])
    def test_what_is_about_every_topic_is_named_and_not_set_for_the_target_may_hold_others(
        self, permission: str
    ) -> None:
        acl = topic("*", permission=permission)

        chosen = selected(acl)

        assert chosen.apply == ()
        assert [one.acl for one in chosen.left] == [acl]
        assert "every topic of the cluster" in chosen.left[0].reason

    def test_acls_of_the_cluster_and_of_transactional_ids_are_no_business_of_a_restore(self) -> None:
        others = [topic("x")._replace(resource_type=kind) for kind in ("CLUSTER", "TRANSACTIONAL_ID", "USER")]

        assert (selected(*others).apply, selected(*others).others) == ((), 3)

    def test_groups_have_theirs_only_where_they_come_along(self) -> None:
        acls = group("billing"), group("audit"), group("bill", "PREFIXED"), group("*")

        assert selected(*acls).apply == ()
        chosen = selected(*acls, groups=("billing*",))
        assert chosen.apply == (group("billing"), group("bill", "PREFIXED"))
        assert [one.acl for one in chosen.left] == [group("*")]

    @pytest.mark.parametrize(
        ("glob", "meets"),
        [("*", True), ("bill*", True), ("b*", True), ("billing-1", True), ("audit*", False), ("bil", False)],
    )
    def test_a_prefix_of_groups_is_set_where_it_can_meet_one_that_comes_along(self, glob: str, meets: bool) -> None:
        assert bool(selected(group("bill", "PREFIXED"), groups=(glob,)).apply) is meets


async def plan() -> RestorePlan:
    built = await ArchiveBuilder.create()
    built.log(built.topic("orders"), 0).append([b"v"])
    await archive_everything(built)
    return await plan_of(built, settings_for("kafka:9092", {"orders": "restored"}))


async def stored(part: PartState, *acls: Acl) -> MemoryStore:
    store = MemoryStore()
    log = await SnapshotLog.open(store, CLUSTER_FORMAT, identity=IDENTITY, writer="main", writer_epoch=1)
    content = replace(example_cluster().content, acls_part=part, acls=acls)
    await log.append(content, asked_ms=NOW_MS - 10, taken_ms=NOW_MS)
    return store


OPTIONS = settings_for("kafka:9092", {"orders": "restored"}).options


class TestWhatTheArchiveKnows:
    async def test_they_are_those_of_the_newest_snapshot(self) -> None:
        store = await stored(PartState(outcome=ReadOutcome.OK, answered_ms=NOW_MS - 5), topic("orders"), group("g"))
        with_groups = replace(OPTIONS, consumer_groups=RestoredGroups(restore=True))

        assert (await recorded_acls(store, IDENTITY, await plan(), OPTIONS)).apply == (topic("restored"),)
        chosen = await recorded_acls(store, IDENTITY, await plan(), with_groups)
        assert (chosen.apply, chosen.known_ms) == ((topic("restored"), group("g")), NOW_MS - 5)

    async def test_what_was_known_before_it_was_hidden_counts_with_its_own_time(self) -> None:
        hidden = PartState(outcome=ReadOutcome.DENIED, cause="no Describe", answered_ms=NOW_MS - 9_000)
        store = await stored(hidden, topic("orders"))

        assert (await recorded_acls(store, IDENTITY, await plan(), OPTIONS)).known_ms == NOW_MS - 9_000

    async def test_of_an_instant_they_are_those_of_the_newest_snapshot_by_then(self) -> None:
        store = MemoryStore()
        log = await SnapshotLog.open(store, CLUSTER_FORMAT, identity=IDENTITY, writer="main", writer_epoch=1)
        for number, acls in enumerate(((topic("orders"),), (topic("orders"), topic("orders", permission="DENY")), ())):
            at_ms = NOW_MS + 10_000 * number
            part = PartState(outcome=ReadOutcome.OK, answered_ms=at_ms)
            content = replace(example_cluster().content, acls_part=part, acls=acls)
            await log.append(content, asked_ms=at_ms, taken_ms=at_ms)

        async def set_at(at_ms: int | None) -> list[str]:
            options = replace(OPTIONS, scope=RestoreScope(as_of_ms=at_ms))
            return [acl.permission for acl in (await recorded_acls(store, IDENTITY, await plan(), options)).apply]

        assert await set_at(NOW_MS + 9_999) == ["ALLOW"]
        assert await set_at(NOW_MS + 10_000) == ["ALLOW", "DENY"]
        assert await set_at(NOW_MS + 20_000) == [], "they were taken away, which is known"
        assert await set_at(None) == []
        with pytest.raises(RefusedError, match="no snapshot of the cluster was captured by then"):
            await set_at(NOW_MS - 1)

    @pytest.mark.parametrize("store", [None, PartState(outcome=ReadOutcome.DENIED, cause="no Describe")])
    async def test_an_archive_that_knows_none_is_refused_rather_than_restored_without(
        self, store: PartState | None
    ) -> None:
        kept = MemoryStore() if store is None else await stored(store)
        assert store is None or store.answered_ms == NEVER_MS

        with pytest.raises(RefusedError, match="the ACLs of the source are not in the archive"):
            await recorded_acls(kept, IDENTITY, await plan(), OPTIONS)


class TestTheTarget:
    async def test_one_without_an_authorizer_is_refused_before_the_first_record(self) -> None:
        target = ForgedTarget(refuses={DescribeAclsRequest: KafkaErrorCode.SECURITY_DISABLED})

        with pytest.raises(PreflightError, match="no authorizer"):
            await examine_target(target, await plan(), sets_acls=True)
        assert target.written == []

    async def test_a_principal_without_alter_on_the_cluster_is_told_before_the_first_record(self) -> None:
        target = ForgedTarget(may_alter=False)

        with pytest.raises(TargetDeniedError, match="lacks Alter on the cluster"):
            await examine_target(target, await plan(), sets_acls=True)
        assert (await examine_target(target, await plan())).cluster_id == "target", "where none are set it needs none"

    async def test_all_are_set_but_those_it_refuses_which_are_named_with_its_words(self) -> None:
        acls = [topic(f"t{number}") for number in range(1_200)]
        target = ForgedTarget(unwelcome=acls[700])

        outcome = await apply_acls(
            target, selected(*acls, topics={acl.resource_name: acl.resource_name for acl in acls})
        )

        assert outcome.applied == 1_199
        assert target.acls == [*acls[:700], *acls[701:]]
        assert [(one.acl, one.reason) for one in outcome.refused] == [(acls[700], "INVALID_REQUEST (42): unwelcome")]

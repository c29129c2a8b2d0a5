"""Snapshots of groups and configuration: what cannot be read never becomes "there is none" (hazards 15, 31; I5)."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.archive.snapshots import snapshot_at
from kbackupd.capture.snapshots import FIRST_RETRY_SECONDS, PROBLEM_AFTER_ROUNDS, Snapshots
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.kafka.answers import DescribedAcls
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import Acl, ClusterContent, GroupsContent, GroupState, Quota, ReadOutcome
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.faults import FaultStore
from kbackupd.store.memory import MemoryStore
from tests.fake_groups import FakeCoordinators, FakeGroup, FakeTopic
from tests.unit.format.samples import IDENTITY
from tests.unit.observe.test_metrics import value
from tests.virtual_time import run

ACL = Acl("TOPIC", "orders", "LITERAL", "User:a", "*", "READ", "ALLOW")
QUOTA = Quota(entity={"user": None}, values={"producer_byte_rate": 1.0})


class Stand:
    """A cluster, a bucket, and lives of the snapshot loop between them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = FakeCoordinators(self.clock)
        self.store = MemoryStore(clock=self.clock)
        self.faults = FaultStore(self.store)
        self.epoch = 0
        self.next_life()

    def next_life(self) -> None:
        self.epoch += 1
        self.metrics = Metrics(self.clock, version="test")
        self.problems = Problems(self.clock)
        self.snapshots = Snapshots(
            source=self.cluster,
            store=self.faults,
            identity=IDENTITY,
            writer="main",
            writer_epoch=self.epoch,
            interval_seconds=60.0,
            clock=self.clock,
            metrics=self.metrics,
            problems=self.problems,
        )

    def round(self, count: int = 1) -> None:
        """So many rounds, a minute apart."""
        for _ in range(count):
            run(self.snapshots.take(), clock=self.clock)
            self.clock.advance(60)

    def groups(self, at_ms: int | None = None) -> GroupsContent:
        found = run(snapshot_at(self.store, GROUPS_FORMAT, at_ms, IDENTITY), clock=self.clock).snapshot
        assert found is not None
        return found.content

    def group(self, group_id: str, at_ms: int | None = None) -> GroupState:
        return {one.group_id: one for one in self.groups(at_ms).groups}[group_id]

    def offsets(self, group_id: str, at_ms: int | None = None) -> dict[tuple[str, int], int]:
        return {(one.topic, one.partition): one.offset for one in self.group(group_id, at_ms).positions}

    def configuration(self, at_ms: int | None = None) -> ClusterContent:
        found = run(snapshot_at(self.store, CLUSTER_FORMAT, at_ms, IDENTITY), clock=self.clock).snapshot
        assert found is not None
        return found.content

    def keys(self, kind: str) -> list[str]:
        return sorted(key for key in self.store.objects if key.startswith(kind + "/"))


@pytest.fixture
def stand() -> Stand:
    made = Stand()
    made.cluster.commit("billing", "orders", 0, 10)
    made.cluster.commit("billing", "orders", 1, 11)
    made.cluster.commit("fraud", "orders", 0, 7, coordinator=2)
    return made


def test_groups_of_all_coordinators_are_captured_with_the_instant_of_their_answer(stand: Stand) -> None:
    stand.cluster.groups["billing"].state, stand.cluster.groups["billing"].members = "Stable", 3
    stand.round()
    content = stand.groups()
    assert content.complete
    assert [one.node_id for one in content.coordinators] == [1, 2]
    billing = stand.group("billing")
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}
    assert stand.offsets("fraud") == {("orders", 0): 7}
    assert (billing.members, billing.state, billing.type, billing.coordinator) == (3, "Stable", "classic", 1)
    assert billing.positions[0].topic_id == stand.cluster.topics["orders"].topic_id
    assert billing.sent_ms <= billing.answered_ms < stand.clock.now_ms()


def test_a_new_interval_does_not_wait_for_the_end_of_the_old_one(stand: Stand) -> None:
    stand.snapshots.every(3_600.0)

    async def script() -> None:
        running = asyncio.create_task(stand.snapshots.run())
        await asyncio.sleep(10)
        stand.cluster.commit("billing", "orders", 0, 99)
        await asyncio.sleep(600)
        assert len(stand.keys("groups")) == 1
        stand.snapshots.every(5.0)
        await asyncio.sleep(1)
        assert len(stand.keys("groups")) == 2
        stand.cluster.commit("billing", "orders", 0, 100)
        await asyncio.sleep(7)
        assert len(stand.keys("groups")) == 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(script(), clock=stand.clock)


def test_what_did_not_change_is_not_stored_again_and_what_did_is_seen_at_its_time(stand: Stand) -> None:
    stand.round(5)
    assert len(stand.keys("groups")) == len(stand.keys("cluster")) == 1
    before_ms = stand.clock.now_ms()
    stand.cluster.commit("billing", "orders", 0, 20)
    stand.cluster.topics["orders"].configs["retention.ms"] = "1000"
    stand.round()
    assert len(stand.keys("groups")) == len(stand.keys("cluster")) == 2
    assert stand.offsets("billing", before_ms - 1)["orders", 0] == 10
    assert stand.offsets("billing")["orders", 0] == 20
    assert stand.configuration(before_ms - 1).topics[0].configs == {}
    assert stand.configuration().topics[0].configs == {"retention.ms": "1000"}


def test_one_coordinator_down_leaves_its_groups_as_they_were_and_the_others_go_on(stand: Stand) -> None:
    stand.round()
    taken_ms = stand.group("fraud").answered_ms
    stand.cluster.down.add(2)
    stand.cluster.commit("billing", "orders", 0, 20)
    stand.round()
    fraud = stand.group("fraud")
    assert stand.offsets("fraud") == {("orders", 0): 7}
    assert (fraud.part.outcome, fraud.answered_ms) == (ReadOutcome.FAILED, taken_ms)
    assert stand.offsets("billing")["orders", 0] == 20
    assert {one.node_id: one.part.outcome for one in stand.groups().coordinators} == {1: "ok", 2: "failed"}
    stand.cluster.down.clear()
    stand.round()
    assert stand.groups().complete


def test_a_coordinator_that_is_down_at_the_start_takes_away_nothing_of_what_the_life_before_knew(stand: Stand) -> None:
    """Hazard 15: the snapshot overwritten by an empty one after a restart."""
    stand.round()
    stand.next_life()
    stand.cluster.down |= {1, 2}
    stand.round()
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}
    assert stand.group("billing").part.outcome is ReadOutcome.FAILED
    assert stand.group("billing").answered_ms > 0


def test_an_empty_answer_after_a_good_one_never_replaces_it(stand: Stand) -> None:
    """Hazard 15: every broker answers, without an error, and lists nothing."""
    stand.round()
    for group in stand.cluster.groups.values():
        group.listed = False
    stand.cluster.commit("billing", "orders", 0, 20)
    stand.round(3)
    assert stand.offsets("billing") == {("orders", 0): 20, ("orders", 1): 11}
    assert stand.offsets("fraud") == {("orders", 0): 7}


def test_positions_that_vanish_are_believed_to_be_gone_only_when_their_coordinator_says_so_twice(stand: Stand) -> None:
    stand.round()
    stand.cluster.groups["billing"].positions.clear()
    stand.round()
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}
    assert stand.group("billing").part.outcome is ReadOutcome.FAILED
    stand.round()
    assert stand.offsets("billing") == {}
    assert stand.group("billing").part.outcome is ReadOutcome.OK


def test_a_deleted_group_is_gone_after_two_confirmations_and_stays_known_at_earlier_instants(stand: Stand) -> None:
    stand.round()
    before_ms = stand.clock.now_ms()
    del stand.cluster.groups["fraud"]
    stand.round()
    assert stand.group("fraud").part.outcome is ReadOutcome.FAILED
    stand.round()
    assert [one.group_id for one in stand.groups().groups] == ["billing"]
    assert stand.offsets("fraud", before_ms) == {("orders", 0): 7}


def test_a_group_that_moved_to_another_coordinator_is_asked_there(stand: Stand) -> None:
    """Hazard 31: an answer of a broker that is not the coordinator is no answer."""
    stand.cluster.not_coordinator["billing"] = 2
    stand.round()
    assert stand.group("billing").part.outcome is ReadOutcome.OK
    assert stand.group("billing").coordinator == 2
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}


def test_a_loading_coordinator_is_asked_again_within_the_round_and_reported_if_it_goes_on_loading(stand: Stand) -> None:
    stand.cluster.loading[1] = 1
    stand.round()
    assert stand.groups().complete
    stand.cluster.loading[1] = 1000
    stand.round()
    broker = stand.groups().coordinators[0]
    assert (broker.part.outcome, broker.part.cause) == (ReadOutcome.FAILED, "COORDINATOR_LOAD_IN_PROGRESS (14)")
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}


def test_a_group_that_permissions_hide_keeps_what_was_known_and_is_marked_as_hidden(stand: Stand) -> None:
    stand.round()
    stand.cluster.groups["billing"].error = KafkaErrorCode.GROUP_AUTHORIZATION_FAILED
    stand.round()
    billing = stand.group("billing")
    assert (billing.part.outcome, billing.part.cause) == (ReadOutcome.DENIED, "GROUP_AUTHORIZATION_FAILED (30)")
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}


def test_positions_in_a_topic_that_becomes_hidden_are_not_taken_for_deleted(stand: Stand) -> None:
    """Brokers leave out, without a word, what permissions hide."""
    stand.cluster.commit("billing", "secret", 0, 99)
    stand.round()
    stand.cluster.topics["secret"].hidden = True
    stand.round(3)
    billing = stand.group("billing")
    assert stand.offsets("billing")["secret", 0] == 99
    assert (billing.part.outcome, billing.part.cause) == (ReadOutcome.DENIED, "topics are hidden: secret")


def test_positions_in_a_deleted_topic_go_with_it(stand: Stand) -> None:
    stand.cluster.commit("billing", "old", 0, 99)
    stand.round()
    del stand.cluster.topics["old"]
    del stand.cluster.groups["billing"].positions["old", 0]
    stand.round()
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}


def test_a_share_group_has_no_positions_and_is_not_a_failure(stand: Stand) -> None:
    share = stand.cluster.groups["share"] = FakeGroup(1, type="Share", error=KafkaErrorCode.GROUP_ID_NOT_FOUND)
    share.error = KafkaErrorCode.INVALID_REQUEST
    stand.round()
    assert stand.group("share").part.outcome is ReadOutcome.OK
    assert stand.group("share").type == "share"


def test_positions_beyond_the_bound_are_not_asked_for_and_said_to_be_missing(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.round()
    monkeypatch.setattr("kbackupd.capture.group_survey.POSITIONS_MAX", 2)
    monkeypatch.setattr("kbackupd.capture.group_survey.GROUPS_PER_REQUEST", 1)
    stand.cluster.commit("other", "orders", 0, 1, coordinator=1)
    stand.round()
    outcomes = {one.group_id: one.part for one in stand.groups().groups}
    assert "more than 2 positions" in outcomes["other"].cause
    assert outcomes["other"].answered_ms == -1
    assert stand.offsets("billing") == {("orders", 0): 10, ("orders", 1): 11}


def test_without_describe_on_the_cluster_the_list_is_not_called_whole(stand: Stand) -> None:
    stand.cluster.may_describe = False
    stand.round()
    assert not stand.groups().lists_all
    assert not stand.groups().complete


def test_configurations_acls_and_quotas_are_kept_with_what_is_hidden(stand: Stand) -> None:
    stand.cluster.topics["orders"].configs["cleanup.policy"] = "compact"
    stand.cluster.topics["secret"] = FakeTopic(TopicId("S" * 22), configs={"a": "b"})
    stand.cluster.set_acls(ACL)
    stand.cluster.set_quotas(QUOTA)
    stand.round()
    stand.cluster.topics["secret"].configs_error = KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED
    stand.cluster.set_acls(error_code=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    stand.cluster.set_quotas(error_code=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    stand.round()
    content = stand.configuration()
    orders, secret = content.topics
    assert (orders.part.outcome, orders.configs) == (ReadOutcome.OK, {"cleanup.policy": "compact"})
    assert (secret.part.outcome, secret.configs) == (ReadOutcome.DENIED, {"a": "b"})
    assert (content.acls_part.outcome, content.acls) == (ReadOutcome.DENIED, (ACL,))
    assert (content.quotas_part.outcome, content.quotas) == (ReadOutcome.DENIED, (QUOTA,))
    assert content.acls_part.answered_ms > 0


def test_part_that_was_never_readable_is_empty_and_says_that_this_means_nothing(stand: Stand) -> None:
    stand.cluster.set_acls(error_code=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    stand.cluster.set_quotas(error_code=KafkaErrorCode.UNSUPPORTED_VERSION)
    stand.round()
    content = stand.configuration()
    assert (content.acls_part.outcome, content.acls_part.answered_ms) == (ReadOutcome.DENIED, -1)
    assert (content.quotas_part.outcome, content.quotas_part.answered_ms) == (ReadOutcome.FAILED, -1)


def test_without_an_authorizer_there_are_certainly_no_acls(stand: Stand) -> None:
    stand.cluster.acls_answer = DescribedAcls(error_code=KafkaErrorCode.SECURITY_DISABLED, detail="none", acls=())
    stand.round()
    assert (stand.configuration().acls_part.outcome, stand.configuration().acls) == (ReadOutcome.OK, ())


def test_acls_and_quotas_that_vanish_are_believed_to_be_gone_the_second_time(stand: Stand) -> None:
    stand.cluster.set_acls(ACL)
    stand.cluster.set_quotas(QUOTA)
    stand.round()
    stand.cluster.set_acls()
    stand.cluster.set_quotas()
    stand.round()
    assert (stand.configuration().acls, stand.configuration().quotas) == ((ACL,), (QUOTA,))
    stand.round()
    assert (stand.configuration().acls, stand.configuration().quotas) == ((), ())


def test_a_topic_that_becomes_hidden_stays_and_a_deleted_one_goes(stand: Stand) -> None:
    stand.cluster.topics["hidden"] = FakeTopic(TopicId("H" * 22), configs={"a": "b"})
    stand.cluster.topics["deleted"] = FakeTopic(TopicId("D" * 22))
    stand.round()
    stand.cluster.topics["hidden"].hidden = True
    del stand.cluster.topics["deleted"]
    stand.round()
    found = {one.name: one for one in stand.configuration().topics}
    assert set(found) == {"hidden", "orders"}
    assert (found["hidden"].part.outcome, found["hidden"].configs) == (ReadOutcome.DENIED, {"a": "b"})


def test_permissions_are_reported_once_and_are_no_problem(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    told = logged(monkeypatch)
    stand.cluster.set_acls(error_code=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    stand.round(5)
    assert [row["part"] for event, row in told if event == "snapshot.found_hidden"] == ["acls"]
    assert "Describe on the Cluster" in next(row["hint"] for event, row in told if event == "snapshot.found_hidden")
    assert stand.problems.current() == ()
    assert stand.snapshots.pause_seconds == 60.0
    stand.cluster.set_acls(ACL)
    stand.round()
    stand.cluster.set_acls(error_code=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    stand.round()
    assert len([event for event, _ in told if event == "snapshot.found_hidden"]) == 2


def test_failing_rounds_are_asked_again_soon_become_a_problem_and_end_as_one(stand: Stand) -> None:
    stand.cluster.metadata_error = KafkaUnavailableError("no broker answers")
    pauses = []
    for number in range(6):
        stand.round()
        pauses.append(stand.snapshots.pause_seconds)
        assert bool(stand.problems.current()) == (number + 1 >= PROBLEM_AFTER_ROUNDS)
    assert pauses == [FIRST_RETRY_SECONDS, 10.0, 20.0, 40.0, 60.0, 60.0]
    stand.cluster.metadata_error = None
    stand.round()
    assert stand.problems.current() == ()
    assert stand.snapshots.pause_seconds == 60.0


def test_a_store_that_fails_and_a_fault_of_ours_end_a_round_and_never_the_loop(stand: Stand) -> None:
    """P6: whatever happens in here, records go on being backed up."""
    stand.faults.fail("put")
    stand.round()
    assert value(stand.metrics, "snapshot_failures_total", part="groups", cause="store") == 1
    stand.faults.heal()
    stand.cluster.metadata_error = ValueError("a bug")
    stand.round()
    assert value(stand.metrics, "snapshot_failures_total", part="acls", cause="unexpected") == 1
    stand.cluster.metadata_error = None
    stand.round()
    assert stand.groups().complete


def test_metrics_tell_the_age_of_every_part_that_could_be_read(stand: Stand) -> None:
    stand.cluster.set_acls(error_code=KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    stand.round()
    assert value(stand.metrics, "snapshots_total", kind="groups") == 1
    assert value(stand.metrics, "snapshot_age_seconds", part="groups") == 60
    assert value(stand.metrics, "snapshot_age_seconds", part="topics") == 60
    assert value(stand.metrics, "snapshot_age_seconds", part="acls") is None
    assert value(stand.metrics, "snapshot_failures_total", part="acls", cause="denied") == 1
    stand.cluster.down.add(2)
    stand.round()
    assert value(stand.metrics, "snapshot_age_seconds", part="groups") == pytest.approx(120, abs=10)
    assert value(stand.metrics, "snapshot_failures_total", part="groups", cause="failed") == 1


def test_the_loop_asks_at_once_and_then_at_its_interval(stand: Stand) -> None:
    async def life() -> None:
        running = asyncio.create_task(stand.snapshots.run())
        await asyncio.sleep(1)
        assert len(stand.keys("groups")) == 1
        stand.cluster.commit("billing", "orders", 0, 20)
        await asyncio.sleep(61)
        assert len(stand.keys("groups")) == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(life(), clock=stand.clock)


def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    told: list[tuple[str, dict[str, str]]] = []

    class Log:
        def warning(self, event: str, **row: str) -> None:
            told.append((event, row))

        info = warning

    monkeypatch.setattr("kbackupd.capture.snapshots.log", Log())
    return told

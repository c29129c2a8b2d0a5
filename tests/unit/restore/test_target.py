"""What preflight finds in the target before the first write, and how topics are made safe, on forged answers."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import KafkaErrorCode, TopicOperation
from kbackupd.kafka.wire import InitProducerIdRequest, ListOffsetsRequest
from kbackupd.kafka.wire_admin import AlterTopicConfigsRequest, CreateTopicRequest, DescribeTopicConfigsRequest
from kbackupd.kafka.wire_cluster import DescribeQuotasRequest
from kbackupd.model.restores import BegunTopic, FillingTopic, Unfinished
from kbackupd.model.snapshots import Quota
from kbackupd.restore import target_logs
from kbackupd.restore.configs import SAFE
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.preflight import PreflightError, TargetDeniedError, examine_target
from kbackupd.restore.quotas import producer_quota, quota_note
from kbackupd.restore.topics import prepare_topics
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.forged_target import EVERYTHING, SINCE_KAFKA_3_6, ForgedTarget, ForgedTopic, left_behind
from tests.unit.restore.planned import archive_everything, plan_of, settings_for
from tests.unit.restore.test_resume import begun, ready

CODE = KafkaErrorCode
CAN = TopicOperation


async def plan_for(*names: str, append: bool = False) -> RestorePlan:
    built = await ArchiveBuilder.create()
    for name in names:
        built.log(built.topic(name), 0).append([b"v"])
    await archive_everything(built)
    return await plan_of(built, settings_for("kafka:9092", {}, append=append))


async def prepare(target: ForgedTarget, *names: str) -> dict[str, dict[str, str]]:
    """Preflight and preparation; each topic's configuration while records come in."""
    plan = await plan_for(*names)
    ready = await prepare_topics(target, plan, await examine_target(target, plan))
    return {name: dict(topic.configs) for name, topic in ready.items()}


async def problems(target: ForgedTarget, *names: str) -> list[str]:
    """What preflight refuses, each with its remedy; [] if nothing."""
    try:
        await examine_target(target, await plan_for(*names))
    except (PreflightError, TargetDeniedError) as error:
        return [f"{problem.what} → {problem.remedy}" for problem in error.problems]
    finally:
        assert target.written == []
    return []


class TestABrokerBeforeKafka36:
    async def test_an_existing_empty_topic_is_made_safe_without_the_bounds_it_does_not_know(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()}, unknown_keys=SINCE_KAFKA_3_6)

        configs = await prepare(target, "orders")

        assert configs["orders"] == target.topics["orders"].configs
        assert configs["orders"]["retention.ms"] == "-1"
        assert not configs["orders"].keys() & set(SINCE_KAFKA_3_6)

    async def test_a_run_that_was_interrupted_after_creating_topics_can_be_repeated(self) -> None:
        target = ForgedTarget(unknown_keys=SINCE_KAFKA_3_6)

        first = await prepare(target, "orders")
        plan = await plan_for("orders")
        state = await examine_target(target, plan)

        assert state.existing["orders"].overrides == {}, "what a restore set is nobody's own configuration"
        assert (await prepare_topics(target, plan, state))["orders"].configs == first["orders"]

    async def test_another_key_that_is_refused_is_told_and_not_taken_for_age(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()}, refuses={AlterTopicConfigsRequest: CODE.INVALID_CONFIG})

        with pytest.raises(PreflightError, match="configuring topic orders: INVALID_CONFIG"):
            await prepare(target, "orders")
        assert target.written == []


class TestConfigurationThatIsHidden:
    async def test_an_existing_topic_whose_own_configuration_may_not_be_read_is_refused(self) -> None:
        target = ForgedTarget(
            topics={"orders": ForgedTopic(configs={"retention.ms": "5"})},
            operations={"orders": None},
            refuses={DescribeTopicConfigsRequest: CODE.TOPIC_AUTHORIZATION_FAILED},
        )

        with pytest.raises(TargetDeniedError, match="topic orders: this principal lacks DescribeConfigs") as refused:
            await examine_target(target, await plan_for("orders"))

        assert refused.value.exit_code == 4
        assert "DescribeConfigs" in refused.value.hint
        assert target.topics["orders"].configs == {"retention.ms": "5"}

    async def test_one_that_cannot_be_read_for_another_reason_is_refused_as_well(self) -> None:
        target = ForgedTarget(
            topics={"orders": ForgedTopic()}, refuses={DescribeTopicConfigsRequest: CODE.REQUEST_TIMED_OUT}
        )

        [problem] = await problems(target, "orders")

        assert "REQUEST_TIMED_OUT" in problem

    async def test_what_an_interrupted_restore_left_is_nobodys_own(self) -> None:
        target = ForgedTarget(topics={"new": left_behind(), "old": left_behind(older=True)})

        state = await examine_target(target, await plan_for("new", "old"))

        assert [state.existing[name].overrides for name in ("new", "old")] == [{}, {}]

    async def test_bounds_of_somebody_else_are_kept_to_be_put_back(self) -> None:
        own = {**SAFE, "message.timestamp.before.max.ms": "1000"}
        target = ForgedTarget(topics={"orders": ForgedTopic(configs=own)})

        assert (await examine_target(target, await plan_for("orders"))).existing["orders"].overrides == own


class TestPermissions:
    async def test_a_cluster_without_authorizer_refuses_nothing(self) -> None:
        assert await problems(ForgedTarget(topics={"orders": ForgedTopic()}), "orders", "absent") == []

    async def test_a_broker_that_does_not_tell_permissions_is_believed_capable(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()}, operations={"orders": None, "absent": None})

        assert await problems(target, "orders", "absent") == []

    @pytest.mark.parametrize(
        ("lacking", "named"),
        [
            (CAN.READ, "Read"),
            (CAN.WRITE, "Write"),
            (CAN.ALTER_CONFIGS, "AlterConfigs"),
            (CAN.DESCRIBE_CONFIGS, "DescribeConfigs"),
        ],
    )
    async def test_each_permission_an_existing_topic_needs_is_missed_before_the_first_write(
        self, lacking: TopicOperation, named: str
    ) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()}, operations={"orders": EVERYTHING - {lacking}})

        assert await problems(target, "orders") == [
            f"topic orders: this principal lacks {named} → grant {named} on topic orders"
        ]

    async def test_everything_that_is_missing_is_told_at_once_and_is_exit_code_4(self) -> None:
        target = ForgedTarget(
            topics={"orders": ForgedTopic()},
            operations={
                "orders": frozenset({CAN.DESCRIBE, CAN.READ}),
                "absent": frozenset({CAN.DESCRIBE}),
                "hidden": frozenset(),
            },
            refuses={
                CreateTopicRequest: CODE.TOPIC_AUTHORIZATION_FAILED,
                DescribeTopicConfigsRequest: CODE.TOPIC_AUTHORIZATION_FAILED,
                InitProducerIdRequest: CODE.CLUSTER_AUTHORIZATION_FAILED,
            },
        )

        with pytest.raises(TargetDeniedError) as refused:
            await examine_target(target, await plan_for("orders", "absent", "hidden"))

        assert [(problem.what, problem.remedy) for problem in refused.value.problems] == [
            (
                "topic hidden: this principal lacks Describe",
                "grant Describe, Create, Read, Write, AlterConfigs on topic hidden",
            ),
            (
                "topic absent: this principal lacks Create, Read, Write, AlterConfigs",
                "grant Create, Read, Write, AlterConfigs on topic absent",
            ),
            (
                "topic orders: this principal lacks Write, AlterConfigs, DescribeConfigs",
                "grant Write, AlterConfigs, DescribeConfigs on topic orders",
            ),
            (
                "this principal may not produce idempotently",
                "grant Write on the target topics, or IdempotentWrite on the cluster",
            ),
        ]
        assert target.written == []

    async def test_create_on_the_cluster_is_enough_where_the_topic_has_none(self) -> None:
        target = ForgedTarget(operations={"absent": EVERYTHING - {CAN.CREATE}})

        assert await problems(target, "absent") == []

    async def test_a_missing_permission_beside_a_topic_with_records_is_a_refusal(self) -> None:
        target = ForgedTarget(
            topics={"full": ForgedTopic(records=3), "orders": ForgedTopic()},
            operations={"orders": EVERYTHING - {CAN.WRITE}},
        )

        with pytest.raises(PreflightError) as refused:
            await examine_target(target, await plan_for("full", "orders"))

        assert refused.value.exit_code == 5
        assert len(refused.value.problems) == 2

    async def test_each_problem_and_each_remedy_is_told_on_a_line_of_its_own_and_once(self) -> None:
        names = [f"orders-{number}" for number in range(3)]
        target = ForgedTarget(topics={name: ForgedTopic(records=3) for name in names})

        with pytest.raises(PreflightError) as refused:
            await examine_target(target, await plan_for(*names))

        head, *lines = refused.value.message.splitlines()
        assert head == "the restore was refused before any write:"
        assert [line.split()[1] for line in lines] == [f"{name}" for name in names], refused.value.message
        assert len(refused.value.hint.splitlines()) == len({one.remedy for one in refused.value.problems})

    async def test_a_cluster_policy_that_will_not_have_the_topic_is_found_before_any_is_created(self) -> None:
        target = ForgedTarget(refuses={CreateTopicRequest: CODE.POLICY_VIOLATION})

        [problem] = await problems(target, "absent")

        assert "topic absent cannot be created" in problem
        assert "POLICY_VIOLATION" in problem


class TestLimits:
    """Hazard 36, refused by limits: each is told before the first write, with what to do."""

    @pytest.mark.parametrize(
        "key",
        [
            "max.message.bytes",
            "message.timestamp.type",
            "message.timestamp.after.max.ms",
            "message.timestamp.before.max.ms",
            "retention.ms",
            "cleanup.policy",
        ],
    )
    async def test_a_policy_that_will_not_have_an_existing_topic_made_safe_is_found_before_it_is_touched(
        self, key: str
    ) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()}, forbidden_keys=[key])

        [problem] = await problems(target, "orders")

        assert "topic orders cannot be made safe for a restore: configuring topic orders: POLICY_VIOLATION" in problem
        assert f"{key} is ours" in problem, "the policy's own words"
        assert "alter.config.policy" in problem

    async def test_a_broker_that_does_not_tell_permissions_tells_this_one_when_it_is_tried_out(self) -> None:
        target = ForgedTarget(
            topics={"orders": ForgedTopic()},
            operations={"orders": None},
            refuses={AlterTopicConfigsRequest: CODE.TOPIC_AUTHORIZATION_FAILED},
        )

        assert await problems(target, "orders") == [
            "topic orders: this principal lacks AlterConfigs → grant AlterConfigs on topic orders"
        ]

    async def test_a_policy_that_will_not_have_an_absent_topic_protected_names_the_policy(self) -> None:
        target = ForgedTarget(forbidden_keys=["message.timestamp.after.max.ms"])

        [problem] = await problems(target, "absent")

        assert "message.timestamp.after.max.ms is ours" in problem
        assert "create.topic.policy" in problem

    async def test_fewer_replicas_than_must_acknowledge_would_stop_the_first_record_for_ever(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic(configs={"min.insync.replicas": "2"})})

        [problem] = await problems(target, "orders")

        assert "partition 0 has a replication factor of 1, and min.insync.replicas is 2" in problem
        assert "lower min.insync.replicas of orders" in problem

    async def test_replicas_that_are_not_in_sync_do_not_acknowledge(self) -> None:
        lagging = ForgedTopic(partitions=1, replicas=3, in_sync=1)
        target = ForgedTarget(topics={"orders": lagging}, min_insync_replicas=2)

        [problem] = await problems(target, "orders")

        assert "partition 0 has 1 of 3 replicas in sync, and min.insync.replicas is 2" in problem
        assert "bring the target's brokers back" in problem

    async def test_a_topic_that_would_be_created_with_too_few_replicas_is_not_created(self) -> None:
        [problem] = await problems(ForgedTarget(min_insync_replicas=2), "absent")

        assert "topic absent would be created with a replication factor of 1, and min.insync.replicas is 2" in problem
        assert "default.replication.factor" in problem

    async def test_too_few_brokers_for_the_default_number_of_replicas_has_a_remedy_of_its_own(self) -> None:
        target = ForgedTarget(refuses={CreateTopicRequest: CODE.INVALID_REPLICATION_FACTOR})

        [problem] = await problems(target, "absent")

        assert "default.replication.factor" in problem

    async def test_a_batch_that_no_request_can_hold_is_found_before_a_broker_hangs_up_on_it(self) -> None:
        target = ForgedTarget(broker={"socket.request.max.bytes": "65536"})

        [problem] = await problems(target, "absent")

        assert "take no request above 65536 (socket.request.max.bytes)" in problem
        assert "raise socket.request.max.bytes" in problem

    async def test_everything_that_limits_is_told_at_once(self) -> None:
        target = ForgedTarget(
            topics={"full": ForgedTopic(records=1), "thin": ForgedTopic(configs={"min.insync.replicas": "2"})},
            forbidden_keys=["retention.ms"],
            broker={"socket.request.max.bytes": "65536"},
        )

        told = "\n".join(await problems(target, "full", "thin", "absent"))

        for name, problem in (
            ("full", "is not empty"),
            ("thin", "min.insync.replicas is 2"),
            ("thin", "cannot be made safe"),
            ("absent", "cannot be created"),
            ("absent", "its largest batch has"),
        ):
            assert any(name in line and problem in line for line in told.splitlines()), (name, problem, told)


class TestAppending:
    """`append: true`: records follow those that are there, and the topic stays whose it is (hazard 37)."""

    OWN: ClassVar[dict[str, str]] = {"retention.ms": "5", "max.message.bytes": "9000000"}

    async def test_a_topic_that_holds_records_is_no_problem_and_is_filled_behind_them(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic(records=7, configs=dict(self.OWN))})
        plan = await plan_for("orders", "absent", append=True)

        state = await examine_target(target, plan)
        ready = await prepare_topics(target, plan, state)

        assert ready["orders"].log_ends == {0: 7}
        assert (ready["orders"].appends, ready["absent"].appends) == (True, False)
        assert state.existing["orders"].overrides == self.OWN
        assert state.notes == ("topics that held records, which the restored ones follow: orders",)

    async def test_its_own_producers_may_write_as_large_batches_as_before(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic(records=7, configs=dict(self.OWN))})
        plan = await plan_for("orders", append=True)

        ready = await prepare_topics(target, plan, await examine_target(target, plan))

        assert int(ready["orders"].configs["max.message.bytes"]) >= 9_000_000
        assert ready["orders"].configs["retention.ms"] == "-1", "protected while records come in"

    async def test_an_empty_topic_is_restored_into_as_without_it(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()})
        plan = await plan_for("orders", append=True)

        state = await examine_target(target, plan)

        assert (state.existing["orders"].holds_records, state.notes) == (False, ())

    async def test_other_problems_are_problems_still(self) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic(records=1, partitions=2)})

        with pytest.raises(PreflightError, match="topic orders has 2 partitions") as refused:
            await examine_target(target, await plan_for("orders", append=True))
        assert "delete" not in refused.value.hint, "it holds what others wrote"

    async def test_without_it_the_refusal_names_it(self) -> None:
        [problem] = await problems(ForgedTarget(topics={"orders": ForgedTopic(records=1)}), "orders")

        assert "append: true" in problem


class TestGoingOn:
    """A restore whose other topics failed is run again; at the first one's end this topic was configured."""

    HELD_BACK: ClassVar[dict[str, str]] = {"cleanup.policy": "delete", "retention.ms": "-1", "segment.bytes": "7"}

    @pytest.mark.parametrize("own", [{"retention.ms": "5"}, None], ids=["was there", "created"])
    async def test_what_the_first_run_held_back_is_not_taken_for_the_topics_own_configuration(
        self, own: dict[str, str] | None
    ) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic(configs=dict(self.HELD_BACK))})
        topic_id = (await cluster_metadata(target, ["orders"])).topics[0].topic_id
        topic = BegunTopic(
            source="orders",
            source_topic_id=topic_id,
            target="orders",
            existing_topic_id=None if own is None else topic_id,
            overrides=own or {},
        )
        filling = FillingTopic(
            target="orders", topic_id=topic_id, log_ends=(0,), configs=dict(SAFE), created=own is None
        )
        half = Unfinished(begun=begun(topics=(topic,)), ready=replace(ready(), topics=(filling,)))

        state = await examine_target(target, await plan_for("orders"), unfinished=[half], going_on=half)

        assert state.existing["orders"].overrides == (own or {})

    async def test_reading_must_be_allowed_even_where_nothing_is_verified_for_the_log_tells_how_far_it_came(
        self,
    ) -> None:
        target = ForgedTarget(topics={"orders": ForgedTopic()}, operations={"orders": EVERYTHING - {CAN.READ}})
        half = Unfinished(begun=begun(), ready=ready())
        plan = await plan_for("orders")

        assert (await examine_target(target, plan, reads_back=False)).landed == {}
        with pytest.raises(TargetDeniedError, match="topic orders: this principal lacks Read"):
            await examine_target(target, plan, reads_back=False, unfinished=[half], going_on=half)


class TestLeadersThatWereElectedAMomentAgo:
    async def test_they_are_asked_again_before_anybody_is_told_to_try_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(target_logs, "_POLL_SECONDS", 0.0)

        assert await problems(ForgedTarget(topics={"orders": ForgedTopic()}, settling=3), "orders") == []

    async def test_one_that_stays_silent_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(target_logs, "SETTLING_SECONDS", 0.0)
        refuses: dict[type[object], int] = {ListOffsetsRequest: CODE.NOT_LEADER_OR_FOLLOWER}

        [problem] = await problems(ForgedTarget(topics={"orders": ForgedTopic()}, refuses=refuses), "orders")

        assert "topic orders does not tell its offsets: partitions 0 → try again when" in problem


class TestQuotas:
    """A quota refuses nothing and slows everything: it is told before the restore, with what it costs."""

    async def notes(self, *quotas: Quota, refused: int = 0) -> tuple[str, ...]:
        refuses: dict[type[object], int] = {DescribeQuotasRequest: refused} if refused else {}
        target = ForgedTarget(quotas=quotas, refuses=refuses)
        return (await examine_target(target, await plan_for("orders"))).notes

    async def test_a_quota_of_ours_is_told_with_the_time_it_makes_the_restore_take(self) -> None:
        mine = Quota(entity={"user": None}, values={"producer_byte_rate": 1.0, "consumer_byte_rate": 5.0})

        [note] = await self.notes(mine)

        assert "user ANONYMOUS, client id test 1 B/s on each broker" in note
        assert "at most 71 B, which take 1m11s at that pace, a burst of some seconds aside" in note

    def test_partitions_that_few_brokers_lead_have_the_quotas_of_few(self) -> None:
        told = [
            quota_note(1024.0, brokers=3, partitions=partitions, raw_bytes=60 << 10, user="u", client_id="c")
            for partitions in (1, 2, 12)
        ]

        assert [one.partition("which take ")[2].split()[0] for one in told] == ["1m00s", "30s", "20s"]

    async def test_an_infinite_quota_is_none(self) -> None:
        without_end = Quota(entity={"client-id": "test"}, values={"producer_byte_rate": float("inf")})
        assert await self.notes(without_end) == ()

    async def test_quotas_of_others_are_nobodys_business(self) -> None:
        other = Quota(entity={"user": "alice"}, values={"producer_byte_rate": 1.0})
        reading = Quota(entity={"user": None}, values={"consumer_byte_rate": 1.0})

        assert await self.notes(other, reading) == ()

    async def test_a_principal_that_may_not_see_quotas_restores_all_the_same(self) -> None:
        assert await self.notes(refused=CODE.CLUSTER_AUTHORIZATION_FAILED) == ()


@pytest.mark.parametrize(
    ("entities", "expected"),
    [
        ([{"user": "u", "client-id": "c"}, {"user": "u"}, {"client-id": "c"}], 0),
        ([{"client-id": None}, {"client-id": "c"}], 1),
        ([{"client-id": "c"}, {"user": None}], 1),
        ([{"user": None}, {"user": None, "client-id": None}, {"user": "u"}], 2),
        ([{"user": "other"}, {"client-id": "other"}, {"ip": "127.0.0.1"}], None),
    ],
)
def test_the_quota_that_fits_most_closely_counts(entities: list[dict[str, str | None]], expected: int | None) -> None:
    quotas = [Quota(entity=one, values={"producer_byte_rate": float(n)}) for n, one in enumerate(entities)]

    assert producer_quota(quotas, user="u", client_id="c") == expected


def test_of_a_user_that_is_not_known_only_what_names_no_user_is_certain() -> None:
    quotas = [
        Quota(entity={"user": "u"}, values={"producer_byte_rate": 1.0}),
        Quota(entity={"client-id": "c"}, values={"producer_byte_rate": 2.0}),
    ]

    assert producer_quota(quotas, user=None, client_id="c") == 2.0

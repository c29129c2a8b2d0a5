"""The configuration of a target topic: safe while records come in, the recorded one only where it deletes nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from kbackupd.model.settings import RetentionAfter
from kbackupd.restore.configs import (
    DELETING,
    SAFE,
    ConfigDecision,
    RestoredFacts,
    after_restore,
    before_kafka_3_6,
    config_command,
    during_restore,
    is_left_by_a_restore,
)

NOW_MS = 1_790_000_000_000
HOUR_MS = 3_600_000
DEFAULTS = {"cleanup.policy": "delete", "retention.ms": str(168 * HOUR_MS), "retention.bytes": "-1"}
FRESH = RestoredFacts(complete=True, oldest_timestamp_ms=NOW_MS - HOUR_MS, largest_partition_bytes=1_000, records=10)


def decide(
    recorded: dict[str, str],
    *,
    facts: RestoredFacts = FRESH,
    mode: RetentionAfter = RetentionAfter.AUTO,
    defaults: dict[str, str] | None = None,
    earlier: dict[str, str] | None = None,
    during: dict[str, str] | None = None,
) -> ConfigDecision:
    return after_restore(
        recorded=recorded,
        during=during_restore(recorded, 0) if during is None else during,
        earlier=earlier or {},
        defaults=DEFAULTS if defaults is None else defaults,
        facts=facts,
        mode=mode,
        now_ms=NOW_MS,
    )


def facts(*, age_hours: int | None = 1, size: int = 1_000, records: int = 10, complete: bool = True) -> RestoredFacts:
    return RestoredFacts(
        complete=complete,
        oldest_timestamp_ms=None if age_hours is None else NOW_MS - age_hours * HOUR_MS,
        largest_partition_bytes=size,
        records=records,
    )


def test_during_a_restore_nothing_expires_compacts_restamps_or_recompresses_and_every_batch_fits() -> None:
    configs = during_restore({"max.message.bytes": "5000"}, 30_000_000)

    assert configs.items() >= SAFE.items()
    assert int(configs["max.message.bytes"]) > 30_000_000
    assert int(during_restore({}, 10)["max.message.bytes"]) == 1_048_588


def test_what_is_not_recorded_goes_back_to_the_default_and_what_is_recorded_is_set() -> None:
    decision = decide({"retention.ms": str(5 * HOUR_MS), "segment.bytes": "1000000"})

    assert decision.held == {}
    assert decision.apply["retention.ms"] == str(5 * HOUR_MS)
    assert decision.apply["segment.bytes"] == "1000000"
    assert {key for key, value in decision.apply.items() if value is None} == set(during_restore({}, 0)) - {
        "retention.ms"
    }


def test_an_empty_topic_that_was_there_keeps_its_own_settings_where_nothing_is_recorded() -> None:
    decision = decide({"retention.ms": "-1"}, earlier={"max.message.bytes": "2000000", "retention.ms": "1"})

    assert decision.apply["max.message.bytes"] == "2000000"
    assert decision.apply["retention.ms"] == "-1"


@pytest.mark.parametrize("recorded", [{"retention.ms": str(HOUR_MS // 2)}, {}])
def test_retention_that_would_delete_restored_records_is_held_back_alone(recorded: dict[str, str]) -> None:
    decision = decide(recorded, facts=facts(age_hours=1 if recorded else 169))

    assert set(decision.held) == {"retention.ms"}
    assert "would delete" in decision.reasons[0]
    assert "message.timestamp.type" in decision.apply


def test_records_without_a_timestamp_are_as_old_as_their_file() -> None:
    assert decide({"retention.ms": "1000"}, facts=facts(age_hours=None)).held == {}


def test_retention_by_size_is_held_back_when_a_partition_is_larger() -> None:
    assert set(decide({"retention.bytes": "999"}).held) == {"retention.bytes"}
    assert decide({"retention.bytes": "1000"}).held == {}


def test_with_compaction_retention_is_held_back_too_or_the_topic_would_delete_by_age_what_it_meant_to_keep() -> None:
    decision = decide({"cleanup.policy": "compact"}, facts=facts(age_hours=10_000))

    assert decision.held == {"cleanup.policy": "compact", "retention.ms": None, "retention.bytes": None}


def test_defaults_nobody_may_read_are_not_trusted() -> None:
    assert set(decide({}, defaults={}).held) == set(DELETING)
    known = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    assert decide(known, defaults={}).held == {}


def test_hold_holds_recorded_applies_and_an_empty_topic_has_nothing_to_lose() -> None:
    old = {"retention.ms": "1", "cleanup.policy": "compact"}

    assert set(decide(old, mode=RetentionAfter.HOLD).held) == set(DELETING)
    assert decide(old, mode=RetentionAfter.RECORDED).held == {}
    assert decide(old, facts=facts(records=0, age_hours=None)).held == {}


@pytest.mark.parametrize(
    ("recorded", "deletes"),
    [
        ({"retention.ms": str(HOUR_MS // 2)}, "retention.ms (30m00s) would delete records from"),
        ({"retention.bytes": "500"}, "retention.bytes (500 B) would delete part of a partition of 1000 B"),
        ({"cleanup.policy": "compact"}, "compaction would remove all but the newest record of each key"),
        ({"retention.ms": str(2 * HOUR_MS)}, ""),
        ({}, ""),
    ],
)
def test_what_is_applied_as_recorded_although_it_deletes_is_told(recorded: dict[str, str], deletes: str) -> None:
    told = decide(recorded, mode=RetentionAfter.RECORDED).deletes

    assert len(told) == bool(deletes)
    assert all(one.startswith(deletes) for one in told)
    assert decide(recorded).deletes == (), "by itself nothing is applied that deletes"
    assert decide(recorded, mode=RetentionAfter.RECORDED, defaults={}).deletes == told, "only what is known"


def test_a_topic_that_held_records_gets_its_own_settings_back_and_none_of_the_recorded_ones() -> None:
    own = {"retention.ms": str(2 * HOUR_MS), "segment.bytes": "5"}

    decision = decide({}, earlier=own)

    assert decision.apply["retention.ms"] == own["retention.ms"]
    assert "segment.bytes" not in decision.apply, "was never touched"
    assert decide({}, earlier=own, facts=facts(age_hours=3)).held == {"retention.ms": own["retention.ms"]}


@pytest.mark.parametrize("mode", list(RetentionAfter))
def test_a_topic_with_fewer_replicas_than_must_be_in_sync_would_take_no_record_any_more(mode: RetentionAfter) -> None:
    few = replace(FRESH, replicas=1)

    decision = decide({"min.insync.replicas": "2", "segment.bytes": "1000000"}, facts=few, mode=mode)

    assert decision.held["min.insync.replicas"] == "2"
    assert "above the number of replicas (1)" in " ".join(decision.reasons)
    assert decision.apply["segment.bytes"] == "1000000"
    assert "min.insync.replicas" not in decide({"min.insync.replicas": "1"}, facts=few, mode=mode).held
    assert "min.insync.replicas" not in decide({"min.insync.replicas": "2"}, mode=mode).held, "not known is no reason"


def test_a_topic_whose_restore_failed_keeps_all_its_protection_whatever_was_asked() -> None:
    decision = decide({"retention.ms": "1"}, facts=facts(complete=False), mode=RetentionAfter.RECORDED)

    assert decision.apply == {}
    assert decision.held["retention.ms"] == "1"


def test_an_empty_topic_that_an_interrupted_restore_left_is_recognised() -> None:
    assert is_left_by_a_restore(during_restore({}, 5))
    assert is_left_by_a_restore(before_kafka_3_6(during_restore({}, 5)))
    assert not is_left_by_a_restore({**during_restore({}, 5), "message.timestamp.after.max.ms": "1"})
    assert not is_left_by_a_restore({"retention.ms": "-1"})


def test_the_command_sets_and_deletes_and_brackets_lists() -> None:
    command = config_command(
        ["a:1", "b:2"], "my topic", {"cleanup.policy": "compact,delete", "retention.ms": None, "segment.ms": "5"}
    )

    assert shlex.split(command) == [
        *("kafka-configs.sh", "--bootstrap-server", "a:1,b:2", "--alter"),
        *("--entity-type", "topics", "--entity-name", "my topic"),
        *("--add-config", "cleanup.policy=[compact,delete],segment.ms=5", "--delete-config", "retention.ms"),
    ]
    assert config_command(["a:1"], "t", {}) == ""


def test_what_an_older_broker_was_not_given_is_not_put_back_either() -> None:
    during = before_kafka_3_6(during_restore({}, 0))

    assert decide({}, during=during).apply.keys() == during.keys()

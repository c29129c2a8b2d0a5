"""A reviewed plan is carried out, refused or undone on a real broker (hazards 28, 31 and 32)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from kbackupd.kafka.admin import delete_records
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic, delete_topic
from tests.integration.groups.story import Story, commit, exists, held, verb

Names = Callable[[], str]


@pytest.fixture
def story(kafka: KafkaServer, unique_topic: Names, tmp_path: Path) -> Story:
    return Story(tmp_path, kafka.bootstrap, unique_topic())


@pytest.fixture
def group(kafka: KafkaServer, story: Story) -> str:
    """A group of the archive, whose topic is restored."""
    group = f"{story.target}-g"
    asyncio.run(story.archive({group: {0: 14, 1: 2}}))
    story.restore()
    return group


@contextmanager
def consuming(kafka: KafkaServer, group: str, topic: str, protocol: str = "classic") -> Iterator[None]:
    """A live member of the group."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group,
            "client.id": "the-live-one",
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 120
        while not consumer.assignment():
            assert time.monotonic() < deadline, "nothing was assigned"
            consumer.poll(0.2)
        yield
    finally:
        consumer.close()


def test_executing_again_changes_nothing_and_a_rollback_leaves_exactly_what_was(
    kafka: KafkaServer, story: Story, group: str
) -> None:
    commit(kafka, group, story.target, {1: 4})
    before = held(kafka, group)
    plan = story.planned("group", "--group", group)
    assert [row["current_offset"] for row in plan["partitions"]] == [None, 4]
    assert plan["absent_groups"] == []

    report, _ = story.executed()
    after = held(kafka, group)
    assert (report["applied"], report["already"]) == (2, 0)
    assert {tp: offset for tp, (offset, _) in after.items()} == {(story.target, 0): 10, (story.target, 1): 2}
    again, _ = story.executed()
    assert (again["applied"], again["already"], again["rollback"]) == (0, 2, None)
    assert held(kafka, group) == after

    undone, _ = story.rolled_back()
    assert (undone["applied"], undone["failed"], undone["deleted_groups"]) == (2, [], [])
    assert held(kafka, group) == before == {(story.target, 1): (4, "mine")}
    undone, _ = story.rolled_back()
    assert (undone["applied"], undone["already"]) == (0, 2)
    # And forward once more: the first snapshot is kept.
    report, _ = story.executed()
    assert (report["applied"], held(kafka, group)) == (2, after)


def test_a_group_that_was_not_there_is_not_there_after_a_rollback(kafka: KafkaServer, story: Story, group: str) -> None:
    assert story.planned("group", "--group", group)["absent_groups"] == [group]
    story.executed()
    assert exists(kafka, group)

    undone, _ = story.rolled_back()

    assert undone["deleted_groups"] == [group]
    assert not exists(kafka, group)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_hazard_32_a_group_with_live_members_is_refused_and_they_are_listed(
    kafka: KafkaServer, story: Story, group: str, protocol: str
) -> None:
    story.planned("group", "--group", group)

    with consuming(kafka, group, story.target, protocol):
        _, err = story.executed(code=5)
        assert f"group {group} is in use (Stable)" in err
        assert "client the-live-one, host 127.0.0.1" in err
        assert held(kafka, group) == {}
    assert not os.path.exists(f"{story.plan}.rollback.json")
    report, _ = story.executed()
    assert report["applied"] == 2


def test_positions_that_moved_since_are_refused_and_nothing_is_changed(
    kafka: KafkaServer, story: Story, group: str
) -> None:
    story.planned("group", "--group", group)
    commit(kafka, group, story.target, {0: 5})

    _, err = story.executed(code=5)

    assert f"{story.target}/0: the position is 5 by now; it was none when the plan was made" in err
    assert held(kafka, group) == {(story.target, 0): (5, "mine")}


def test_consumers_that_read_on_are_not_thrown_back_by_a_rollback(kafka: KafkaServer, story: Story, group: str) -> None:
    story.planned("group", "--group", group)
    story.executed()
    commit(kafka, group, story.target, {0: 15})

    _, err = story.rolled_back(code=5)

    assert "the position is 15 by now; it was 10 when the plan was made" in err


def test_an_edited_plan_and_one_of_another_cluster_are_refused(kafka: KafkaServer, story: Story, group: str) -> None:
    story.planned("group", "--group", group)
    whole = story.plan.read_text()
    story.plan.write_text(whole.replace('"new_offset": 10', '"new_offset": 11'))
    _, err = story.executed(code=5)
    assert "was edited or damaged: its digest does not fit" in err
    assert "--strategy manual" in err
    # Laid out anew it is still the plan that was reviewed.
    story.plan.write_text(json.dumps(json.loads(whole)))
    with KafkaServer() as other:
        code, _, err = verb(
            "offset-reset", "execute", "--plan", str(story.plan), "--config", str(elsewhere(story, other.bootstrap))
        )
    assert (code, "the plan is for cluster" in err) == (5, True)
    report, _ = story.executed()
    assert report["applied"] == 2


def elsewhere(story: Story, bootstrap: str) -> Path:
    config = story.root / "elsewhere.yaml"
    config.write_text(story.config.read_text().replace(story.bootstrap, bootstrap))
    return config


def test_a_log_that_lost_the_new_offset_and_a_topic_made_anew_are_refused(
    kafka: KafkaServer, story: Story, group: str
) -> None:
    story.planned("group", "--group", group)
    asyncio.run(truncated(kafka, TopicPartition(story.target, 0), 12))

    _, err = story.executed(code=5)

    assert f"{story.target}/0: offset 10 is below the target's log start, 12" in err
    delete_topic(kafka.bootstrap, story.target)
    create_topic(kafka.bootstrap, story.target, partitions=2)
    _, err = story.executed(code=5)
    assert f"topic {story.target} was deleted and made anew" in err
    code, _, err = verb(
        "offset-reset", "plan", "--strategy", "group", "--config", str(story.config), "--offset-map", str(story.map),
        "--output", str(story.root / "late.json"),
    )  # fmt: skip
    assert (code, "the map does not fit it" in err) == (5, True)
    assert held(kafka, group) == {}


async def truncated(kafka: KafkaServer, tp: TopicPartition, before: int) -> None:
    async with KafkaConnection(
        bootstrap_servers=(kafka.bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    ) as connection:
        await delete_records(connection, {tp: before})


def test_the_rollback_file_of_another_plan_is_never_overwritten(kafka: KafkaServer, story: Story, group: str) -> None:
    story.planned("group", "--group", group)
    story.executed()
    kept = Path(f"{story.plan}.rollback.json").read_text()
    story.planned("timestamp", "--timestamp", "2026-01-01T00:00:00Z", "--group", group)

    _, err = story.executed(code=5)

    assert "is the rollback file of another plan" in err
    assert Path(f"{story.plan}.rollback.json").read_text() == kept


def test_two_thousand_groups_are_moved_and_moved_back(kafka: KafkaServer, story: Story) -> None:
    names = [f"{story.target}-{n:04}" for n in range(2_000)]
    asyncio.run(story.archive({name: {0: 14 + n % 10, 1: n % 5} for n, name in enumerate(names)}))
    story.restore()

    plan = story.planned("group")
    report, _ = story.executed()

    assert (len(plan["partitions"]), report["groups"], report["applied"]) == (4_000, 2_000, 4_000)
    for n in (0, 7, 1_999):
        offsets = {partition: offset for (_, partition), (offset, _) in held(kafka, names[n]).items()}
        assert offsets == {0: 10 + n % 10, 1: n % 5}
    undone, _ = story.rolled_back()
    assert (undone["applied"], len(undone["deleted_groups"])) == (4_000, 2_000)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    left = {one.group_id for one in admin.list_consumer_groups().result(60).valid}
    assert not left & set(names)

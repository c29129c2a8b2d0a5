"""A restore that brings consumer groups along (`options.consumer_groups`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.integration.groups.story import Story, exists, held, verb
from tests.integration.groups.test_execute import consuming

Names = Callable[[], str]


@pytest.fixture
def story(kafka: KafkaServer, unique_topic: Names, tmp_path: Path) -> Story:
    return Story(tmp_path, kafka.bootstrap, unique_topic())


def test_groups_that_are_asked_for_go_on_where_they_stood_and_it_can_be_undone(
    kafka: KafkaServer, story: Story
) -> None:
    a, b, other = f"{story.target}-a", f"{story.target}-b", f"other-{story.target}"
    asyncio.run(
        story.archive(
            {a: {0: 14, 1: 2}, b: {0: 11}, other: {0: 1}},
            options=f", consumer_groups: {{restore: true, include: ['{story.target}-*']}}",
        )
    )
    code, out, _ = verb("restore", "--config", str(story.config), "--dry-run")
    assert (code, f"consumer groups {story.target}-*: will go on" in out) == (0, True)

    code, out, err = verb("restore", "--config", str(story.config), "--offset-map", str(story.map), "--format", "json")

    assert code == 0, err
    groups = json.loads(out)["consumer_groups"]
    assert (groups["executed"]["applied"], groups["not_planned"], groups["problem"]) == (3, [], "")
    positions = {(group, p): offset for group in (a, b) for (_, p), (offset, _) in held(kafka, group).items()}
    assert positions == {(a, 0): 10, (a, 1): 2, (b, 0): 10}
    assert not exists(kafka, other)
    code, _, err = verb(
        "offset-reset", "rollback", "--plan", groups["executed"]["rollback"], "--config", str(story.config)
    )
    assert code == 0, err
    assert not exists(kafka, a)


def test_a_group_in_use_costs_the_exit_code_and_its_plan_is_kept_for_later(
    kafka: KafkaServer, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = f"{story.target}-a"
    asyncio.run(story.archive({a: {0: 14, 1: 2}}, options=", consumer_groups: {restore: true}"))
    monkeypatch.chdir(story.root)

    # It reads another topic: a member all the same.
    with consuming(kafka, a, create_topic(kafka.bootstrap, f"{story.target}-else")):
        code, out, err = verb("restore", "--config", str(story.config))

    assert (code, out.startswith("complete\n")) == (6, True), err
    assert f"group {a} is in use" in out
    [plan] = story.root.glob("kbackupd-restore-*.offset-map.json.offset-plan.json")
    code, _, err = verb("offset-reset", "execute", "--plan", str(plan), "--config", str(story.config))
    assert code == 0, err
    assert {p: offset for (_, p), (offset, _) in held(kafka, a).items()} == {0: 10, 1: 2}

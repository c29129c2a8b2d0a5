"""Each strategy against a real broker, with renamed topics, holes and aborted records (hazards 31 and 32)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from kbackupd.model.clock import iso
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.integration.groups.story import FIRST_MS, SECOND_MS, Story, exists, held, new_offsets, resumed, verb

Names = Callable[[], str]


@pytest.fixture
def story(kafka: KafkaServer, unique_topic: Names, tmp_path: Path) -> Story:
    return Story(tmp_path, kafka.bootstrap, unique_topic())


def test_group_positions_of_an_instant_go_on_at_exactly_the_right_record(kafka: KafkaServer, story: Story) -> None:
    a, b = f"{story.target}-a", f"{story.target}-b"
    earlier, _ = asyncio.run(story.archive({a: {0: 3, 1: 2}, b: {0: 11}}, {a: {0: 16, 1: 5}, b: {0: 24}}))
    story.restore()

    now = story.planned("group", "--group", f"{story.target}-*")
    assert new_offsets(now) == {(a, 0): (12, "exact"), (a, 1): (5, "end"), (b, 0): (20, "end")}
    then = story.planned("group", "--group", f"{story.target}-*", "--at", iso(earlier))

    assert new_offsets(then) == {(a, 0): (3, "exact"), (a, 1): (2, "exact"), (b, 0): (10, "next")}
    assert (then["strategy"], then["archive"]["at_ms"], then["archive"]["positions_ms"]) == ("group", earlier, earlier)
    assert {row["current_offset"] for row in then["partitions"]} == {None}
    assert then["absent_groups"] == [a, b]
    assert (then["not_planned"], then["left_out"]) == ([], [])
    report, _ = story.executed()
    assert (report["applied"], report["already"], report["failed"]) == (3, 0, [])
    # The client's own metadata comes along: Kafka Streams keeps its time in it.
    topic = story.target
    assert held(kafka, a) == {(topic, 0): (3, f"meta of {a}"), (topic, 1): (2, f"meta of {a}")}
    assert resumed(kafka, b, topic, 3) == [b"0-14", b"0-15", b"0-16"]


def test_positions_in_holes_of_a_compacted_log_go_on_at_the_record_after_them(kafka: KafkaServer, story: Story) -> None:
    groups = {f"{story.target}-{n}": {1: n} for n in (4, 5, 6, 7, 8)}
    asyncio.run(story.archive(groups, compacted=True))
    story.restore()

    mapped = story.planned("group", "--group", f"{story.target}-*")
    scanned = story.planned("cluster-scan", "--group", f"{story.target}-*")

    expected = {4: (4, "exact"), 5: (5, "exact"), 6: (6, "next"), 7: (6, "exact"), 8: (7, "end")}
    assert new_offsets(mapped) == {(f"{story.target}-{n}", 1): found for n, found in expected.items()}
    assert new_offsets(scanned) == new_offsets(mapped)


def test_timestamp_is_the_first_record_of_the_target_at_or_after_it(kafka: KafkaServer, story: Story) -> None:
    a = f"{story.target}-a"
    asyncio.run(story.archive({a: {0: 3}}))
    story.restore()

    plan = story.planned("timestamp", "--timestamp", str(FIRST_MS + SECOND_MS), "--group", a)

    # Every partition of the topic, also one the group had no position in.
    assert new_offsets(plan) == {(a, 0): (10, "exact"), (a, 1): (5, "end")}
    story.executed()
    assert held(kafka, a) == {(story.target, 0): (10, ""), (story.target, 1): (5, "")}


def test_source_offsets_are_given_for_all_partitions_or_one_by_one(kafka: KafkaServer, story: Story) -> None:
    a, b = f"{story.target}-a", f"{story.target}-b"
    asyncio.run(story.archive({a: {0: 3}}))
    story.restore()

    assert new_offsets(story.planned("offset", "--offset", "14", "--group", a)) == {
        (a, 0): (10, "exact"),
        (a, 1): (5, "end"),
    }
    # A group that nobody knows yet is told its topics.
    code, _, err = verb(
        "offset-reset", "plan", "--strategy", "offset", "--offset", "1", "--group", b, "--config", str(story.config),
        "--offset-map", str(story.map), "--output", str(story.root / "other.json"),
    )  # fmt: skip
    assert (code, "which topics is it to read" in err) == (2, True)
    assert new_offsets(story.planned("offset", "--offset", "1", "--group", b, "--topic", story.target)) == {
        (b, 0): (1, "exact"),
        (b, 1): (1, "exact"),
    }
    given = story.root / "positions.csv"
    given.write_text(f"group,topic,partition,offset\n{a},orders,0,10\n{b},orders,1,99\n")
    plan = story.planned("offset", "--positions", str(given))
    assert new_offsets(plan) == {(a, 0): (10, "next"), (b, 1): (5, "end")}
    assert [row["source_offset"] for row in plan["partitions"]] == [10, 99]
    assert "94 beyond what was restored" in plan["partitions"][1]["reason"]


def test_a_scan_of_the_cluster_finds_positions_without_a_map(kafka: KafkaServer, story: Story) -> None:
    groups = {f"{story.target}-{n:02}": {0: n, 1: min(n, 5)} for n in (0, 3, 10, 11, 13, 14, 23, 24, 25)}
    asyncio.run(story.archive(groups))
    # What stood in the target before, and what came since, is nobody's of the archive.
    create_topic(kafka.bootstrap, story.target, partitions=2)
    story.restore()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    for number in range(10):
        producer.produce(story.target, b"later %d" % number, partition=0)
    assert producer.flush(120) == 0

    scanned = story.planned("cluster-scan", "--group", f"{story.target}-*")
    mapped = story.planned("group", "--group", f"{story.target}-*")

    assert new_offsets(scanned) == new_offsets(mapped)
    assert scanned["not_planned"] == []
    assert {row["exactness"] for row in scanned["partitions"]} == {"exact", "next", "end"}


def test_a_scan_says_what_it_does_not_find_and_what_it_finds_twice(kafka: KafkaServer, story: Story) -> None:
    a = f"{story.target}-a"
    asyncio.run(story.archive({a: {0: 3, 1: 2}}))
    story.restore()
    story.target, twice = f"{story.target}-twice", story.target
    create_topic(kafka.bootstrap, story.target, partitions=2, config={"retention.ms": "-1"})
    story.config.write_text(story.config.read_text().replace(f"target: {twice}", f"target: {story.target}"))
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    # Partition 0: all of it twice over; partition 1: something else.
    for _ in range(2):
        for n in (*range(10), *range(14, 24)):
            stamp = FIRST_MS + (n if n < 10 else 2 * SECOND_MS + n - 14)
            key = b"k%d" % (n if n < 10 else n - 14)
            producer.produce(story.target, b"0-%d" % n, key, partition=0, timestamp=stamp)
    producer.produce(story.target, b"foreign", partition=1)
    assert producer.flush(120) == 0

    plan = story.planned("cluster-scan", "--group", a, code=6)

    assert new_offsets(plan) == {(a, 0): (3, "ambiguous")}, plan["not_planned"]
    assert "2 records of the target equal that at source offset 3" in plan["partitions"][0]["reason"]
    [missing] = plan["not_planned"]
    assert (missing["partition"], "no record of the target equals" in missing["reason"]) == (1, True)


def test_positions_given_by_hand_are_of_the_target_and_a_plan_can_be_edited_into_another(
    kafka: KafkaServer, story: Story
) -> None:
    a, b = f"{story.target}-a", f"{story.target}-b"
    asyncio.run(story.archive({a: {0: 3, 1: 2}}))
    story.restore()
    plan = story.planned("group", "--group", a)
    plan["partitions"][0]["new_offset"] = 7
    edited = story.root / "edited.json"
    edited.write_text(json.dumps(plan))

    assert verb("offset-reset", "show", str(edited))[0] == 5
    again = story.planned("manual", "--positions", str(edited))

    assert new_offsets(again) == {(a, 0): (7, "given"), (a, 1): (2, "given")}
    story.executed()
    given = story.root / "given.csv"
    given.write_text(
        "group,topic,partition,offset\n" + "".join(f"{b},{story.target},{n},{o}\n" for n, o in ((0, ""), (1, 99)))
    )
    plan = story.planned("manual", "--positions", str(given), code=6)
    assert new_offsets(plan) == {(b, 0): (None, "given")}
    assert "beyond the target's log end, 5" in plan["not_planned"][0]["reason"]
    assert held(kafka, a) == {(story.target, 0): (7, ""), (story.target, 1): (2, "")}
    assert not exists(kafka, b)


def test_a_map_that_does_not_fit_is_refused_and_a_strategy_is_told_what_it_lacks(
    kafka: KafkaServer, story: Story
) -> None:
    a = f"{story.target}-a"
    asyncio.run(story.archive({a: {0: 3}}))
    story.restore()

    def refused(code: int, *arguments: str) -> str:
        plan = str(story.root / "refused.json")
        ended, _, err = verb("offset-reset", "plan", "--config", str(story.config), "--output", plan, *arguments)
        assert ended == code, err
        return err

    assert "needs the restore's offset map" in refused(2, "--strategy", "group")
    assert "needs --timestamp" in refused(2, "--strategy", "timestamp")
    assert "--offset is of --strategy offset" in refused(2, "--strategy", "group", "--offset", "3")
    assert "group 'nobody' has no position" in refused(
        2, "--strategy", "group", "--offset-map", str(story.map), "--group", "nobody"
    )
    assert "no positions of groups had been captured by" in refused(
        6, "--strategy", "group", "--offset-map", str(story.map), "--at", "2020-01-01T00:00:00Z"
    )
    foreign = story.root / "foreign"
    foreign.mkdir()
    other = Story(foreign, kafka.bootstrap, story.target)
    asyncio.run(other.archive({a: {0: 3}}))
    code, _, err = verb(
        "offset-reset", "plan", "--config", str(other.config), "--output", str(foreign / "plan.json"), "--strategy",
        "group", "--offset-map", str(story.map),
    )  # fmt: skip
    assert (code, "the offset map is of archive" in err) == (5, True)

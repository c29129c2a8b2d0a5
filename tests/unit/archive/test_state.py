"""Configuration and groups as of an instant: the ledger and the snapshots together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.groups import groups_at
from kbackupd.archive.state import StateDescription, TopicConfiguration, state_at
from kbackupd.model.errors import IncompleteError, ObjectMissingError
from kbackupd.model.events import TopicSeen
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import ClusterContent, PartState, ReadOutcome, TopicState
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life
from tests.unit.format.samples import example_cluster, example_groups


def cluster(*topics: TopicState) -> ClusterContent:
    return replace(example_cluster().content, topics=topics)


def topic(
    topic_id: TopicId, name: str, answered_ms: int, *, outcome: ReadOutcome = ReadOutcome.OK, **configs: str
) -> TopicState:
    part = PartState(outcome=outcome, cause="" if outcome is ReadOutcome.OK else "why", answered_ms=answered_ms)
    spelled = {key.replace("_", "."): value for key, value in configs.items()}
    return TopicState(topic_id=topic_id, name=name, partitions=1, internal=False, part=part, configs=spelled)


async def state(built: ArchiveBuilder, at_ms: int | None = None) -> StateDescription:
    return await state_at(await Archive.open(built.store, BACKUP_ID), built.store, at_ms)


async def configured(built: ArchiveBuilder, name: str, at_ms: int | None = None) -> TopicConfiguration | None:
    return {one.name: one for one in (await state(built, at_ms)).topics}.get(name)


def changed(life: Life, topic_id: TopicId, **configs: str) -> None:
    known = life.built.topics[topic_id]
    life.event(
        TopicSeen(
            topic_id=topic_id,
            name=known.name,
            partitions=known.partitions,
            internal=False,
            configs={key.replace("_", "."): value for key, value in configs.items()},
            at_ms=life.built.clock.now_ms(),
        )
    )


async def test_a_configuration_is_what_the_ledger_said_last_by_that_instant() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", configs={"retention.ms": "1"})
    life = await built.start()
    life.see(orders)
    await life.flush()
    first_ms = built.clock.now_ms()
    built.clock.advance(60)
    changed(life, orders, retention_ms="2")
    await life.flush()
    then, now = await configured(built, "orders", first_ms), await configured(built, "orders")
    assert then is not None
    assert now is not None
    assert (then.configs, now.configs) == ({"retention.ms": "1"}, {"retention.ms": "2"})
    assert await configured(built, "orders", first_ms - 60_000) is None


async def test_of_ledger_and_snapshot_the_newer_counts() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", configs={"retention.ms": "1"})
    life = await built.start()
    life.see(orders)
    await life.flush()
    built.clock.advance(60)
    snapshot_ms = built.clock.now_ms()
    await life.snapshot(example_groups().content, cluster(topic(orders, "orders", snapshot_ms, retention_ms="2")))
    newer = await configured(built, "orders")
    assert newer is not None
    assert (newer.configs, newer.as_of_ms) == ({"retention.ms": "2"}, snapshot_ms)
    built.clock.advance(60)
    changed(life, orders, retention_ms="3")
    await life.flush()
    newest = await configured(built, "orders")
    assert newest is not None
    assert newest.configs == {"retention.ms": "3"}
    assert newer == await configured(built, "orders", snapshot_ms)


async def test_topics_outside_the_backup_and_hidden_configurations_are_told_as_such() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    other = TopicId("B" * 22)
    life = await built.start()
    life.see(orders)
    await life.flush()
    await life.snapshot(
        example_groups().content,
        cluster(
            topic(orders, "orders", -1, outcome=ReadOutcome.DENIED),
            topic(other, "other", built.clock.now_ms(), cleanup_policy="compact"),
        ),
    )
    hidden, outside = await configured(built, "orders"), await configured(built, "other")
    assert hidden is not None
    assert outside is not None
    assert (hidden.outcome, hidden.as_of_ms, hidden.backed_up) == (ReadOutcome.DENIED, None, True)
    assert (outside.configs, outside.backed_up) == ({"cleanup.policy": "compact"}, False)


async def test_a_deleted_topic_is_there_until_the_ledger_saw_it_go() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    life.see(orders)
    await life.flush()
    before_ms = built.clock.now_ms()
    built.clock.advance(60)
    life.deleted(orders)
    await life.flush()
    assert await configured(built, "orders", before_ms) is not None
    assert await configured(built, "orders") is None


async def test_counts_of_groups_acls_and_quotas_say_what_was_not_read() -> None:
    built = await ArchiveBuilder.create()
    life = await built.start()
    assert (await state(built)).groups is None
    await life.snapshot(example_groups().content, example_cluster().content)
    found = await state(built)
    assert found.groups is not None
    assert (found.groups.groups, found.groups.positions, found.groups.not_read) == (3, 4, 2)
    parts = {one.name: one for one in found.parts}
    assert (parts["ACLs"].count, parts["ACLs"].outcome) == (1, ReadOutcome.OK)
    assert (parts["quotas"].count, parts["quotas"].outcome, parts["quotas"].answered_ms) == (1, ReadOutcome.DENIED, -1)


async def test_groups_at_an_instant_are_told_with_the_instant_of_each_answer() -> None:
    built = await ArchiveBuilder.create()
    life = await built.start()
    taken_ms = built.clock.now_ms()
    await life.snapshot(example_groups().content, example_cluster().content)
    report = await groups_at(built.store, BACKUP_ID, None, "*a*d*")
    assert (report.taken_ms, report.complete, report.lists_all) == (taken_ms, False, False)
    (fraud,) = report.groups
    assert (fraud.group_id, fraud.outcome, fraud.positions[0].offset) == ("fraud", ReadOutcome.FAILED, 43)
    assert fraud.answered_ms < report.groups[0].sent_ms + 60_000


async def test_before_the_first_snapshot_nothing_is_made_up_and_its_time_is_told() -> None:
    built = await ArchiveBuilder.create()
    with pytest.raises(IncompleteError) as nothing:
        await groups_at(built.store, BACKUP_ID, None)
    assert nothing.value.exit_code == 6
    life = await built.start()
    await life.snapshot(example_groups().content, example_cluster().content)
    with pytest.raises(IncompleteError) as early:
        await groups_at(built.store, BACKUP_ID, built.clock.now_ms() - 1)
    assert "the first snapshot is of" in early.value.hint
    with pytest.raises(ObjectMissingError):
        await groups_at(MemoryStore(), BACKUP_ID, None)

"""Two restores into the same topics that were started at the same time: at most one of them fills them (hazard 28)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbackupd.format.keys import restore_key
from kbackupd.format.restores import AnyRestoreDocument
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import RefusedError
from kbackupd.model.restores import RestoreReady
from kbackupd.model.segment import Identity
from kbackupd.model.settings import RestoreOptions
from kbackupd.restore.course import Course
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.preflight import TargetState, examine_target
from kbackupd.restore.stored import StoredRestores
from kbackupd.restore.topics import ReadyTopic, prepare_topics
from kbackupd.store.memory import MemoryStore
from tests.unit.restore.forged_target import ForgedTarget, ForgedTopic
from tests.unit.restore.test_resume import ID, IDENTITY, begun, ready
from tests.unit.restore.test_target import plan_for

OPTIONS = RestoreOptions(append=True)


class Run:
    """One run of a restore, step by step, over the store and the target it shares with others."""

    def __init__(self, store: MemoryStore, plan: RestorePlan, target: ForgedTarget) -> None:
        self._store, self.plan, self._target = store, plan, target

    async def looks(self, identity: Identity = IDENTITY) -> Run:
        self.course = await Course.read(StoredRestores(self._store), identity, SystemClock())
        await self.course.find(self._target, OPTIONS)
        self.state: TargetState = await examine_target(self._target, self.plan)
        return self

    async def begins(self) -> None:
        await self.course.begin(self.plan, OPTIONS, self.state)

    async def is_ready(self) -> None:
        topics: dict[str, ReadyTopic] = await prepare_topics(self._target, self.plan, self.state)
        await self.course.filling_begins(self.state.producer, topics)


def ready_ones(store: MemoryStore) -> int:
    return sum(key.endswith("/ready.json") for key in store.objects)


async def runs(*names: tuple[str, ...]) -> tuple[MemoryStore, list[Run]]:
    store = MemoryStore()
    target = ForgedTarget(topics={name: ForgedTopic(records=7) for some in names for name in some})
    return store, [await Run(store, await plan_for(*some, append=True), target).looks() for some in names]


async def test_the_second_that_begins_sees_the_first_and_is_refused_before_it_touches_a_topic() -> None:
    _, (first, second) = await runs(("orders",), ("orders", "users"))
    await first.begins()

    with pytest.raises(RefusedError, match="another restore into orders was begun meanwhile") as refused:
        await second.begins()

    assert refused.value.exit_code == 5
    assert "run this one again" in refused.value.hint


async def test_the_first_sees_a_second_that_began_before_it_was_ready_so_that_never_both_fill() -> None:
    store, (first, second) = await runs(("orders",), ("orders",))
    await first.begins()
    with pytest.raises(RefusedError, match="begun meanwhile"):
        await second.begins()

    with pytest.raises(RefusedError, match="begun meanwhile"):
        await first.is_ready()

    assert ready_ones(store) == 0


async def test_one_that_was_begun_long_ago_and_gets_ready_first_is_seen_by_the_one_that_took_it_for_dead() -> None:
    store, (slow, _) = await runs(("orders",), ("orders",))
    await slow.begins()
    other = await Run(store, slow.plan, slow._target).looks()
    await other.begins()
    await other.is_ready()

    with pytest.raises(RefusedError, match="begun meanwhile"):
        await slow.is_ready()

    assert ready_ones(store) == 1


class TestOneThatTheStoreKeepsWaiting:
    """It looked, saw nobody, and its `ready.json` is on the way for as long as another one needs for everything."""

    async def both(self) -> tuple[MemoryStore, Run]:
        store, (slow, _) = await runs(("orders",), ("orders",))
        await slow.begins()
        put = slow.course.restores.write

        async def late(document: AnyRestoreDocument) -> None:
            if isinstance(document, RestoreReady):
                quick = await Run(store, slow.plan, slow._target).looks()
                await quick.begins()
                await quick.is_ready()
            await put(document)

        slow.course.restores.write = late  # type: ignore[method-assign]  # the store is slow, not the restore
        return store, slow

    async def test_it_sees_the_other_one_once_its_own_is_written(self) -> None:
        _, slow = await self.both()

        with pytest.raises(RefusedError, match="begun meanwhile"):
            await slow.is_ready()

    async def test_it_stands_in_nobodys_way_and_was_not_appended(self) -> None:
        store, slow = await self.both()
        with pytest.raises(RefusedError):
            await slow.is_ready()

        restores = StoredRestores(store)
        filling = {one.begun.key: one.ready is not None for one in await restores.unfinished(IDENTITY)}
        assert filling.pop(slow.course._known().key) is False, "what it began tells how its topics were before"
        assert list(filling.values()) == [True]
        assert await restores.finished(IDENTITY) == []

    async def test_the_other_one_goes_on_when_it_sees_that_this_one_has_withdrawn(self) -> None:
        store, slow = await self.both()
        with pytest.raises(RefusedError):
            await slow.is_ready()
        again = await Run(store, slow.plan, slow._target).looks()

        assert again.course.going_on is not None
        assert again.course.going_on.begun.key != slow.course._known().key


async def test_those_that_were_refused_stand_in_nobodys_way() -> None:
    store, (first, second) = await runs(("orders",), ("orders",))
    await first.begins()
    with pytest.raises(RefusedError):
        await second.begins()

    again = await Run(store, first.plan, first._target).looks()
    await again.begins()
    await again.is_ready()

    assert ready_ones(store) == 1


async def test_restores_of_other_topics_and_into_other_clusters_go_side_by_side() -> None:
    store, (first, second) = await runs(("orders",), ("users",))
    await StoredRestores(store).write(replace(begun(), target_cluster_id="elsewhere"))
    for run in (first, second):
        await run.begins()
    for run in (first, second):
        await run.is_ready()

    assert ready_ones(store) == 2


async def test_one_that_ended_before_anybody_looked_is_no_concern() -> None:
    store, target = MemoryStore(), ForgedTarget(topics={"restored": ForgedTopic(partitions=1)})
    into_orders = replace(begun(), topics=(replace(begun().topics[0], target="orders"),))
    for document in (into_orders, ready()):
        await StoredRestores(store).write(document)
    run = await Run(store, await plan_for("orders", append=True), target).looks()

    await run.begins()
    await run.is_ready()

    assert restore_key(ID, "ready") in store.objects
    assert ready_ones(store) == 2


async def test_a_plan_that_another_version_makes_otherwise_is_not_called_a_damaged_archive() -> None:
    _, (run,) = await runs(("orders",))
    await run.begins()
    await run.is_ready()
    [half] = await run.course.restores.unfinished(IDENTITY)
    older = replace(half.begun, software="kbackupd/0.0.9", plan_sha256="0" * 64)
    run.course.going_on = replace(half, begun=older)

    with pytest.raises(RefusedError, match="does not show what it showed") as refused:
        await run.begins()

    assert refused.value.hint.startswith("kbackupd/0.0.9 began it, and this is kbackupd/")

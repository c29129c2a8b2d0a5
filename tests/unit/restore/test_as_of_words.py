"""What plan and report say of an instant, for people and in the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbackupd.cli.output import stdout_console
from kbackupd.cli.restore_cut_text import cut_in_words, instant_in_words
from kbackupd.cli.restore_text import print_plan
from kbackupd.model.clock import iso
from kbackupd.model.scope import RestoreScope
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.planning import UNHEARD
from tests.unit.restore.planned import plan_of, settings_for
from tests.unit.restore.transactional_source import TransactionalSource


async def plan_at(source: TransactionalSource, at_ms: int) -> RestorePlan:
    return await plan_of(source.built, settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms)))


async def test_the_partition_farthest_from_the_instant_speaks_for_its_topic() -> None:
    source = await TransactionalSource.create(2)
    source.hear(1, capture=True)
    far_ms = source.now()
    source.tick()
    source.hear(0, capture=True)
    source.tick()
    for number in (0, 1):
        source.write_plain(number)
    at_ms = source.now()
    await source.end()

    plan = await plan_at(source, at_ms)

    assert next(iter(cut_in_words(plan.cut))) == (
        f"everything as of {iso(at_ms)}; of transactions those that were decided by then, complete"
    )
    assert list(instant_in_words(plan.topics[0])) == [
        f"orders: achieved between {iso(far_ms - 5)} and {iso(far_ms)} (partition 1, the farthest from it, 0 of 2"
        " partitions are exact)"
    ]


async def test_where_later_answers_say_the_same_the_instant_is_exact() -> None:
    source = await TransactionalSource.create(1)
    source.hear(0, capture=True)
    source.tick()
    at_ms = source.now()
    source.tick()
    await source.end()

    assert list(instant_in_words((await plan_at(source, at_ms)).topics[0])) == [
        "orders: exact, no partition had more at that instant"
    ]


async def test_what_nobody_can_tell_is_named_with_its_reason_and_a_missing_log_is_said() -> None:
    source = await TransactionalSource.create(2, own_epochs=False, logged=False)
    for number in (0, 1):
        source.hear(number, capture=True)
    source.write(7, 0)
    source.write(7, 1)
    for _ in range(3):
        source.tick()
        source.go_on(7, commit=True)
    source.tick()
    source.hear(0, capture=True)
    at_ms = source.now()
    await source.end()

    plan = await plan_at(source, at_ms)

    [line] = [line for line in instant_in_words(plan.topics[0]) if "transaction of producer 7" in line]
    assert line.startswith("orders-1: not restored, though it may have been committed by then")
    assert "uses one epoch for many transactions" in line
    assert any("__transaction_state of then is not in the archive" in words for words in cut_in_words(plan.cut))


async def test_a_plan_prints_the_topics_that_did_not_exist_then(capsys: pytest.CaptureFixture[str]) -> None:
    source = await TransactionalSource.create(1)
    source.hear(0, capture=True)
    at_ms = source.now()
    await source.end()
    plan = replace(await plan_at(source, at_ms), not_there=("late",))

    print_plan(stdout_console(), plan)

    assert "late is not restored: it did not exist at that instant" in capsys.readouterr().out


async def test_where_nobody_knows_which_offsets_are_missing_none_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    source = await TransactionalSource.create(1)
    at_ms = source.now()
    source.tick()
    source.hear(0, capture=True)
    await source.end()

    print_plan(stdout_console(), await plan_at(source, at_ms))

    assert f"orders-0: {UNHEARD}" in capsys.readouterr().out

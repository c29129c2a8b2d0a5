"""`start: latest` leaves out what was there when the archive was created, and nothing else, whatever happens since."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from kbackupd.model.events import GapCause
from kbackupd.model.settings import StartPolicy
from tests.unit.capture.site import Life, Site


def gaps(site: Site, name: str, number: int = 0) -> list[tuple[int, int, GapCause]]:
    id = site.cluster.log(name, number).id
    return [(g.first_offset, g.next_offset, g.cause) for g in site.archive().history(id).gaps]


async def _nothing(life: Life) -> None:
    await asyncio.sleep(0)


def test_a_writer_of_another_name_leaves_out_no_more_than_the_first() -> None:
    """Hazard 24: the new writer has no state of its own, and the archive is as old as it was."""
    site = Site.new(start=StartPolicy.LATEST)
    site.cluster.create("orders").logs[0].append(7)
    site.run_life(Life.durable)
    site.cluster.log("orders").append(4)
    site.cluster.create("later").logs[0].append(2)
    site.settings = replace(site.settings, writer="renamed")
    site.run_life(Life.durable)
    assert gaps(site, "orders") == [(0, 7, GapCause.EXCLUDED)]
    assert gaps(site, "later") == []
    site.check(causes=(GapCause.EXCLUDED,))


def test_a_topic_made_while_the_daemon_was_down_after_a_first_life_that_saw_none_is_captured_whole() -> None:
    """Hazard 24."""
    site = Site.new(start=StartPolicy.LATEST)

    async def looking(life: Life) -> None:
        await life.until(lambda: life.pipeline.discovery.rounds > 0, "a look around")

    site.run_life(looking)
    site.cluster.create("orders").logs[0].append(7)
    site.run_life(Life.durable)
    assert gaps(site, "orders") == []
    site.check()


def test_a_life_killed_before_anything_was_durable_moves_no_beginning() -> None:
    """Neither is what came since left out, nor is the past of the cluster fetched that nobody wants."""
    site = Site.new(start=StartPolicy.LATEST)
    log = site.cluster.create("orders").logs[0]
    log.append(7)
    assert not site.run_life(_nothing, stop=False)
    assert site.keys("backup.json")
    assert not site.keys("segments/")
    log.append(3)
    site.run_life(Life.durable)
    assert gaps(site, "orders") == [(0, 7, GapCause.EXCLUDED)]
    site.check(causes=(GapCause.EXCLUDED,))


def test_a_partition_without_a_leader_when_the_archive_was_made_begins_at_its_end_when_it_has_one() -> None:
    site = Site.new(start=StartPolicy.LATEST)
    log = site.cluster.create("orders", 2).logs[0]
    log.append(7)
    site.cluster.down.add(log.leader_id)

    async def script(life: Life) -> None:
        await life.until(lambda: life.pipeline.discovery.rounds > 0, "a look around")
        site.cluster.down.clear()
        await life.follows("orders")
        log.append(2)
        await life.durable()

    site.run_life(script)
    assert gaps(site, "orders") == [(0, 7, GapCause.EXCLUDED)]
    site.check(causes=(GapCause.EXCLUDED,))


def test_a_topic_recreated_since_is_another_one_and_captured_whole() -> None:
    """Hazard 20."""
    site = Site.new(start=StartPolicy.LATEST)
    site.cluster.create("orders").logs[0].append(7)
    site.run_life(_nothing, stop=False)
    site.cluster.delete("orders")
    site.cluster.create("orders").logs[0].append(9)
    site.run_life(Life.durable)
    assert gaps(site, "orders") == []
    site.check()


def test_a_log_shorter_by_now_than_when_the_archive_was_made_begins_at_its_end() -> None:
    """Hazard 21: the offsets that were there are another log's, and none of them is waited for."""
    site = Site.new(start=StartPolicy.LATEST)
    log = site.cluster.create("orders").logs[0]
    log.append(3)
    log.append(4)
    site.run_life(_nothing, stop=False)
    log.truncate(3)
    site.run_life(Life.durable)
    log.append(5)
    site.run_life(Life.durable)
    assert gaps(site, "orders") == [(0, 3, GapCause.EXCLUDED)]
    site.check(causes=(GapCause.EXCLUDED,))

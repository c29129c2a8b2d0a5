"""What the soak rests on: a plan that the seed alone decides, and a comparison that sees what is not as it was."""

from __future__ import annotations

import random
import signal
from itertools import pairwise
from typing import cast

from kbackupd.archive.archive import Archive
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.soak_check import Model
from kbackupd.testbed.soak_daemon import SupervisedDaemon
from kbackupd.testbed.soak_faults import HANDS, WEATHER, Planned, plan_round
from kbackupd.testbed.soak_topics import Generation
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.unit.restore.planned import archive_everything

VALUES = (b"a", b"b", None)
STAMP_MS = 1_767_225_600_000


def planned(seed: int) -> list[Planned]:
    return plan_round(random.Random(seed), 50.0, breaks=(1.0, 6.0))


def test_the_same_seed_plans_the_same_faults_and_another_one_others() -> None:
    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_every_fault_is_over_within_its_round_and_those_of_one_lane_do_not_overlap() -> None:
    for seed in range(50):
        plan = planned(seed)
        assert plan
        for weather in (True, False):
            lane = [one for one in plan if one.weather is weather]
            assert all(one.end <= 50.0 for one in lane)
            assert all(before.end < after.begin for before, after in pairwise(lane))


def test_in_some_hours_every_kind_of_fault_strikes() -> None:
    struck = {one.kind.name for seed in range(200) for one in planned(seed)}
    assert struck == {kind.name for kind in (*WEATHER, *HANDS)}


async def archive_of(*values: bytes | None) -> Archive:
    built = await ArchiveBuilder.create()
    built.log(built.topic("t"), 0).append(values, timestamp_ms=STAMP_MS)
    await archive_everything(built)
    return await Archive.open(built.store, BACKUP_ID)


def produced(*values: bytes | None) -> Generation:
    """Keys and stamps within a batch as `ArchiveBuilder` numbers them."""
    made = Generation(0, partitions={"t": 1})
    made.truth.know_topic("t", 1)
    for number, value in enumerate(values):
        made.truth.acknowledge(
            "t", 0, offset=number, timestamp_ms=STAMP_MS + number, key=b"k%d" % number, value=value, headers=()
        )
    return made


async def test_an_archive_that_is_what_was_produced_shows_no_difference_now_nor_when_it_is_read_again() -> None:
    archive, model = await archive_of(*VALUES), Model()
    assert await model.compare_new(archive, produced(*VALUES), "unused") == []
    assert model.records == 3
    assert await model.compare_new(archive, produced(*VALUES), "unused") == []
    assert model.records == 3  # nothing new
    assert await model.compare_all(archive) == []


async def test_a_lost_record_an_altered_one_and_one_that_nobody_produced_are_differences() -> None:
    lost = await Model().compare_new(await archive_of(b"a", b"b"), produced(*VALUES), "unused")
    assert lost == ["t/0: offset 2: missing (none)"]
    (altered,) = await Model().compare_new(await archive_of(b"a", b"B", None), produced(*VALUES), "unused")
    assert altered.startswith("t/0: offset 1: other contents than produced")
    (extra,) = await Model().compare_new(await archive_of(*VALUES), produced(b"a", b"b"), "unused")
    assert extra.startswith("t/0: offset 2: not expected")


async def test_a_topic_that_is_not_in_the_archive_is_a_difference() -> None:
    generation = produced(*VALUES)
    generation.partitions["u"] = 2
    (missing,) = await Model().compare_new(await archive_of(*VALUES), generation, "unused")
    assert missing.startswith("u: 2 partitions made, the archive knows None")


async def test_an_archive_that_changed_since_it_was_compared_is_found_by_its_digest_alone() -> None:
    model = Model()
    assert await model.compare_new(await archive_of(*VALUES), produced(*VALUES), "unused") == []
    assert await model.compare_all(await archive_of(b"a", b"B", None)) == [
        "t/0: 3 records now, 3 when first compared, and they are not the same"
    ]
    assert await model.compare_all(await archive_of(b"a", b"b")) == [
        "t/0: 2 records now, 3 when first compared, and they are not the same"
    ]


class Leaving:
    """A process that leaves when it was told to, and not before it is let."""

    ready = True
    peak_rss_bytes = 0
    log = None

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.running = False

    def launch(self) -> None:
        assert not self.running
        self.running = True

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def wait(self) -> int:
        return 0


def test_a_second_writer_that_still_leaves_when_it_is_wanted_again_comes_back_when_it_has_left() -> None:
    process = Leaving()
    second = SupervisedDaemon("second", cast(Daemon, process))
    second._note_memory = lambda: None  # type: ignore[method-assign]  # there is no process to ask
    second.come()
    second.look()
    second.retire()

    second.come()
    second.terminate()
    assert process.signals == [signal.SIGTERM]
    process.running = False
    second.look()

    assert process.running
    assert second.starts == 2

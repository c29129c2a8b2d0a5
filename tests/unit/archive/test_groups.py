"""Of the coordinators' log and a snapshot, that one tells of a group which is sure of it (hazard 15)."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
from rich.console import Console

from kbackupd.archive.group_reports import GroupReport, GroupsReport
from kbackupd.archive.groups import groups_at
from kbackupd.cli.groups_text import print_groups
from kbackupd.model.clock import iso
from kbackupd.model.coordinators import CONSUMER_OFFSETS, ClassicGroup, ClassicMember
from kbackupd.model.events import GapCause
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import CommittedOffset, GroupsContent, GroupState, PartState, ReadOutcome
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life, SourceLog
from tests.coordinator_logs import commit, forget, group_record
from tests.unit.format.coordinator_bytes import classic_group_value
from tests.unit.format.samples import example_cluster

BILLING, MAILER = "billing", "mailer"
"""With two partitions these lie in different ones."""


@dataclass(slots=True)
class Cluster:
    built: ArchiveBuilder
    offsets: TopicId
    orders: TopicId
    life: Life

    @classmethod
    async def begin(cls) -> Cluster:
        built = await ArchiveBuilder.create()
        offsets = built.topic(CONSUMER_OFFSETS, partitions=2, internal=True)
        orders = built.topic("orders")
        life = await built.start()
        life.see(offsets)
        life.see(orders)
        return cls(built, offsets, orders, life)

    def log(self, group: str) -> SourceLog:
        return self.built.log(self.offsets, {BILLING: 1, MAILER: 0}[group])

    async def capture(self, *partitions: int) -> int:
        for number in partitions or (0, 1):
            self.life.capture(self.offsets, number)
        return await self.later()

    async def later(self) -> int:
        await self.life.flush()
        instant = self.built.clock.now_ms()
        self.built.clock.advance(60)
        return instant

    async def snapshot(self, positions: Mapping[str, int | None], *, outcome: ReadOutcome = ReadOutcome.OK) -> int:
        """What brokers answer now: an offset in orders/0 by group, or none."""
        now = self.built.clock.now_ms()
        part = PartState(outcome=outcome, cause="" if outcome is ReadOutcome.OK else "hidden", answered_ms=now)
        groups = tuple(
            GroupState(
                group_id=group,
                type="classic",
                protocol_type="consumer",
                state="Stable",
                coordinator=1,
                members=3,
                part=part,
                sent_ms=now - 5,
                positions=() if offset is None else (CommittedOffset(self.orders, "orders", 0, offset, -1, ""),),
            )
            for group, offset in sorted(positions.items())
        )
        content = GroupsContent(lists_all=outcome is ReadOutcome.OK, coordinators=(), groups=groups)
        await self.life.snapshot(content, example_cluster().content)
        return await self.later()

    async def at(self, at_ms: int | None, glob: str = "*") -> GroupsReport:
        return await groups_at(self.built.store, BACKUP_ID, at_ms, glob)


def told(report: GroupsReport) -> dict[str, tuple[str, list[int]]]:
    return {one.group_id: (one.source, [row.offset for row in one.positions]) for one in report.groups}


def group(report: GroupsReport, group_id: str) -> GroupReport:
    (found,) = [one for one in report.groups if one.group_id == group_id]
    return found


def text_of(report: GroupsReport) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_groups(Console(width=200, color_system=None), report, glob="*")
    return out.getvalue()


async def test_the_log_tells_exactly_where_a_snapshot_is_a_minute_old() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 5, leader_epoch=2, metadata="note")
    await cluster.capture()
    await cluster.snapshot({BILLING: 5})
    commit(cluster.log(BILLING), BILLING, 6, leader_epoch=2, metadata="note")
    instant = await cluster.capture()
    report = await cluster.at(instant)
    assert told(report) == {BILLING: ("log", [6])}
    (position,) = report.groups[0].positions
    assert (position.topic_id, position.leader_epoch, position.metadata) == (cluster.orders, 2, "note")
    assert (position.committed_ms, position.certain) == (1_006, True)
    assert (report.source, report.complete) == ("log", True)
    assert report.as_of_ms == report.groups[0].as_of_ms <= instant
    assert report.groups[0].sent_ms <= report.as_of_ms <= report.groups[0].answered_ms
    # What only the snapshot knows stands beside it.
    assert (report.groups[0].state, report.groups[0].members) == ("Stable", 3)


async def test_without_any_snapshot_the_log_is_enough() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 5)
    report = await cluster.at(await cluster.capture())
    assert told(report) == {BILLING: ("log", [5])}
    assert (report.snapshot, report.taken_ms, report.complete) == ("", -1, True)


async def test_a_snapshot_stands_in_for_a_log_that_was_not_captured_by_then() -> None:
    cluster = await Cluster.begin()
    instant = await cluster.snapshot({BILLING: 5})
    commit(cluster.log(BILLING), BILLING, 6)
    await cluster.capture()
    report = await cluster.at(instant)
    assert told(report) == {BILLING: ("snapshot", [5])}
    assert (report.source, report.log, report.complete) == ("snapshot", None, True)
    assert report.groups[0].positions[0].committed_ms == -1
    assert "__consumer_offsets was not captured by then" in text_of(report)


async def test_a_snapshot_stands_in_for_groups_of_a_partition_with_a_gap() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 5)
    commit(cluster.log(MAILER), MAILER, 5)
    await cluster.capture()
    await cluster.snapshot({BILLING: 6, MAILER: 6})
    commit(cluster.log(BILLING), BILLING, 6)
    cluster.life.gap(cluster.offsets, 1, 2, GapCause.LOG_START_MOVED)
    commit(cluster.log(MAILER), MAILER, 7)
    report = await cluster.at(await cluster.capture())
    assert told(report) == {BILLING: ("snapshot", [6]), MAILER: ("log", [7])}
    assert report.source == "log and snapshot"
    assert report.log is not None
    assert not report.log.complete
    text = text_of(report)
    assert "__consumer_offsets/1 offsets [1, 2) are lost" in text
    assert f"{iso(group(report, BILLING).answered_ms)} snapshot" in text


async def test_behind_a_gap_the_log_is_believed_again_of_groups_that_committed_since() -> None:
    """`start: latest` leaves a gap at the beginning of every log, for ever."""
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    cluster.life.gap(cluster.offsets, 1, 1, GapCause.EXCLUDED)
    await cluster.snapshot({BILLING: 4})
    commit(cluster.log(BILLING), BILLING, 6)
    report = await cluster.at(await cluster.capture())
    assert told(report) == {BILLING: ("log", [6])}
    assert report.groups[0].positions[0].certain


async def test_a_log_with_a_gap_that_alone_tells_of_a_group_says_that_it_is_not_sure() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    await cluster.capture()
    commit(cluster.log(BILLING), BILLING, 5)
    cluster.life.gap(cluster.offsets, 1, 2, GapCause.LOG_START_MOVED)
    report = await cluster.at(await cluster.capture())
    assert told(report) == {BILLING: ("log", [4])}
    assert not report.groups[0].positions[0].certain
    assert not report.complete
    assert "or newer: see below" in text_of(report)


async def test_a_group_deleted_since_the_snapshot_is_gone() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    commit(cluster.log(MAILER), MAILER, 4)
    await cluster.capture()
    before = await cluster.snapshot({BILLING: 4, MAILER: 4})
    forget(cluster.log(BILLING), BILLING)
    after = await cluster.capture()
    assert set(told(await cluster.at(before))) == {BILLING, MAILER}
    assert told(await cluster.at(after)) == {MAILER: ("log", [4])}


async def test_a_snapshot_asked_after_all_that_the_log_vouches_for_is_the_newer_word() -> None:
    """Capture of the log was held up; the daemon went on asking."""
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    await cluster.capture()
    instant = await cluster.snapshot({BILLING: 9})
    assert told(await cluster.at(instant)) == {BILLING: ("snapshot", [9])}


async def test_a_group_hidden_from_the_backup_is_told_by_the_log() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    await cluster.snapshot({}, outcome=ReadOutcome.DENIED)
    report = await cluster.at(await cluster.capture())
    assert told(report) == {BILLING: ("log", [4])}
    assert (report.complete, report.lists_all) == (True, False)


async def test_a_group_without_positions_is_shown_as_whoever_knows_it_says() -> None:
    cluster = await Cluster.begin()
    await cluster.snapshot({BILLING: None, MAILER: None})
    group_record(cluster.log(MAILER), MAILER, None)
    report = await cluster.at(await cluster.capture())
    assert told(report) == {BILLING: ("snapshot", [])}


async def test_what_a_classic_group_was_is_told_by_its_own_record() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    member = ClassicMember("one", None, "client", "/127.0.0.1", 1, 2, b"", b"")
    stable = ClassicGroup(
        protocol_type="consumer", generation=1, protocol="range", leader="one", changed_ms=5, members=(member,)
    )
    group_record(cluster.log(BILLING), BILLING, classic_group_value(stable))
    then = await cluster.capture()
    group_record(cluster.log(BILLING), BILLING, classic_group_value(replace(stable, members=())))
    now = await cluster.capture()
    was, is_ = group(await cluster.at(then), BILLING), group(await cluster.at(now), BILLING)
    assert (was.type, was.protocol_type, was.state, was.members) == ("classic", "consumer", "Stable", 1)
    assert (is_.state, is_.members) == ("Empty", 0)


async def test_only_groups_of_the_glob_are_shown_by_either_witness() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    commit(cluster.log(MAILER), MAILER, 4)
    await cluster.capture()
    await cluster.snapshot({BILLING: 4, MAILER: 4, "other": 4})
    assert set(told(await cluster.at(None, "m*"))) == {MAILER}


async def test_text_says_which_source_and_how_far_from_the_instant_and_json_has_it_all() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    first = await cluster.capture()
    commit(cluster.log(BILLING), BILLING, 5)
    await cluster.capture()
    between = await cluster.at(first + 10_000)
    assert "the log __consumer_offsets, complete up to 11s before" in text_of(between)
    await cluster.capture()
    await cluster.capture()
    held = await cluster.at(cluster.built.clock.now_ms() - 90_000)
    assert "the log __consumer_offsets, exact" in text_of(held)
    last = text_of(await cluster.at(None))
    assert "main, the last known" in last
    assert "the log __consumer_offsets, complete up to 20" in last
    spoken = msgspec.json.decode(msgspec.json.encode(between))
    assert (spoken["source"], spoken["groups"][0]["source"]) == ("log", "log")
    assert spoken["log"]["partitions"][1]["next_offset"] == 1


async def test_a_long_log_is_read_from_a_snapshot_on_and_tells_the_same() -> None:
    """Random stories of commits, deletions and transactions: with and without the beginning of the log."""
    from_snapshots = 0
    for seed in range(20):
        dice = random.Random(seed)
        cluster = await Cluster.begin()
        truth = Positions()
        instants = [await cluster.capture()]
        for _ in range(40):
            what = dice.random()
            if what < 0.55:
                truth.happen(cluster, dice)
            elif what < 0.8:
                instants.append(await cluster.capture(*dice.choice(((), (), (0,), (1,)))))
            else:
                await cluster.snapshot({group: truth.stands.get(group) for group in (BILLING, MAILER)})
        instants.append(await cluster.capture())
        for at_ms in instants:
            whole = await cluster.at(at_ms)
            short = await groups_at(cluster.built.store, BACKUP_ID, at_ms, whole_log_bytes=0)
            assert offsets(short) == offsets(whole), (seed, at_ms)
            assert (short.complete, short.as_of_ms) == (whole.complete, whole.as_of_ms)
            assert not bases(whole)
            from_snapshots += len(bases(short))
    assert from_snapshots > 60


async def test_what_a_transaction_held_open_when_the_snapshot_was_taken_is_not_missed() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 1)
    commit(cluster.log(BILLING), BILLING, 2, producer_id=7)
    await cluster.capture()
    await cluster.snapshot({BILLING: 1})
    cluster.log(BILLING).end_transaction(7, committed=True)
    report = await groups_at(cluster.built.store, BACKUP_ID, await cluster.capture(), whole_log_bytes=0)
    assert told(report) == {BILLING: ("log", [2])}
    assert bases(report)


async def test_of_a_group_that_the_snapshot_leaves_out_a_log_read_from_there_is_not_sure() -> None:
    """The backup's own group is in no snapshot: what it committed before is not seen."""
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    commit(cluster.log(MAILER), MAILER, 4)
    await cluster.capture()
    await cluster.snapshot({MAILER: 4})
    commit(cluster.log(BILLING), BILLING, 5)
    commit(cluster.log(MAILER), MAILER, 5)
    report = await groups_at(cluster.built.store, BACKUP_ID, await cluster.capture(), whole_log_bytes=0)
    assert {one.group_id: [row.certain for row in one.positions] for one in report.groups} == {
        BILLING: [False],
        MAILER: [True],
    }


async def test_a_snapshot_that_lacks_something_is_no_beginning() -> None:
    cluster = await Cluster.begin()
    commit(cluster.log(BILLING), BILLING, 4)
    await cluster.capture()
    await cluster.snapshot({}, outcome=ReadOutcome.DENIED)
    report = await groups_at(cluster.built.store, BACKUP_ID, await cluster.capture(), whole_log_bytes=0)
    assert told(report) == {BILLING: ("log", [4])}
    assert not bases(report)


class Positions:
    """Where each group stands, as its coordinator knows it; offsets only grow, so that each is one commit."""

    def __init__(self) -> None:
        self.stands: dict[str, int] = {}
        self._next = 0
        self._pending: dict[str, tuple[int, int]] = {}  # group: (the log's offset of its commit, position)
        self._at: dict[str, int] = {}

    def happen(self, cluster: Cluster, dice: random.Random) -> None:
        group = dice.choice((BILLING, MAILER))
        log, producer_id = cluster.log(group), {BILLING: 7, MAILER: 8}[group]
        what = dice.random()
        self._next += 1
        if what < 0.25:
            self.stands[group], self._at[group] = self._next, log.next_offset
            commit(log, group, self._next)
        elif what < 0.55:
            self._pending[group] = (log.next_offset, self._next)
            commit(log, group, self._next, producer_id=producer_id)
        elif what < 0.65:
            self.stands.pop(group, None)
            self._at.pop(group, None)
            self._pending.pop(group, None)
            forget(log, group)
        else:
            committed = dice.random() < 0.7
            ended = self._pending.pop(group, None)
            if ended is not None and committed and ended[0] > self._at.get(group, -1):
                self._at[group], self.stands[group] = ended
            log.end_transaction(producer_id, committed=committed)


def bases(report: GroupsReport) -> list[str]:
    """The snapshots from which on partitions of the log were read."""
    assert report.log is not None
    return [one.base for one in report.log.partitions if one.base]


def offsets(report: GroupsReport) -> dict[str, list[int]]:
    """Groups without positions are left out: whether a snapshot lists them is another matter."""
    return {one.group_id: [row.offset for row in one.positions] for one in report.groups if one.positions}

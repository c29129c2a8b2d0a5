"""Where groups stood at an instant, by the captured log of their coordinators (hazards 10, 15, 32)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.archive.coordinator_items import CoordinatorBatch, CoordinatorMarker, CoordinatorRecord
from kbackupd.archive.group_fold import GroupFold
from kbackupd.archive.group_history import GroupsOfPartition, coordinator_topic_at, groups_in_log
from kbackupd.model.coordinators import CONSUMER_OFFSETS, CommittedPosition, OffsetKey
from kbackupd.model.events import GapCause
from kbackupd.model.positions import TopicId
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life, SourceLog
from tests.coordinator_logs import append, commit, forget, group_record
from tests.unit.format.coordinator_bytes import offset_key, position_value


@dataclass(slots=True)
class Captured:
    """An archive whose one system topic is captured step by step."""

    built: ArchiveBuilder
    topic: TopicId
    life: Life
    instants: list[int] = field(default_factory=list)

    @classmethod
    async def begin(cls, *, partitions: int = 1, **configs: str) -> Captured:
        built = await ArchiveBuilder.create()
        spelled = {key.replace("_", "."): value for key, value in configs.items()}
        topic = built.topic(CONSUMER_OFFSETS, partitions=partitions, internal=True, configs=spelled)
        return cls(built, topic, await built.start())

    @property
    def log(self) -> SourceLog:
        return self.built.log(self.topic, 0)

    async def capture(self, *, until: int | None = None) -> int:
        """Capture what there is, let time pass; an instant just behind the sample."""
        for number in range(self.built.topics[self.topic].partitions):
            self.life.capture(self.topic, number, until=until)
        await self.life.flush()
        instant = self.built.clock.now_ms()
        self.built.clock.advance(60)
        return instant

    async def at(self, at_ms: int | None, partition: int = 0, *, group: str | None = None) -> GroupsOfPartition:
        archive = await Archive.open(self.built.store, BACKUP_ID, wanted=lambda name: name == CONSUMER_OFFSETS)
        topic = coordinator_topic_at(archive, CONSUMER_OFFSETS, at_ms)
        assert topic is not None
        wanted = None if group is None else (lambda name: name == group)
        return [one async for one in groups_in_log(archive, topic, at_ms, wanted=wanted)][partition]


def told(found: GroupsOfPartition) -> dict[tuple[str, str, int], int]:
    return {(one.key.group, one.key.topic, one.key.partition): one.position.offset for one in found.positions}


def uncertain(found: GroupsOfPartition) -> set[str]:
    return {one.key.group for one in found.positions if not one.certain}


async def test_positions_are_those_committed_below_the_cut_and_none_of_later() -> None:
    captured = await Captured.begin()
    commit(captured.log, "billing", 5, metadata="note", leader_epoch=3)
    first = await captured.capture()
    commit(captured.log, "billing", 6)
    commit(captured.log, "mailer", 1, partition=2)
    second = await captured.capture()
    forget(captured.log, "billing")
    third = await captured.capture()
    found = await captured.at(first)
    assert told(found) == {("billing", "orders", 0): 5}
    assert found.positions[0].position == CommittedPosition(5, 3, "note", 1_005, -1, None)
    assert found.positions[0].log_offset == 0
    assert told(await captured.at(second)) == {("billing", "orders", 0): 6, ("mailer", "orders", 2): 1}
    assert told(await captured.at(third)) == {("mailer", "orders", 2): 1}
    assert told(await captured.at(None)) == {("mailer", "orders", 2): 1}
    assert found.certain
    assert found.cut is not None
    assert found.cut.sent_ms <= found.cut.answered_ms <= first


async def test_an_instant_between_two_samples_is_that_of_the_earlier_and_says_so() -> None:
    captured = await Captured.begin()
    commit(captured.log, "billing", 5)
    first = await captured.capture()
    commit(captured.log, "billing", 6)
    await captured.capture()
    between = await captured.at(first + 30_000)
    assert told(between) == {("billing", "orders", 0): 5}
    assert between.cut is not None
    assert not between.cut.exact_at(first + 30_000)


async def test_an_instant_between_two_samples_that_say_the_same_is_exact() -> None:
    captured = await Captured.begin()
    commit(captured.log, "billing", 5)
    first = await captured.capture()
    await captured.capture()
    between = await captured.at(first + 30_000)
    assert between.cut is not None
    assert between.cut.exact_at(first + 30_000)


async def test_before_the_first_sample_nothing_is_told() -> None:
    captured = await Captured.begin()
    captured.life.see(captured.topic)
    await captured.life.flush()
    early = captured.built.clock.now_ms()
    captured.built.clock.advance(60)
    commit(captured.log, "billing", 5)
    await captured.capture()
    found = await captured.at(early)
    assert (found.cut, found.positions, found.certain) == (None, (), False)


async def test_a_position_in_a_transaction_counts_from_its_commit_marker_on() -> None:
    """Hazard 10: what an aborted transaction sent is no position; hazard 38 for one that is cut in half."""
    captured = await Captured.begin()
    commit(captured.log, "billing", 5)
    commit(captured.log, "billing", 6, producer_id=9)
    open_ = await captured.capture()
    captured.log.end_transaction(9, committed=True)
    committed = await captured.capture()
    commit(captured.log, "billing", 7, producer_id=9)
    captured.log.end_transaction(9, committed=False)
    aborted = await captured.capture()
    found = await captured.at(open_)
    assert told(found) == {("billing", "orders", 0): 5}
    assert [(one.key.group, one.position.offset, one.producer_id, one.log_offset) for one in found.pending] == [
        ("billing", 6, 9, 1)
    ]
    assert told(await captured.at(committed)) == {("billing", "orders", 0): 6}
    assert told(await captured.at(aborted)) == {("billing", "orders", 0): 6}


async def test_a_plain_commit_behind_that_of_a_transaction_stands_when_the_transaction_ends() -> None:
    captured = await Captured.begin()
    commit(captured.log, "billing", 6, producer_id=9)
    commit(captured.log, "billing", 8)
    captured.log.end_transaction(9, committed=True)
    assert told(await captured.at(await captured.capture())) == {("billing", "orders", 0): 8}


async def test_a_deletion_takes_what_is_still_in_a_transaction_with_it() -> None:
    captured = await Captured.begin()
    commit(captured.log, "billing", 6, producer_id=9)
    forget(captured.log, "billing")
    captured.log.end_transaction(9, committed=True)
    assert told(await captured.at(await captured.capture())) == {}


async def test_keys_of_both_versions_are_one_position() -> None:
    captured = await Captured.begin()
    row = position_value(CommittedPosition(5, -1, "", 1, -1, None), version=1)
    captured.log.append([])  # an empty batch, as compaction leaves them
    append(captured.log, [(offset_key(OffsetKey("billing", "orders", 0), version=0), row)])
    commit(captured.log, "billing", 6)
    assert told(await captured.at(await captured.capture())) == {("billing", "orders", 0): 6}


async def test_each_partition_of_the_log_has_its_own_cut_and_groups() -> None:
    captured = await Captured.begin(partitions=2)
    commit(captured.built.log(captured.topic, 0), "billing", 5)
    commit(captured.built.log(captured.topic, 1), "mailer", 6)
    instant = await captured.capture()
    assert told(await captured.at(instant, 0)) == {("billing", "orders", 0): 5}
    assert told(await captured.at(instant, 1)) == {("mailer", "orders", 0): 6}
    assert told(await captured.at(instant, 1, group="billing")) == {}


async def test_a_gap_makes_what_is_older_uncertain_and_leaves_what_is_newer() -> None:
    captured = await Captured.begin()
    commit(captured.log, "old", 5)
    await captured.capture()
    commit(captured.log, "missed", 5)
    captured.life.gap(captured.topic, 0, 2, GapCause.LOG_START_MOVED)
    commit(captured.log, "new", 6)
    found = await captured.at(await captured.capture())
    assert told(found) == {("old", "orders", 0): 5, ("new", "orders", 0): 6}
    assert uncertain(found) == {"old"}
    assert not found.certain
    assert [(one.first_offset, one.next_offset) for one in found.lost] == [(1, 2)]


async def test_what_was_not_captured_by_the_end_is_told_as_lost() -> None:
    captured = await Captured.begin()
    commit(captured.log, "billing", 5)
    commit(captured.log, "billing", 6)
    found = await captured.at(await captured.capture(until=1))
    assert told(found) == {("billing", "orders", 0): 5}
    assert uncertain(found) == {"billing"}
    assert [(one.first_offset, one.next_offset, one.reason) for one in found.lost] == [(1, 2, "not captured")]


async def test_damage_in_a_segment_is_told_and_ends_nothing_else() -> None:
    captured = await Captured.begin(partitions=2)
    commit(captured.built.log(captured.topic, 0), "billing", 5)
    captured.life.capture(captured.topic, 0)
    first = await captured.life.flush()
    commit(captured.built.log(captured.topic, 0), "billing", 6)
    commit(captured.built.log(captured.topic, 1), "mailer", 7)
    instant = await captured.capture()
    data = captured.built.data(first.ref.key)
    captured.built.tamper(first.ref.key, data[:9] + bytes((data[9] ^ 1,)) + data[10:])
    found = await captured.at(instant)
    assert not found.certain
    assert first.ref.key in found.lost[0].reason
    assert told(await captured.at(instant, 1)) == {("mailer", "orders", 0): 7}


async def test_a_log_compacted_before_it_was_first_captured_tells_its_positions_for_certain() -> None:
    captured = await Captured.begin()
    for offset in range(6):
        commit(captured.log, "billing", offset)
    commit(captured.log, "mailer", 9)
    captured.log.compact(keep=[5, 6])
    found = await captured.at(await captured.capture())
    assert told(found) == {("billing", "orders", 0): 5, ("mailer", "orders", 0): 9}
    assert (found.certain, uncertain(found)) == (True, set())


async def test_a_log_compacted_behind_the_instant_and_before_its_capture_is_not_exact() -> None:
    """Capture was behind at the instant: what was newest then may have been compacted away since."""
    captured = await Captured.begin()
    commit(captured.log, "billing", 1)
    commit(captured.log, "billing", 2)
    commit(captured.log, "mailer", 3)
    behind = await captured.capture(until=1)
    commit(captured.log, "billing", 4)
    captured.log.compact(keep=[2, 3])
    await captured.capture()
    found = await captured.at(behind)
    assert not found.certain
    assert "billing" in uncertain(found)
    assert "compacted before it was captured" in found.lost[0].reason
    assert (await captured.at(None)).certain


async def test_a_deletion_that_can_have_been_compacted_away_unseen_leaves_doubt() -> None:
    captured = await Captured.begin(delete_retention_ms="60000")
    commit(captured.log, "billing", 5)
    commit(captured.log, "mailer", 5)
    await captured.capture()
    forget(captured.log, "billing")
    commit(captured.log, "mailer", 6)
    captured.log.compact(keep=[3])
    captured.built.clock.advance(3600)
    found = await captured.at(await captured.capture())
    assert told(found) == {("billing", "orders", 0): 5, ("mailer", "orders", 0): 6}
    assert uncertain(found) == {"billing"}


async def test_after_an_unclean_election_each_instant_has_the_log_of_its_time() -> None:
    """Hazard 21: what the cluster lost later was there then."""
    captured = await Captured.begin()
    commit(captured.log, "billing", 1)
    commit(captured.log, "billing", 2)
    before = await captured.capture()
    captured.log.truncate(1)
    commit(captured.log, "billing", 3)
    captured.life.follow_cut(captured.topic, 0)
    after = await captured.capture()
    assert told(await captured.at(before)) == {("billing", "orders", 0): 2}
    assert told(await captured.at(after)) == {("billing", "orders", 0): 3}


async def test_groups_as_such_are_told_by_their_newest_record() -> None:
    captured = await Captured.begin()
    group_record(captured.log, "billing", b"some value")
    group_record(captured.log, "modern", b"value", version=3)
    before = await captured.capture()
    group_record(captured.log, "billing", None)
    after = await captured.capture()
    assert (await captured.at(before)).groups == {
        "billing": {"classic": b"some value"},
        "modern": {"consumer": b"value"},
    }
    assert (await captured.at(after)).groups["billing"] == {"classic": None}


async def test_records_newer_than_this_version_are_counted_and_their_group_is_not_guessed() -> None:
    captured = await Captured.begin()
    append(captured.log, [(offset_key(OffsetKey("billing", "orders", 0)), b"\0\x09" + b"whatever")])
    commit(captured.log, "mailer", 6)
    append(captured.log, [(b"\0\x63 of the future", b"whatever"), (b"", b"nonsense")])
    found = await captured.at(await captured.capture())
    assert told(found) == {("mailer", "orders", 0): 6}
    assert (found.unreadable, found.certain) == (2, False)


KEYS = st.sampled_from([offset_key(OffsetKey(group, "orders", 0)) for group in "ab"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), KEYS, st.sampled_from((-1, -1, 7, 8))),
        st.tuples(st.just("delete"), KEYS, st.just(-1)),
        st.tuples(st.sampled_from(("committed", "aborted")), st.just(b""), st.sampled_from((7, 8))),
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(STEPS)
def test_a_fold_of_any_log_agrees_with_a_coordinator_that_keeps_all_it_saw(
    steps: list[tuple[str, bytes, int]],
) -> None:
    fold = GroupFold()
    standing: dict[bytes, int] = {}
    sent: list[tuple[int, bytes, int]] = []  # producer, key, offset of records in open transactions
    for offset, (what, key, producer_id) in enumerate(steps):
        if what in ("committed", "aborted"):
            fold.feed(CoordinatorMarker(offset, producer_id, 0, what == "committed"))
            if what == "committed":
                for producer, sent_key, at in sent:
                    if producer == producer_id and at > standing.get(sent_key, -1):
                        standing[sent_key] = at
            sent = [row for row in sent if row[0] != producer_id]
            continue
        value = position_value(CommittedPosition(offset, -1, "", 0, -1, None)) if what == "commit" else None
        fold.feed(
            CoordinatorBatch(
                first_offset=offset,
                next_offset=offset + 1,
                producer_id=producer_id,
                producer_epoch=0,
                captured_ms=0,
                compacted=False,
                records=(CoordinatorRecord(offset, 0, key, value),),
            )
        )
        if what == "delete":
            standing.pop(key, None)
            sent = [row for row in sent if row[1] != key]
        elif producer_id < 0:
            standing[key] = offset
        else:
            sent.append((producer_id, key, offset))
    assert {offset_key(one.key): one.position.offset for one in fold.positions()} == standing
    assert {(one.producer_id, offset_key(one.key)) for one in fold.pending()} == {(row[0], row[1]) for row in sent}

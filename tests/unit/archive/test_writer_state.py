"""What a writer's segments add up to, against a model that knows each offset, with any segments lost (I4, I6, I8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.archive import writer_state
from kbackupd.archive.partition_state import UNSEEN, PartitionState
from kbackupd.archive.writer_state import TopicState, WriterState, merge_sequence
from kbackupd.format.checkpoint import decode_checkpoint, encode_checkpoint
from kbackupd.format.keys import checkpoint_key, segment_key
from kbackupd.model.events import (
    Gap,
    GapCause,
    LedgerEvent,
    PartitionSeen,
    Paused,
    TopicDeleted,
    TopicExcluded,
    TopicSeen,
    Truncated,
)
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import (
    CODEC_NONE,
    EarlierEpoch,
    Footer,
    Identity,
    ObjectRef,
    OpenTransaction,
    Run,
    RunFlag,
)

IDENTITY = Identity(backup_id="main", archive_id="a", cluster_id="c")
TOPIC = TopicId("AAAAAAAAAAAAAAAAAAAAAQ")
P = PartitionId(TOPIC, 0)


def ran(first: int, following: int, *, branch: int = 0, epoch: int = 0, flags: RunFlag = RunFlag(0)) -> Run:
    return Run(
        id=P,
        system=False,
        asked_offset=first,
        first_offset=first,
        next_offset=following,
        branch=branch,
        replica=1,
        captured_ms=0,
        batches=1,
        records=following - first,
        flags=flags,
        base_timestamp_ms=0,
        max_timestamp_ms=0,
        largest_batch_bytes=1,
        position=8,
        stored_bytes=1,
        raw_bytes=1,
        codec=CODEC_NONE,
        crc32c=0,
        leader_epochs=((epoch, first),),
    )


def gap(first: int, following: int, *, branch: int = 0, cause: GapCause = GapCause.LOG_START_MOVED) -> Gap:
    return Gap(id=P, branch=branch, first_offset=first, next_offset=following, cause=cause, at_ms=0)


def cut(branch: int, parent: int, offset: int) -> Truncated:
    return Truncated(id=P, branch=branch, parent=parent, offset=offset, leader_epoch=branch, at_ms=0)


SEEN = PartitionSeen(id=P, first_offset=0, log_start_offset=0, high_watermark=0, leader_epoch=0, at_ms=0)
TOLD = TopicSeen(topic_id=TOPIC, name="orders", partitions=1, internal=False, at_ms=0)


def footer(
    seq: int,
    *content: Run | LedgerEvent,
    epoch: int = 1,
    earlier: tuple[EarlierEpoch, ...] = (),
    open_: tuple[tuple[int, int], ...] = (),
    sealed_ms: int = 5,
) -> Footer:
    return Footer(
        identity=IDENTITY,
        key=segment_key("main", epoch, seq, sealed_ms),
        writer="main",
        writer_epoch=epoch,
        seq=seq,
        previous=None,
        in_flight=(),
        earlier=earlier,
        sealed_ms=sealed_ms,
        sealed_monotonic_ms=0,
        body_bytes=8,
        body_sha256="0" * 64,
        topics={TOPIC: "orders"} | {one.topic_id: one.name for one in content if isinstance(one, TopicSeen)},
        runs=tuple(one for one in content if isinstance(one, Run)),
        open_transactions=tuple(
            OpenTransaction(id=P, producer_id=producer, producer_epoch=0, first_offset=first)
            for producer, first in open_
        ),
        events=tuple(one for one in content if not isinstance(one, Run)),
    )


def applied(*footers: Footer) -> WriterState:
    state = WriterState("main")
    for one in footers:
        state.apply(one, ObjectRef(one.key, "0" * 64))
    return state


def at(state: WriterState) -> tuple[int, int]:
    return state.partitions[P].branch, state.partitions[P].next_offset


def test_contiguous_runs_and_gaps_move_the_position() -> None:
    assert at(applied(footer(0, TOLD, SEEN, ran(0, 5), gap(5, 9)), footer(1, ran(9, 12)))) == (0, 12)


def test_a_lost_segment_holds_the_position_back() -> None:
    """Hazard 2."""
    assert at(applied(footer(0, TOLD, SEEN, ran(0, 5)), footer(2, ran(9, 12)))) == (0, 5)


def test_an_overlapping_capture_of_the_next_life_closes_the_hole() -> None:
    """Invariant I8."""
    state = applied(footer(0, TOLD, SEEN, ran(0, 5)), footer(2, ran(9, 12)), footer(0, ran(5, 20), epoch=2))
    assert at(state) == (0, 20)


def test_a_branch_cut_to_the_beginning_holds_nothing_until_a_run_and_begins_behind_its_gap() -> None:
    """What tells the next life that no leader epoch vouches for its position: first and next offset are the same."""
    high = PartitionSeen(id=P, first_offset=20, log_start_offset=20, high_watermark=0, leader_epoch=0, at_ms=0)
    lost = applied(footer(0, TOLD, high, ran(20, 29)), footer(1, cut(1, 0, 0), gap(0, 6, branch=1)))
    assert (lost.partitions[P].first_offset, at(lost)) == (6, (1, 6))
    shorter = applied(footer(0, TOLD, high, ran(20, 29)), footer(1, cut(1, 0, 24), gap(24, 26, branch=1)))
    assert (shorter.partitions[P].first_offset, at(shorter)) == (20, (1, 26))


def test_corrupt_bytes_prove_nothing_and_the_gap_over_them_does() -> None:
    bad = ran(5, 8, flags=RunFlag.CORRUPT)
    assert at(applied(footer(0, TOLD, SEEN, ran(0, 5), bad))) == (0, 5)
    assert at(applied(footer(0, TOLD, SEEN, ran(0, 5), bad, gap(5, 8)))) == (0, 8)


def test_the_gap_of_a_deletion_moves_nothing() -> None:
    """Invariant I5: should the topic prove alive after all, those offsets must still be fetched."""
    lost = gap(5, 90, cause=GapCause.TOPIC_DELETED)
    state = applied(footer(0, TOLD, SEEN, ran(0, 5), lost, TopicDeleted(topic_id=TOPIC, at_ms=0)))
    assert at(state) == (0, 5)
    assert state.topics[TOPIC].closed


def test_a_truncation_moves_to_its_branch_and_forgets_what_began_beyond_it() -> None:
    """Hazard 21."""
    state = applied(
        footer(0, TOLD, SEEN, ran(0, 5), ran(5, 9, epoch=3), open_=((7, 2), (8, 6))),
        footer(1, cut(1, 0, 5)),
    )
    partition = state.partitions[P]
    assert at(state) == (1, 5)
    assert partition.leader_epochs == [(0, 0)]
    assert partition.open_transactions == {7: (0, 2)}
    assert partition.next_branch == 2


def test_several_truncations_in_one_segment_are_followed_one_after_the_other() -> None:
    state = applied(
        footer(0, TOLD, SEEN, ran(0, 9), cut(1, 0, 5), ran(5, 7, branch=1), cut(2, 1, 6), ran(6, 8, branch=2))
    )
    assert at(state) == (2, 8)


def test_a_truncation_beyond_what_is_contiguous_is_not_followed_but_its_branch_number_is_used_up() -> None:
    state = applied(footer(0, TOLD, SEEN, ran(0, 5)), footer(2, cut(1, 0, 8), ran(8, 12, branch=1)))
    assert at(state) == (0, 5)
    assert state.partitions[P].next_branch == 2


def test_a_partition_whose_first_event_is_lost_is_remembered_by_its_branches_alone() -> None:
    """Found by killing at random: starting anew on branch 0 would be hidden behind branch 1."""
    state = applied(footer(1, cut(1, 0, 8), ran(8, 12, branch=1)))
    assert (state.partitions[P].state, state.partitions[P].next_branch) == (UNSEEN, 2)
    state = copied(state)
    assert (state.partitions[P].state, state.partitions[P].next_branch) == (UNSEEN, 2)
    state.apply(footer(0, SEEN, cut(2, 0, 0), ran(0, 20, branch=2), epoch=2), ObjectRef("k", "0" * 64))
    assert at(state) == (2, 20)


def test_a_partition_whose_topic_s_event_is_lost_still_fits_into_a_checkpoint() -> None:
    """Found by killing at random: no later life could write its first checkpoint."""
    state = copied(applied(footer(1, SEEN, ran(0, 3))))
    assert at(state) == (0, 3)
    assert (state.topics[TOPIC].name, state.topics[TOPIC].partitions) == ("orders", 0)


def test_open_transactions_are_those_at_the_position_not_those_behind_a_lost_segment() -> None:
    state = applied(
        footer(0, TOLD, SEEN, ran(0, 5), open_=((7, 2),)),
        footer(2, ran(9, 12), open_=((9, 10),)),
    )
    assert state.partitions[P].open_transactions == {7: (0, 2)}


def test_a_recreated_topic_s_predecessor_is_open_until_its_own_deletion_is_told() -> None:
    """A broker that lags behind may tell of it once more, and a life killed in between must still ask whether it is."""
    other = TopicId("AAAAAAAAAAAAAAAAAAAAAg")
    successor = TopicSeen(topic_id=other, name="orders", partitions=1, internal=False, at_ms=0, previous=TOPIC)
    state = applied(footer(0, TOLD, SEEN), footer(1, successor))
    assert (state.topics[TOPIC].closed, state.topics[other].closed) == (False, False)
    state = applied(footer(0, TOLD, SEEN), footer(1, successor), footer(2, TopicDeleted(topic_id=TOPIC, at_ms=1)))
    assert (state.topics[TOPIC].closed, state.topics[other].closed) == (True, False)


def test_of_deleted_topics_the_last_to_go_are_remembered_over_checkpoints_and_others_only_while_they_have_branches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_state, "REMEMBERED_DELETED", 2)
    ids = [TopicId(f"{letter}AAAAAAAAAAAAAAAAAAAAg") for letter in "ABCDE"]

    def told(number: int, topic_id: TopicId) -> Footer:
        id = PartitionId(topic_id, 0)
        cut = (Truncated(id=id, branch=1, parent=0, offset=0, leader_epoch=1, at_ms=0),) if number == 1 else ()
        return footer(
            number,
            TopicSeen(topic_id=topic_id, name=topic_id[0], partitions=1, internal=False, at_ms=0),
            PartitionSeen(id=id, first_offset=0, log_start_offset=0, high_watermark=0, leader_epoch=0, at_ms=0),
            *cut,
        )

    def gone(seq: int, number: int) -> Footer:
        return footer(seq, TopicDeleted(topic_id=ids[number], at_ms=0))

    seen = [told(number, topic_id) for number, topic_id in enumerate(ids)]
    excluded = footer(5, TopicExcluded(topic_id=ids[4], at_ms=0))
    told_gone = [gone(6, 3), gone(7, 0), gone(8, 1), gone(9, 2)]
    state = applied(*seen, excluded, *told_gone[:3])
    kept = {ids[0], ids[1], ids[2], ids[4]}
    assert {id.topic_id for id in state.partitions} == set(state.topics) == kept, "the first to go is forgotten"
    resumed = copied(state)
    for one in (state, resumed):
        forgotten = one.apply(told_gone[3], ObjectRef(told_gone[3].key, "0" * 64))
        assert forgotten == {ids[0]}
        assert {id.topic_id for id in one.partitions} == set(one.topics) == {ids[1], ids[2], ids[4]}
    assert resumed.topics == state.topics


def test_pauses_are_remembered_until_they_end() -> None:
    state = applied(
        footer(0, Paused(topics="a*", paused=True, at_ms=0), Paused(topics="b", paused=True, at_ms=0)),
        footer(1, Paused(topics="a*", paused=False, at_ms=0)),
    )
    assert list(copied(state).pauses) == ["b"]


def test_declared_epochs_are_not_declared_again() -> None:
    state = applied(footer(0, TOLD))
    assert [row.writer_epoch for row in state.earlier_epochs(3, {})] == [1, 2]
    state.apply(
        footer(0, epoch=3, earlier=(EarlierEpoch(writer_epoch=2, durable=(), last=None),)), ObjectRef("k", "0" * 64)
    )
    assert [row.writer_epoch for row in state.earlier_epochs(4, {})] == [3]


def test_segments_are_never_stamped_before_an_earlier_one_whatever_the_checkpoint_s_clock_said() -> None:
    """Hazard 55."""
    assert copied(applied(footer(0, sealed_ms=9_000)), sealed_ms=1).last_sealed_ms == 9_000


@given(seqs=st.sets(st.integers(0, 40)))
def test_coverage_is_exactly_the_sequences_that_were_applied(seqs: set[int]) -> None:
    ranges: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        merge_sequence(ranges, seq)
    assert {seq for first, following in ranges for seq in range(first, following)} == seqs
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def copied(state: WriterState, *, sealed_ms: int = 1) -> WriterState:
    """Through a checkpoint's bytes and back."""
    key = checkpoint_key("main", 1, 0)
    picture = state.picture(
        identity=IDENTITY, key=key, writer_epoch=1, number=0, sealed_ms=sealed_ms, segments=(), states={}
    )
    return WriterState.from_checkpoint(decode_checkpoint(key, encode_checkpoint(picture()), IDENTITY))


@dataclass
class Log:
    """A partition as a life captures it, and which (branch, offset) each of its segments holds."""

    branch: int = 0
    position: int = 0
    segments: list[list[Run | LedgerEvent]] = field(default_factory=lambda: [[TOLD, SEEN]])

    def step(self, kind: str, length: int) -> None:
        if kind == "seal":
            self.segments.append([])
        elif kind == "cut":
            offset = max(0, self.position - length)
            self.segments[-1].append(cut(self.branch + 1, self.branch, offset))
            self.branch, self.position = self.branch + 1, offset
        else:
            following = self.position + length
            make = ran if kind == "run" else gap
            self.segments[-1].append(make(self.position, following, branch=self.branch))
            self.position = following


STEPS = st.lists(
    st.tuples(st.sampled_from(("run", "run", "gap", "cut", "seal", "seal")), st.integers(1, 9)), max_size=40
)


@given(steps=STEPS, data=st.data())
def test_with_any_segments_lost_everything_below_the_position_is_held(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Invariants I4 and I6, and what a checkpoint in between must not change."""
    log = Log()
    for kind, length in steps:
        log.step(kind, length)
    kept = data.draw(st.sets(st.sampled_from(range(len(log.segments))))) | {0}
    footers = [footer(seq, *log.segments[seq]) for seq in sorted(kept)]
    state = applied(*footers)
    partition = state.partitions[P]

    held: dict[int, set[int]] = {}
    origin: dict[int, tuple[int, int]] = {}
    for seq in sorted(kept):
        for one in log.segments[seq]:
            if isinstance(one, Run | Gap):
                first = one.asked_offset if isinstance(one, Run) else one.first_offset
                held.setdefault(one.branch, set()).update(range(first, one.next_offset))
            elif isinstance(one, Truncated):
                origin[one.branch] = (one.parent, one.offset)
    branch, end = partition.branch, partition.next_offset
    while True:
        parent, begin = origin.get(branch, (-1, 0))
        assert set(range(begin, end)) <= held.get(branch, set()), "a position above what is held"
        if parent < 0:
            break
        branch, end = parent, min(begin, end)
    assert partition.next_branch > max([0, *held, *origin])

    if kept == set(range(len(log.segments))):
        assert at(state) == (log.branch, log.position)
    middle = data.draw(st.integers(0, len(footers)))
    resumed = copied(applied(*footers[:middle])) if middle else WriterState("main")
    for late in footers[middle:]:
        resumed.apply(late, ObjectRef(late.key, "0" * 64))
    assert resumed.partitions == state.partitions
    assert resumed.coverage == state.coverage
    assert resumed.events == state.events


def test_a_checkpoint_is_a_picture_of_when_it_was_taken_however_late_it_is_made() -> None:
    """It is made in a thread, while the loop accounts for the next segments."""
    state = WriterState("main")
    id = PartitionId(TOPIC, 0)
    state.partitions[id] = PartitionState(
        id=id, first_offset=0, next_offset=5, leader_epochs=[(0, 0)], state="starting"
    )
    state.partitions[id].open_transactions[7] = (0, 3)
    state.topics[TOPIC] = TopicState(id=TOPIC, name="orders", partitions=1, internal=False, configs={})
    state.coverage[1] = [(0, 2)]
    picture = state.picture(
        identity=IDENTITY,
        key=checkpoint_key("main", 1, 0),
        writer_epoch=1,
        number=0,
        sealed_ms=1,
        segments=(),
        states={id: "following"},
    )
    at_once = picture()
    known = state.partitions[id]
    known.next_offset, known.state = 9, UNSEEN
    known.leader_epochs.append((1, 6))
    known.open_transactions.clear()
    state.topics[TOPIC].closed = True
    state.coverage[1][0] = (0, 3)
    state.partitions.clear()
    assert picture() == at_once
    (row,) = at_once.partitions
    assert (row.next_offset, row.leader_epoch, row.state) == (5, 0, "following")
    assert row.open_transactions == ((7, 0, 3),)

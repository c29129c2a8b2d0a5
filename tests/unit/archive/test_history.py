"""The history of a partition against a model that looks at every offset by itself."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.archive.history import (
    OnBranches,
    PartitionEvidence,
    PartitionHistory,
    SegmentPlace,
    StoredRun,
    build_history,
)
from kbackupd.model.events import Gap, GapCause, PartitionSeen, Truncated
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.segment import ObjectRef, OpenTransaction, Run, RunFlag, TransactionOutcome

ID = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAA"), 0)
OFFSETS = range(40)


def stored(
    asked: int,
    end: int,
    *,
    at: int = 0,
    branch: int = 0,
    flags: RunFlag = RunFlag(0),
    first: int | None = None,
    epochs: tuple[tuple[int, int], ...] = (),
    place: SegmentPlace = SegmentPlace("main", 1, 0),
) -> StoredRun:
    run = Run(
        id=ID,
        system=False,
        asked_offset=asked,
        first_offset=asked if first is None else first,
        next_offset=end,
        branch=branch,
        replica=1,
        captured_ms=at,
        batches=1,
        records=end - asked,
        flags=flags,
        base_timestamp_ms=0,
        max_timestamp_ms=0,
        largest_batch_bytes=0,
        position=8,
        stored_bytes=1,
        raw_bytes=1,
        codec="none",
        crc32c=0,
        leader_epochs=epochs,
    )
    return StoredRun(run=run, ref=ObjectRef(f"{place}", ""), place=place)


def gap(first: int, end: int, *, branch: int = 0, cause: GapCause = GapCause.LOG_START_MOVED) -> Gap:
    return Gap(id=ID, branch=branch, first_offset=first, next_offset=end, cause=cause, at_ms=0)


def cut(branch: int, parent: int, offset: int) -> Truncated:
    return Truncated(id=ID, branch=branch, parent=parent, offset=offset, leader_epoch=1, at_ms=0)


def seen(first: int) -> PartitionSeen:
    return PartitionSeen(
        id=ID, first_offset=first, log_start_offset=first, high_watermark=first, leader_epoch=0, at_ms=0
    )


def ranges(history: PartitionHistory) -> list[tuple[int, int]]:
    return [(one.first_offset, one.next_offset) for one in history.slices]


@dataclass(frozen=True)
class Situation:
    evidence: PartitionEvidence
    branch: int


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    branches = draw(st.integers(1, 4))
    truncations = tuple(cut(b, draw(st.integers(0, b - 1)), draw(st.integers(0, 35))) for b in range(1, branches))
    ends = st.tuples(st.integers(0, 39), st.integers(0, 39)).map(lambda pair: (min(pair), max(pair)))
    flags = st.sampled_from([RunFlag(0), RunFlag.HOLES, RunFlag.CORRUPT])
    runs = []
    for number in range(draw(st.integers(0, 8))):
        first, end = draw(ends)
        runs.append(
            stored(
                first,
                end,
                at=draw(st.integers(0, 3)),
                branch=draw(st.integers(0, branches - 1)),
                flags=draw(flags),
                first=max(0, first - draw(st.integers(0, 3))),
                place=SegmentPlace(draw(st.sampled_from(["a", "b"])), 1, number),
            )
        )
    runs.sort(key=lambda one: one.place)
    gaps = []
    for _ in range(draw(st.integers(0, 4))):
        first, end = draw(ends)
        gaps.append(
            gap(first, end, branch=draw(st.integers(0, branches - 1)), cause=draw(st.sampled_from(list(GapCause))))
        )
    begins = draw(st.lists(st.integers(0, 10), max_size=2))
    evidence = PartitionEvidence(
        id=ID, runs=tuple(runs), gaps=tuple(gaps), truncations=truncations, seen=tuple(map(seen, begins))
    )
    return Situation(evidence, draw(st.integers(0, branches - 1)))


def teller(situation: Situation, offset: int) -> int:
    """The branch that tells what happened at `offset`."""
    origins = {event.branch: event for event in situation.evidence.truncations}
    branch = situation.branch
    while branch in origins and offset < origins[branch].offset:
        branch = origins[branch].parent
    return branch


@given(situations())
def test_each_offset_is_stored_in_the_earliest_run_else_a_gap_else_a_hole(situation: Situation) -> None:
    if situation.branch not in build_history(situation.evidence).branches:
        return
    history = build_history(situation.evidence, situation.branch)
    evidence = situation.evidence
    lowest = history.first_offset
    known = set()
    for offset in OFFSETS:
        on = teller(situation, offset)
        usable = [one for one in evidence.runs if one.run.branch == on and not one.corrupt]
        proving = [one for one in usable if one.run.asked_offset <= offset < one.run.next_offset]
        holding = [one for one in usable if one.run.first_offset <= offset < one.run.next_offset]
        gaps = [one for one in evidence.gaps if one.branch == on and one.first_offset <= offset < one.next_offset]
        found = [one for one in history.slices if one.first_offset <= offset < one.next_offset]
        spans = [one for one in history.gaps if one.first_offset <= offset < one.next_offset]
        hole = [one for one in history.holes if one.first_offset <= offset < one.next_offset]
        if proving:
            known.add(offset)
            assert len(found) == 1
            assert not spans
            assert not hole
            assert found[0].sources[0] == min(holding, key=lambda one: one.precedence)
            before_full = [one for one in found[0].sources if not one.run.flags & RunFlag.HOLES]
            assert before_full in ([], [found[0].sources[-1]])
            full = any(not one.run.flags & RunFlag.HOLES for one in holding)
            assert bool(before_full) == full
            assert full or set(map(id, found[0].sources)) == set(map(id, holding))
        elif gaps:
            known.add(offset)
            assert not found
            assert not hole
            assert [one.cause for one in spans] == [gaps[0].cause]
        elif on == 0 and offset >= lowest and any(event.log_start_offset > offset for event in evidence.seen):
            assert not found
            assert not hole
            assert [one.cause for one in spans] == [GapCause.LOG_START_MOVED]
        else:
            assert not found
            assert not spans
            assert bool(hole) == (history.first_offset <= offset < history.next_offset)
    if known:
        assert history.first_offset <= min(known)
        assert history.next_offset > max(known)


@given(situations())
def test_slices_gaps_and_holes_add_up_to_the_coverage(situation: Situation) -> None:
    history = build_history(situation.evidence)
    pieces = sorted(
        [(one.first_offset, one.next_offset) for one in history.slices]
        + [(one.first_offset, one.next_offset) for one in history.gaps]
        + [(one.first_offset, one.next_offset) for one in history.holes]
    )
    at = history.first_offset
    for first, end in pieces:
        assert first == at
        assert end > first
        at = end
    assert at == history.next_offset


def test_an_empty_partition_that_was_seen_is_covered_and_has_nothing() -> None:
    history = build_history(PartitionEvidence(id=ID, seen=(seen(17),)))
    assert (history.first_offset, history.next_offset, history.slices, history.holes) == (17, 17, (), ())


def test_a_missing_segment_between_two_runs_is_a_hole() -> None:
    history = build_history(PartitionEvidence(id=ID, seen=(seen(0),), runs=(stored(0, 10), stored(20, 30))))
    assert history.holes == (OffsetRange(10, 20),)
    assert history.contiguous_next_offset == 10
    assert not history.complete


def test_what_was_below_the_log_start_at_a_later_first_sight_is_a_gap_above_what_a_dead_life_s_segment_holds() -> None:
    late, ours = (
        stored(0, 15, place=SegmentPlace("main", 1, 11)),
        stored(18, 38, at=1, place=SegmentPlace("main", 3, 12)),
    )
    history = build_history(PartitionEvidence(id=ID, runs=(late, ours), seen=(seen(18),)))
    assert history.holes == ()
    assert [(g.first_offset, g.next_offset, g.cause) for g in history.gaps] == [(15, 18, GapCause.LOG_START_MOVED)]


def test_a_first_sight_explains_nothing_above_its_log_start_and_invents_nothing_below_what_is_held() -> None:
    above = build_history(PartitionEvidence(id=ID, runs=(stored(2, 15), stored(20, 38)), seen=(seen(18),)))
    assert above.holes == (OffsetRange(18, 20),)
    assert above.first_offset == 2
    alone = build_history(PartitionEvidence(id=ID, runs=(stored(18, 38),), seen=(seen(18),)))
    assert (alone.first_offset, alone.gaps, alone.holes) == (18, (), ())


def test_what_lies_before_the_first_run_since_the_partition_was_seen_is_a_hole() -> None:
    history = build_history(PartitionEvidence(id=ID, seen=(seen(0),), runs=(stored(5, 10),)))
    assert history.holes == (OffsetRange(0, 5),)


def test_a_stored_range_beats_a_gap_whoever_wrote_either() -> None:
    other = stored(5, 8, place=SegmentPlace("second", 1, 0))
    history = build_history(PartitionEvidence(id=ID, runs=(stored(0, 3), other), gaps=(gap(3, 10),)))
    assert [(one.first_offset, one.next_offset) for one in history.gaps] == [(3, 5), (8, 10)]
    assert history.holes == ()


def test_the_earliest_capture_counts_where_two_writers_overlap() -> None:
    late, early = stored(0, 20, at=9), stored(10, 30, at=5, place=SegmentPlace("second", 1, 0))
    history = build_history(PartitionEvidence(id=ID, runs=(late, early)))
    assert ranges(history) == [(0, 10), (10, 30)]
    assert history.slices[1].sources == (early,)


def test_a_run_with_holes_is_filled_from_other_captures_up_to_the_first_without() -> None:
    compacted = stored(0, 10, at=1, flags=RunFlag.HOLES)
    whole = stored(0, 10, at=2, place=SegmentPlace("main", 1, 1))
    later = stored(0, 10, at=3, place=SegmentPlace("main", 1, 2))
    history = build_history(PartitionEvidence(id=ID, runs=(compacted, whole, later)))
    assert history.slices[0].sources == (compacted, whole)
    assert history.merged == history.slices


def test_the_newest_branch_counts_and_below_its_cut_its_parent() -> None:
    runs = (stored(0, 30), stored(20, 25, branch=1))
    history = build_history(PartitionEvidence(id=ID, runs=runs, truncations=(cut(1, 0, 20),)))
    assert history.branch == 1
    assert [one.run.branch for one in history.slices] == [0, 1]
    assert ranges(history) == [(0, 20), (20, 25)]
    assert history.next_offset == 25


def test_the_old_tail_is_read_when_its_branch_is_asked_for() -> None:
    runs = (stored(0, 30), stored(20, 25, branch=1))
    history = build_history(PartitionEvidence(id=ID, runs=runs, truncations=(cut(1, 0, 20),)), branch=0)
    assert ranges(history) == [(0, 30)]


def test_a_second_cut_below_the_first_leaves_nothing_of_the_branch_between() -> None:
    runs = (stored(0, 30), stored(20, 40, branch=1), stored(10, 15, branch=2))
    history = build_history(PartitionEvidence(id=ID, runs=runs, truncations=(cut(1, 0, 20), cut(2, 1, 10))))
    assert [span.branch for span in history.lineage] == [0, 2]
    assert ranges(history) == [(0, 10), (10, 15)]


def test_a_branch_whose_beginning_nobody_knows_is_named_and_not_chosen() -> None:
    runs = (stored(0, 30), stored(20, 25, branch=1))
    history = build_history(PartitionEvidence(id=ID, runs=runs))
    assert history.orphans == (1,)
    assert history.branch == 0
    assert ranges(build_history(PartitionEvidence(id=ID, runs=runs), branch=1)) == [(20, 25)]


def test_a_tail_of_an_older_leader_epoch_that_landed_before_a_kill_gives_way_to_what_grew_in_its_place() -> None:
    straggler = stored(20, 30, at=1, epochs=((0, 20),), place=SegmentPlace("main", 1, 2))
    first = stored(0, 10, at=0, epochs=((0, 0),), place=SegmentPlace("main", 1, 0))
    again = stored(10, 18, at=2, epochs=((0, 10), (1, 15)), place=SegmentPlace("main", 2, 0))
    history = build_history(PartitionEvidence(id=ID, seen=(seen(0),), runs=(first, straggler, again)))
    assert ranges(history) == [(0, 10), (10, 18)]
    assert history.next_offset == 18
    assert history.holes == ()


def test_runs_of_one_leader_epoch_after_the_other_are_all_kept() -> None:
    runs = (stored(0, 10, epochs=((0, 0), (2, 6))), stored(5, 20, at=1, epochs=((0, 5), (2, 6), (3, 15))))
    history = build_history(PartitionEvidence(id=ID, runs=runs))
    assert ranges(history) == [(0, 10), (10, 20)]


def test_a_later_capture_that_compaction_has_thinned_is_not_taken_for_a_lost_tail() -> None:
    """Its first batch of the newer epoch is further on than the earlier capture's was: where the epoch begins, it
    cannot tell. A writer under another name that took over would be read up to there only.
    """
    early = stored(0, 18, at=0, epochs=((0, 0), (1, 12)), place=SegmentPlace("a", 1, 0))
    late = stored(9, 25, at=1, epochs=((0, 9), (1, 16), (2, 20)), place=SegmentPlace("b", 1, 0))
    history = build_history(PartitionEvidence(id=ID, seen=(seen(0),), runs=(early, late)))
    assert ranges(history) == [(0, 18), (18, 25)]
    assert history.holes == ()


def test_a_corrupt_run_covers_nothing_and_is_listed() -> None:
    bad = stored(10, 20, flags=RunFlag.CORRUPT)
    evidence = PartitionEvidence(
        id=ID, runs=(stored(0, 10), bad), gaps=(gap(10, 20, cause=GapCause.CORRUPT_AT_SOURCE),)
    )
    history = build_history(evidence)
    assert history.corrupt_runs == (bad,)
    assert ranges(history) == [(0, 10)]
    assert [one.cause for one in history.gaps] == [GapCause.CORRUPT_AT_SOURCE]


def outcome(offset: int, producer_id: int = 7, *, branches: frozenset[int] = frozenset({0})) -> OnBranches:
    row = TransactionOutcome(id=ID, offset=offset, producer_id=producer_id, producer_epoch=0, committed=True)
    return OnBranches(branches=branches, row=row)


def begun(offset: int, producer_id: int = 7, *, branches: frozenset[int] = frozenset({0})) -> OnBranches:
    row = OpenTransaction(id=ID, producer_id=producer_id, producer_epoch=0, first_offset=offset)
    return OnBranches(branches=branches, row=row)


def test_a_transaction_is_open_until_its_marker_is_stored() -> None:
    evidence = PartitionEvidence(id=ID, runs=(stored(0, 30),), open_transactions=(begun(5), begun(5), begun(9, 8)))
    assert [row.first_offset for row in build_history(evidence).open_transactions] == [5, 9]
    ended = PartitionEvidence(
        id=ID, runs=(stored(0, 30),), open_transactions=(begun(5), begun(9, 8)), outcomes=(outcome(12),)
    )
    assert [row.producer_id for row in build_history(ended).open_transactions] == [8]


def test_a_marker_on_a_tail_that_was_cut_off_does_not_count() -> None:
    evidence = PartitionEvidence(
        id=ID,
        runs=(stored(0, 30), stored(20, 40, branch=1)),
        truncations=(cut(1, 0, 20),),
        outcomes=(outcome(25), outcome(10), outcome(30, 9, branches=frozenset({1}))),
        open_transactions=(begun(22), begun(15)),
    )
    history = build_history(evidence)
    assert [(row.offset, row.producer_id) for row in history.outcomes] == [(10, 7), (30, 9)]
    assert [row.first_offset for row in history.open_transactions] == [15]

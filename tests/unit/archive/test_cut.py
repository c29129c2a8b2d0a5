"""How far a log went at an instant, and from where on it has what a snapshot lacks."""

from __future__ import annotations

from kbackupd.archive.cut import Cut, cut_at, told_after
from kbackupd.archive.group_base import GroupsBase
from kbackupd.archive.history import PartitionEvidence
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Sample

ID = PartitionId(TopicId("b8tRS7h4TJ2Vt43Dp85v2A"), 0)


def sample(sent_ms: int, answered_ms: int, high_watermark: int) -> Sample:
    return Sample(ID, sent_ms, answered_ms, 0, high_watermark, high_watermark, 0)


def cut(at_ms: int | None, *samples: Sample) -> Cut | None:
    return cut_at(PartitionEvidence(id=ID, samples=samples), at_ms)


def end(found: Cut | None) -> tuple[int, int, int, int | None]:
    assert found is not None
    return found.next_offset, found.sent_ms, found.held_until_ms, found.grown_ms


def test_an_answer_counts_from_its_receipt_on_and_not_from_its_request() -> None:
    samples = sample(100, 110, 5), sample(200, 230, 9)
    assert cut(109, *samples) is None
    assert end(cut(110, *samples)) == (5, 100, 100, 230)
    assert end(cut(229, *samples)) == (5, 100, 100, 230)
    assert end(cut(230, *samples)) == (9, 200, 200, None)
    assert end(cut(None, *samples)) == (9, 200, 200, None)


def test_what_later_answers_repeat_held_until_the_last_of_them_was_asked_for() -> None:
    found = cut(115, sample(100, 110, 5), sample(200, 210, 5), sample(300, 310, 5), sample(400, 410, 6))
    assert end(found) == (5, 100, 300, 410)
    assert found is not None
    assert found.exact_at(300)
    assert not found.exact_at(301)


def test_samples_of_several_writers_are_taken_in_the_order_of_their_receipt() -> None:
    assert end(cut(250, sample(200, 210, 9), sample(100, 110, 5))) == (9, 200, 200, None)


def test_an_answer_without_a_high_watermark_says_nothing() -> None:
    samples = sample(100, 110, 5), sample(200, 230, -1), sample(300, 310, 5)
    assert end(cut(250, *samples)) == (5, 100, 300, None)
    assert cut(None, sample(200, 230, -1)) is None


def test_what_was_told_after_an_instant_was_asked_for_after_it_and_by_a_leader_that_knows() -> None:
    """A new leader tells less for a moment, and its answer of a minute later counts."""
    old = sample(100, 110, 5), sample(200, 210, 7), sample(300, 310, 9)
    elected = [
        one._replace(leader_epoch=1) for one in (sample(200, 210, 6), sample(300, 310, 8), sample(70_300, 70_310, 9))
    ]

    def told(at_ms: int, *samples: Sample) -> int | None:
        found = told_after(PartitionEvidence(id=ID, samples=samples), at_ms)
        return None if found is None else found.high_watermark

    assert (told(150, *old), told(205, *old), told(301, *old)) == (7, 9, None)
    assert told(150, old[0], *elected) == 9
    assert told(150, old[0], *elected[:2]) is None
    assert told(250, old[0], *elected) == 9


def test_a_snapshot_answered_after_the_cut_is_no_beginning_for_it() -> None:
    """It may hold a commit that is not below the cut."""
    samples = sample(100, 110, 5), sample(200, 230, 9)
    reached, before = cut(230, *samples), cut(110, *samples)
    assert reached is not None

    def begins_at(asked_ms: int, taken_ms: int, then: Cut | None) -> int | None:
        base = GroupsBase(key="", asked_ms=asked_ms, taken_ms=taken_ms, groups=frozenset(), positions={})
        return base.begins_at(then, reached)

    assert begins_at(120, 200, before) == 5
    assert begins_at(120, 201, before) is None
    assert begins_at(120, 200, None) is None

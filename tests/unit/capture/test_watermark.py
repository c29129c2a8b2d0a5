"""How far each partition is durable, against a model that remembers everything and is obviously right."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.capture.watermark import Watermark
from kbackupd.model.path import CatalogEntry
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Footer, Identity, ObjectRef

P0, P1, P2 = (PartitionId(TopicId("A" * 22), number) for number in range(3))


def entry(seq: int) -> CatalogEntry:
    footer = Footer(
        identity=Identity(backup_id="b", archive_id="a", cluster_id="c"),
        key=f"{seq}",
        writer="main",
        writer_epoch=1,
        seq=seq,
        previous=None,
        in_flight=(),
        earlier=(),
        sealed_ms=0,
        sealed_monotonic_ms=0,
        body_bytes=8,
        body_sha256="",
        topics={},
    )
    return CatalogEntry(ref=ObjectRef(f"{seq}", ""), footer=footer, size_bytes=1)


def test_nothing_is_durable_before_anything_is_stored() -> None:
    watermark = Watermark()
    watermark.sealed(0, {P0: 10})
    assert watermark.durable(P0) == -1


def test_watermark_waits_for_the_hole_when_a_later_segment_finishes_first() -> None:
    """Hazard 2: an upload that stalls while later ones land must hold the position back."""
    watermark = Watermark({P0: 0})
    watermark.sealed(0, {P0: 10})
    watermark.sealed(1, {P0: 20})
    assert watermark.stored(entry(1)) == []
    assert watermark.durable(P0) == 0
    assert watermark.stored(entry(0)) == [P0]
    assert watermark.durable(P0) == 20


def test_a_partition_without_runs_in_the_stalled_segment_does_not_wait_for_it() -> None:
    watermark = Watermark()
    watermark.sealed(0, {P0: 10})
    watermark.sealed(1, {P1: 5})
    assert watermark.stored(entry(1)) == [P1]
    assert watermark.durable(P1) == 5


def test_a_truncation_takes_back_at_once_what_was_durable_of_the_old_log() -> None:
    """Hazard 21: stored bytes of a log that was cut say nothing about the log that replaced it."""
    watermark = Watermark({P0: 100})
    watermark.truncated(P0, 50)
    assert watermark.durable(P0) == 50


def test_a_segment_of_the_old_log_that_lands_after_the_cut_moves_nothing_beyond_it() -> None:
    watermark = Watermark({P0: 40})
    watermark.sealed(0, {P0: 120})
    watermark.truncated(P0, 50)
    watermark.stored(entry(0))
    assert watermark.durable(P0) == 50


def test_a_segment_closed_before_the_cut_and_sealed_after_it_moves_nothing_beyond_it() -> None:
    watermark = Watermark({P0: 40})
    watermark.truncated(P0, 50)
    watermark.sealed(0, {P0: 120})
    watermark.stored(entry(0))
    assert watermark.durable(P0) == 50
    watermark.sealed(1, {P0: 130}, {P0: 1})
    watermark.stored(entry(1))
    assert watermark.durable(P0) == 130


@dataclass
class Model:
    """Every offset of every log by its generation, and in which segment it is."""

    position: dict[PartitionId, tuple[int, int]] = field(default_factory=dict)
    """(generation, next offset) of the open segment's reach."""
    sealed: list[dict[PartitionId, tuple[int, int]]] = field(default_factory=list)
    stored: set[int] = field(default_factory=set)
    cuts: dict[PartitionId, list[int]] = field(default_factory=dict)

    def durable(self, id: PartitionId) -> int:
        """The reach of the last segment before which nothing of the partition is missing, under all later cuts."""
        generation, reach = 0, -1
        for seq, reaches in enumerate(self.sealed):
            if id not in reaches:
                continue
            if seq not in self.stored:
                break
            generation, reach = reaches[id]
        return min([reach, *self.cuts.get(id, [])[generation:]])


@given(data=st.data())
def test_watermark_equals_the_model_under_any_order_of_arrival_and_any_truncation(data: st.DataObject) -> None:
    watermark, model = Watermark(), Model()
    ids = (P0, P1, P2)
    position = dict.fromkeys(ids, 0)
    generation = dict.fromkeys(ids, 0)
    touched: dict[PartitionId, tuple[int, int]] = {}
    cuts: dict[PartitionId, int] = {}
    closed: list[tuple[dict[PartitionId, tuple[int, int]], dict[PartitionId, int]]] = []
    for _ in range(data.draw(st.integers(1, 30))):
        act = data.draw(st.sampled_from(("run", "run", "cut", "close", "seal", "store")))
        id = data.draw(st.sampled_from(ids))
        missing = sorted(set(range(len(model.sealed))) - model.stored)
        if act == "run":
            position[id] += data.draw(st.integers(1, 20))
            touched[id] = (generation[id], position[id])
        elif act == "cut":
            position[id] = data.draw(st.integers(0, position[id]))
            generation[id] += 1
            model.cuts.setdefault(id, []).append(position[id])
            watermark.truncated(id, position[id])
            touched[id] = (generation[id], position[id])
            cuts[id] = cuts.get(id, 0) + 1
        elif act == "close" and touched:
            closed.append((touched, cuts))
            touched, cuts = {}, {}
        elif act == "seal" and closed:
            reaches, told = closed.pop(0)
            watermark.sealed(len(model.sealed), {id: end for id, (_, end) in reaches.items()}, told)
            model.sealed.append(reaches)
        elif act == "store" and missing:
            seq = data.draw(st.sampled_from(missing))
            before = {id: watermark.durable(id) for id in ids}
            moved = watermark.stored(entry(seq))
            model.stored.add(seq)
            assert set(moved) == {id for id in ids if watermark.durable(id) != before[id]}
        assert [watermark.durable(id) for id in ids] == [model.durable(id) for id in ids]

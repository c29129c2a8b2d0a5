"""Exposure: never claims that what a leader had at an instant is durable when it is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.capture.proof import Proof


def test_an_answer_whose_high_watermark_is_durable_proves_the_moment_it_was_asked_for() -> None:
    proof = Proof()
    proof.answered(5.0, 100, 100)
    assert proof.exposure(7.0) == 2.0


def test_what_a_leader_has_beyond_the_durable_offset_proves_nothing_until_it_is_stored() -> None:
    proof = Proof()
    proof.answered(5.0, 100, 90)
    assert proof.exposure(7.0) is None
    proof.durable_moved(99)
    assert proof.exposure(7.0) is None
    proof.durable_moved(100)
    assert proof.exposure(7.0) == 2.0


def test_exposure_grows_while_nobody_answers() -> None:
    """Hazards 43 and 44: blind is not green."""
    proof = Proof()
    proof.answered(5.0, 100, 100)
    assert proof.exposure(500.0) == 495.0


def test_a_partition_left_out_of_an_answer_is_proven_by_it() -> None:
    proof = Proof()
    proof.answered(5.0, 100, 100)
    proof.left_out(9.0, 100)
    assert proof.exposure(10.0) == 1.0


def test_being_left_out_proves_nothing_before_the_first_answer() -> None:
    proof = Proof()
    proof.left_out(9.0, 100)
    assert proof.exposure(10.0) is None


def test_after_a_truncation_what_waited_to_be_durable_is_forgotten() -> None:
    """Hazard 21: offset 100 of the new log is not what was waited for."""
    proof = Proof()
    proof.answered(5.0, 100, 50)
    proof.forget()
    proof.durable_moved(100)
    assert proof.exposure(7.0) is None


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("answer", "left out", "store")), st.integers(0, 3), st.integers(0, 5)), max_size=200
    )
)
def test_exposure_never_claims_more_than_an_oracle_that_remembers_every_answer(
    steps: list[tuple[str, int, int]],
) -> None:
    proof = Proof()
    now, high_watermark, durable = 0.0, 0, 0
    answers: list[tuple[float, int]] = []
    for kind, grows, stores in steps:
        now += 1.0
        if kind == "store":
            durable = min(high_watermark, durable + stores)
            proof.durable_moved(durable)
        else:
            if kind == "answer":
                high_watermark += grows
                proof.answered(now, high_watermark, durable)
            elif answers:
                proof.left_out(now, durable)
            if kind == "answer" or answers:
                answers.append((now, high_watermark))
        proven = [sent for sent, at in answers if at <= durable]
        if not proven:
            assert proof.proven is None
        else:
            assert proof.proven is None or proof.proven <= max(proven)
            if durable == high_watermark:
                assert proof.proven == max(proven)

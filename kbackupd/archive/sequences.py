"""Which segments must exist: "Which sequences must exist" of docs/format.md, as a pure function.

What is known to have been durable must be there. What may have been in flight when a life was killed may be missing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kbackupd.archive.segments import SealedPlace
from kbackupd.format import keys
from kbackupd.model.segment import Checkpoint

WriterEpoch = tuple[str, int]


class RolledUp(NamedTuple):
    """Sequences that the roll-up `key` was made of."""

    key: str
    writer: str
    writer_epoch: int
    sequences: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochJudgement:
    """One life of a writer: which of its sequences are there, lost, or were never finished."""

    writer: str
    writer_epoch: int
    present: tuple[int, ...]
    """By key, readable or not."""
    lost: tuple[tuple[int, str], ...]
    """(sequence, what proves that it was durable): missing, and must not be."""
    unfinished: tuple[int, ...]
    """Missing below the highest there is, and nothing proves that they ever were durable."""
    abandoned: tuple[int, ...]
    """There, although the next life did not count on them: stragglers, harmless."""


def judge_sequences(
    segment_keys: Iterable[str],
    sealed: Iterable[SealedPlace],
    checkpoints: Iterable[Checkpoint],
    rolled: Iterable[RolledUp] = (),
) -> tuple[EpochJudgement, ...]:
    """Judge every writer epoch that anything speaks of.

    Args:
        segment_keys: of every segment in the listing.
        sealed: the readable ones, in any order.
        checkpoints: the readable ones.
        rolled: what roll-ups cover: they were made of readable footers.
    """
    present: dict[WriterEpoch, set[int]] = defaultdict(set)
    for key in segment_keys:
        at = keys.parse_segment_key(key)
        if at is not None:
            present[at.writer, at.writer_epoch].add(at.seq)
    proofs = _proofs(checkpoints)
    for rollup in rolled:
        held = proofs.setdefault((rollup.writer, rollup.writer_epoch), {})
        held.setdefault(rollup.sequences, f"{rollup.key} covers it")
    described: dict[WriterEpoch, list[tuple[int, int]]] = defaultdict(list)
    sequences: dict[WriterEpoch, list[int]] = defaultdict(list)
    flying: dict[WriterEpoch, Counter[int]] = defaultdict(Counter)
    for one in sealed:
        sequences[one.writer, one.writer_epoch].append(one.seq)
        flying[one.writer, one.writer_epoch].update(one.in_flight)
        for earlier in one.earlier:
            epoch = (one.writer, earlier.writer_epoch)
            described[epoch] += earlier.durable
            for first, end in earlier.durable:
                found = f"writer epoch {one.writer_epoch} found it at its start"
                proofs.setdefault(epoch, {}).setdefault((first, end), found)
    for kept in sequences.values():
        kept.sort()
    judgements = []
    for epoch in sorted({*present, *proofs, *described}):
        there = present[epoch]
        following = max([seq + 1 for seq in there] + [end for _, end in proofs.get(epoch, ())], default=0)
        missing = [seq for seq in range(following) if seq not in there]
        lost = {
            seq: why for seq in missing if (why := _proof(seq, proofs.get(epoch, {}), sequences[epoch], flying[epoch]))
        }
        counted_on = described.get(epoch)
        judgements.append(
            EpochJudgement(
                writer=epoch[0],
                writer_epoch=epoch[1],
                present=tuple(sorted(there)),
                lost=tuple(lost.items()),
                unfinished=tuple(seq for seq in missing if seq not in lost),
                abandoned=()
                if counted_on is None
                else tuple(seq for seq in sorted(there) if not any(first <= seq < end for first, end in counted_on)),
            )
        )
    return tuple(judgements)


Proofs = dict[tuple[int, int], str]
"""Sequence range → what says that all of it was durable."""


def _proofs(checkpoints: Iterable[Checkpoint]) -> dict[WriterEpoch, Proofs]:
    """What checkpoints cover. Of ranges with one beginning the longest is enough: each checkpoint repeats the last."""
    longest: dict[WriterEpoch, dict[int, tuple[int, str]]] = defaultdict(dict)
    for checkpoint in checkpoints:
        for epoch, ranges in checkpoint.coverage.items():
            held = longest[checkpoint.writer, epoch]
            for first, end in ranges:
                if first not in held or held[first][0] < end:
                    held[first] = (end, f"{checkpoint.key} covers it")
    return {epoch: {(first, end): why for first, (end, why) in held.items()} for epoch, held in longest.items()}


def _proof(seq: int, proofs: Proofs, sealed: list[int], flying: Counter[int]) -> str | None:
    """Why `seq` must have been durable once; None if nothing says so."""
    for (first, end), why in proofs.items():
        if first <= seq < end:
            return why
    if len(sealed) - bisect_right(sealed, seq) > flying[seq]:
        return "a later segment of the same writer epoch was sealed when it was durable"
    return None

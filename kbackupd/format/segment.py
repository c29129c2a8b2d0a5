"""A segment: sealed from run drafts, opened by its end, verified as a whole ("Containers" in docs/format.md).

CPU only. What is costly about sealing is in `body`; what must be done in the order of the chain is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from kbackupd.format.body import StoredBody, store_body
from kbackupd.format.container import (
    SEGMENT,
    TAIL_READ_BYTES,
    NeedMore,
    Tail,
    check_magic,
    encode_tail,
    parse_tail,
)
from kbackupd.format.footer import check_footer, decode_footer, encode_footer
from kbackupd.format.keys import segment_key
from kbackupd.format.run import RunDraft, describe_run, run_bytes, run_findings
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.events import LedgerEvent
from kbackupd.model.path import SealedSegment
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import (
    EarlierEpoch,
    Footer,
    Identity,
    ObjectRef,
    OpenTransaction,
    Sample,
    TransactionOutcome,
)

__all__ = [
    "TAIL_READ_BYTES",
    "NeedMore",
    "RunDraft",
    "SegmentDraft",
    "StoredBody",
    "open_footer",
    "run_bytes",
    "run_findings",
    "seal",
    "seal_over",
    "store_body",
    "verify_whole",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDraft:
    """All that a segment will say; without runs it becomes a footer-only segment."""

    identity: Identity
    writer: str
    writer_epoch: int
    seq: int
    previous: ObjectRef | None
    sealed_ms: int
    sealed_monotonic_ms: int
    topics: dict[TopicId, str]
    """At least every topic id that runs, transactions, samples and events mention."""
    in_flight: tuple[int, ...] = ()
    earlier: tuple[EarlierEpoch, ...] = ()
    runs: Sequence[RunDraft] = ()
    outcomes: tuple[TransactionOutcome, ...] = ()
    open_transactions: tuple[OpenTransaction, ...] = ()
    samples: tuple[Sample, ...] = ()
    events: tuple[LedgerEvent, ...] = field(default=())


def seal(draft: SegmentDraft, *, codec: Literal["zstd", "none"], level: int = 3) -> SealedSegment:
    """The draft as an object's bytes, body and footer in one go; raises as `seal_over`."""
    return seal_over(draft, store_body(draft.runs, codec=codec, level=level))


def seal_over(draft: SegmentDraft, body: StoredBody) -> SealedSegment:
    """The draft as an object's bytes, over the body already made of its runs.

    Raises:
        ValueError: a writer name, number or time that no key can hold, a topic id that `topics` lacks, or anything
            else that a reader of this footer would refuse.
    """
    key = segment_key(draft.writer, draft.writer_epoch, draft.seq, draft.sealed_ms)
    footer = _footer(draft, key, body)
    footer_json = encode_footer(footer)
    tail, digest = encode_tail(
        kind=SEGMENT, key=key, identity=draft.identity, footer_json=footer_json, body_bytes=body.size_bytes
    )
    _refuse_unreadable(key, draft.identity, footer_json, body.size_bytes, digest)
    return SealedSegment(
        ref=ObjectRef(key, digest), footer=footer, parts=[*body.parts, tail], size_bytes=body.size_bytes + len(tail)
    )


def _refuse_unreadable(key: str, identity: Identity, footer_json: bytes, body_bytes: int, digest: str) -> None:
    # What is stored can never be corrected. A defect of the caller must stop here, not at the first restore.
    try:
        check_footer(
            key,
            Tail(kind=SEGMENT, identity=identity, footer_json=footer_json, body_bytes=body_bytes, digest=digest),
        )
    except CorruptObjectError as problem:
        raise ValueError(f"a segment that no reader would take: {problem}") from problem


def _footer(draft: SegmentDraft, key: str, body: StoredBody) -> Footer:
    return Footer(
        identity=draft.identity,
        key=key,
        writer=draft.writer,
        writer_epoch=draft.writer_epoch,
        seq=draft.seq,
        previous=draft.previous,
        in_flight=draft.in_flight,
        earlier=draft.earlier,
        sealed_ms=draft.sealed_ms,
        sealed_monotonic_ms=draft.sealed_monotonic_ms,
        body_bytes=body.size_bytes,
        body_sha256=body.sha256,
        topics=draft.topics,
        runs=body.runs,
        outcomes=draft.outcomes,
        open_transactions=draft.open_transactions,
        samples=draft.samples,
        events=draft.events,
    )


def open_footer(
    key: str, tail_bytes: bytes | memoryview, total_size: int, expect: Identity | None = None
) -> tuple[Footer, ObjectRef] | NeedMore:
    """A segment's footer from the object's last bytes; everything but the runs' bytes is checked.

    Args:
        tail_bytes: the last `TAIL_READ_BYTES`, or as many as a `NeedMore` asked for.
        total_size: of the whole object.
        expect: the archive it must belong to; None takes any.

    Raises:
        CorruptObjectError: anything is not as written; the reason names the place.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail = parse_tail(key, tail_bytes, total_size, kind=SEGMENT, expect=expect)
    if isinstance(tail, NeedMore):
        return tail
    return decode_footer(key, tail), ObjectRef(key, tail.digest)


def verify_whole(key: str, data: bytes | memoryview, expect: Identity | None = None) -> Footer:
    """Check a whole segment, every byte and every batch; codecs unknown to this version are no damage.

    Raises:
        CorruptObjectError: the first thing that is not as written, the damaged run named if it is one.
        UnsupportedFormatError: sound, but of a newer format.
    """
    tail = parse_tail(key, data, len(data), kind=SEGMENT, expect=expect)
    if isinstance(tail, NeedMore):
        raise CorruptObjectError(key, "object: its end is not all there")
    footer = decode_footer(key, tail)
    body = memoryview(data)[: tail.body_bytes]
    check_magic(key, body, SEGMENT)
    # The runs first: a damaged byte is then told by partition and offsets, not only "somewhere in the body".
    for run in footer.runs:
        raw = run_bytes(run, body[run.position : run.position + run.stored_bytes], key=key)
        for finding in run_findings(run, raw):
            if finding.damage:
                offsets = f"[{finding.first_offset}, {finding.next_offset})"
                raise CorruptObjectError(key, f"{describe_run(run)}: {finding.reason}, offsets {offsets}")
    check_body(key, body, footer)
    return footer


def check_body(key: str, body: bytes | memoryview, footer: Footer) -> None:
    """Raises CorruptObjectError unless `body` (magic and runs) has the digest that the footer holds."""
    if hashlib.sha256(body).hexdigest() != footer.body_sha256:
        raise CorruptObjectError(key, "body: digest of magic and runs does not fit")

"""Are the objects there that must be, under their own names, and do they fit each other? Nothing but values is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kbackupd.archive.segments import CatalogSegment
from kbackupd.archive.sequences import EpochJudgement
from kbackupd.format import keys
from kbackupd.model.segment import Checkpoint, ObjectRef
from kbackupd.validate.report import Code, Finding, Severity
from kbackupd.validate.survey import Survey

PUT_BACK = "put the object back from a copy of the archive"
ROLL_UP_AGAIN = (
    "delete it, and run kbackupd rollup; nothing is lost: readers take what it sums up from the segments, which takes "
    "longer"
)
FROM_SEGMENTS = "nothing is lost: what a checkpoint says follows from the segments; the next start reads more of them"


def listing_findings(found: Survey, judgements: Iterable[EpochJudgement], *, backup_id: str) -> Iterator[Finding]:
    """Everything a listing, the documents, footers and checkpoints contradict each other in."""
    judged = tuple(judgements)
    yield from _damaged(found)
    yield from _documents(found, backup_id)
    yield from _claims(found, judged)
    yield from _sequences(found, judged)
    yield from _doubled(found)
    yield from _chain(found, judged)
    yield from _checkpoint_numbers(found)
    yield from _snapshots(found)
    yield from _unknown(found)


def _error(code: Code, message: str, action: str, object: str | None) -> Finding:
    return Finding(severity=Severity.ERROR, code=code, message=message, action=action, object=object)


def _information(code: Code, message: str, object: str | None, action: str = "") -> Finding:
    return Finding(severity=Severity.INFORMATION, code=code, message=message, action=action, object=object)


def _damaged(found: Survey) -> Iterator[Finding]:
    for one in found.damaged:
        code = Code.OBJECT_UNSUPPORTED if one.unsupported else Code.OBJECT_DAMAGED
        action = one.hint or PUT_BACK
        if keys.parse_rollup_key(one.key) and not one.unsupported:
            action = ROLL_UP_AGAIN
        if keys.parse_checkpoint_key(one.key) and not one.unsupported:
            action = f"{PUT_BACK}, or delete it; {FROM_SEGMENTS}"
        yield _error(code, one.reason, action, one.key)


def _documents(found: Survey, backup_id: str) -> Iterator[Finding]:
    there = {info.key for info in found.catalog.objects}
    document = found.catalog.document
    if keys.BACKUP_KEY not in there:
        yield _error(
            Code.OBJECT_MISSING,
            "the archive's identity is missing",
            f"{PUT_BACK}; until then no daemon starts on it",
            keys.BACKUP_KEY,
        )
    if document is None:
        return
    if document.backup_id != backup_id:
        yield _error(
            Code.IDENTITY_FOREIGN,
            f"the archive is {document.backup_id!r}, but lies where {backup_id!r} should be",
            "move it under its own backup id, or ask for that one",
            keys.BACKUP_KEY,
        )
    for key in document.texts:
        if key not in there:
            yield _error(Code.OBJECT_MISSING, "a text that backup.json names is missing", PUT_BACK, key)


def _claims(found: Survey, judged: Iterable[EpochJudgement]) -> Iterator[Finding]:
    """Epochs are claimed one after the other: every one up to the highest that left a trace has its claim."""
    claimed: set[keys.ClaimKey] = set()
    highest: dict[str, int] = {}
    for info in found.catalog.objects:
        claim = keys.parse_claim_key(info.key)
        trace = claim or keys.parse_checkpoint_key(info.key) or keys.parse_snapshot_key(info.key)
        if claim is not None:
            claimed.add(claim)
        if trace is not None:
            highest[trace.writer] = max(highest.get(trace.writer, 0), trace.writer_epoch)
    for judgement in judged:
        highest[judgement.writer] = max(highest.get(judgement.writer, 0), judgement.writer_epoch)
    for writer, newest in sorted(highest.items()):
        for epoch in range(1, newest + 1):
            if (writer, epoch) not in claimed:
                yield _error(
                    Code.OBJECT_MISSING,
                    f"the claim of writer epoch {epoch} is missing",
                    f"{PUT_BACK}; without it a second daemon could claim the same epoch",
                    keys.claim_key(writer, epoch),
                )


def _sequences(found: Survey, judged: Iterable[EpochJudgement]) -> Iterator[Finding]:
    named = {(at.writer, at.writer_epoch, at.seq): key for key in _named(found) if (at := keys.parse_segment_key(key))}
    for one in judged:
        prefix = keys.segments_prefix(one.writer, one.writer_epoch)
        for seq, why in one.lost:
            yield _error(
                Code.OBJECT_MISSING,
                f"segment {seq} is missing, and it was durable: {why}",
                f"{PUT_BACK}; look for a lifecycle rule or a person that deletes; what it held is listed as holes",
                named.get((one.writer, one.writer_epoch, seq))
                or keys.segment_seq_prefix(one.writer, one.writer_epoch, seq) + "*.kbs",
            )
        if one.unfinished:
            yield _information(
                Code.SEQUENCE_UNFINISHED,
                f"{_numbers(one.unfinished)} never became durable: in flight when this life of the writer ended",
                prefix,
            )
        if one.abandoned:
            yield _information(
                Code.SEQUENCE_ABANDONED,
                f"{_numbers(one.abandoned)} appeared after the next life had started; what they hold overlaps",
                prefix,
            )


def _named(found: Survey) -> Iterator[str]:
    """Keys of segments that other objects name: a listing without the object cannot know when it was sealed."""
    for segment in found.catalog.segments:
        if segment.footer.previous is not None:
            yield segment.footer.previous.key
    for checkpoint in found.checkpoints:
        yield from (key for key, *_ in checkpoint.segments)


def _numbers(seqs: tuple[int, ...], noun: str = "sequence") -> str:
    shown = ", ".join(map(str, seqs[:8])) + (" …" if len(seqs) > 8 else "")
    return f"{noun} {shown}" if len(seqs) == 1 else f"{len(seqs)} {noun}s ({shown})"


def _doubled(found: Survey) -> Iterator[Finding]:
    """One sequence, one object: a second one would be a second history."""
    first: dict[tuple[str, int, int], str] = {}
    for info in found.catalog.objects:
        at = keys.parse_segment_key(info.key)
        if at is None:
            continue
        held = first.setdefault((at.writer, at.writer_epoch, at.seq), info.key)
        if held != info.key:
            yield _error(
                Code.SEQUENCE_DOUBLED,
                f"the sequence exists twice, also as {held}",
                "two daemons wrote under one claim, or an object was copied; keep the one the next segment names",
                info.key,
            )


def _chain(found: Survey, judged: Iterable[EpochJudgement]) -> Iterator[Finding]:
    """Every reference by digest meets the object it names; what the sequences miss is not told twice."""
    digests = {segment.ref.key: segment for segment in found.catalog.segments}
    there = {info.key for info in found.catalog.objects}
    lost = {(one.writer, one.writer_epoch, seq) for one in judged for seq, _ in one.lost}

    def judge(ref: ObjectRef, said_by: str, *, durable: bool, size_bytes: int | None = None) -> Iterator[Finding]:
        held = digests.get(ref.key)
        if held is None:
            at = keys.parse_segment_key(ref.key)
            known = at is not None and (at.writer, at.writer_epoch, at.seq) in lost
            if durable and ref.key not in there and not known:
                yield _error(Code.OBJECT_MISSING, f"the segment is missing that {said_by} names", PUT_BACK, ref.key)
            return
        if held.ref.digest != ref.digest or size_bytes not in (None, held.size_bytes):
            yield _error(
                Code.CHAIN_BROKEN,
                f"is not the segment that {said_by} names: digest {held.ref.digest[:12]}…, {ref.digest[:12]}… expected",
                f"the object was replaced by another one; {PUT_BACK}",
                ref.key,
            )

    for segment in found.catalog.segments:
        yield from _links(segment)
        footer = segment.footer
        if footer.previous is not None:
            yield from judge(footer.previous, segment.ref.key, durable=footer.seq == 0)
        for earlier in footer.earlier:
            if earlier.last is not None:
                yield from judge(earlier.last, segment.ref.key, durable=True)
    for checkpoint in found.checkpoints:
        for key, digest, size_bytes in checkpoint.segments:
            yield from judge(ObjectRef(key, digest), checkpoint.key, durable=True, size_bytes=size_bytes)
        if checkpoint.chain_head is not None:
            yield from judge(checkpoint.chain_head, checkpoint.key, durable=True)


def _links(segment: CatalogSegment) -> Iterator[Finding]:
    """Inside an epoch a segment names the one with the sequence before its own."""
    footer = segment.footer
    if footer.seq == 0:
        return
    named = keys.parse_segment_key(footer.previous.key) if footer.previous else None
    if named is None or (named.writer, named.writer_epoch, named.seq) != (
        footer.writer,
        footer.writer_epoch,
        footer.seq - 1,
    ):
        yield _error(
            Code.CHAIN_BROKEN,
            f"names {footer.previous.key if footer.previous else 'nothing'} as the segment before it, not "
            f"sequence {footer.seq - 1}",
            "the writer was defective; report it",
            segment.ref.key,
        )


def _checkpoint_numbers(found: Survey) -> Iterator[Finding]:
    numbers: dict[tuple[str, int], set[int]] = {}
    for info in found.catalog.objects:
        at = keys.parse_checkpoint_key(info.key)
        if at is not None:
            numbers.setdefault((at.writer, at.writer_epoch), set()).add(at.number)
    for (writer, epoch), there in sorted(numbers.items()):
        missing = tuple(number for number in range(max(there)) if number not in there)
        if missing:
            yield _information(
                Code.CHECKPOINT_MISSING,
                f"{_numbers(missing, 'checkpoint')} deleted; {FROM_SEGMENTS}",
                keys.checkpoints_prefix(writer, epoch),
            )


def _snapshots(found: Survey) -> Iterator[Finding]:
    """Each names the one before: no other object knows of them, so only the very last can go unnoticed."""
    digests = {one.ref.key: one.ref.digest for one in found.snapshots}
    there = {info.key for info in found.catalog.objects}
    for one in found.snapshots:
        before = one.previous
        if before is None:
            continue
        if before.key not in there:
            yield _error(
                Code.OBJECT_MISSING,
                f"the snapshot is missing that {one.ref.key} names",
                f"{PUT_BACK}; without it the state of its time is told by the snapshot before it",
                before.key,
            )
        elif digests.get(before.key, before.digest) != before.digest:
            yield _error(
                Code.CHAIN_BROKEN,
                f"is not the snapshot that {one.ref.key} names: digest {digests[before.key][:12]}…, "
                f"{before.digest[:12]}… expected",
                f"the object was replaced by another one; {PUT_BACK}",
                before.key,
            )


def _unknown(found: Survey) -> Iterator[Finding]:
    known = {keys.BACKUP_KEY, *(found.catalog.document.texts if found.catalog.document else ())}
    for info in found.catalog.objects:
        parsed = (
            keys.parse_segment_key(info.key)
            or keys.parse_checkpoint_key(info.key)
            or keys.parse_snapshot_key(info.key)
            or keys.parse_claim_key(info.key)
            or keys.parse_rollup_key(info.key)
            or keys.parse_restore_key(info.key)
        )
        if parsed is None and info.key == keys.RESTORE_GUIDE_KEY and found.catalog.document is None:
            message = "cannot be checked: its digest stands in backup.json, which is missing or damaged"
            yield _information(Code.OBJECT_UNKNOWN, message, info.key)
        elif parsed is None and info.key not in known:
            yield _information(Code.OBJECT_UNKNOWN, "not an object of this format; readers ignore it", info.key)


def checkpoint_totals(found: Survey, newest: Checkpoint) -> Iterator[Finding]:
    """The ledger head of a checkpoint against the events of the segments it covers."""
    covered = newest.coverage
    events, counted = 0, 0
    for segment in found.catalog.segments:
        place = segment.place
        if place.writer == newest.writer and any(
            first <= place.seq < end for first, end in covered.get(place.writer_epoch, ())
        ):
            events += len(segment.footer.events)
            counted += 1
    if counted == sum(end - first for ranges in covered.values() for first, end in ranges) and events != newest.events:
        yield _error(
            Code.CHECKPOINT_CONTRADICTED,
            f"counts {newest.events} ledger events in the segments it covers, they hold {events}",
            "the writer was defective; report it, and trust the segments",
            newest.key,
        )

"""`--deep`: every byte of every segment read, hashed, decompressed and compared with what the index says of it.

Documents, texts, checkpoints and footers are read whole by the survey already; here are the bodies. A body is streamed
in the order of its bytes, a few megabytes at a time, so that memory is bounded by `WORKERS` pieces and their
decompressed runs; the work on bytes is done in as many threads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kbackupd.archive.segments import CatalogSegment
from kbackupd.format.batch import crc_holds, iter_batches, scan_batches
from kbackupd.format.codecs import PayloadError, UnknownCodecError, decompress_payload
from kbackupd.format.container import MAGIC_BYTES
from kbackupd.format.header import HEADER_BYTES, BatchHeader, MalformedBatchError
from kbackupd.format.legacy import iter_legacy
from kbackupd.format.records import MalformedRecordError, iter_records
from kbackupd.format.run import describe_run
from kbackupd.format.segment import run_bytes, run_findings
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import CODEC_NONE, Footer, Run, RunFlag, TransactionOutcome
from kbackupd.store.protocol import ObjectStore
from kbackupd.validate.report import Code, Finding, Severity

WORKERS = 2
PIECE_BYTES = 4 << 20
"""Neighbouring runs are read together up to this size; a larger run is read by itself."""

PUT_BACK = "put the object back from a copy of the archive; until then a restore of this range fails"

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RunProblem:
    """Something wrong within one run, and the offsets it is known to concern."""

    code: Code
    first_offset: int
    next_offset: int
    reason: str
    damage: bool = True


async def content_findings(
    store: ObjectStore, segments: Iterable[CatalogSegment], names: Callable[[TopicId], str], on_bytes: OnBytes
) -> list[Finding]:
    """What is wrong in the segments' bodies; `on_bytes` hears how many were read.

    Raises:
        KbackupError: the store could not be read for certain.
    """
    waiting = list(segments)
    waiting.reverse()
    found: list[Finding] = []
    with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="validate") as pool:

        async def work() -> None:
            while waiting:
                found.extend(await _segment_findings(store, waiting.pop(), pool, names, on_bytes))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(WORKERS, len(waiting))):
                    group.create_task(work())
        except* Exception as failures:
            raise failures.exceptions[0] from failures
    return found


async def _segment_findings(
    store: ObjectStore,
    segment: CatalogSegment,
    pool: ThreadPoolExecutor,
    names: Callable[[TopicId], str],
    on_bytes: OnBytes,
) -> list[Finding]:
    footer, key = segment.footer, segment.ref.key
    body = _Body(footer)
    loop = asyncio.get_running_loop()
    problems = list(body.untidy)
    for piece in body.pieces:
        try:
            data = await store.get_range(key, piece.first_byte, piece.length)
        except ObjectMissingError:
            return [_object_finding(key, Code.OBJECT_MISSING, "went away while it was being read")]
        except CorruptObjectError as error:
            return [_object_finding(key, Code.CONTENT_BODY, error.reason)]
        problems += await loop.run_in_executor(pool, body.take, piece, data)
        on_bytes(len(data))
    findings = [_finding(key, run, problem, names) for run, problem in problems]
    findings += [_object_finding(key, Code.CONTENT_INDEX, reason) for reason in body.index_problems()]
    if body.sha256.hexdigest() != footer.body_sha256:
        findings.append(_object_finding(key, Code.CONTENT_BODY, "the digest of magic and runs does not fit the footer"))
    return findings


def _object_finding(key: str, code: Code, message: str) -> Finding:
    return Finding(severity=Severity.ERROR, code=code, message=message, action=PUT_BACK, object=key)


def _finding(key: str, run: Run, problem: RunProblem, names: Callable[[TopicId], str]) -> Finding:
    return Finding(
        severity=Severity.ERROR if problem.damage else Severity.INFORMATION,
        code=problem.code,
        message=problem.reason,
        action=PUT_BACK if problem.damage else "kept as it is; a version that knows the codec can read it",
        object=key,
        topic=names(run.id.topic_id),
        topic_id=run.id.topic_id,
        partition=run.id.partition,
        branch=run.branch,
        first_offset=problem.first_offset,
        next_offset=problem.next_offset,
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A byte range read by one request, and the runs that lie in it."""

    first_byte: int
    length: int
    runs: tuple[Run, ...]


@dataclass(slots=True)
class _Body:
    """One segment's body while it streams past: its digest, and the markers seen in it."""

    footer: Footer
    pieces: list[_Piece] = field(default_factory=list)
    untidy: list[tuple[Run, RunProblem]] = field(default_factory=list)
    markers: set[TransactionOutcome] = field(default_factory=set)
    unreadable: bool = False
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self._plan()

    def _plan(self) -> None:
        """Cut the body into pieces that cover every byte once, in order, even if the footer lists runs senselessly."""
        at, first_byte = MAGIC_BYTES, 0
        runs: list[Run] = []
        for run in sorted(self.footer.runs, key=lambda one: one.position):
            if run.position != at or run.position + run.stored_bytes > self.footer.body_bytes:
                reason = f"lies at byte {run.position}, where {at} is due: runs must follow each other without padding"
                self.untidy.append((run, _whole_run(run, Code.CONTENT_INDEX, reason)))
                self.unreadable = True
                continue
            if runs and at + run.stored_bytes - first_byte > PIECE_BYTES:
                self.pieces.append(_Piece(first_byte, at - first_byte, tuple(runs)))
                first_byte, runs = at, []
            runs.append(run)
            at += run.stored_bytes
        self.pieces.append(_Piece(first_byte, at - first_byte, tuple(runs)))
        while at < self.footer.body_bytes:
            length = min(PIECE_BYTES, self.footer.body_bytes - at)
            self.pieces.append(_Piece(at, length, ()))
            at += length

    def take(self, piece: _Piece, data: bytes) -> list[tuple[Run, RunProblem]]:
        """Hash the piece and check its runs; called once for every piece, in order, in a worker thread."""
        self.sha256.update(data)
        view = memoryview(data)
        found: list[tuple[Run, RunProblem]] = []
        for run in piece.runs:
            at = run.position - piece.first_byte
            for problem in self._check(run, view[at : at + run.stored_bytes]):
                self.unreadable |= problem.damage
                found.append((run, problem))
        return found

    def _check(self, run: Run, stored: memoryview) -> Iterator[RunProblem]:
        try:
            raw = run_bytes(run, stored)
        except CorruptObjectError as error:
            yield from narrowed(run, stored, error.reason.removeprefix(f"{describe_run(run)}: "))
            return
        if run.flags & RunFlag.CORRUPT:
            return
        yield from run_problems(run, raw)
        if run.flags & RunFlag.CONTROL:
            self.markers.update(_markers(run, raw))

    def index_problems(self) -> Iterator[str]:
        """What the tables beside `runs` say that the bytes do not; only asked where all bytes could be read."""
        if self.unreadable:
            return
        said = set(self.footer.outcomes)
        for missing in sorted(self.markers - said, key=lambda one: (one.id, one.offset)):
            yield f"the transaction marker at {missing.id.partition}:{missing.offset} is not in the outcomes table"
        for invented in sorted(said - self.markers, key=lambda one: (one.id, one.offset)):
            yield f"the outcomes table lists a marker at {invented.id.partition}:{invented.offset} that no run holds"


def run_problems(run: Run, raw: bytes | memoryview) -> Iterator[RunProblem]:
    """Headers against the index row, every batch's checksum, every payload decompressed and cut into its records."""
    damaged = False
    for finding in run_findings(run, raw):
        damaged |= finding.damage
        code = Code.CONTENT_BATCH if finding.damage else Code.CONTENT_OPAQUE
        yield RunProblem(code, finding.first_offset, finding.next_offset, finding.reason, finding.damage)
    if damaged:
        return
    for header, batch in iter_batches(raw):
        reason = _record_problem(header, batch)
        if reason is not None:
            yield RunProblem(Code.CONTENT_BATCH, header.base_offset, header.next_offset, reason)


def _record_problem(header: BatchHeader, batch: memoryview) -> str | None:
    """Why the payload is not exactly the records that the header counts; None if it is, or if it cannot be told."""
    try:
        if header.is_legacy:
            for _ in iter_legacy(header, batch):
                pass
            return None
        payload = decompress_payload(header.codec, batch[HEADER_BYTES:])
        last = -1
        for record in iter_records(payload, header.record_count):
            if not last < record.offset_delta <= header.last_offset_delta:
                return f"offset delta {record.offset_delta} of a record is out of order or beyond the batch"
            last = record.offset_delta
    except UnknownCodecError:
        return None
    except (PayloadError, MalformedRecordError, MalformedBatchError) as problem:
        return str(problem)
    return None


def narrowed(run: Run, stored: memoryview, reason: str) -> list[RunProblem]:
    """The batches to which damage in a run can be narrowed down; the whole run where the bytes no longer tell.

    Only an uncompressed run can tell: its batches' own checksums find the one that was hit. Their lengths are believed
    as long as the batches behind them are whole.
    """
    whole = [_whole_run(run, Code.CONTENT_RUN, reason)]
    if run.codec != CODEC_NONE or run.flags & RunFlag.CORRUPT:
        return whole
    hit: list[RunProblem] = []
    try:
        expected = run.first_offset
        for header, batch in iter_batches(stored):
            if not crc_holds(header, batch):
                reached = max(header.next_offset, expected)
                hit.append(
                    RunProblem(Code.CONTENT_BATCH, expected, reached, f"{reason}, nor does this batch's own checksum")
                )
            elif header.base_offset < expected or header.next_offset > run.next_offset:
                return whole
            expected = header.next_offset
    except MalformedBatchError:
        return whole
    return hit if len(hit) == 1 and hit[0].next_offset <= run.next_offset else whole


def _whole_run(run: Run, code: Code, reason: str) -> RunProblem:
    return RunProblem(code, min(run.first_offset, run.next_offset), run.next_offset, reason)


def _markers(run: Run, raw: bytes | memoryview) -> Sequence[TransactionOutcome]:
    return [
        TransactionOutcome(
            id=run.id,
            offset=marker.offset,
            producer_id=marker.producer_id,
            producer_epoch=marker.producer_epoch,
            committed=marker.committed,
        )
        for marker in scan_batches(raw, asked_offset=run.asked_offset).markers
    ]

"""Seal, put, account: from a closed segment to a watermark (invariants I2, I4).

Bodies are prepared several at once, footers made one after the other, because each names its predecessor's digest;
several segments are uploaded at once, and their consequences are drawn in the order of their sequences. A store that
fails is tried until it works: the memory budget, not this class, decides how much may wait.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping

import structlog

from kbackupd.archive.identity import superseded_by
from kbackupd.archive.writer_state import WriterState
from kbackupd.capture.assembly import ClosedSegment
from kbackupd.capture.holding import HOLDING_FACTOR
from kbackupd.capture.watermark import Watermark
from kbackupd.flow.budget import MemoryBudget
from kbackupd.format.segment import SegmentDraft, StoredBody, seal_over, store_body
from kbackupd.model.clock import Clock
from kbackupd.model.errors import FencedError, StoreDeniedError, StoreUnavailableError
from kbackupd.model.events import topic_of
from kbackupd.model.path import CatalogEntry, SealedSegment, StoredSegment
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import EarlierEpoch, Identity, ObjectRef
from kbackupd.model.settings import BackupSettings
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore

UPLOADS_MAX = 4
PREPARED_MAX = max(2, min(4, os.cpu_count() or 1))
"""Bodies prepared at once: each keeps a core busy with zstd and SHA-256."""
RETRY_MAX_SECONDS = 30.0
RECENT_KEYS = 256
"""Keys of so many stored segments are remembered, for the answers to flushes."""

log = structlog.get_logger()


class Publisher:
    """Owns the writer's sequence, chain and durable state for one life of the daemon."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        identity: Identity,
        writer_epoch: int,
        earlier: tuple[EarlierEpoch, ...],
        state: WriterState,
        settings: BackupSettings,
        budget: MemoryBudget,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
        topic_names: Mapping[TopicId, str],
        on_durable: Callable[[list[PartitionId]], None],
        on_forgotten: Callable[[frozenset[TopicId]], None],
    ) -> None:
        self.state = state
        self.watermark = Watermark({id: known.next_offset for id, known in state.partitions.items() if known.seen})
        self.begun = asyncio.Event()
        """Set once `state` holds a segment of this life."""
        self.next_seq = 0
        self.last_stored: CatalogEntry | None = None
        self.since_checkpoint: list[tuple[str, str, int]] = []
        self.on_stored: Callable[[CatalogEntry], None] = lambda entry: None
        """Told of every segment that became durable, in the order of their sequences."""
        self._store = store
        self._identity = identity
        self._writer_epoch = writer_epoch
        self._earlier = earlier
        self._settings = settings
        self._budget = budget
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._topic_names = topic_names
        self._on_durable = on_durable
        self._on_forgotten = on_forgotten
        self._previous: ObjectRef | None = state.chain_head
        self._last_sealed_ms = state.last_sealed_ms
        self._sealing = asyncio.Lock()
        self._preparing = asyncio.Semaphore(PREPARED_MAX)
        self._slots = asyncio.Semaphore(UPLOADS_MAX)
        self._landed: dict[int, CatalogEntry] = {}
        self._in_flight: dict[int, asyncio.Future[None]] = {}
        self._next_to_apply = 0
        self._recent: dict[int, str] = {}

    def compress(self, settings: BackupSettings) -> None:
        """Store what is closed from now on as `settings` say."""
        self._settings = settings

    @property
    def in_flight(self) -> int:
        """Segments sealed, or being sealed, and not durable."""
        return len(self._in_flight)

    async def prepare(self, closed: ClosedSegment) -> StoredBody:
        """Compress and checksum what `closed` holds, in a thread; any number may be asked for, in any order.

        Cancelled, the thread finishes what it began and the result is dropped.
        """
        async with self._preparing:
            return await asyncio.to_thread(_laid_and_stored, closed, self._settings)

    async def publish(self, closed: ClosedSegment, body: StoredBody, group: asyncio.TaskGroup) -> int:
        """Seal `closed` over its prepared body and start the upload in `group`; returns its sequence.

        Called in the order the segments were closed. Nothing is durable on return (`wait_durable`). Waits for an
        upload slot first. Cancelled before the upload has started, the segment is lost to this life; its offsets are
        not, they were never acknowledged.
        """
        await self._slots.acquire()
        async with self._sealing:
            seq, self.next_seq = self.next_seq, self.next_seq + 1
            pending = tuple(sorted(self._in_flight))
            self._in_flight[seq] = asyncio.get_running_loop().create_future()
            self.watermark.sealed(seq, closed.next_offsets, closed.cuts)
            self._last_sealed_ms = max(self._last_sealed_ms, self._clock.now_ms())
            draft = SegmentDraft(
                identity=self._identity,
                writer=self.state.writer,
                writer_epoch=self._writer_epoch,
                seq=seq,
                previous=self._previous,
                in_flight=pending,
                earlier=self._earlier if seq == 0 or 0 in self._in_flight else (),
                sealed_ms=self._last_sealed_ms,
                sealed_monotonic_ms=int(self._clock.monotonic() * 1000),
                topics={id: self._topic_names[id] for id in _topics_of(closed)},
                outcomes=closed.outcomes,
                open_transactions=closed.open_transactions,
                samples=closed.samples,
                events=closed.events,
            )
            sealed = await asyncio.to_thread(seal_over, draft, body)
            self._previous = sealed.ref
        # What zstd saved is free from here on: nothing refers to the fetched bytes of those runs any more.
        freed = HOLDING_FACTOR * body.saved_bytes
        self._budget.release(freed)
        log.debug(events.SEGMENT_SEALED, key=sealed.ref.key, bytes=sealed.size_bytes, runs=len(closed.runs))
        charged_bytes = closed.charged_bytes - freed
        group.create_task(self._upload(seq, sealed, charged_bytes, closed.oldest_user), name=f"upload-{seq}")
        return seq

    async def wait_durable(self, seq: int) -> None:
        """Return once every segment up to and including `seq` is durable. Cancellation leaves uploads running."""
        for waiting in [future for number, future in sorted(self._in_flight.items()) if number <= seq]:
            await asyncio.shield(waiting)

    @property
    def first_pending(self) -> int:
        """Lowest sequence that is not durable; the next one to be sealed if all are."""
        return min(self._in_flight, default=self.next_seq)

    def keys_from(self, seq: int) -> list[str]:
        """Keys of the durable segments from `seq` on, as far as they are remembered."""
        return [self._recent[number] for number in sorted(self._recent) if number >= seq]

    async def wait_all(self) -> None:
        """Return once nothing is in flight."""
        await self.wait_durable(self.next_seq)

    async def _upload(self, seq: int, sealed: SealedSegment, charged_bytes: int, oldest_user: float | None) -> None:
        try:
            with self._metrics.upload():
                await self._put_until_durable(sealed)
            # Internal topics alone may wait for the checkpoint interval, and nobody's target is about them.
            if oldest_user is not None:
                self._metrics.flushed(oldest_user)
            entry = CatalogEntry.of(StoredSegment(ref=sealed.ref, footer=sealed.footer, size_bytes=sealed.size_bytes))
            self._account(seq, entry)
            self._budget.release(charged_bytes)
        finally:
            self._slots.release()
        await self.check_fence()

    async def _put_until_durable(self, sealed: SealedSegment) -> None:
        subject = f"upload of {sealed.ref.key}"
        attempt = 0
        while True:
            try:
                await self._store.put_if_absent(sealed.ref.key, sealed.parts)
            except (StoreUnavailableError, StoreDeniedError) as error:
                # Denied is tried again too: credentials expire and are renewed, policies are repaired.
                attempt += 1
                self._metrics.error_met(error)
                self._problems.report("uploads", error.message, hint=error.hint)
                delay = min(RETRY_MAX_SECONDS, 0.5 * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
                log.warning(events.UPLOAD_RETRIED, subject=subject, error=error.message, attempt=attempt, delay=delay)
                await asyncio.sleep(delay)
            else:
                self._problems.clear("uploads")
                return

    def _account(self, seq: int, entry: CatalogEntry) -> None:
        """The store said durable: index, then watermark, then whoever waits."""
        self._landed[seq] = entry
        while (next_entry := self._landed.pop(self._next_to_apply, None)) is not None:
            if forgotten := self.state.apply(next_entry.footer, next_entry.ref):
                self._on_forgotten(forgotten)
            self.since_checkpoint.append((next_entry.ref.key, next_entry.ref.digest, next_entry.size_bytes))
            self._next_to_apply += 1
            self.on_stored(next_entry)
            self.begun.set()
        moved = self.watermark.stored(entry)
        self.last_stored = entry
        self._recent[seq] = entry.ref.key
        self._recent.pop(seq - RECENT_KEYS, None)
        runs = entry.footer.runs
        self._metrics.segment_stored(entry.size_bytes, raw_bytes=sum(run.raw_bytes for run in runs))
        log.info(
            events.SEGMENT_STORED,
            key=entry.ref.key,
            bytes=entry.size_bytes,
            runs=len(runs),
            records=sum(run.records for run in runs),
            events=len(entry.footer.events),
        )
        self._in_flight.pop(seq).set_result(None)
        self._on_durable(moved)

    async def check_fence(self) -> None:
        """Raise FencedError if a later life of this writer has begun; an unreachable store is no proof of that."""
        try:
            successor = await superseded_by(self._store, writer=self.state.writer, writer_epoch=self._writer_epoch)
        except (StoreUnavailableError, StoreDeniedError) as error:
            self._metrics.error_met(error)
            return
        if successor is not None:
            raise FencedError(
                f"writer {self.state.writer!r}: epoch {successor} was claimed; this daemon holds {self._writer_epoch}",
                hint="another daemon runs with the same backup_id and writer; nothing is lost, stop one of the two",
            )


def _topics_of(closed: ClosedSegment) -> set[TopicId]:
    mentioned = {run.id.topic_id for run in closed.runs} | {sample.id.topic_id for sample in closed.samples}
    return mentioned | {topic_id for event in closed.events if (topic_id := topic_of(event)) is not None}


def _laid_and_stored(closed: ClosedSegment, settings: BackupSettings) -> StoredBody:
    """The runs of a topic lie side by side, by partition: whoever restores them gets many by one request.

    Those of one partition keep the order in which they were captured.
    """
    runs = sorted(closed.runs, key=lambda run: run.id)
    return store_body(runs, codec=settings.compression_codec, level=settings.compression_level)

"""Checkpoints: pictures of the durable state, at an interval and if anything moved.

The last step that anything rests on (invariant I4): the consumer group's commit follows, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from kbackupd.capture.publish import Publisher
from kbackupd.capture.waiting import woken
from kbackupd.format import keys
from kbackupd.format.checkpoint import encode_checkpoint
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KbackupError, ObjectExistsError, StoreDeniedError, StoreUnavailableError
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Checkpoint, Identity
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore

log = structlog.get_logger()


class Checkpointer:
    """
    Args:
        states: live conditions of the partitions, for people who read a checkpoint.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        identity: Identity,
        writer_epoch: int,
        publisher: Publisher,
        states: Callable[[], Mapping[PartitionId, str]],
        interval_seconds: float,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self.last_ms: int | None = None
        self.last_key: str | None = None
        """Of this life's newest; None before its first."""
        self.on_stored: Callable[[Checkpoint], None] = lambda checkpoint: None
        """Called once a checkpoint is durable; must return at once."""
        self._store = store
        self._identity = identity
        self._writer_epoch = writer_epoch
        self._publisher = publisher
        self._states = states
        self._interval_seconds = interval_seconds
        self._interval_changed = asyncio.Event()
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._number = 0
        self._written_through: tuple[object, ...] | None = None
        self._writing = asyncio.Lock()

    def every(self, interval_seconds: float) -> None:
        """Another interval from now on, counted from a checkpoint that is due now."""
        if interval_seconds != self._interval_seconds:
            self._interval_seconds = interval_seconds
            self._interval_changed.set()

    async def run(self) -> None:
        """One as soon as this life has stored a segment, then at the interval; runs until cancelled."""
        while True:
            try:
                await self.write()
            except (StoreUnavailableError, StoreDeniedError, ObjectExistsError) as error:
                self._failed(error)
            await self._publisher.check_fence()
            if self._publisher.begun.is_set():
                self._interval_changed.clear()
                await woken(self._interval_changed, self._interval_seconds)
            else:
                await woken(self._publisher.begun, self._interval_seconds)

    async def write(self) -> str | None:
        """Store a checkpoint if this life has moved anything since the last; its key, durable on return, or None.

        A life that has stored nothing yet has nothing to add to the checkpoint it began from, and must not: which late
        segments of earlier lives it goes on without, no segment says before its own first (invariant I3).

        Cancelled, the checkpoint is there or not; either is right.
        """
        async with self._writing:
            state = self._publisher.state
            moved = (state.chain_head, len(state.partitions))
            if moved == self._written_through or not self._publisher.begun.is_set():
                self._metrics.checkpoint_current()
                return None
            number, self._number = self._number, self._number + 1
            segments = tuple(self._publisher.since_checkpoint)
            picture = state.picture(
                identity=self._identity,
                key=keys.checkpoint_key(state.writer, self._writer_epoch, number),
                writer_epoch=self._writer_epoch,
                number=number,
                sealed_ms=self._clock.now_ms(),
                segments=segments,
                states=dict(self._states()),
            )
            checkpoint, data = await asyncio.to_thread(_encoded, picture)
            await self._store.put_if_absent(checkpoint.key, [data])
            del self._publisher.since_checkpoint[: len(segments)]
            self._written_through = moved
            self.last_ms, self.last_key = checkpoint.sealed_ms, checkpoint.key
            self._metrics.checkpoint_stored()
            self._problems.clear("checkpoints")
            log.info(events.CHECKPOINT_STORED, key=checkpoint.key, bytes=len(data), partitions=len(state.partitions))
            self.on_stored(checkpoint)
            return checkpoint.key

    def _failed(self, error: KbackupError) -> None:
        self._metrics.error_met(error)
        self._problems.report("checkpoints", error.message, hint=error.hint)
        log.warning(events.CHECKPOINT_FAILED, error=error.message)


def _encoded(picture: Callable[[], Checkpoint]) -> tuple[Checkpoint, bytes]:
    """In a thread: nobody waits for it but the checkpoint."""
    checkpoint = picture()
    return checkpoint, encode_checkpoint(checkpoint)

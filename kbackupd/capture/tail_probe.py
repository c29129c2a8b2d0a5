"""Finds goals that are reached though nothing comes any more: behind the position there are no records (hazard 8).

Asks beside the sessions of capture, of those partitions only that are fetched and stand still below their end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

import structlog

from kbackupd.capture.empty_tail import without_batches
from kbackupd.capture.goals import Goals
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.request_size import RECEIVING_COPIES
from kbackupd.capture.source import Source
from kbackupd.kafka.types import FetchTarget
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import PartitionId
from kbackupd.model.status import PartitionState
from kbackupd.observe import events

TAIL_SECONDS = 5.0
"""A partition below its end that is being fetched and does not move for so long may have nothing left."""
TAIL_BYTES = 1 << 20
TAIL_TIMEOUT_SECONDS = 15.0
REMOTE_STORAGE = "remote.storage.enable"
"""With it compaction is not possible, so that no tail is empty; and a broker answers with nothing, and no error, for
records that a slow remote tier has not delivered within the wait (KIP-405)."""

_FETCHED = frozenset({PartitionState.FOLLOWING, PartitionState.CATCHING_UP})

log = structlog.get_logger()


class TailProbe:
    """Tells the goals which tails are empty; moves nothing else."""

    def __init__(self, *, goals: Goals, pipeline: Pipeline, source: Source, clock: Clock) -> None:
        self._goals = goals
        self._pipeline = pipeline
        self._source = source
        self._clock = clock

    async def run(self) -> None:
        """Look now and then; runs until cancelled."""
        while True:
            await asyncio.sleep(TAIL_SECONDS)
            for node_id, asked in self._still().items():
                await self._probe(node_id, asked)

    def _still(self) -> Mapping[int, dict[PartitionId, FetchTarget]]:
        """Partitions that are fetched and do not move below their end, by leader."""
        now = self._clock.monotonic()
        still: dict[int, dict[PartitionId, FetchTarget]] = defaultdict(dict)
        for goal in self._goals.open:
            partition = self._pipeline.roster.partitions.get(goal.id)
            if partition is None or goal.branch < 0 or now - goal.moved_at < TAIL_SECONDS:
                continue
            topic = self._pipeline.roster.topics.get(goal.id.topic_id)
            if topic is None or topic.configs.get(REMOTE_STORAGE) == "true":
                continue
            if goal.state in _FETCHED and goal.position == partition.position < goal.end_offset:
                still[partition.leader_id][goal.id] = partition.target()
        return still

    async def _probe(self, node_id: int, asked: dict[PartitionId, FetchTarget]) -> None:
        branches = {id: self._pipeline.roster.partitions[id].branch for id in asked}
        budget = self._pipeline.budget
        taken = await budget.reserve(TAIL_BYTES * RECEIVING_COPIES)
        try:
            ends = await without_batches(
                self._source, node_id, asked, max_bytes=TAIL_BYTES, timeout_seconds=TAIL_TIMEOUT_SECONDS
            )
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            log.debug(events.FETCH_FAILED, node_id=node_id, session="tails", error=error.message)
            return
        finally:
            budget.release(taken)
        for id, end in ends.items():
            self._goals.empty(id, branch=branches[id], offset=asked[id].offset, high_watermark=end)

"""Partitions whose position must be asked for: new ones, and those the leader calls out of range.

One task; asks each leader for all its partitions at once, decides purely, and hands them back to the roster.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

import structlog

from kbackupd.capture.intake import Intake
from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.roster import NO_LEADER, Roster
from kbackupd.capture.source import Source
from kbackupd.capture.waiting import TURN_PARTITIONS
from kbackupd.kafka.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, KafkaErrorCode, OffsetAnswer, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.events import Gap, GapCause, PartitionSeen, Truncated
from kbackupd.model.positions import PartitionId, TopicId

UNEXPLAINED_TRIES = 3

log = structlog.get_logger()


def reposition(
    partition: PartitionCapture, *, log_start: int, log_end: int, epoch_end: int, at_ms: int
) -> Gap | Truncated | None:
    """What to do about a position the leader says is out of range; None: it looks right, ask again.

    Args:
        log_start, log_end: as the leader told just now.
        epoch_end: where the epoch of our last batch ends there, -1 if unknown.
    """
    if partition.position < log_start:
        gap = partition.skip_to(log_start, GapCause.LOG_START_MOVED, at_ms)
        partition.begins_at = log_start
        return gap
    if partition.position > log_end:
        # Where nothing tells how much of it is still ours (no batch is held before the position, or the leader does not
        # know its epoch), all of it may be another log: read it again rather than miss any of it.
        return partition.cut_to(log_start if epoch_end < 0 else min(epoch_end, log_end), at_ms=at_ms)
    if partition.unexplained >= UNEXPLAINED_TRIES:
        # The leader cannot tell how much of our log is its own: read all it has again rather than miss any of it.
        return partition.cut_to(log_start, at_ms=at_ms)
    return None


class Positioner:
    def __init__(
        self,
        *,
        source: Source,
        roster: Roster,
        intake: Intake,
        clock: Clock,
        left_out: Mapping[TopicId, tuple[int, ...]],
    ) -> None:
        """
        Args:
            left_out: below which offset a partition's log is left out (`start: latest`); -1: below its end.
        """
        self._source = source
        self._roster = roster
        self._intake = intake
        self._clock = clock
        self._left_out = left_out
        self._asking: set[PartitionId] = set()

    async def run(self) -> None:
        """Serve look-ups as they come; runs until cancelled.

        Every leader is asked by a task of its own: one that does not answer keeps only its own partitions waiting.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                await self._roster.lookup_wanted.wait()
                self._roster.lookup_wanted.clear()
                for node_id, partitions in self._by_leader().items():
                    self._asking.update(partition.id for partition in partitions)
                    group.create_task(self._serve(node_id, partitions), name=f"positions-{node_id}")

    def _by_leader(self) -> dict[int, list[PartitionCapture]]:
        """Who is to be asked for what now; a partition that is being asked for already stays in the look-ups."""
        by_leader: dict[int, list[PartitionCapture]] = defaultdict(list)
        for id in [id for id in self._roster.lookups if id not in self._asking]:
            del self._roster.lookups[id]
            partition = self._roster.partitions.get(id)
            if partition is None or partition.closed:
                continue
            if partition.leader_id < 0:
                self._roster.fail(partition, NO_LEADER, code=KafkaErrorCode.LEADER_NOT_AVAILABLE, refresh=True)
            else:
                by_leader[partition.leader_id].append(partition)
        return by_leader

    async def _serve(self, node_id: int, group: list[PartitionCapture]) -> None:
        try:
            await self._ask_and_decide(node_id, group)
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            for partition in group:
                if not self._roster.settled(partition):
                    self._roster.fail(partition, error.message, code=error.code, hint=error.hint, refresh=True)
        finally:
            self._asking.difference_update(partition.id for partition in group)
            if self._roster.lookups:
                self._roster.lookup_wanted.set()

    async def _ask_and_decide(self, node_id: int, group: list[PartitionCapture]) -> None:
        # Two incarnations of one topic may be waiting at once; asked by name, only one of them can be meant.
        asked_at = {partition.id: (partition.position, partition.leader_epoch) for partition in group}
        names = {_by_name(partition): partition for partition in group}
        starts = await self._ask(node_id, names, EARLIEST_TIMESTAMP)
        ends = await self._ask(node_id, names, LATEST_TIMESTAMP)
        checks = {
            tp: (partition.leader_epoch, partition.check_epoch)
            for tp, partition in names.items()
            if partition.position >= 0 and partition.check_epoch >= 0
        }
        epochs = await self._source.epoch_end_offsets(node_id, checks) if checks else {}
        same = await self._still_the_same(group)
        for turn, partition in enumerate(group, start=1):
            if turn % TURN_PARTITIONS == 0:
                await asyncio.sleep(0)
            tp = _by_name(partition)
            # Meanwhile it may have been closed, or have moved to another leader, which knows better than this one.
            if self._roster.settled(partition):
                continue
            if (partition.position, partition.leader_epoch) != asked_at[partition.id]:
                self._roster.place(partition)
                continue
            start, end, epoch = starts[tp], ends[tp], epochs.get(tp)
            # A leader deposed before the last question has not said that none of our log is its own.
            code = start.error_code or end.error_code or (epoch.error_code if epoch is not None else 0)
            if partition.id not in same:
                self._roster.fail(
                    partition,
                    "the topic is not the incarnation it was",
                    code=KafkaErrorCode.INCONSISTENT_TOPIC_ID,
                    refresh=True,
                )
            elif names[tp] is not partition:
                self._roster.want_lookup(partition)
            elif code != KafkaErrorCode.NONE:
                self._intake.refused(partition, code if code != KafkaErrorCode.OFFSET_OUT_OF_RANGE else -1)
            else:
                self._decide(partition, start.offset, end.offset, epoch.end_offset if epoch is not None else -1)

    async def _ask(
        self, node_id: int, names: dict[TopicPartition, PartitionCapture], timestamp: int
    ) -> dict[TopicPartition, OffsetAnswer]:
        asked = {tp: (timestamp, partition.leader_epoch) for tp, partition in names.items()}
        return dict(await self._source.list_offsets(node_id, asked))

    async def _still_the_same(self, group: list[PartitionCapture]) -> set[PartitionId]:
        """These requests go by name: a topic re-created meanwhile would answer for its predecessor."""
        metadata = await self._source.metadata(sorted({partition.topic for partition in group}))
        ids = {topic.topic_id for topic in metadata.topics if topic.error_code == KafkaErrorCode.NONE}
        return {partition.id for partition in group if partition.id.topic_id in ids}

    def _begin(self, partition: PartitionCapture, log_end: int) -> int | None:
        """Where a partition that was there when the archive was created begins; None: wherever its log does."""
        ends = self._left_out.get(partition.id.topic_id, ())
        if partition.system or partition.id.partition >= len(ends):
            return None
        end = ends[partition.id.partition]
        if end < 0:
            # No leader could say where it ended; what an earlier life stored of it came after that.
            end = partition.unseen_from if partition.unseen_from >= 0 else log_end
        return min(end, log_end)

    def _decide(self, partition: PartitionCapture, log_start: int, log_end: int, epoch_end: int) -> None:
        at_ms = self._clock.now_ms()
        if partition.position < 0:
            partition.position = partition.begins_at = log_start
            self._intake.record(
                PartitionSeen(
                    id=partition.id,
                    first_offset=log_start,
                    log_start_offset=log_start,
                    high_watermark=log_end,
                    leader_epoch=partition.leader_epoch,
                    at_ms=at_ms,
                )
            )
            if 0 <= partition.unseen_from < log_start:
                # Readers begin where anything is stored: what the log has lost since is a gap, not a hole.
                self._intake.record(
                    Gap(
                        id=partition.id,
                        branch=partition.branch,
                        first_offset=partition.unseen_from,
                        next_offset=log_start,
                        cause=GapCause.LOG_START_MOVED,
                        at_ms=at_ms,
                    )
                )
            if partition.overtaken:
                self._intake.record(partition.cut_to(log_start, at_ms=at_ms))
            begin = self._begin(partition, log_end)
            if begin is not None:
                partition.begins_at = -1
                if begin > log_start:
                    self._intake.record(partition.skip_to(begin, GapCause.EXCLUDED, at_ms))
            self._roster.recovered(partition)
            self._roster.place(partition)
            return
        event = reposition(partition, log_start=log_start, log_end=log_end, epoch_end=epoch_end, at_ms=at_ms)
        if event is None:
            partition.unexplained += 1
            self._roster.fail(
                partition,
                f"the leader calls offset {partition.position} out of range",
                code=KafkaErrorCode.OFFSET_OUT_OF_RANGE,
            )
            return
        if isinstance(event, Truncated):
            self._intake.cut_back(event)
        else:
            self._intake.record(event)
        self._roster.recovered(partition)
        self._roster.place(partition)


def _by_name(partition: PartitionCapture) -> TopicPartition:
    return TopicPartition(partition.topic, partition.id.partition)

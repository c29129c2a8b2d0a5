"""Where source positions are in a target that no offset map tells of: found by timestamp, confirmed by content.

A position's record is taken from the archive with those that follow it. In the target the leader names the first record
that is not older; from there on records are compared whole (timestamp, key, value, headers). What several records of
the target could be is told apart by what follows them, and where that does not do, the first is taken and said to be
ambiguous: a consumer that reads a record again is better off than one that misses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kbackupd.format.codecs import PayloadError, UnknownCodecError
from kbackupd.format.records import MalformedRecordError
from kbackupd.groups.strategies import Found
from kbackupd.groups.target import TargetLogs
from kbackupd.groups.target_records import TargetRecord, TargetRecords
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import CorruptObjectError, KbackupError
from kbackupd.model.offset_map import Exactness
from kbackupd.model.positions import OffsetRange, PartitionId

CONTEXT = 16
"""Records compared from the position on."""
SCANNED_MAX = 20_000
"""Records of the target that are looked through for one position, from the first that is not older."""
AT_ONCE = 4


class Comparable(Protocol):
    """A record, wherever it is from."""

    @property
    def offset(self) -> int: ...

    @property
    def timestamp_ms(self) -> int: ...

    @property
    def body(self) -> bytes: ...


class SourceRecords(Protocol):
    """What the archive holds and a restore would bring back."""

    async def from_offset(self, id: PartitionId, offset: int, count: int) -> Sequence[Comparable]: ...

    async def before_offset(self, id: PartitionId, offset: int, count: int) -> Sequence[Comparable]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A source position, and the partition of the target that it must be in."""

    id: PartitionId
    topic: str
    partition: int
    offset: int
    target: TopicPartition

    @property
    def key(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset


def judge(sought: Sequence[Comparable], scanned: Sequence[TargetRecord], position: int, *, whole: bool) -> Found:
    """Where `sought`, the records from source position `position` on, begin among `scanned`. Pure.

    Args:
        whole: nothing of the target's log follows `scanned`.
    """
    first = sought[0]
    candidates = [n for n, record in enumerate(scanned) if _same(record, first)]
    if not candidates:
        where = "" if whole else f" among the {len(scanned):,} records from the first that is not older on"
        return Found(
            offset=None,
            exactness=Exactness.AMBIGUOUS,
            reason=f"no record of the target equals the one at source offset {first.offset}{where}",
        )
    agreeing = {n: _agreeing(sought, scanned, n) for n in candidates}
    most = max(agreeing.values())
    best = [n for n in candidates if agreeing[n] == most]
    offset = scanned[best[0]].offset
    if len(best) > 1:
        return Found(
            offset=offset,
            exactness=Exactness.AMBIGUOUS,
            reason=f"{len(best)} records of the target equal that at source offset {first.offset}: the first of them",
        )
    told_apart = f"; {len(candidates) - 1} more are equal and followed by others" if len(candidates) > 1 else ""
    if first.offset == position:
        return Found(
            offset=offset, exactness=Exactness.EXACT, reason=f"the record at source offset {position}{told_apart}"
        )
    return Found(
        offset=offset,
        exactness=Exactness.NEXT,
        reason=f"source offset {position} has no record: the next, at {first.offset}{told_apart}",
    )


def judge_end(last: Sequence[Comparable], scanned: Sequence[TargetRecord], position: int) -> Found:
    """Where a consumer goes on that has read `last`, the source's last records below `position`. Pure.

    Only where all of them follow one another is it known that nothing of the target is skipped.
    """
    ends = [n + len(last) - 1 for n in range(len(scanned)) if _agreeing(last, scanned, n) == len(last)]
    if not ends:
        return Found(
            offset=None,
            exactness=Exactness.AMBIGUOUS,
            reason=f"at the source's end, and its last {len(last)} records are not one after the other in the target",
        )
    offset = scanned[ends[0]].offset + 1
    if len(ends) > 1:
        return Found(
            offset=offset,
            exactness=Exactness.AMBIGUOUS,
            reason=f"the source's last {len(last)} records are {len(ends)} times in the target: behind the first",
        )
    return Found(
        offset=offset,
        exactness=Exactness.END,
        reason=f"nothing at or after source offset {position}: behind the record at {last[-1].offset}",
    )


def _same(record: Comparable, other: Comparable) -> bool:
    return record.timestamp_ms == other.timestamp_ms and record.body == other.body


def _agreeing(sought: Sequence[Comparable], scanned: Sequence[TargetRecord], start: int) -> int:
    """How many of `sought` stand one after the other in `scanned` from `start` on."""
    count = 0
    for wanted, record in zip(sought, scanned[start : start + len(sought)], strict=False):
        if not _same(record, wanted):
            break
        count += 1
    return count


class ClusterScan:
    """Finds positions, a few partitions at a time."""

    def __init__(self, source: SourceRecords, logs: TargetLogs, reader: Callable[[], TargetRecords]) -> None:
        self._source = source
        self._logs = logs
        self._reader = reader

    async def find(self, sought: Iterable[Sought]) -> dict[tuple[str, int, int], Found]:
        """Each position once, whatever the number of groups that have it; what cannot be found says why."""
        waiting = list({one.key: one for one in sought}.values())
        found: dict[tuple[str, int, int], Found] = {}
        ranges = await self._logs.ranges(sorted({one.target for one in waiting}))

        async def work() -> None:
            reader = self._reader()
            try:
                while waiting:
                    one = waiting.pop()
                    found[one.key] = await self._find(one, ranges[one.target], reader)
            finally:
                await reader.close()

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(waiting))):
                workers.create_task(work())
        return found

    async def _find(self, one: Sought, log: OffsetRange, reader: TargetRecords) -> Found:
        try:
            records = await self._source.from_offset(one.id, one.offset, CONTEXT)
            if records:
                scanned, whole = await self._scan(one.target, records[0], log, reader)
                return judge(records, scanned, one.offset, whole=whole)
            last = await self._source.before_offset(one.id, one.offset, CONTEXT)
            if last:
                scanned, _ = await self._scan(one.target, last[0], log, reader)
                return judge_end(last, scanned, one.offset)
        except (CorruptObjectError, UnknownCodecError, PayloadError, MalformedRecordError) as error:
            return Found(offset=None, exactness=Exactness.AMBIGUOUS, reason=f"cannot be compared: {error}")
        except KbackupError as error:
            return Found(offset=None, exactness=Exactness.AMBIGUOUS, reason=f"cannot be looked for: {error.message}")
        return Found(
            offset=log.first_offset,
            exactness=Exactness.END,
            reason="the archive holds no record of this partition: the target's beginning",
        )

    async def _scan(
        self, target: TopicPartition, first: Comparable, log: OffsetRange, reader: TargetRecords
    ) -> tuple[list[TargetRecord], bool]:
        """The target's records from the first that is not older than `first` on, and whether they reach its end."""
        scanned: list[TargetRecord] = []
        position = await self._start(target, first.timestamp_ms, log)
        while position < log.next_offset and len(scanned) < SCANNED_MAX:
            more, following = await reader.read(target, position)
            if following <= position:
                break
            scanned += more
            position = following
        return scanned, position >= log.next_offset

    async def _start(self, target: TopicPartition, timestamp_ms: int, log: OffsetRange) -> int:
        if timestamp_ms < 0:  # "no timestamp" would be another question (hazard 13)
            return log.first_offset
        offset = (await self._logs.offsets({target: timestamp_ms}))[target]
        return log.next_offset if offset < 0 else max(offset, log.first_offset)

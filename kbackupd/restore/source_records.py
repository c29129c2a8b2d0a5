"""The records of an archived partition as a consumer of the restored topic sees them, a few at a time.

Reads for those who compare single records with a target; a restore itself never does. Satisfies the protocol that
`groups.cluster_scan` asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from kbackupd.archive.archive import Archive, PartitionHistory
from kbackupd.format.stored_records import Record, records_of
from kbackupd.model.positions import PartitionId
from kbackupd.restore.history_facts import outcomes_of
from kbackupd.restore.visibility import Outcomes

_READ_AHEAD_BYTES = 1 << 20
_HISTORIES_KEPT = 8
"""A kilobyte for each run."""
_FIRST_LOOK_BACK = 1_000
"""Offsets; ten times as many each time until enough records are found."""


class ArchivedRecords:
    """Of an opened archive; what it finds of the histories of a few partitions, those asked for last, is kept."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._known: dict[PartitionId, tuple[PartitionHistory, Outcomes]] = {}

    async def from_offset(self, id: PartitionId, offset: int, count: int) -> list[Record]:
        """The first `count` restored records at or after `offset`; fewer where there are not so many.

        Raises:
            CorruptObjectError, ObjectMissingError: they cannot be read.
        """
        history, outcomes = await self._history(id)
        found: list[Record] = []
        first = max(offset, history.first_offset)
        async with aclosing(self._records(history, outcomes, first, history.next_offset)) as records:
            async for record in records:
                if record.offset >= offset:
                    found.append(record)
                if len(found) == count:
                    break
        return found

    async def before_offset(self, id: PartitionId, offset: int, count: int) -> list[Record]:
        """The last `count` restored records below `offset`, ascending. Raises: as `from_offset`."""
        history, outcomes = await self._history(id)
        until, back = min(offset, history.next_offset), _FIRST_LOOK_BACK
        while True:
            first = max(until - back, history.first_offset)
            found: list[Record] = []
            if first < until:
                async with aclosing(self._records(history, outcomes, first, until)) as records:
                    async for record in records:
                        if record.offset < until:
                            found = [*found[-count + 1 :], record] if count > 1 else [record]
            if len(found) >= count or first <= history.first_offset:
                return found
            back *= 10

    async def _history(self, id: PartitionId) -> tuple[PartitionHistory, Outcomes]:
        known = self._known.pop(id, None)
        if known is None:
            known = await asyncio.to_thread(self._found, id)
        self._known[id] = known  # behind those that were asked for before
        while len(self._known) > _HISTORIES_KEPT:
            del self._known[next(iter(self._known))]
        return known

    def _found(self, id: PartitionId) -> tuple[PartitionHistory, Outcomes]:
        history = self._archive.history(id)
        return history, outcomes_of(history)

    async def _records(
        self, history: PartitionHistory, outcomes: Outcomes, first_offset: int, next_offset: int
    ) -> AsyncGenerator[Record, None]:
        batches = self._archive.read(
            history.id,
            first_offset=first_offset,
            next_offset=next_offset,
            history=history,
            read_ahead_bytes=_READ_AHEAD_BYTES,
        )
        async for batch in batches:
            header = batch.header
            if header.is_control or header.record_count == 0:
                continue
            if header.is_transactional and not outcomes.of_batch(header.producer_id, header.base_offset).kept:
                continue
            for record in records_of(header, batch.data):
                if batch.first_offset <= record.offset < batch.next_offset:
                    yield record

"""The archive against what was produced: every record, at its offset, once; kept as one running digest per partition.

What was compared once is not kept record by record: a digest over all of it is, and the last check of a soak reads the
whole archive again and must come to the same digests, topics that the cluster has long deleted included.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.format.codecs import decompress_payload
from kbackupd.format.header import HEADER_BYTES
from kbackupd.format.records import decode_record, iter_records
from kbackupd.model.positions import PartitionId
from kbackupd.testbed.soak_topics import Generation
from kbackupd.testbed.truth import Expected, Record, compare_records, content_digest, expected, read_topic

_STAMP = struct.Struct(">qq")
_CREATE_TIME = 1


@dataclass(slots=True)
class Partition:
    """What has been compared of one partition so far."""

    next_offset: int = 0
    records: int = 0
    batches: int = 0
    digest: hashlib.blake2b = field(default_factory=hashlib.blake2b)
    offsets: array[int] | None = None
    """Of a compacted topic: those the archive holds. None elsewhere: it holds all."""

    def add(self, records: Sequence[Record]) -> None:
        for record in records:
            self.digest.update(_STAMP.pack(record.offset, record.timestamp_ms))
            self.digest.update(content_digest(record.key, record.value, record.headers))
            if self.offsets is not None:
                self.offsets.append(record.offset)
        self.records += len(records)


class Model:
    """All that was compared, by (topic, partition); names are never used twice in a soak."""

    def __init__(self) -> None:
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.compacted_away = 0

    @property
    def records(self) -> int:
        return sum(one.records for one in self.partitions.values())

    @property
    def batches(self) -> int:
        return sum(one.batches for one in self.partitions.values())

    async def compare_new(self, archive: Archive, generation: Generation, bootstrap: str) -> list[str]:
        """Differences between what came since the last comparison and the truth. Nothing is being produced."""
        differences: list[str] = []
        newest = archive.newest()
        for topic, partitions in generation.partitions.items():
            if (known := newest.get(topic)) is None or known.partitions != partitions:
                differences.append(f"{topic}: {partitions} partitions made, the archive knows {known}")
                continue
            source: dict[int, list[Record]] | None = None
            for number in range(partitions):
                compacted = topic == generation.compacted
                held = self.partitions.setdefault((topic, number), Partition(offsets=array("q") if compacted else None))
                found = await _read(archive, PartitionId(known.topic_id, number), held)
                try:
                    wanted = generation.truth.records(topic, number, isolation="read_uncommitted")
                except LookupError:
                    # Some producer was never told; the brokers know.
                    source = source or read_topic(bootstrap, topic, isolation="read_uncommitted")
                    wanted = expected(source[number])
                wanted = [one for one in wanted if one.offset >= held.next_offset]
                if compacted:
                    source = source or read_topic(bootstrap, topic, isolation="read_uncommitted")
                    must = _of_compacted(wanted, found, [one.offset for one in source[number]])
                    self.compacted_away += len(wanted) - len(must)
                    wanted = must
                differences += [f"{topic}/{number}: {one}" for one in compare_records(wanted, found)]
                differences += _holes(archive, known, number)
                held.add(found)
                held.next_offset = archive.history(PartitionId(known.topic_id, number)).next_offset
        return differences

    async def compare_all(self, archive: Archive) -> list[str]:
        """Differences between the archive, read from its beginning, and what was compared in the course of time."""
        differences = []
        newest = archive.newest()
        for (topic, number), held in self.partitions.items():
            again = Partition()
            again.add(await _read(archive, PartitionId(newest[topic].topic_id, number), again))
            if again.records != held.records or again.digest.digest() != held.digest.digest():
                differences.append(
                    f"{topic}/{number}: {again.records} records now, {held.records} when first compared, "
                    "and they are not the same"
                )
            if again.batches != held.batches:
                differences.append(f"{topic}/{number}: {again.batches} batches now, {held.batches} when first compared")
        return differences


class Restorable(NamedTuple):
    """What a restore must bring of one partition; `exact`: at the offsets it had."""

    records: list[Expected]
    exact: bool


def restorable(model: Model, generation: Generation, bootstrap: str) -> dict[tuple[str, int], Restorable]:
    """What a restore of this generation must bring; asked while the source is still there."""
    wanted = {}
    for topic, partitions in generation.partitions.items():
        for number in range(partitions):
            try:
                records = generation.truth.records(topic, number)
            except LookupError:
                records = expected(read_topic(bootstrap, topic)[number])
            held = model.partitions[topic, number].offsets
            if held is not None:
                archived = frozenset(held)
                records = [one for one in records if one.offset in archived]
            wanted[topic, number] = Restorable(records, topic not in generation.transactional and held is None)
    return wanted


def restored_differences(wanted: Mapping[tuple[str, int], Restorable], bootstrap: str) -> tuple[int, list[str]]:
    """How many records the target has in these topics, and how they differ from what must be there."""
    count, differences = 0, []
    for topic in sorted({topic for topic, _ in wanted}):
        read = read_topic(bootstrap, topic)
        numbers = {number for name, number in wanted if name == topic}
        if set(read) != numbers:
            differences.append(f"restored {topic}: partitions {sorted(read)}, not {sorted(numbers)}")
        for number in sorted(numbers & set(read)):
            records, exact = wanted[topic, number]
            found = compare_records(records, read[number], offsets=exact)
            differences += [f"restored {topic}/{number}: {one}" for one in found]
            count += len(read[number])
    return count, differences


async def _read(archive: Archive, id: PartitionId, held: Partition) -> list[Record]:
    """The data records from `held.next_offset` on, as a consumer of the source would have seen them; counts batches."""
    found: list[Record] = []
    async for batch in archive.read(id, first_offset=held.next_offset):
        held.batches += 1
        header = batch.header
        if header.is_control:
            continue
        payload = decompress_payload(header.codec, batch.data[HEADER_BYTES:])
        for raw in iter_records(payload, header.record_count):
            offset = header.base_offset + raw.offset_delta
            if not batch.first_offset <= offset < batch.next_offset:
                continue
            key, value, headers = decode_record(raw.body)
            names = tuple((name.decode(), content) for name, content in headers)
            stamp = header.base_timestamp + raw.timestamp_delta
            found.append(Record(id.partition, offset, stamp, _CREATE_TIME, key, value, names))
    return found


def _of_compacted(wanted: Sequence[Expected], found: Sequence[Record], in_source: Sequence[int]) -> list[Expected]:
    """What must be there: what the source still has, and of the rest whatever was captured before it was compacted."""
    there = frozenset(in_source) | {one.offset for one in found}
    return [one for one in wanted if one.offset in there]


def _holes(archive: Archive, topic: ArchivedTopic, number: int) -> list[str]:
    history = archive.history(PartitionId(topic.topic_id, number))
    return [f"{topic.name}/{number}: hole {one}" for one in history.holes] + [
        f"{topic.name}/{number}: gap {one}" for one in history.gaps
    ]

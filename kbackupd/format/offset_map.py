"""The offset map as a file: bytes <-> `OffsetMapDocument` ("The document" in docs/offset-map.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Struct

from kbackupd.format.local_document import decode_local, digest_fits, encode_local
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.offset_map import OffsetMapDocument, OffsetsMode, PartitionMap, TopicMap
from kbackupd.model.positions import TopicId

OFFSET_MAP_FORMAT = 1
KIND = "offset-map"

_Offset = Annotated[int, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Partition(Struct):
    source_partition: _Offset
    target_partition: _Offset
    source_first_offset: _Offset
    source_next_offset: _Offset
    target_first_offset: _Offset
    target_next_offset: _Offset
    complete: bool
    offsets: OffsetsMode
    source_offsets: list[_Offset]
    target_offsets: list[_Offset]
    counts: list[_Count]


class _Topic(Struct):
    source: str
    topic_id: str
    target: str
    target_topic_id: str
    partitions: list[_Partition]


class _Document(Struct):
    format: int
    kind: str
    archive: str
    backup_id: str
    archive_id: str
    source_cluster_id: str
    target_cluster_id: str
    made_ms: int
    topics: list[_Topic]
    digest: str = ""


def encode_offset_map(document: OffsetMapDocument) -> bytes:
    """The file's bytes: one line of JSON; its digest is worked out here."""
    return encode_local(
        _Document(
            format=OFFSET_MAP_FORMAT,
            kind=KIND,
            archive=document.archive,
            backup_id=document.backup_id,
            archive_id=document.archive_id,
            source_cluster_id=document.source_cluster_id,
            target_cluster_id=document.target_cluster_id,
            made_ms=document.made_ms,
            topics=[
                _Topic(
                    source=topic.source,
                    topic_id=topic.topic_id,
                    target=topic.target,
                    target_topic_id=topic.target_topic_id,
                    partitions=[_encoded(one) for one in topic.partitions],
                )
                for topic in document.topics
            ],
        )
    )


def _encoded(one: PartitionMap) -> _Partition:
    return _Partition(
        source_partition=one.source_partition,
        target_partition=one.target_partition,
        source_first_offset=one.source_first_offset,
        source_next_offset=one.source_next_offset,
        target_first_offset=one.target_first_offset,
        target_next_offset=one.target_next_offset,
        complete=one.complete,
        offsets=one.mode,
        source_offsets=list(one.source_offsets),
        target_offsets=list(one.target_offsets),
        counts=list(one.counts),
    )


def decode_offset_map(name: str, data: bytes) -> OffsetMapDocument:
    """The map in a file's bytes, its digest and its columns checked.

    Raises:
        CorruptObjectError: not as it was written, or its runs contradict each other.
        RefusedError, UnsupportedFormatError: something else, or of a format this version does not know.
    """
    document = decode_local(name, data, kinds=(KIND,), formats=(OFFSET_MAP_FORMAT,))
    if not digest_fits(document):
        raise CorruptObjectError(name, "the digest does not fit: the offset map was damaged or edited")
    try:
        row = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise CorruptObjectError(name, f"not an offset map: {error}") from error
    for topic in row.topics:
        for one in topic.partitions:
            problem = _contradiction(one)
            if problem:
                raise CorruptObjectError(name, f"{topic.source}/{one.source_partition}: {problem}")
    return OffsetMapDocument(
        archive=row.archive,
        backup_id=row.backup_id,
        archive_id=row.archive_id,
        source_cluster_id=row.source_cluster_id,
        target_cluster_id=row.target_cluster_id,
        made_ms=row.made_ms,
        topics=tuple(
            TopicMap(
                source=topic.source,
                topic_id=TopicId(topic.topic_id),
                target=topic.target,
                target_topic_id=TopicId(topic.target_topic_id),
                partitions=tuple(_decoded(one) for one in topic.partitions),
            )
            for topic in row.topics
        ),
        digest=row.digest,
    )


def _decoded(one: _Partition) -> PartitionMap:
    return PartitionMap(
        source_partition=one.source_partition,
        target_partition=one.target_partition,
        source_first_offset=one.source_first_offset,
        source_next_offset=one.source_next_offset,
        target_first_offset=one.target_first_offset,
        target_next_offset=one.target_next_offset,
        complete=one.complete,
        source_offsets=one.source_offsets,
        target_offsets=one.target_offsets,
        counts=one.counts,
        mode=one.offsets,
    )


def _contradiction(one: _Partition) -> str:
    """Why the columns cannot be; "" if they can."""
    if not len(one.source_offsets) == len(one.target_offsets) == len(one.counts):
        return "its columns differ in length"
    source, target = one.source_first_offset, one.target_first_offset
    for source_offset, target_offset, count in zip(one.source_offsets, one.target_offsets, one.counts, strict=True):
        if source_offset < source or target_offset < target:
            return f"the run at source offset {source_offset} overlaps what comes before it"
        source, target = source_offset + count, target_offset + count
    if source > one.source_next_offset or target > one.target_next_offset:
        return "its runs reach beyond its ranges"
    return ""

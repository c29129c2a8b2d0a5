"""A segment as readers know it: its place, its name and size, and what its footer says, of all topics or of some.

Pure. A segment that is narrowed to some topics still mentions all of them: which topics there are must not depend on
which of them somebody wanted to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from kbackupd.archive.history import SegmentPlace
from kbackupd.model.events import Gap, PartitionSeen, Truncated
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import EarlierEpoch, Footer, ObjectRef

WantedTopic = Callable[[str], bool]
"""Whether somebody wants to read topics of that name."""


def nothing(name: str) -> bool:
    """Nobody wants to read any topic."""
    return False


class TopicMention(NamedTuple):
    """Runs, or events of partitions, speak of so many partitions of a topic (the largest number and one)."""

    topic_id: TopicId
    partitions: int
    internal: bool
    """As the first of them says: only a run knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSegment:
    place: SegmentPlace
    ref: ObjectRef
    footer: Footer
    """Without the rows of topics that nobody wanted."""
    size_bytes: int
    mentions: tuple[TopicMention, ...]
    """Of all topics, in the order in which the footer first speaks of them."""


class SealedPlace(NamedTuple):
    """What a segment says about which sequences must exist."""

    writer: str
    writer_epoch: int
    seq: int
    in_flight: tuple[int, ...]
    earlier: tuple[EarlierEpoch, ...]


def sealed_place(segment: CatalogSegment) -> SealedPlace:
    place, footer = segment.place, segment.footer
    return SealedPlace(place.writer, place.writer_epoch, place.seq, footer.in_flight, footer.earlier)


def narrowed(segment: CatalogSegment, wanted: WantedTopic | None) -> CatalogSegment:
    """The segment without the rows of other topics."""
    return segment if wanted is None else replace(segment, footer=_narrowed(segment.footer, wanted))


def catalog_segment(footer: Footer, ref: ObjectRef, size_bytes: int, wanted: WantedTopic | None) -> CatalogSegment:
    """A segment from its whole footer, narrowed to the topics `wanted` (None: all)."""
    return CatalogSegment(
        place=SegmentPlace(footer.writer, footer.writer_epoch, footer.seq),
        ref=ref,
        footer=footer if wanted is None else _narrowed(footer, wanted),
        size_bytes=size_bytes,
        mentions=_mentions(footer),
    )


def _mentions(footer: Footer) -> tuple[TopicMention, ...]:
    found: dict[TopicId, TopicMention] = {}
    said = [(run.id, run.system) for run in footer.runs]
    said += [(event.id, False) for event in footer.events if isinstance(event, PartitionSeen | Gap | Truncated)]
    for (topic_id, partition), internal in said:
        held = found.get(topic_id)
        if held is None:
            found[topic_id] = TopicMention(topic_id, partition + 1, internal)
        elif partition >= held.partitions:
            found[topic_id] = held._replace(partitions=partition + 1)
    return tuple(found.values())


def _narrowed(footer: Footer, wanted: WantedTopic) -> Footer:
    ids = {topic_id for topic_id, name in footer.topics.items() if wanted(name)}
    if len(ids) == len(footer.topics):
        return footer
    return replace(
        footer,
        runs=tuple(run for run in footer.runs if run.id.topic_id in ids),
        outcomes=tuple(row for row in footer.outcomes if row.id.topic_id in ids),
        open_transactions=tuple(row for row in footer.open_transactions if row.id.topic_id in ids),
        samples=tuple(row for row in footer.samples if row.id.topic_id in ids),
        events=tuple(
            event
            for event in footer.events
            if not isinstance(event, PartitionSeen | Gap | Truncated) or event.id.topic_id in ids
        ),
    )

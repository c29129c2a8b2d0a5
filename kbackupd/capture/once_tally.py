"""What became durable in one life, by its segments' footers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from kbackupd.model.events import Gap, GapCause
from kbackupd.model.path import CatalogEntry
from kbackupd.model.positions import TopicId


@dataclass(slots=True, kw_only=True)
class StoredOfTopic:
    records: int = 0
    raw_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became durable in this life, by its segments' footers."""

    segments: int = 0
    stored_bytes: int = 0
    records: int = 0
    raw_bytes: int = 0
    topics: dict[TopicId, StoredOfTopic] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    """Declared in this life; what configuration leaves out is none."""

    def add(self, entry: CatalogEntry) -> None:
        self.segments += 1
        self.stored_bytes += entry.size_bytes
        for run in entry.footer.runs:
            self.records += run.records
            self.raw_bytes += run.raw_bytes
            of_topic = self.topics.setdefault(run.id.topic_id, StoredOfTopic())
            of_topic.records += run.records
            of_topic.raw_bytes += run.raw_bytes
        self.gaps += [
            event for event in entry.footer.events if isinstance(event, Gap) and event.cause != GapCause.EXCLUDED
        ]

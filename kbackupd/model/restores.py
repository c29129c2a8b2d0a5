"""What a restore writes down of itself, to be gone on with when it was killed ("Restores" in docs/format.md).

Three documents, each created once: begun (before the target is touched), ready (before the first record is produced)
and done. What is between begun and done lies in the target's own logs, and is asked of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunTopic:
    """A topic that a restore is about to fill."""

    source: str
    source_topic_id: TopicId
    target: str
    existing_topic_id: TopicId | None
    """Of the topic that was there; None: it is created."""
    overrides: dict[str, str]
    """Of that topic, to be put back at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreBegun:
    """What is going to be restored, out of which state of the archive, into what."""

    key: str
    restore_id: str
    identity: Identity
    """Of the archive."""
    software: str
    began_ms: int
    target_cluster_id: str
    pinned: tuple[tuple[str, int, tuple[tuple[int, int], ...]], ...]
    """(writer, writer epoch, half-open ranges of sequences): the archive as the plan saw it."""
    options: dict[str, object]
    """Those that decide which records come back, and how."""
    plan_sha256: str
    """Of the plan that was made; one made again from `pinned` and `options` must have the same."""
    topics: tuple[BegunTopic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FillingTopic:
    """A topic that is ready for records."""

    target: str
    topic_id: TopicId
    log_ends: tuple[int, ...]
    """By partition: where the first record of the restore lands."""
    configs: dict[str, str]
    """In force while it is filled; `max.message.bytes` decides where batches are cut."""
    created: bool
    appends: bool = False
    """It held records before; `log_ends` are where those end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReady:
    """Under which identity records are produced, and from which offsets on."""

    key: str
    restore_id: str
    identity: Identity
    producer_id: int
    producer_epoch: int
    """Every run produces under them, so that a broker drops what a dead one had sent."""
    topics: tuple[FillingTopic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreWithdrawn:
    """It was ready and produced nothing, for another one was ready to fill the same topics: as if only begun."""

    key: str
    restore_id: str
    identity: Identity
    ended_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreDone:
    """Nothing is left that another run would bring.

    What the archive lacks, or the target would not take of its configuration, may be missing: the report tells.
    """

    key: str
    restore_id: str
    identity: Identity
    ended_ms: int
    verdict: str
    """As the report's."""
    records: int
    data_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A restore that was brought to its end."""

    begun: RestoreBegun
    ready: RestoreReady


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A restore that was begun and not brought to its end."""

    begun: RestoreBegun
    ready: RestoreReady | None
    """None: it ended before a record was produced."""

    @property
    def filling(self) -> dict[str, FillingTopic]:
        """The topics that were made ready, by name."""
        return {topic.target: topic for topic in self.ready.topics} if self.ready else {}

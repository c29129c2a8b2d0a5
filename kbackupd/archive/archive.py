"""An archive opened for reading: what topics it holds, the history of each partition, and its record batches.

The one door for everybody who reads: restore, describe, dump, validation. Keeps I5 (cannot read is never absent) and I7
(a partition is a topic id and a number; a name may have had several incarnations).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kbackupd.archive.catalog import Catalog, DamagedObject
from kbackupd.archive.evidence import abandoned_places, abandonment
from kbackupd.archive.held_evidence import HeldEvidence
from kbackupd.archive.history import PartitionEvidence, PartitionHistory, build_history
from kbackupd.archive.losses import LostSegment, settled_catalog
from kbackupd.archive.pins import Pins, pins_of
from kbackupd.archive.plain import PlainPartition
from kbackupd.archive.reader import READ_AHEAD_BYTES, StoredBatch, read_history
from kbackupd.archive.rollup_choice import Distrusted
from kbackupd.archive.segments import CatalogSegment, WantedTopic
from kbackupd.archive.shared_reads import SharedReads
from kbackupd.format import documents, keys
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.errors import ArchiveInvalidError, CorruptObjectError, ForeignArchiveError, ObjectMissingError
from kbackupd.model.events import TopicDeleted, TopicExcluded, TopicSeen
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Identity
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore

__all__ = ["Archive", "ArchivedTopic", "PartitionHistory", "StoredBatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedTopic:
    """One incarnation of a topic, as the archive saw it last."""

    topic_id: TopicId
    name: str
    partitions: int
    internal: bool
    configs: Mapping[str, str] = field(default_factory=dict)
    first_seen_ms: int
    deleted_ms: int | None = None
    """When the source was found not to have it any more, and it was not seen since; None: it is there."""
    excluded_ms: int | None = None
    """Since when configuration keeps it out of the backup."""
    previous: TopicId | None = None
    """The incarnation of the same name that this one replaced."""
    last_writer: str = ""
    last_seen_ms: int = 0
    """By whom and when it was last spoken of as existing."""
    grew: tuple[tuple[int, int], ...] = ()
    """(partitions, at_ms): when so many were first counted, ascending."""

    def counted_ms(self, partition: int) -> int:
        """Since when the partition is known to exist."""
        return next((at_ms for count, at_ms in self.grew if partition < count), self.first_seen_ms)

    @property
    def partition_ids(self) -> tuple[PartitionId, ...]:
        return tuple(PartitionId(self.topic_id, number) for number in range(self.partitions))


class Archive:
    """An archive as it was when it was opened; what a running daemon adds later is not seen.

    What its footers say of the topics it was opened for stays in memory, compressed; what is asked of a partition is
    made of it each time, and kept by nobody but who asked. Bodies are read by range when `read` asks for them. Nothing
    to close: the store belongs to the caller.
    """

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        document: ArchiveDocument,
        lost: Sequence[LostSegment] = (),
        wanted: WantedTopic | None = None,
    ) -> None:
        """`store` is scoped to the archive; use `open`."""
        self._store = store
        self._catalog = catalog
        self._document = document
        self._lost = tuple(lost)
        self._wanted = wanted
        self._topics = {topic.topic_id: topic for topic in archived_topics(catalog.segments)}
        self._evidence = HeldEvidence(catalog.held, abandonment(catalog.segments))

    @classmethod
    async def open(
        cls,
        store: ObjectStore,
        backup_id: str,
        *,
        pinned: Pins | None = None,
        wanted: WantedTopic | None = None,
        through_rollups: bool = True,
        summing_up: bool = False,
        distrusted: Distrusted | None = None,
    ) -> Archive:
        """Read the identity of the archive `backup_id` under `store` (the `--path`), and what its footers say.

        Damaged and lost objects do not stop it; they are in `damaged` and `lost`. Damaged roll-ups cost time only.

        Args:
            pinned: what an earlier `pinned` said, to see the archive as it was then.
            wanted: the topics, by name, whose partitions will be asked for; None: all. Which topics there are is known
                in any case. Memory is 10 to 30 bytes for each run of these topics.
            through_rollups: False reads every footer; what is found is the same.
            summing_up, distrusted: as of `load_catalog`.

        Raises:
            ObjectMissingError: there is no such archive.
            CorruptObjectError: `backup.json` is damaged.
            ArchiveInvalidError: there are objects but no `backup.json`.
            ForeignArchiveError: it is another archive than its place says.
            KbackupError: the store could not say for certain what is there.
        """
        scoped = ScopedStore(store, backup_id)
        catalog, lost = await settled_catalog(
            scoped,
            pinned=pinned,
            wanted=wanted,
            through_rollups=through_rollups,
            summing_up=summing_up,
            distrusted=distrusted,
        )
        return cls(scoped, catalog, known_document(catalog, scoped.location, backup_id), lost, wanted)

    @property
    def document(self) -> ArchiveDocument:
        return self._document

    @property
    def location(self) -> str:
        return self._store.location

    @property
    def damaged(self) -> Sequence[DamagedObject]:
        """Claims and segments that are there and cannot be trusted."""
        return self._catalog.damaged

    @property
    def lost(self) -> Sequence[LostSegment]:
        """Segments that were durable and are gone; what they held may show as holes, or not at all."""
        return self._lost

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    @property
    def pinned(self) -> Pins:
        """The segments that could be read: a plan made on this archive rests on these."""
        return pins_of((writer, epoch, seq) for writer, epoch, seq, *_ in self._catalog.sealed())

    @property
    def topics(self) -> Sequence[ArchivedTopic]:
        """Every incarnation of every topic, in the order they were last seen."""
        return tuple(self._topics.values())

    def topic(self, topic_id: TopicId) -> ArchivedTopic | None:
        return self._topics.get(topic_id)

    def newest(self) -> Mapping[str, ArchivedTopic]:
        """Name → its newest incarnation; a deleted one counts if no newer came."""
        return newest_of(self._topics.values())

    def topics_at(self, at_ms: int) -> Sequence[ArchivedTopic]:
        """As `topics`, as far as anybody had seen them by then: partitions and configuration are those of then.

        One that was found deleted by then is among them, with its `deleted_ms`.
        """
        return archived_topics(self._catalog.segments, by_ms=at_ms)

    @property
    def partitions(self) -> Sequence[PartitionId]:
        """Every partition that any segment mentions or any topic counts, by topic as in `topics`, then by number."""
        found = {id for topic in self._topics.values() for id in topic.partition_ids} | self._evidence.partitions()
        order = {topic_id: number for number, topic_id in enumerate(self._topics)}
        return sorted(found, key=lambda id: (order.get(id.topic_id, len(order)), id.topic_id, id.partition))

    def evidence(self, id: PartitionId) -> PartitionEvidence:
        """All that the segments say about the partition; nothing at all for one nobody ever saw.

        It takes some 20 µs and 1.5 KB a run, and some milliseconds where the partition asked for before was not its
        neighbour; a thread may ask as well.

        Raises:
            LookupError: the archive was opened without its topic.
        """
        self._check_wanted(id)
        return self._evidence.of(id)

    def told(self, id: PartitionId) -> PartitionEvidence:
        """The same without runs and transactions: what leaders told, gaps and cuts. Raises: as `evidence`."""
        self._check_wanted(id)
        return self._evidence.told(id)

    def plain(self, id: PartitionId) -> PlainPartition | None:
        """The same in sums, a microsecond a run; None unless these tell as much as the runs. Raises: as `evidence`."""
        self._check_wanted(id)
        return self._evidence.plain(id)

    def _check_wanted(self, id: PartitionId) -> None:
        topic = self._topics.get(id.topic_id)
        if topic is not None and self._wanted is not None and not self._wanted(topic.name):
            # "Nothing" would be an answer, and a wrong one.
            raise LookupError(f"{self.location} was opened without topic {topic.name!r}")

    def history(self, id: PartitionId, branch: int | None = None) -> PartitionHistory:
        """What is held of the partition on `branch`; None takes the newest. Takes as long as `evidence`, and as much.

        Raises:
            KeyError: it has no such branch.
        """
        return build_history(self.evidence(id), branch)

    async def read(
        self,
        id: PartitionId,
        *,
        first_offset: int | None = None,
        next_offset: int | None = None,
        branch: int | None = None,
        history: PartitionHistory | None = None,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
        shared: SharedReads | None = None,
    ) -> AsyncGenerator[StoredBatch, None]:
        """The partition's batches in offset order, each offset once; gaps and holes are simply not there.

        See `StoredBatch` for the batch that lies across a border. Memory is bounded by `read_ahead_bytes` and one run
        (as many runs as overlap, where captures of a compacted log are merged). Leaving the loop early or cancelling
        ends the requests under way.

        Args:
            history: of this partition and branch, if the caller has built it already.
            shared: with those who read other partitions at the same time (`shared_reads`).

        Raises:
            CorruptObjectError: a run's bytes are not what was written; all before it has been delivered.
            ObjectMissingError: a segment went away after the archive was opened.
        """
        held = history or self.history(id, branch)
        batches = read_history(
            self._store,
            held,
            topic=self.name_of(id),
            first_offset=first_offset,
            next_offset=next_offset,
            read_ahead_bytes=read_ahead_bytes,
            shared=shared,
        )
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()

    def shared_reads(self, *, room_bytes: int) -> SharedReads:
        """For whoever reads many partitions at a time: what lies side by side comes by one request.

        Use as an async context, and hand it to `read`. Args: as `SharedReads`.
        """
        return SharedReads(self._store, room_bytes=room_bytes)

    def name_of(self, id: PartitionId) -> str:
        """The topic's name for people; its id where no segment names it."""
        topic = self._topics.get(id.topic_id)
        return topic.name if topic else id.topic_id


def known_document(catalog: Catalog, location: str, backup_id: str) -> ArchiveDocument:
    """The archive's identity.

    Raises:
        ObjectMissingError, ArchiveInvalidError, CorruptObjectError, ForeignArchiveError: as `Archive.open`.
    """
    document = catalog.document
    if document is None:
        for one in catalog.damaged:
            if one.key == keys.BACKUP_KEY:
                raise CorruptObjectError(f"{location}/{one.key}", one.reason, hint=one.hint)
        if catalog.objects:
            raise ArchiveInvalidError(
                f"{location}: {keys.BACKUP_KEY} is missing, but there are {len(catalog.objects)} other objects",
                hint="put the archive's own backup.json back from a copy; kbackupd validate says what else is wrong",
            )
        raise no_archive(location)
    if document.identity.backup_id != backup_id:
        raise ForeignArchiveError(
            f"{location} holds the archive {document.identity.backup_id!r}, not {backup_id!r}",
            hint="an archive must be copied under its own backup id",
        )
    return document


async def archive_identity(store: ObjectStore) -> Identity:
    """Which archive it is, by its `backup.json` alone.

    Args:
        store: scoped to the archive.

    Raises:
        ObjectMissingError, ArchiveInvalidError, CorruptObjectError: as `Archive.open`.
        KbackupError: the store could not say for certain.
    """
    try:
        return documents.decode_backup(await store.get(keys.BACKUP_KEY)).identity
    except ObjectMissingError:
        async for _ in store.list_from("", limit=1):
            raise ArchiveInvalidError(
                f"{store.location}: {keys.BACKUP_KEY} is missing, but there are other objects",
                hint="put the archive's own backup.json back from a copy",
            ) from None
        raise no_archive(store.location) from None


def no_archive(
    location: str,
    *,
    hint: str = "there is nothing at all; check --path and --backup-id: kbackupd list --path … shows what there is",
) -> ObjectMissingError:
    """There is not a single object where an archive should be."""
    missing = ObjectMissingError(f"{location}/{keys.BACKUP_KEY}")
    missing.hint = hint
    return missing


def newest_of(topics: Collection[ArchivedTopic]) -> Mapping[str, ArchivedTopic]:
    """Name → the newest of its incarnations among `topics`, in the order they were last seen.

    A writer names what an incarnation replaced. One that took over under another name knows nothing of its
    predecessor's: between two writers' incarnations time decides, for nothing else can.
    """
    succeeded = {topic.previous for topic in topics}
    newest: dict[str, ArchivedTopic] = {}
    for topic in topics:
        held = newest.get(topic.name)
        if held is None or (topic.topic_id not in succeeded and not _older(topic, held)):
            newest[topic.name] = topic
    return newest


def archived_topics(segments: Sequence[CatalogSegment], *, by_ms: int | None = None) -> Sequence[ArchivedTopic]:
    """Every incarnation that segments, in the archive's order, speak of; in the order of their last mention.

    With `by_ms` only what was said by then counts.

    Seen again, a topic that was believed deleted is not. Of one writer the later word stands, between two writers the
    word of the later time. An abandoned segment ends no topic: the life that went on without it tells for itself.
    """
    topics: dict[TopicId, ArchivedTopic] = {}
    abandoned = abandoned_places(segments)
    denied_by: dict[TopicId, str] = {}
    for segment in segments:
        writer = segment.place.writer
        counts = segment.place not in abandoned
        for event in segment.footer.events:
            match event:
                case TopicSeen() | TopicDeleted() | TopicExcluded() if by_ms is not None and event.at_ms > by_ms:
                    pass
                case TopicSeen():
                    before = topics.pop(event.topic_id, None)
                    deleted_ms = before.deleted_ms if before else None
                    if deleted_ms is not None and (denied_by[event.topic_id] == writer or deleted_ms < event.at_ms):
                        deleted_ms = None
                    topics[event.topic_id] = ArchivedTopic(
                        topic_id=event.topic_id,
                        name=event.name,
                        partitions=max(event.partitions, before.partitions if before else 0),
                        internal=event.internal,
                        configs=event.configs,
                        first_seen_ms=before.first_seen_ms if before else event.at_ms,
                        deleted_ms=deleted_ms,
                        previous=event.previous or (before.previous if before else None),
                        last_writer=writer,
                        last_seen_ms=event.at_ms,
                        grew=_grown(before, event.partitions, event.at_ms),
                    )
                case TopicDeleted() if counts and event.topic_id in topics:
                    held = topics[event.topic_id]
                    newest_word = held.last_writer == writer or held.last_seen_ms <= event.at_ms
                    if held.deleted_ms is None and newest_word:
                        topics[event.topic_id] = replace(held, deleted_ms=event.at_ms)
                        denied_by[event.topic_id] = writer
                case TopicExcluded() if counts and event.topic_id in topics:
                    topics[event.topic_id] = replace(topics[event.topic_id], excluded_ms=event.at_ms)
                case _:
                    pass
        if by_ms is None or segment.footer.sealed_ms <= by_ms:
            _add_unnamed(topics, segment)
    return tuple(topics.values())


def _grown(topic: ArchivedTopic | None, partitions: int, at_ms: int) -> tuple[tuple[int, int], ...]:
    grew = topic.grew if topic else ()
    return (*grew, (partitions, at_ms)) if not grew or partitions > grew[-1][0] else grew


def _older(topic: ArchivedTopic, other: ArchivedTopic) -> bool:
    return topic.last_writer != other.last_writer and topic.last_seen_ms < other.last_seen_ms


def _add_unnamed(topics: dict[TopicId, ArchivedTopic], segment: CatalogSegment) -> None:
    """Topics with runs or events of partitions, but whose `topic` event is in a segment nobody can read.

    Their data must not disappear, and a checkpoint knows them too.
    """
    footer = segment.footer
    for topic_id, partitions, internal in segment.mentions:
        held = topics.get(topic_id)
        if held is None:
            topics[topic_id] = ArchivedTopic(
                topic_id=topic_id,
                name=footer.topics[topic_id],
                partitions=partitions,
                internal=internal,
                first_seen_ms=footer.sealed_ms,
                last_writer=segment.place.writer,
                last_seen_ms=footer.sealed_ms,
            )
        elif partitions > held.partitions:
            topics[topic_id] = replace(held, partitions=partitions)

"""What a writer's segments add up to: one pure reducer for the running daemon, for recovery and for rebuilding.

Owns the rule how far each partition is covered. Segments are applied in the order (writer epoch, seq); a partition's
position moves over contiguous runs and gaps only, so that a segment lost before a later one landed holds the position
back and its offsets are captured again (invariants I4, I6, I8). A checkpoint is a picture of this state.

It does not grow with the archive's age: of deleted incarnations the newest are remembered, so that one wrongly believed
gone goes on where it was, and older ones are forgotten. One that comes back all the same is met for the first time: its
log is captured again from its start, which readers take once (docs/adr/0009).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from kbackupd.format.keys import parse_segment_key
from kbackupd.model.events import (
    Gap,
    GapCause,
    PartitionSeen,
    Paused,
    TopicDeleted,
    TopicExcluded,
    TopicSeen,
    Truncated,
)
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import (
    Checkpoint,
    EarlierEpoch,
    Footer,
    Identity,
    ObjectRef,
    OpenTransaction,
    PartitionCheckpoint,
    Run,
    TopicCheckpoint,
)

UNSEEN = "unseen"
"""The `state` of a partition whose first event is in a lost segment: its `next_offset` is no position."""


REMEMBERED_DELETED = 32
"""So many deleted incarnations are remembered, the last to be deleted."""


@dataclass(slots=True, kw_only=True)
class PartitionState:
    """Below `next_offset` of `branch` all is stored or a known gap."""

    id: PartitionId
    first_offset: int
    next_offset: int
    branch: int = 0
    next_branch: int = 1
    state: str = "starting"
    leader_epochs: list[tuple[int, int]] = field(default_factory=list)
    open_transactions: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Producer id → (producer epoch, first offset)."""

    @property
    def leader_epoch(self) -> int:
        return self.leader_epochs[-1][0] if self.leader_epochs else -1

    @property
    def seen(self) -> bool:
        return self.state != UNSEEN


@dataclass(slots=True, kw_only=True)
class TopicState:
    id: TopicId
    name: str
    partitions: int
    internal: bool
    configs: dict[str, str]
    closed: bool = False
    """Deleted at the source, or excluded by configuration."""
    deleted: bool = False


def add_epochs(table: list[tuple[int, int]], epochs: Iterable[tuple[int, int]]) -> None:
    """Append the (epoch, start offset) pairs that are newer than the table's last."""
    for epoch, start in epochs:
        if not table or epoch > table[-1][0]:
            table.append((epoch, start))


def cut_epochs(table: list[tuple[int, int]], offset: int) -> None:
    """Forget the epochs that began at or after `offset`, as a truncation to it does."""
    while table and table[-1][1] >= offset:
        table.pop()


def merge_sequence(ranges: list[tuple[int, int]], seq: int) -> None:
    """Add `seq` to ascending half-open ranges, in place."""
    if ranges and ranges[-1][1] == seq:
        ranges[-1] = (ranges[-1][0], seq + 1)
    elif not ranges or ranges[-1][1] < seq:
        ranges.append((seq, seq + 1))


class WriterState:
    """All that one writer has made durable, as far as its segments were applied."""

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self.partitions: dict[PartitionId, PartitionState] = {}
        self.topics: dict[TopicId, TopicState] = {}
        self.pauses: dict[str, None] = {}
        self.coverage: dict[int, list[tuple[int, int]]] = {}
        self.declared_next_epoch = 1
        self.chain_head: ObjectRef | None = None
        self.events = 0
        self.last_sealed_ms = 0

    @property
    def begun(self) -> bool:
        """Something of this writer is durable, if only of topics that are forgotten by now."""
        return self.chain_head is not None

    def apply(self, footer: Footer, ref: ObjectRef) -> frozenset[TopicId]:
        """Account for one durable segment; the caller keeps the order (writer epoch, seq).

        Returns:
            Incarnations that were forgotten with it: deleted, and nobody need hold anything of them any more.
        """
        self._apply_topics(footer)
        steps: dict[PartitionId, list[Run | Gap | Truncated]] = defaultdict(list)
        for run in footer.runs:
            if not run.flags.corrupt:
                steps[run.id].append(run)
        for event in footer.events:
            # The gap of a deletion moves nothing: should the topic prove alive after all (a lagging broker's answer was
            # believed), it is those offsets that must still be fetched.
            if isinstance(event, Truncated) or (isinstance(event, Gap) and event.cause != GapCause.TOPIC_DELETED):
                steps[event.id].append(event)
        held_back: set[PartitionId] = set()
        for id, items in steps.items():
            partition = self.partitions.get(id)
            if partition is not None and partition.seen:
                if not _advance(partition, items):
                    held_back.add(id)
            else:
                # Its position is asked for anew. What is captured then must not be hidden behind these branches, and
                # what the log has lost between these offsets and its start must not be a hole without a cause.
                first = min(item.offset if isinstance(item, Truncated) else _first_offset(item) for item in items)
                if partition is None:
                    self._know(id, footer, PartitionState(id=id, first_offset=first, next_offset=first, state=UNSEEN))
                unseen = self.partitions[id]
                unseen.first_offset = unseen.next_offset = min(unseen.first_offset, first)
                unseen.next_branch = max(unseen.next_branch, *(item.branch + 1 for item in items))
        self._settle_transactions(footer, held_back)
        merge_sequence(self.coverage.setdefault(footer.writer_epoch, []), footer.seq)
        for earlier in footer.earlier:
            self.declared_next_epoch = max(self.declared_next_epoch, earlier.writer_epoch + 1)
        self.chain_head = ref
        self.events += len(footer.events)
        self.last_sealed_ms = max(self.last_sealed_ms, footer.sealed_ms)
        # Only now: the same segment may hold the last runs of what it calls deleted.
        told = any(isinstance(event, TopicDeleted) for event in footer.events)
        return self._forget_deleted() if told else frozenset()

    def _forget_deleted(self) -> frozenset[TopicId]:
        """Drop the deleted incarnations that are not among the newest."""
        deleted = [topic.id for topic in self.topics.values() if topic.deleted]
        old = set(deleted[: max(0, len(deleted) - REMEMBERED_DELETED)])
        # Readers take the newest branch. Should such a topic come back, it must go on on a newer one than it ever had.
        old -= {id.topic_id for id, partition in self.partitions.items() if partition.next_branch > 1}
        if old:
            self.topics = {id: topic for id, topic in self.topics.items() if id not in old}
            self.partitions = {id: known for id, known in self.partitions.items() if id.topic_id not in old}
        return frozenset(old)

    def _apply_topics(self, footer: Footer) -> None:
        for event in footer.events:
            match event:
                case TopicSeen():
                    self.topics[event.topic_id] = TopicState(
                        id=event.topic_id,
                        name=event.name,
                        partitions=event.partitions,
                        internal=event.internal,
                        configs=event.configs,
                    )
                case TopicDeleted() if event.topic_id in self.topics:
                    topic = self.topics.pop(event.topic_id)
                    topic.closed = topic.deleted = True
                    self.topics[topic.id] = topic  # the last one is the newest to be deleted
                case TopicExcluded() if event.topic_id in self.topics:
                    self.topics[event.topic_id].closed = True
                case PartitionSeen():
                    known = self.partitions.get(event.id)
                    if known is None or not known.seen:
                        seen = PartitionState(
                            id=event.id,
                            first_offset=event.first_offset,
                            next_offset=event.first_offset,
                            next_branch=known.next_branch if known else 1,
                        )
                        self._know(event.id, footer, seen)
                case Paused(paused=True):
                    self.pauses[event.topics] = None
                case Paused():
                    self.pauses.pop(event.topics, None)
                case _:
                    pass

    def _know(self, id: PartitionId, footer: Footer, partition: PartitionState) -> None:
        """Keep `partition`, and its topic: that one's own event may be in a lost segment.

        Zero partitions make discovery tell the topic again.
        """
        self.partitions[id] = partition
        name = footer.topics[id.topic_id]
        self.topics.setdefault(
            id.topic_id, TopicState(id=id.topic_id, name=name, partitions=0, internal=False, configs={})
        )

    def _settle_transactions(self, footer: Footer, held_back: set[PartitionId]) -> None:
        """The footer's word on what is open replaces ours for every partition it holds runs of."""
        open_now: dict[PartitionId, list[OpenTransaction]] = defaultdict(list)
        for row in footer.open_transactions:
            open_now[row.id].append(row)
        for run in footer.runs:
            # Held back by a lost segment, a partition stands before what this footer speaks of.
            if run.flags.corrupt or run.id in held_back:
                continue
            partition = self.partitions.get(run.id)
            if partition is None or not partition.seen:
                continue
            if partition.open_transactions:
                partition.open_transactions.clear()
            if run.id in open_now:
                partition.open_transactions.update(
                    {row.producer_id: (row.producer_epoch, row.first_offset) for row in open_now[run.id]}
                )

    def picture(
        self,
        *,
        identity: Identity,
        key: str,
        writer_epoch: int,
        number: int,
        sealed_ms: int,
        segments: tuple[tuple[str, str, int], ...],
        states: Mapping[PartitionId, str],
    ) -> Callable[[], Checkpoint]:
        """A checkpoint of this moment, made when and in whatever thread the result is called.

        What is copied at once is a sixth of the work: at 10,000 partitions 5 ms of 30 in which a daemon's loop does
        nothing else.

        Args:
            states: the live conditions of partitions, for people; nobody may change it any more.
        """
        partitions = [
            (
                partition.id,
                partition.first_offset,
                partition.next_offset,
                partition.branch,
                partition.next_branch,
                partition.state,
                tuple(partition.leader_epochs),
                tuple(partition.open_transactions.items()) if partition.open_transactions else (),
            )
            for partition in self.partitions.values()
        ]
        bare = Checkpoint(
            identity=identity,
            key=key,
            writer=self.writer,
            writer_epoch=writer_epoch,
            number=number,
            sealed_ms=sealed_ms,
            chain_head=self.chain_head,
            coverage={epoch: tuple(ranges) for epoch, ranges in self.coverage.items()},
            declared_next_epoch=self.declared_next_epoch,
            segments=segments,
            events=self.events,
            topics=tuple(
                TopicCheckpoint(
                    id=topic.id,
                    name=topic.name,
                    partitions=topic.partitions,
                    internal=topic.internal,
                    configs=topic.configs,
                    closed=topic.closed,
                    deleted=topic.deleted,
                )
                for topic in self.topics.values()
            ),
            partitions=(),
            pauses=tuple(self.pauses),
        )

        def complete() -> Checkpoint:
            return replace(
                bare,
                partitions=tuple(
                    PartitionCheckpoint(
                        id=id,
                        first_offset=first_offset,
                        next_offset=next_offset,
                        branch=branch,
                        next_branch=next_branch,
                        state=state if state == UNSEEN else states.get(id, state),
                        leader_epoch=leader_epochs[-1][0] if leader_epochs else -1,
                        leader_epochs=leader_epochs,
                        open_transactions=tuple((producer_id, epoch, first) for producer_id, (epoch, first) in opened),
                    )
                    for id, first_offset, next_offset, branch, next_branch, state, leader_epochs, opened in partitions
                ),
            )

        return complete

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> WriterState:
        state = cls(checkpoint.writer)
        state.coverage = {epoch: list(ranges) for epoch, ranges in checkpoint.coverage.items()}
        state.declared_next_epoch = checkpoint.declared_next_epoch
        state.chain_head = checkpoint.chain_head
        state.events = checkpoint.events
        # The checkpoint's own stamp is the clock's, which may have stepped back; segments never do.
        head = parse_segment_key(checkpoint.chain_head.key) if checkpoint.chain_head else None
        state.last_sealed_ms = head.sealed_ms if head else 0
        state.pauses = dict.fromkeys(checkpoint.pauses)
        for topic in checkpoint.topics:
            state.topics[topic.id] = TopicState(
                id=topic.id,
                name=topic.name,
                partitions=topic.partitions,
                internal=topic.internal,
                configs=topic.configs,
                closed=topic.closed,
                deleted=topic.deleted,
            )
        for row in checkpoint.partitions:
            state.partitions[row.id] = PartitionState(
                id=row.id,
                first_offset=row.first_offset,
                next_offset=row.next_offset,
                branch=row.branch,
                next_branch=row.next_branch,
                state=row.state,
                leader_epochs=list(row.leader_epochs),
                open_transactions={producer_id: (epoch, first) for producer_id, epoch, first in row.open_transactions},
            )
        return state

    def earlier_epochs(self, this_epoch: int, last: dict[int, ObjectRef]) -> tuple[EarlierEpoch, ...]:
        """What the first footers of `this_epoch` must say of the epochs nobody has described yet.

        Args:
            last: newest durable segment per epoch, as far as recovery saw one.
        """
        return tuple(
            EarlierEpoch(writer_epoch=epoch, durable=tuple(self.coverage.get(epoch, ())), last=last.get(epoch))
            for epoch in range(self.declared_next_epoch, this_epoch)
        )


def _advance(partition: PartitionState, items: list[Run | Gap | Truncated]) -> bool:
    """Move `partition` over what is contiguous in `items`, branch after branch; False if it is held back."""
    if len(items) == 1 and isinstance(only := items[0], Run) and only.branch == partition.branch:
        # What nearly every segment says of nearly every partition: in few steps, ten thousand times a flush.
        if _first_offset(only) > partition.next_offset:
            return False
        partition.next_offset = max(partition.next_offset, only.next_offset)
        add_epochs(partition.leader_epochs, only.leader_epochs)
        return True
    by_branch: dict[int, list[Run | Gap | Truncated]] = defaultdict(list)
    for item in items:
        by_branch[item.branch].append(item)
        partition.next_branch = max(partition.next_branch, item.branch + 1)
    for branch in sorted(by_branch):
        if branch < partition.branch:
            continue
        if branch > partition.branch:
            cut = next((item for item in by_branch[branch] if isinstance(item, Truncated)), None)
            # A truncation beyond what is contiguous was seen by a life whose earlier segment is lost: stay on the old
            # branch, whose leader epoch makes the broker report the divergence again.
            if cut is None or cut.parent != partition.branch or cut.offset > partition.next_offset:
                return False
            partition.branch = branch
            partition.next_offset = cut.offset
            # Cut to where it began, or below: nothing is held of the log that is there now.
            partition.first_offset = min(partition.first_offset, cut.offset)
            cut_epochs(partition.leader_epochs, cut.offset)
            _drop_transactions_from(partition, cut.offset)
        for item in sorted((i for i in by_branch[branch] if not isinstance(i, Truncated)), key=_first_offset):
            if _first_offset(item) > partition.next_offset:
                return False
            nothing_held = partition.first_offset == partition.next_offset
            partition.next_offset = max(partition.next_offset, item.next_offset)
            if nothing_held and isinstance(item, Gap) and item.cause == GapCause.LOG_START_MOVED:
                # Still nothing is held: coverage begins where the log does, as at first sight.
                partition.first_offset = partition.next_offset
            if isinstance(item, Run):
                add_epochs(partition.leader_epochs, item.leader_epochs)
    return True


def _first_offset(item: Run | Gap) -> int:
    return min(item.asked_offset, item.next_offset) if isinstance(item, Run) else item.first_offset


def _drop_transactions_from(partition: PartitionState, offset: int) -> None:
    for producer_id, (_, first) in list(partition.open_transactions.items()):
        if first >= offset:
            del partition.open_transactions[producer_id]

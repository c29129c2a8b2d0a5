"""Durable offsets committed to a consumer group of the source, so that every Kafka tool shows the backup's lag.

Last in the order (invariant I4): what is committed stands in a checkpoint, or is what a start found in the bucket. The
bucket is the truth. What the group says is read to know what there is to commit, and is never obeyed: a position above
the archive's is reported and set back. Whatever goes wrong in here is told and tried again; records are not concerned.

An idle cluster comes to rest (hazard 56a): each commit is a new record in `__consumer_offsets`, which is captured and
moves a checkpoint. Only user partitions that moved are committed, so that this checkpoint asks for nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

import structlog

from kbackupd.archive.partition_state import UNSEEN, PartitionState
from kbackupd.archive.writer_state import TopicState
from kbackupd.capture.source import GroupPositions
from kbackupd.capture.waiting import woken
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Checkpoint, PartitionCheckpoint, TopicCheckpoint
from kbackupd.model.settings import SYSTEM_TOPICS
from kbackupd.observe import events
from kbackupd.observe.labels import CommitOutcome
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

COMPARE_SECONDS = 3600.0
"""How often the group is read again. Kafka forgets positions that were not committed for `offsets.retention.minutes`
where a group has no members, and operators reset groups: a topic that does not move would be without a lag for ever."""
TRIES = 5
"""Of one round, while coordinators answer "not now" or "not me": the first group of a cluster has their topic made."""
FIRST_PAUSE_SECONDS = 0.5
PROBLEM_AFTER_SECONDS = 90.0
"""For so long a group may lag behind the checkpoints before that is a problem: brokers restart."""
LAST_SECONDS = 3.0
"""How long a drain may wait for the group; it must have as long to spare beyond that."""
REQUEST_PARTITIONS = 2_000
REQUEST_BYTES = 256 << 10
"""Of the records a request makes: a coordinator appends them as one batch, which must stay far below the one MiB that
`__consumer_offsets` takes by default."""
RECORD_BYTES = 80
"""Of such a record, beside the names of the group and the topic."""

_NOT_NOW = frozenset(
    {
        KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaErrorCode.COORDINATOR_NOT_AVAILABLE,
        KafkaErrorCode.NOT_COORDINATOR,
    }
)
_IN_USE = frozenset(
    {
        KafkaErrorCode.ILLEGAL_GENERATION,
        KafkaErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        KafkaErrorCode.UNKNOWN_MEMBER_ID,
        KafkaErrorCode.REBALANCE_IN_PROGRESS,
        KafkaErrorCode.GROUP_ID_NOT_FOUND,
        KafkaErrorCode.FENCED_INSTANCE_ID,
        KafkaErrorCode.FENCED_MEMBER_EPOCH,
        KafkaErrorCode.STALE_MEMBER_EPOCH,
    }
)
"""What a coordinator tells one without membership who commits to a group that has members, or is of another kind."""
_DENIED = frozenset({KafkaErrorCode.GROUP_AUTHORIZATION_FAILED, KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED})
_OF_THE_GROUP = _NOT_NOW | _IN_USE | {KafkaErrorCode.GROUP_AUTHORIZATION_FAILED}
_HINTS: Mapping[CommitOutcome, str] = {
    "denied": "grant kbackupd's principal Read on the consumer group and the topics, or set source.consumer_group: off",
    "in_use": "consumers use this group: give kbackupd one of its own (source.consumer_group), or set it to off",
    "failed": "records are backed up all the same; Kafka's tools show an older position until a commit succeeds",
}

log = structlog.get_logger()

Positions = Mapping[TopicPartition, OffsetToCommit]


def committable(
    topics: Iterable[TopicState | TopicCheckpoint], partitions: Iterable[PartitionState | PartitionCheckpoint]
) -> Positions:
    """The durable offsets of user partitions by their topics' names; of two incarnations the newest counts."""
    names = {
        topic.id: topic.name for topic in topics if not (topic.closed or topic.internal or topic.name in SYSTEM_TOPICS)
    }
    return {
        TopicPartition(names[row.id.topic_id], row.id.partition): OffsetToCommit(row.next_offset, row.leader_epoch)
        for row in partitions
        if row.id.topic_id in names and row.state != UNSEEN
    }


def requests(group: str, positions: Positions) -> Iterator[Positions]:
    """`positions` in parts that one request each may hold."""
    part: dict[TopicPartition, OffsetToCommit] = {}
    held = 0
    for tp, position in positions.items():
        size = RECORD_BYTES + len(group) + len(tp.topic)
        if part and (len(part) == REQUEST_PARTITIONS or held + size > REQUEST_BYTES):
            yield part
            part, held = {}, 0
        part[tp] = position
        held += size
    if part:
        yield part


class GroupCommitter:
    """Owns what the group is known to say. One task runs it; `covered` may be called from the same loop at any time.

    Args:
        group: the group's name; nobody else may commit to it.
        recovered: where the bucket says that this life begins.
        interval_seconds: until what failed is tried again; the checkpoint interval.
    """

    def __init__(
        self,
        *,
        source: GroupPositions,
        group: str,
        recovered: Positions,
        interval_seconds: float,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self._source = source
        self._group = group
        self._subject = f"consumer group {group}"
        self._wanted = recovered
        self._checkpoint: Checkpoint | None = None
        self._said: dict[TopicPartition, int] = {}
        """Offsets the group has, as it told or took them."""
        self._incarnations: Mapping[str, TopicId] = {}
        """Of the open topics in the newest checkpoint that was looked at, by name."""
        self._compared_at: float | None = None
        self._node_id = -1
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._offered = asyncio.Event()
        self._behind_since: float | None = clock.monotonic()
        self._told: CommitOutcome = "ok"
        self._leave_by = float("inf")

    def covered(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is durable: what it covers may be committed. Returns at once."""
        self._checkpoint = checkpoint
        if self._behind_since is None:
            self._behind_since = self._clock.monotonic()
        self._offered.set()

    def every(self, interval_seconds: float) -> None:
        """Another interval until what failed is tried again, counted from a round that is due now."""
        if interval_seconds != self._interval_seconds:
            self._interval_seconds = interval_seconds
            self._offered.set()

    def behind_seconds(self) -> float:
        """Since when the group has not had what checkpoints cover; 0 while it has."""
        return 0.0 if self._behind_since is None else self._clock.monotonic() - self._behind_since

    async def run(self) -> None:
        """A round at once, after every checkpoint, and again at the interval while one fails; runs until cancelled."""
        while True:
            done = await self.commit()
            await woken(self._offered, COMPARE_SECONDS if done else self._interval_seconds)

    def stopping(self, *, within_seconds: float) -> None:
        """The drain has begun and must end within this time."""
        self._leave_by = self._clock.monotonic() + within_seconds

    async def leave(self) -> None:
        """One last round, for the checkpoint of a drain that is done but for this; a few seconds at most.

        All is durable by now: a coordinator that is slow must not make it a drain that did not end in time.
        """
        seconds = min(LAST_SECONDS, self._leave_by - self._clock.monotonic() - LAST_SECONDS)
        if self._behind_since is None or seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.commit()
        except TimeoutError:
            log.info(events.GROUP_COMMIT_FAILED, group=self._group, outcome="failed", error="no time was left")

    async def commit(self) -> bool:
        """One round; False: another one is wanted soon. Raises nothing.

        What was answered for is committed on return. Cancelled, the request under way is carried out or not.
        """
        self._offered.clear()
        before = self._checkpoint
        try:
            moved, left = await self._commit()
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            self._missed(error, error.message, error.code, error.hint)
            return False
        except Exception as error:  # noqa: BLE001  a fault in here must not end the backup of records
            hint = "this is a fault of kbackupd: please report it"
            self._missed(
                error, f"unexpected {type(error).__name__}: {error}", KafkaErrorCode.UNKNOWN_SERVER_ERROR, hint
            )
            return False
        if self._told != "ok":
            log.info(events.GROUP_COMMITTED, group=self._group, partitions=moved)
        self._told = "ok"
        self._problems.clear(self._subject)
        if moved:
            self._metrics.group_commit_ended("ok")
            log.debug(events.GROUP_COMMITTED, group=self._group, partitions=moved)
        self._behind_since = None if self._checkpoint is before else self._clock.monotonic()
        return not left

    async def _commit(self) -> tuple[int, int]:
        checkpoint = self._checkpoint
        if checkpoint is not None:
            # In a thread: at 10,000 partitions this takes as long as many a fetch.
            self._wanted = await asyncio.to_thread(committable, checkpoint.topics, checkpoint.partitions)
            self._forget_deleted({topic.name: topic.id for topic in checkpoint.topics if not topic.closed})
        for attempt in range(TRIES):
            try:
                return await self._try()
            except (KafkaUnavailableError, KafkaDeniedError) as error:
                self._node_id = -1
                if error.code not in _NOT_NOW or attempt == TRIES - 1:
                    raise
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")

    async def _try(self) -> tuple[int, int]:
        """How many positions were committed, and how many not, of topics the coordinator does not know (any more).

        Raises what kept any other from it.
        """
        if self._node_id < 0:
            self._node_id = await self._coordinator()
        now = self._clock.monotonic()
        if self._compared_at is None or now - self._compared_at >= COMPARE_SECONDS:
            await self._compare()
            self._compared_at = now
        due = {tp: position for tp, position in self._wanted.items() if self._said.get(tp) != position.offset}
        moved = 0
        refused: dict[int, TopicPartition] = {}
        for part in requests(self._group, due):
            codes = await self._source.commit_offsets(self._node_id, self._group, part)
            taken = [tp for tp in part if codes.get(tp) == KafkaErrorCode.NONE]
            self._said.update((tp, part[tp].offset) for tp in taken)
            moved += len(taken)
            for tp in part:
                refused.setdefault(codes.get(tp, KafkaErrorCode.UNKNOWN_SERVER_ERROR), tp)
            if refused.keys() & _OF_THE_GROUP:
                break  # the others would be refused alike; one topic's refusal keeps no other from being committed
        self._judge(refused)
        return moved, len(due) - moved

    def _forget_deleted(self, incarnations: Mapping[str, TopicId]) -> None:
        """A coordinator forgets a deleted topic's positions: what its successor has is not what was said of it.

        A job that makes its topic anew every day fills it with as many records as the day before.
        """
        kept = {name for name, id in incarnations.items() if self._incarnations.get(name, id) == id}
        if self._incarnations.keys() - kept:
            self._said = {tp: offset for tp, offset in self._said.items() if tp.topic in kept}
        self._incarnations = incarnations

    async def _coordinator(self) -> int:
        found = (await self._source.find_coordinators([self._group])).get(self._group)
        if found is None or found.error_code != KafkaErrorCode.NONE:
            code = KafkaErrorCode.UNKNOWN_SERVER_ERROR if found is None else found.error_code
            self._refused(code, "asking for its coordinator")
        return found.node_id

    async def _compare(self) -> None:
        """Learn what the group says. Above the archive's it is reported; it is set back by what is due anyway."""
        told = (await self._source.fetch_offsets(self._node_id, [self._group])).get(self._group)
        code = KafkaErrorCode.UNKNOWN_SERVER_ERROR if told is None else told.error_code
        if told is None or code not in (KafkaErrorCode.NONE, KafkaErrorCode.GROUP_ID_NOT_FOUND):
            self._refused(code, "reading its positions")
        said = {TopicPartition(one.topic, one.partition): one.offset for one in told.offsets if not one.error_code}
        ahead = [
            tp
            for tp, position in self._wanted.items()
            if said.get(tp, -1) > position.offset and said[tp] != self._said.get(tp)
        ]
        self._said = said
        if ahead:
            first = ahead[0]
            message = (
                f"{len(ahead)} partitions were committed further than the archive reaches, the first {first.topic}/"
                f"{first.partition}: {said[first]} instead of {self._wanted[first].offset}; set back"
            )
            hint = (
                "capture goes on from the archive, whatever the group says. Were objects of the archive removed or "
                "rolled back, or does somebody else commit to this group?"
            )
            log.warning(events.GROUP_FOUND_AHEAD, group=self._group, error=message, hint=hint)
            self._problems.note(self._subject, message, hint=hint)

    def _judge(self, answered: Mapping[int, TopicPartition]) -> None:
        """Raise for what was refused, the most telling code first; `answered`: a partition for each code."""
        # A topic that is being deleted, or that this broker has not heard of yet: the next round knows better.
        harmless = (KafkaErrorCode.NONE, KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        refused = [code for code in answered if code not in harmless]
        if refused:
            code = max(refused, key=lambda code: (code in _OF_THE_GROUP, code in _DENIED))
            self._refused(code, f"committing {answered[code].topic}/{answered[code].partition} and others")

    def _refused(self, code: int, doing: str) -> NoReturn:
        raise error_for_code(code, f"{doing} ({self._subject})")

    def _missed(self, error: Exception, message: str, code: int, hint: str) -> None:
        outcome: CommitOutcome = "in_use" if code in _IN_USE else "denied" if code in _DENIED else "failed"
        hint = hint if outcome == "failed" and hint else _HINTS[outcome]
        self._metrics.group_commit_ended(outcome)
        if self._told != outcome:
            # Once, not every half minute for as long as nobody changes it.
            log.warning(events.GROUP_COMMIT_FAILED, group=self._group, outcome=outcome, error=message, hint=hint)
        if outcome == "denied":
            self._problems.clear(self._subject)
            if self._told != "denied":
                self._problems.note(self._subject, message, hint=hint)
        elif outcome == "in_use" or self.behind_seconds() >= PROBLEM_AFTER_SECONDS:
            self._problems.report(self._subject, message, hint=hint)
        if outcome == "failed":
            self._metrics.error_met(error)
        self._told = outcome

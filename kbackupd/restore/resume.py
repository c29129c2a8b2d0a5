"""Whether a restore is gone on with, and what of it the target holds already. Pure.

Owns the rule that nothing is doubled (hazards 27 to 29): a partition's log must hold exactly a prefix of what is
produced again, whole batches of it, by the producer that the restore wrote down. What it holds is not sent again; what
follows continues its sequence, so that a dead run's late request is a repetition the broker knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum

import msgspec

from kbackupd.format.header import BatchHeader
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.clock import iso
from kbackupd.model.errors import IncompleteError, RefusedError
from kbackupd.model.positions import TopicId
from kbackupd.model.restores import Finished, RestoreReady, Unfinished
from kbackupd.model.settings import RestoreOptions, RetentionAfter
from kbackupd.model.units import format_few
from kbackupd.restore.content_digest import batch_digest
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, Holds, ProduceBatch
from kbackupd.restore.refusals import SET_ASIDE, begin_anew

_FREE = ("retention_after", "rate_limit_bytes_per_second", "verify", "consumer_groups", "acls")
"""Options that may differ between the runs of one restore."""

_BY_TOPIC = ("offsets", "partitions", "incarnations", "branches")
"""Parts of the scope with an entry for each topic they are about, or for each of its partitions, `topic/partition`."""


def deciding(options: RestoreOptions) -> dict[str, object]:
    """The options that decide which records come back and how, as plain data."""
    return {field.name: _plain(getattr(options, field.name)) for field in fields(options) if field.name not in _FREE}


def as_known_now(then: Mapping[str, object]) -> dict[str, object]:
    """`deciding` as another version wrote it down: an option that it did not know has its default."""
    return _completed(then, deciding(RestoreOptions()))


def _completed(then: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    whole = {**defaults, **then}
    for key, default in defaults.items():
        value = whole[key]
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            whole[key] = _completed(value, default)
    return whole


def _plain(value: object) -> object:
    """As it comes back from a document: a partition of a topic is `topic/partition` there, sets are in order."""
    match value:
        case Enum():
            return value.value
        case Mapping():
            return {
                "/".join(map(str, key)) if isinstance(key, tuple) else str(key): _plain(v) for key, v in value.items()
            }
        case tuple() | list():
            return [_plain(one) for one in value]
        case frozenset():
            return sorted(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def plan_digest(plan: RestorePlan) -> str:
    """Of what is restored; where archive and target are reached, and what happens afterwards, is not in it."""
    same = replace(plan, archive="", target=(), retention_after=RetentionAfter.AUTO, damaged=())
    return hashlib.sha256(msgspec.json.encode(same)).hexdigest()


def gone_on_with(
    unfinished: Sequence[Unfinished],
    *,
    options: RestoreOptions,
    target_cluster_id: str,
    there: Mapping[str, TopicId],
) -> Unfinished | None:
    """The restore that these options began and did not finish; None: it is a new one.

    Args:
        unfinished: the oldest first.
        there: name → id of the target's topics, those of the unfinished restores among them.

    Raises:
        RefusedError: the topics that would be filled are half filled by another restore, or half of them is gone.
    """
    for one in reversed(unfinished):
        if one.begun.target_cluster_id != target_cluster_id or one.ready is None:
            continue
        names = [topic.target for topic in one.ready.topics]
        left = [topic.target for topic in one.ready.topics if there.get(topic.target) == topic.topic_id]
        gone = [name for name in names if name not in left]
        # An older restore's topics may hold what a later one, with others, has nothing to do with.
        concerned = [name for name in left if any(options.target_of(t.source) == name for t in one.begun.topics)]
        if not concerned:
            continue
        whose = f"topics {format_few(concerned)} were begun to be filled at {iso(one.begun.began_ms)} ({one.begun.key})"
        then = as_known_now(one.begun.options)
        if then != deciding(options):
            anew = "delete these topics to begin anew"
            if one.begun.options.get("append"):
                anew = f"restore into others (topic_mapping); {SET_ASIDE}"
            raise RefusedError(
                f"{whose}, with other options: {_differences(then, deciding(options))}",
                hint=f"run it with the options of then to go on, or {anew}",
            )
        if gone:
            raise RefusedError(
                f"{whose}, and {format_few(gone)} that belong to the same restore are gone or new",
                hint=SET_ASIDE
                if one.begun.options.get("append")
                else f"delete {format_few(left)} as well to begin anew",
            )
        return one
    return None


def refuse_twice(
    finished: Sequence[Finished], *, options: RestoreOptions, target_cluster_id: str, there: Mapping[str, TopicId]
) -> None:
    """Where topics may hold records, only what was written down keeps a restore from being appended twice (hazard 28).

    The same is what comes of the same topic: whether it was named or matched by a glob, alone or among others, what was
    chosen of those, and whether the topic held records the first time, makes no difference.

    Raises:
        RefusedError: the same has been restored into one of these topics.
    """
    now = deciding(options)
    for one in reversed(finished):
        if one.begun.target_cluster_id != target_cluster_id:
            continue
        then = as_known_now(one.begun.options)
        filled = {topic.target: topic.topic_id for topic in one.ready.topics}
        held = [
            topic.target
            for topic in one.begun.topics
            if options.target_of(topic.source) == topic.target
            and _records(then, topic.source) == _records(now, topic.source)
            and there.get(topic.target) is not None
            and there.get(topic.target) == filled.get(topic.target)
        ]
        if held:
            raise RefusedError(
                f"the restore with these options into {format_few(held)} is done, begun at {iso(one.begun.began_ms)}"
                f" ({one.begun.key}): it would be appended twice",
                hint=f"nothing is left to do; to have it there twice: {SET_ASIDE}",
            )


def _records(options: Mapping[str, object], topic: str) -> dict[str, object]:
    """Of what `deciding` gives, what decides which records of that topic come back."""
    kept = {key: value for key, value in options.items() if key not in ("topics", "topic_mapping", "append", "offsets")}
    scope = kept.get("scope")
    if isinstance(scope, Mapping):
        kept["scope"] = {
            key: {of: chosen for of, chosen in value.items() if of.split("/")[0] == topic}
            if key in _BY_TOPIC
            else value
            for key, value in scope.items()
            if key != "target_partitions"  # what the target has beside them decides about no record
        }
    return kept


def own_overrides(unfinished: Sequence[Unfinished], name: str, topic_id: TopicId) -> dict[str, str] | None:
    """What was configured on an existing topic before the first of these restores made it safe; None: not known."""
    for one in unfinished:
        for topic in one.begun.topics:
            if topic.target == name and topic.existing_topic_id == topic_id:
                return topic.overrides
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestBatch:
    """The last batch of a target partition's log."""

    header: BatchHeader
    digest: bytes


class Landed:
    """How much of what one partition's restore produces is in its log already. Asked of each batch, in order.

    Args:
        offsets: so many are taken, by records or, where offsets are kept, by what stands for none.
        newest: the batch they end with; None if there are none, or what there was is deleted.
        appends: the topic held records of others before.
    """

    def __init__(self, tp: TopicPartition, offsets: int, newest: NewestBatch | None, *, appends: bool = False) -> None:
        self._anew = begin_anew(tp, appends=appends)
        self.offsets = offsets
        self._tp = tp
        self._newest = newest
        self._passed = 0

    def left_of(self, batch: ProduceBatch) -> ProduceBatch | None:
        """What of it is not in the log: all, nothing (None), or the rest of a hole that was being filled.

        Raises:
            IncompleteError: the log does not hold a prefix of what is produced, cut between batches.
        """
        if self._passed >= self.offsets:
            return batch
        self._passed += batch.records
        if self._passed < self.offsets:
            return None
        if batch.holds is Holds.NOTHING and not self._ends_with_records:
            left = self._passed - self.offsets
            first_offset = batch.source_first_offset + batch.records - left
            return replace(batch, records=left, source_first_offset=first_offset) if left else None
        if self._passed == self.offsets and self._ends_with(batch):
            return None
        raise IncompleteError(
            f"{self._tp.topic}-{self._tp.partition}: the {self.offsets:,} records that an earlier run restored do not"
            f" end as this run's do",
            hint=f"the archive was repaired meanwhile, or another version of kbackupd began; {self._anew}",
        )

    @property
    def _ends_with_records(self) -> bool:
        return self._newest is not None and not self._newest.header.is_control

    def _ends_with(self, batch: ProduceBatch) -> bool:
        if self._newest is None:
            return batch.holds is Holds.FILLER
        return self._newest.digest == batch_digest(batch.data)

    def check_passed(self) -> None:
        """To be called when nothing more will be produced.

        Raises:
            IncompleteError: the log holds more than that.
        """
        if self._passed < self.offsets:
            raise IncompleteError(
                f"{self._tp.topic}-{self._tp.partition}: an earlier run restored {self.offsets:,} records, this one"
                f" finds {self._passed:,}",
                hint="part of the archive cannot be read any more; the topic has what could be read then",
            )


def landed(
    tp: TopicPartition,
    *,
    first_offset: int,
    log_end: int,
    newest: NewestBatch | None,
    ready: RestoreReady,
    keeps_offsets: bool = False,
    appends: bool = False,
) -> Landed:
    """What was written from `first_offset` to `log_end` is of the restore.

    Args:
        newest: the batch the log ends with; None: it is empty.
        appends: the topic held records of others before.

    Raises:
        RefusedError: the log ends with something the restore did not write.
    """
    taken = log_end - first_offset
    if taken == 0:
        return Landed(tp, 0, None, appends=appends)
    if taken < 0 or not _is_of(ready, newest, log_end, taken, keeps_offsets):
        raise RefusedError(
            f"topic {tp.topic}: partition {tp.partition} ends at offset {log_end} with something that the restore begun"
            f" there did not write",
            hint=f"somebody else writes into {tp.topic}; stop them, and {begin_anew(tp, appends=appends)}",
        )
    return Landed(tp, taken, newest, appends=appends)


def _is_of(ready: RestoreReady, newest: NewestBatch | None, log_end: int, taken: int, kept: bool) -> bool:
    if newest is None:
        return kept  # fillers, deleted
    header = newest.header
    if header.next_offset != log_end:
        return False
    if header.is_control:
        return kept  # a hole that is filled, or is being filled
    if (header.producer_id, header.producer_epoch) != (ready.producer_id, ready.producer_epoch):
        return False
    # Of kept offsets some have no record, and no sequence.
    return kept or (header.base_sequence + header.record_count) % SEQUENCE_MODULUS == taken % SEQUENCE_MODULUS


def _differences(then: Mapping[str, object], now: Mapping[str, object]) -> str:
    keys = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key)]
    return "; ".join(f"{key} was {_shown(then.get(key))} and is {_shown(now.get(key))}" for key in keys)


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}…"

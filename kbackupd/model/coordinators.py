"""What group and transaction coordinators write into `__consumer_offsets` and `__transaction_state`, as values.

Both topics are compacted logs that a coordinator replays when it takes over: the newest record of a key is its state,
a null value deletes it. docs/internal-topics.md says how their bytes are laid out and what follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from kbackupd.model.positions import TopicId

CONSUMER_OFFSETS = "__consumer_offsets"
TRANSACTION_STATE = "__transaction_state"


class OffsetKey(NamedTuple):
    """Whose position: of which group in which partition. Kafka knows the topic by name here."""

    group: str
    topic: str
    partition: int


class CommittedPosition(NamedTuple):
    """What a group committed for one partition."""

    offset: int
    leader_epoch: int
    """−1: the client gave none, or the record is older than Kafka 2.1."""
    metadata: str
    committed_ms: int
    """By the coordinator's clock, or as an old client gave it."""
    expire_ms: int
    """−1: the broker's retention decides."""
    topic_id: TopicId | None
    """None: the broker did not write one."""


class GroupKey(NamedTuple):
    """Names a group as such; whether it lives is told by the newest value: null is deleted."""

    type: str
    """`classic`, `consumer`, `share` or `streams`, as the broker's API spells them."""
    group: str


class OtherKey(NamedTuple):
    """A record of `__consumer_offsets` that has nothing to do with positions, or is newer than this version."""

    version: int


class ClassicMember(NamedTuple):
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    """−1: older than Kafka 0.10.1."""
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicGroup:
    """A group of the classic protocol as its coordinator saw it when it last became stable, or empty."""

    protocol_type: str
    generation: int
    protocol: str | None
    leader: str | None
    changed_ms: int
    """−1: older than Kafka 2.1."""
    members: tuple[ClassicMember, ...]


class TransactionState(IntEnum):
    """By Kafka's numbers and, in `title`, by its names."""

    EMPTY = 0
    """The producer is initialised; no transaction yet, or none any more."""
    ONGOING = 1
    PREPARE_COMMIT = 2
    """The commit is decided: from here on nothing but time keeps markers from being written everywhere."""
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    """All markers are written."""
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7
    """Never written by brokers up to 4.3, but a state of theirs."""

    @property
    def title(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEntry:
    """One record of a transactional id: its state from then on."""

    producer_id: int
    producer_epoch: int
    """Of the next marker in a `Prepare…` state, else of the data. With clients of transaction version 2 or later
    (KIP-890) every end of a transaction is written with the next epoch, so that it names one transaction alone."""
    timeout_ms: int
    state: TransactionState
    partitions: tuple[tuple[str, int], ...]
    """(topic, partition), as written; none in `Empty` and `Complete…` states."""
    updated_ms: int
    started_ms: int
    """When the first partition was added; −1 outside of a transaction. One transaction keeps it to its end."""
    previous_producer_id: int = -1
    """−1: not written (before Kafka 4, or where it does not matter)."""
    next_producer_id: int = -1
    """−1: as above; else the epoch ran out, and the transactional id goes on under this producer id."""
    next_producer_epoch: int = -1
    client_version: int = 0
    """Transaction version of the client that caused it; 0 before Kafka 4."""

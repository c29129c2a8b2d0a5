"""A batch as it is produced, and under whose sequence: what rewriting, sending, resuming and verifying speak of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

SEQUENCE_MODULUS = 1 << 31

RawBatch: TypeAlias = bytes | bytearray


class ProducerIdentity(NamedTuple):
    producer_id: int
    producer_epoch: int


class Holds(Enum):
    """What the offsets are taken by that a batch takes."""

    RECORDS = auto()
    FILLER = auto()
    """Records of nothing, before the first one of the source; they are deleted."""
    NOTHING = auto()
    """Nothing is sent: the offsets are filled in another way, before what comes behind is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceBatch:
    """One batch ready to be sent, checksum included."""

    data: RawBatch
    """Not to be changed any more: it is sent from where it lies, maybe more than once."""
    records: int
    """Offsets it takes in the target."""
    base_sequence: int
    source_first_offset: int
    """Of its first record."""
    holds: Holds = Holds.RECORDS

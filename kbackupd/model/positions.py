"""Where a record is: ids, offsets, half-open ranges."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import NamedTuple, NewType

TopicId = NewType("TopicId", str)
"""A topic's id as Kafka prints it: 22 characters of unpadded URL-safe base64."""


def topic_id_from_uuid(value: uuid.UUID) -> TopicId:
    return TopicId(base64.urlsafe_b64encode(value.bytes).rstrip(b"=").decode())


def topic_id_to_uuid(topic_id: TopicId) -> uuid.UUID:
    return uuid.UUID(bytes=base64.urlsafe_b64decode(topic_id + "=="))


class PartitionId(NamedTuple):
    """One partition of one incarnation of a topic (invariant I7: never the name alone)."""

    topic_id: TopicId
    partition: int


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """Offsets `first_offset <= o < next_offset`."""

    first_offset: int
    next_offset: int

    def __post_init__(self) -> None:
        if self.first_offset > self.next_offset:
            raise ValueError(f"a range cannot end before it begins: {self}")

    def __len__(self) -> int:
        return self.next_offset - self.first_offset

    def __str__(self) -> str:
        return f"[{self.first_offset}, {self.next_offset})"

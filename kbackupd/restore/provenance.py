"""Headers that say where a restored record comes from: pure. Added only where the operator asked for them."""

from __future__ import annotations

from kbackupd.format.records import with_headers

TOPIC = b"kbackupd.source.topic"
PARTITION = b"kbackupd.source.partition"
OFFSET = b"kbackupd.source.offset"
"""Their values are text, numbers in decimal."""


class Provenance:
    """Of one partition's records."""

    __slots__ = ("_partition", "_topic")

    def __init__(self, topic: str, partition: int) -> None:
        """Both of the source."""
        self._topic = topic.encode()
        self._partition = b"%d" % partition

    def added(self, body: bytes, offset: int) -> bytes:
        """The `body` of the record of that source offset, with the headers behind those it has.

        Raises:
            MalformedRecordError: the body is not a record's.
        """
        return with_headers(body, ((TOPIC, self._topic), (PARTITION, self._partition), (OFFSET, b"%d" % offset)))

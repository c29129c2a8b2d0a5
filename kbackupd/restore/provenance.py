"""Headers that say where a restored record comes from: pure. Added only where the operator asked for them."""

from __future__ import annotations

from kbackupd.format.records import encode_headers, with_headers

TOPIC = b"kbackupd.source.topic"
PARTITION = b"kbackupd.source.partition"
OFFSET = b"kbackupd.source.offset"
"""Their values are text, numbers in decimal."""


class Provenance:
    """Of one partition's records."""

    __slots__ = ("_place",)

    def __init__(self, topic: str, partition: int) -> None:
        """Both of the source."""
        self._place = encode_headers(((TOPIC, topic.encode()), (PARTITION, b"%d" % partition)))

    def added(self, body: bytes, offset: int) -> bytes:
        """The `body` of the record of that source offset, with the headers behind those it has.

        Raises:
            MalformedRecordError: the body is not a record's.
        """
        return with_headers(body, 3, self._place + encode_headers(((OFFSET, b"%d" % offset),)))

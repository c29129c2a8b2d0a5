"""The fields that Kafka's coordinator records are made of: a cursor over one key or one value.

Two dialects (KIP-482): plain ones have lengths of two or four bytes; flexible ones have them as varints, plus one, and
end every structure with tagged fields, of which those with unknown tags are skipped.
"""

from __future__ import annotations

import struct

from kbackupd.format.records import MalformedRecordError

_INT8 = struct.Struct(">b")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")

_UVARINT_MAX_SHIFT = 28
"""An unsigned varint has 32 bits: at most five bytes."""


class UnknownRecordError(ValueError):
    """A version or state that did not exist when this was written: told as such, never guessed."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number} is not known to this version")
        self.what = what
        self.number = number


class FieldReader:
    """Reads one field after the other.

    Every method raises MalformedRecordError, and nothing else, where the bytes do not hold what it is asked for.

    Args:
        what: what the bytes are, for messages.
    """

    __slots__ = ("_data", "_position", "_what", "flexible")

    def __init__(self, what: str, data: bytes, *, flexible: bool = False) -> None:
        self._what = what
        self._data = data
        self._position = 0
        self.flexible = flexible

    def int8(self) -> int:
        return self._number(_INT8)

    def int16(self) -> int:
        return self._number(_INT16)

    def int32(self) -> int:
        return self._number(_INT32)

    def int64(self) -> int:
        return self._number(_INT64)

    def string(self) -> str:
        found = self.nullable_string()
        if found is None:
            raise self._malformed("null where a string must be")
        return found

    def nullable_string(self) -> str | None:
        length = self._length(_INT16)
        if length is None:
            return None
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise self._malformed("a string that is not UTF-8") from None

    def blob(self) -> bytes:
        length = self._length(_INT32)
        if length is None:
            raise self._malformed("null where bytes must be")
        return self._take(length)

    def array_length(self) -> int | None:
        """How many items follow; None for null. Never more than bytes are left: every item takes at least one."""
        length = self._length(_INT32)
        if length is not None and length > len(self._data) - self._position:
            raise self._malformed(f"an array of {length} items in {len(self._data) - self._position} bytes")
        return length

    def tags(self) -> dict[int, bytes]:
        """The tagged fields that end a structure: tag → content; none in the plain dialect."""
        if not self.flexible:
            return {}
        found: dict[int, bytes] = {}
        for _ in range(self._uvarint()):
            tag, size = self._uvarint(), self._uvarint()
            found[tag] = self._take(size)
        return found

    def end(self) -> None:
        """Nothing may be left."""
        if self._position != len(self._data):
            raise self._malformed(f"{len(self._data) - self._position} bytes are left")

    def _number(self, layout: struct.Struct) -> int:
        try:
            (value,) = layout.unpack_from(self._data, self._position)
        except struct.error:
            raise self._malformed("bytes end inside a number") from None
        self._position += layout.size
        return int(value)

    def _length(self, layout: struct.Struct) -> int | None:
        length = self._uvarint() - 1 if self.flexible else self._number(layout)
        if length == -1:
            return None
        if length < 0:
            raise self._malformed(f"senseless length {length}")
        return length

    def _uvarint(self) -> int:
        value = shift = 0
        while self._position < len(self._data):
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 32:
                    break
                return value
            shift += 7
            if shift > _UVARINT_MAX_SHIFT:
                raise self._malformed("a varint of more than 32 bits")
        raise self._malformed("bytes end inside a varint, or it has more than 32 bits")

    def _take(self, length: int) -> bytes:
        taken = self._data[self._position : self._position + length]
        if len(taken) != length:
            raise self._malformed(f"{length} bytes were announced, {len(taken)} are left")
        self._position += length
        return taken

    def _malformed(self, reason: str) -> MalformedRecordError:
        return MalformedRecordError(f"{self._what}: {reason}")


def tagged_int16(tags: dict[int, bytes], tag: int, default: int, what: str) -> int:
    return default if tag not in tags else _whole(FieldReader(what, tags[tag]), _INT16)


def tagged_int64(tags: dict[int, bytes], tag: int, default: int, what: str) -> int:
    return default if tag not in tags else _whole(FieldReader(what, tags[tag]), _INT64)


def _whole(reader: FieldReader, layout: struct.Struct) -> int:
    value = reader.int16() if layout is _INT16 else reader.int64()
    reader.end()
    return value

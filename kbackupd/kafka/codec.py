"""Kafka's wire primitives (flexible versions, KIP-482) and what every request of ours looks like to a connection.

Owns bytes <-> primitives only; the requests themselves are in `wire` and `wire_fetch`. aiokafka's own types decode one
field per object and call; this reader walks one buffer, which is what makes 10,000 partitions cheap.
"""

from __future__ import annotations

import abc
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar, Generic, TypeVar

from aiokafka.protocol.api import RequestHeader_v1, RequestHeader_v2, ResponseHeader_v0, ResponseHeader_v1

from kbackupd.model.errors import KafkaDeniedError

T = TypeVar("T")
ResponseT = TypeVar("ResponseT")

_INT8 = struct.Struct(">b")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")
_FLOAT64 = struct.Struct(">d")
EMPTY_TAGS = b"\x00"


class WireError(ValueError):
    """The bytes of an answer do not fit its schema. Stays inside this package; `connection` translates it."""


def uvarint(value: int) -> bytes:
    """`value` as an unsigned varint: seven bits a byte, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_uvarint(buffer: bytes | bytearray, position: int) -> tuple[int, int]:
    """The unsigned varint at `position`, and the position after it."""
    value = buffer[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    shift = 7
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise WireError(f"an unsigned varint at {position} is longer than five bytes")


def int8(value: int) -> bytes:
    return _INT8.pack(value)


def int16(value: int) -> bytes:
    return _INT16.pack(value)


def int32(value: int) -> bytes:
    return _INT32.pack(value)


def int64(value: int) -> bytes:
    return _INT64.pack(value)


def boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def string(value: str | None) -> bytes:
    """A compact string; None is Kafka's null, which is not the empty string."""
    if value is None:
        return b"\x00"
    encoded = value.encode()
    return uvarint(len(encoded) + 1) + encoded


def array(items: Sequence[T] | None, encode: Callable[[T], bytes]) -> bytes:
    """A compact array; None is Kafka's null."""
    if items is None:
        return b"\x00"
    return b"".join((uvarint(len(items) + 1), *map(encode, items)))


def by_topic(partitions: Iterable[tuple[str, int, T]]) -> list[tuple[str, list[tuple[int, T]]]]:
    """(topic, partition, value) rows in the nesting Kafka's requests have, in order of first appearance."""
    topics: dict[str, list[tuple[int, T]]] = {}
    for topic, partition, value in partitions:
        topics.setdefault(topic, []).append((partition, value))
    return list(topics.items())


class Reader:
    """A cursor over one response. Reading past the end raises struct.error, IndexError or WireError."""

    __slots__ = ("_buffer", "_position")

    def __init__(self, buffer: bytes, position: int = 0) -> None:
        self._buffer = buffer
        self._position = position

    def _number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack_from(self._buffer, self._position)[0]
        self._position += layout.size
        return value

    def int8(self) -> int:
        return self._number(_INT8)

    def int16(self) -> int:
        return self._number(_INT16)

    def int32(self) -> int:
        return self._number(_INT32)

    def int64(self) -> int:
        return self._number(_INT64)

    def float64(self) -> float:
        value: float = _FLOAT64.unpack_from(self._buffer, self._position)[0]
        self._position += _FLOAT64.size
        return value

    def boolean(self) -> bool:
        return self._number(_INT8) != 0

    def uvarint(self) -> int:
        value, self._position = read_uvarint(self._buffer, self._position)
        return value

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """Several numbers at once."""
        values = layout.unpack_from(self._buffer, self._position)
        self._position += layout.size
        return values

    def int32_array(self) -> tuple[int, ...]:
        """A compact array of 32-bit numbers; a null one reads as empty."""
        count = self.uvarint() - 1
        if count <= 0:
            return ()
        values = struct.unpack_from(f">{count}i", self._buffer, self._position)
        self._position += 4 * count
        return values

    def take(self, length: int) -> bytes:
        end = self._position + length
        value = self._buffer[self._position : end]
        if len(value) != length:
            raise WireError(f"{length} bytes wanted at {self._position}, {len(value)} are left")
        self._position = end
        return value

    def nullable_string(self) -> str | None:
        length = self.uvarint() - 1
        return None if length < 0 else self.take(length).decode()

    def string(self) -> str:
        """A string that is not null by its schema."""
        value = self.nullable_string()
        if value is None:
            raise WireError(f"null where a string must be, before {self._position}")
        return value

    def array(self, read: Callable[[], T]) -> tuple[T, ...]:
        """A compact array; a null one reads as empty."""
        return tuple([read() for _ in range(self.uvarint() - 1)])

    def skip_tags(self) -> None:
        for _ in range(self.uvarint()):
            self.uvarint()
            self.take(self.uvarint())


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response as it came, header already read: decoding it is left to whoever waits for it.

    aiokafka decodes inside its reader task, where an answer that does not parse kills the connection and tells the
    waiter no more than "closed".
    """

    buffer: bytes | bytearray
    """A bytearray only where the request is one that copies out what it keeps."""
    position: int

    @classmethod
    def decode(cls, data: BytesIO) -> RawResponse:
        return cls(data.getvalue(), data.tell())


class WireRequest(abc.ABC, Generic[ResponseT]):
    """A request in exactly one flexible version. It has the methods AIOKafkaConnection asks of its own requests."""

    API_KEY: ClassVar[int]
    API_VERSION: ClassVar[int]
    RESPONSE_TYPE: ClassVar[type[RawResponse]] = RawResponse

    @abc.abstractmethod
    def encode(self) -> bytes:
        """The body, without header."""

    @abc.abstractmethod
    def decode(self, buffer: bytes, position: int) -> ResponseT:
        """The response whose body starts at `position`."""

    @classmethod
    def check(cls, versions: Mapping[int, tuple[int, int]]) -> None:
        """Raises KafkaDeniedError (35) unless a broker offering `versions` understands this request."""
        lowest, highest = versions.get(cls.API_KEY, (-1, -1))
        if not lowest <= cls.API_VERSION <= highest:
            offer = "none" if highest < 0 else f"v{lowest} to v{highest}"
            raise KafkaDeniedError(
                f"the broker does not offer {cls.__name__} v{cls.API_VERSION} (it offers {offer})",
                hint="kbackupd needs Apache Kafka 3.1 or later, or a broker compatible with it",
                code=35,
            )

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> WireRequest[ResponseT]:
        """Itself, as aiokafka wants it; raises like `check`."""
        self.check(versions)
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> RequestHeader_v1 | RequestHeader_v2:
        return RequestHeader_v2(self, correlation_id=correlation_id, client_id=client_id)

    def parse_response_header(self, data: BytesIO) -> ResponseHeader_v0 | ResponseHeader_v1:
        return ResponseHeader_v1.decode(data)

    def __repr__(self) -> str:
        # aiokafka logs requests at debug level: a name and version, never megabytes of records or somebody's secrets.
        return f"{type(self).__name__}_v{self.API_VERSION}"


class PlainWireRequest(WireRequest[ResponseT]):
    """A request that has no flexible version: lengths are of a fixed size, and nothing is tagged."""

    def build_request_header(self, correlation_id: int, client_id: str) -> RequestHeader_v1:
        return RequestHeader_v1(self, correlation_id=correlation_id, client_id=client_id)

    def parse_response_header(self, data: BytesIO) -> ResponseHeader_v0:
        return ResponseHeader_v0.decode(data)

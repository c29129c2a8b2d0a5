"""Kafka's compression codecs for the records of one batch, with bounded output.

The capture path never comes here. Validation and the slow path of a restore do, with bytes nobody vouches for: whatever
they hold, the outcome is the decompressed bytes, `UnknownCodecError` or `PayloadError`, within `max_bytes` of output.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cramjam
import zstandard

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""Bits 0-2 of a batch's attributes (KIP-98; zstd: KIP-110)."""
CODEC_NAMES = {NONE: "none", GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

MAX_PAYLOAD_BYTES = 256 << 20
"""Bound for the records of one batch after decompression, where the caller knows none of its own."""

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = struct.Struct(">8sii")
_XERIAL_BLOCK_BYTES = 32 << 10
_LZ4_MAX_RATIO = 255
_CHUNK_BYTES = 1 << 20

Payload = bytes | bytearray | memoryview


class UnknownCodecError(ValueError):
    """A codec that did not exist when this was written: the bytes are kept as they are but cannot be looked into."""

    def __init__(self, codec: int) -> None:
        super().__init__(f"codec {codec} is not known to this version")
        self.codec = codec


class PayloadError(ValueError):
    """The bytes do not decompress, or to more than allowed."""


def decompress_payload(codec: int, payload: Payload, max_bytes: int = MAX_PAYLOAD_BYTES) -> bytes:
    """The records of a batch.

    Raises:
        UnknownCodecError: `codec` is none of Kafka's as of version 4.
        PayloadError: damaged bytes, or more than `max_bytes` of output.
    """
    try:
        decompress = _DECOMPRESS[codec]
    except KeyError:
        raise UnknownCodecError(codec) from None
    try:
        raw = decompress(payload, max_bytes)
    except (cramjam.DecompressionError, zstandard.ZstdError, zlib.error, struct.error, MemoryError) as problem:
        raise PayloadError(f"{CODEC_NAMES[codec]} payload does not decompress: {problem}") from problem
    if len(raw) > max_bytes:
        raise PayloadError(f"{CODEC_NAMES[codec]} payload decompresses to more than {max_bytes} bytes")
    return raw


def compress_payload(codec: int, data: Payload) -> bytes:
    """Records as a producer would compress them, in the framing that every Kafka client reads.

    Raises:
        UnknownCodecError: `codec` is none of Kafka's as of version 4.
    """
    try:
        compress = _COMPRESS[codec]
    except KeyError:
        raise UnknownCodecError(codec) from None
    return compress(data)


def _copy(payload: Payload, max_bytes: int) -> bytes:
    return bytes(payload[: max_bytes + 1])


def _gunzip(payload: Payload, max_bytes: int) -> bytes:
    """All members of the gzip stream: some producers flush in the middle by starting another one."""
    out: list[bytes] = []
    left, rest = max_bytes + 1, bytes(payload)
    while rest and left > 0:
        member = zlib.decompressobj(wbits=31)
        out.append(member.decompress(rest, left))
        left -= len(out[-1])
        if not member.eof:
            if left > 0:
                raise PayloadError("gzip payload ends too early")
            break
        rest = member.unused_data
    return b"".join(out)


def _gzip(data: Payload) -> bytes:
    member = zlib.compressobj(level=6, wbits=31)
    return member.compress(data) + member.flush()


def _unsnappy(payload: Payload, max_bytes: int) -> bytes:
    """Both framings in the wild: snappy-java's ("xerial", blocks with lengths) and one bare block."""
    view = memoryview(payload)
    if bytes(view[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return _unsnappy_block(view, max_bytes)
    out: list[bytes] = []
    left, position = max_bytes, _XERIAL_HEADER.size
    while position < len(view):
        (length,) = struct.unpack_from(">i", view, position)
        position += 4
        if not 0 < length <= len(view) - position:
            raise PayloadError("snappy block is longer than the payload")
        out.append(_unsnappy_block(view[position : position + length], left))
        left -= len(out[-1])
        position += length
    return b"".join(out)


def _unsnappy_block(block: memoryview, max_bytes: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > max_bytes:
        raise PayloadError(f"snappy payload decompresses to more than {max_bytes} bytes")
    return bytes(cramjam.snappy.decompress_raw(block))


def _snappy(data: Payload) -> bytes:
    view = memoryview(data)
    out = [_XERIAL_HEADER.pack(_XERIAL_MAGIC, 1, 1)]
    for position in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[position : position + _XERIAL_BLOCK_BYTES]))
        out += (struct.pack(">i", len(block)), block)
    return b"".join(out)


def _unlz4(payload: Payload, max_bytes: int) -> bytes:
    # The frame need not say its content's size, but no LZ4 stream expands further than this. The buffer's pages
    # are touched only as far as they are written.
    out = bytearray(min(max_bytes + 1, len(payload) * _LZ4_MAX_RATIO))
    written = cramjam.lz4.decompress_into(payload, out)
    return bytes(memoryview(out)[:written])


def _lz4(data: Payload) -> bytes:
    # Kafka's Java side refuses frames whose blocks refer to earlier ones (KIP-57).
    compressor = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


def _unzstd(payload: Payload, max_bytes: int) -> bytes:
    """By chunks, since Java's producer writes frames without their content's size."""
    out: list[bytes] = []
    left = max_bytes + 1
    with zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True) as reader:
        while left > 0 and (chunk := reader.read(min(left, _CHUNK_BYTES))):
            out.append(chunk)
            left -= len(chunk)
    return out[0] if len(out) == 1 else b"".join(out)


def _zstd(data: Payload) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


_DECOMPRESS: dict[int, Callable[[Payload, int], bytes]] = {
    NONE: _copy,
    GZIP: _gunzip,
    SNAPPY: _unsnappy,
    LZ4: _unlz4,
    ZSTD: _unzstd,
}
_COMPRESS: dict[int, Callable[[Payload], bytes]] = {NONE: bytes, GZIP: _gzip, SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}

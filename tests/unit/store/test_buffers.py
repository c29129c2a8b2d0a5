"""Buffers cut anyhow are the bytes they hold."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.store.buffers import PIECE_BYTES, SMALL_BYTES, crc32c_base64, equal_bytes, gathered, total_bytes

cuts = st.lists(st.binary(max_size=6), max_size=6)


def test_checksum_is_the_published_one_for_its_check_string() -> None:
    # CRC-32C of "123456789" is E3069283 (RFC 3720 appendix B.4 uses the same polynomial).
    assert base64.b64decode(crc32c_base64([b"1234", b"", memoryview(b"56789")])).hex() == "e3069283"
    assert crc32c_base64([]) == "AAAAAA=="


@given(cuts, cuts)
def test_equal_exactly_when_the_joined_bytes_are(left: list[bytes], right: list[bytes]) -> None:
    assert equal_bytes(left, right) == (b"".join(left) == b"".join(right))


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_equal_however_cut(data: bytes, first: int, second: int) -> None:
    assert equal_bytes([data[:first], bytearray(data[first:])], [data[:second], memoryview(data)[second:]])
    assert total_bytes([data[:first], memoryview(data)[first:]]) == len(data)
    assert crc32c_base64([data[:first], data[first:]]) == crc32c_base64([data])


def _sized(sizes: list[int]) -> list[bytes]:
    return [bytes([number % 251]) * size for number, size in enumerate(sizes)]


@given(
    st.lists(st.one_of(st.integers(0, 9), st.integers(SMALL_BYTES - 1, SMALL_BYTES + 1), st.just(PIECE_BYTES + 1))),
    st.integers(0, 2 * PIECE_BYTES),
)
def test_gathered_pieces_are_the_same_bytes_and_none_is_larger_than_a_piece(sizes: list[int], skip: int) -> None:
    parts = _sized(sizes)
    pieces = list(gathered(parts, skip=skip))
    assert b"".join(pieces) == b"".join(parts)[skip:]
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)


def test_ten_thousand_small_runs_are_handed_over_in_a_few_pieces() -> None:
    """Hazard 56: one by one they were a system call and a turn of the event loop each."""
    assert len(list(gathered(_sized([270] * 10_000)))) == -(-270 * 10_000 // (PIECE_BYTES - PIECE_BYTES % 270))


def test_what_is_large_is_handed_over_where_it_lies() -> None:
    large = bytes(SMALL_BYTES)
    (piece,) = gathered([large])
    assert isinstance(piece, memoryview)
    assert piece.obj is large

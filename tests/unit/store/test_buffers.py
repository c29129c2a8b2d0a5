"""Buffers cut anyhow are the bytes they hold."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.store.buffers import crc32c_base64, equal_bytes, total_bytes

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

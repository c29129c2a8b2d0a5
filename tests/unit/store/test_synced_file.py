"""Files past the page cache: the same bytes whatever their cut and size, wherever the file system says no."""

from __future__ import annotations

import errno
import fcntl
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.store.synced_file import BLOCK_BYTES, PIECE_BYTES, write_synced

_DIRECT = getattr(os, "O_DIRECT", 0)
_BYTES = bytes(range(251)) * (3 * PIECE_BYTES // 251 + 1)


def _is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT)


def _takes_direct_writes(directory: Path) -> bool:
    try:
        os.close(os.open(directory / "probe", os.O_WRONLY | os.O_CREAT | _DIRECT))
    except OSError:
        return False
    return _DIRECT != 0


@given(
    size=st.sampled_from(
        [0, 1, BLOCK_BYTES, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 5 * BLOCK_BYTES + 17]
    ),
    cuts=st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=5),
)
def test_a_file_holds_its_parts_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, size: int, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("synced") / "object"
    whole, edges = memoryview(_BYTES)[:size], [0, *sorted(min(cut, size) for cut in cuts), size]
    write_synced(path, [whole[first:until] for first, until in pairwise(edges)])
    assert path.read_bytes() == whole


def test_a_taken_name_is_refused_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(b"theirs")
    for data in (b"ours", _BYTES):
        with pytest.raises(FileExistsError):
            write_synced(path, [data])
    assert path.read_bytes() == b"theirs"


def test_a_file_system_without_direct_writes_gets_the_file_through_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without_direct(path: Path, flags: int, mode: int) -> int:
        descriptor = real(path, flags & ~_DIRECT, mode)
        if flags & _DIRECT:
            os.close(descriptor)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return descriptor

    monkeypatch.setattr(os, "open", without_direct)
    write_synced(tmp_path / "object", [_BYTES])
    assert (tmp_path / "object").read_bytes() == _BYTES


def test_a_direct_write_that_is_refused_or_short_goes_on_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.write, []

    def grudging(descriptor: int, data: memoryview) -> int:
        # Takes a piece that ends inside a block, as a signal or a full disk may leave it, and nothing unaligned after.
        if len(data) < PIECE_BYTES and len(data) > BLOCK_BYTES and _is_direct(descriptor):
            refused.append(len(data))
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if _is_direct(descriptor):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)
            written = real(descriptor, data[: BLOCK_BYTES + 100])
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | _DIRECT)
            return written
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", grudging)
    write_synced(tmp_path / "object", [_BYTES])
    assert (tmp_path / "object").read_bytes() == _BYTES
    assert bool(refused) == _takes_direct_writes(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_not_tried_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def failing(_descriptor: int, _data: memoryview) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_synced(tmp_path / "object", [_BYTES])

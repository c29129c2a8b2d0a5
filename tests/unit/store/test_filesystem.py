"""What the filesystem store owes beyond the contract: atomicity, durability, its own corner of the directory."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KbackupError, ObjectExistsError, StoreDeniedError, StoreUnavailableError
from kbackupd.store.filesystem import STALE_TEMPORARY_MS, FilesystemStore
from tests.contract_store import keys_of


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemStore]:
    store = await FilesystemStore.open(tmp_path / "archive")
    yield store
    await store.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def temporaries(root: Path) -> list[Path]:
    return list((root / ".tmp").iterdir())


def failing(code: int) -> Callable[..., object]:
    def call(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    return call


async def test_object_is_a_plain_file_and_nothing_else_is_left(store: FilesystemStore, root: Path) -> None:
    await store.put_if_absent("segments/main/1", [b"one", b"two"])
    assert (root / "segments/main/1").read_bytes() == b"onetwo"
    assert temporaries(root) == []


async def test_file_and_every_new_directory_are_synced_before_the_put_returns(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    await store.put_if_absent("a/b/object", [b"x"])
    assert synced[0].startswith(str(root / ".tmp"))
    assert synced[1:] == [str(root), str(root / "a"), str(root / "a/b")]
    synced.clear()
    await store.put_if_absent("a/b/object", [b"x"])
    assert synced[-1] == str(root / "a/b"), "an identical object may be another writer's that is not durable yet"


@pytest.mark.parametrize("step", ["fsync", "link", "write"])
@pytest.mark.parametrize(
    ("code", "cause"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "io")]
)
async def test_put_that_fails_at_any_step_leaves_nothing(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, cause: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, step, failing(code))
        with pytest.raises(StoreUnavailableError) as caught:
            await store.put_if_absent("key", [b"payload"])
    assert caught.value.cause == cause
    assert temporaries(root) == []
    assert await keys_of(store) == []
    await store.put_if_absent("key", [b"payload"])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM, errno.EOPNOTSUPP])
async def test_what_the_system_forbids_is_denied(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", failing(code))
    with pytest.raises(StoreDeniedError) as caught:
        await store.put_if_absent("key", [b"payload"])
    assert "hard links" in caught.value.hint


async def test_a_root_that_may_not_be_read_is_named_with_what_reading_and_writing_need(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_dir", failing(errno.EACCES))
        with pytest.raises(StoreDeniedError, match=f"open file://{root}: ") as caught:
            await FilesystemStore.open(root, create=False)
    assert "write for a backup" in caught.value.hint


async def test_short_writes_of_the_system_are_continued(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    await store.put_if_absent("key", [b"0123456789", b"abcde"])
    assert await store.get("key") == b"0123456789abcde"


async def test_cancelled_put_may_reuse_its_buffers_at_once_and_never_shows_a_torn_object(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, release = threading.Event(), threading.Event()
    real = os.fsync

    def wait(descriptor: int) -> None:
        reached.set()
        assert release.wait(30)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    buffer = bytearray(b"payload")
    put = asyncio.create_task(store.put_if_absent("key", [buffer]))
    assert await asyncio.to_thread(reached.wait, 30)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    buffer[:] = b"garbage"
    release.set()
    monkeypatch.undo()
    await store.close()
    for thread in threading.enumerate():
        if thread.name.startswith("kbackupd-files"):
            await asyncio.to_thread(thread.join, 30)
    assert not (root / "key").exists()
    assert temporaries(root) == []


async def test_leftovers_of_a_crash_are_invisible_and_removed_when_a_day_old(root: Path) -> None:
    clock = ManualClock()
    (root / ".tmp").mkdir(parents=True)
    for name, age_ms in (("old", STALE_TEMPORARY_MS + 1000), ("young", STALE_TEMPORARY_MS - 1000)):
        (root / ".tmp" / name).write_bytes(b"half")
        os.utime(root / ".tmp" / name, ns=((clock.now_ms() - age_ms) * 1_000_000,) * 2)
    store = await FilesystemStore.open(root, clock=clock)
    assert [leftover.name for leftover in temporaries(root)] == ["young"]
    assert await keys_of(store) == []
    assert await keys_of(store, ".tmp/") == []
    await store.close()


async def test_reader_does_not_make_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreDeniedError, match="no directory"):
        await FilesystemStore.open(tmp_path / "typo", create=False)
    assert os.listdir(tmp_path) == []


async def test_unmounted_directory_does_not_look_empty(store: FilesystemStore, root: Path) -> None:
    await store.put_if_absent("key", [b"x"])
    os.rename(root, root.with_name("elsewhere"))
    for read in (store.get("key"), store.head("key"), keys_of(store), store.delete_many(["key"])):
        with pytest.raises(StoreUnavailableError):
            await read
    with pytest.raises(StoreUnavailableError):
        await store.put_if_absent("key", [b"x"])


async def test_put_below_an_object_is_refused(store: FilesystemStore) -> None:
    await store.put_if_absent("a", [b"x"])
    await store.put_if_absent("d/e", [b"x"])
    for key in ("a/b", "a/b/c"):
        with pytest.raises(StoreDeniedError):
            await store.put_if_absent(key, [b"x"])
    with pytest.raises(KbackupError):
        await store.put_if_absent("d", [b"x"])


async def test_foreign_files_do_no_harm(store: FilesystemStore, root: Path) -> None:
    await store.put_if_absent("a/1", [b"x"])
    (root / "a" / "link").symlink_to("/etc/hostname")
    (root / "loop").symlink_to(root)
    (root / "a" / os.fsdecode(b"\xff")).write_bytes(b"not UTF-8")
    os.mkfifo(root / "pipe")
    assert await keys_of(store) == ["a/1"]


async def test_listing_goes_on_when_what_it_is_about_to_list_is_deleted(store: FilesystemStore, root: Path) -> None:
    keys = [f"d{number // 600}/{number:04d}" for number in range(1800)]
    for key in keys:
        (root / key).parent.mkdir(exist_ok=True)
        (root / key).write_bytes(b"")
    seen: list[str] = []
    async for info in store.list_from(""):
        seen.append(info.key)
        if len(seen) == 1:
            await store.delete_many(keys[1000:])
            (root / "d2").rmdir()
    assert seen == keys[:1000]


async def test_two_processes_racing_for_one_name_agree_on_the_winner(root: Path) -> None:
    stores = [await FilesystemStore.open(root) for _ in range(2)]
    for number in range(20):
        outcomes = await asyncio.gather(
            *(store.put_if_absent(f"{number}", [name]) for store, name in zip(stores, (b"a", b"b"), strict=True)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [ObjectExistsError]
    for store in stores:
        await store.close()

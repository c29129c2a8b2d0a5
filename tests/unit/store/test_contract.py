"""The stores that need no server, held to the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kbackupd.store.faults import FaultStore
from kbackupd.store.filesystem import FilesystemStore
from kbackupd.store.memory import MemoryStore
from kbackupd.store.metered import MeteredStore
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import RetryingStore
from tests.contract_store import StoreContract, keys_of, put_many


class StrictOrder(StoreContract):
    """Beyond the contract: order across directories too, as S3 itself has it."""

    async def test_a_directory_sorts_as_its_name_and_a_slash(self, store: ObjectStore) -> None:
        keys = ["o/a b", "o/a+b", "o/a-b", "o/a.b", "o/a/x", "o/a/y/1", "o/a/y-1", "o/a0", "o/aé/1", "o/b"]
        keys.sort(key=str.encode)
        await put_many(store, keys)
        assert await keys_of(store) == keys
        for position, key in enumerate(keys):
            assert await keys_of(store, start_after=key) == keys[position + 1 :]
        assert await keys_of(store, "o/a", start_after="o/a") == keys[:-1]


class TestMemoryStore(StrictOrder):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestFilesystemStore(StrictOrder):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ObjectStore]:
        store = await FilesystemStore.open(tmp_path / "new" / "archive")
        yield store
        await store.close()


class TestRetryingStoreOverAFlakyMeteredStore(StrictOrder):
    """Every third operation fails, every fifth loses its answer; no test may notice."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        flaky = FaultStore(MemoryStore())
        for nth in range(3, 3000, 15):
            for operation in ("put", "get", "get_range", "get_suffix", "head", "list", "delete"):
                flaky.fail(operation, nth=nth)
                flaky.lose_answer(operation, nth=nth + 5)
        return RetryingStore(MeteredStore(flaky, lambda *_: None), sleep=lambda _: asyncio.sleep(0))

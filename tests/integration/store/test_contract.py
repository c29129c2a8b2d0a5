"""The S3 store held to the contract by a real server, alone and as the daemon opens it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kbackupd.model.settings import S3Settings, StorageSettings
from kbackupd.store.open import open_store
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.s3 import S3Store
from tests.contract_store import StoreContract


class TestS3Store(StoreContract):
    @pytest.fixture
    async def store(self, s3_settings: S3Settings) -> AsyncIterator[ObjectStore]:
        store = await S3Store.open(s3_settings)
        yield store
        await store.close()


class TestOpenedS3Store(StoreContract):
    @pytest.fixture
    async def store(self, s3_settings: S3Settings) -> AsyncIterator[ObjectStore]:
        store = await open_store(StorageSettings(backend=s3_settings), on_operation=lambda *_: None)
        yield store
        await store.close()

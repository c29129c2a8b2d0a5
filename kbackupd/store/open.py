"""From settings to a store ready for use: the right one, metered, and patient."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import assert_never

from kbackupd.model.clock import Clock
from kbackupd.model.location import parse_location, with_aws_environment
from kbackupd.model.settings import FilesystemSettings, S3Settings, StorageSettings
from kbackupd.store.filesystem import FilesystemStore
from kbackupd.store.metered import MeteredStore, OnOperation
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import OnFailure, OnRetry, RetryingStore, RetryPolicy
from kbackupd.store.s3 import S3Limits, S3Store

__all__ = ["open_store", "parse_location"]


async def open_store(
    settings: StorageSettings,
    *,
    policy: RetryPolicy | None = None,
    limits: S3Limits | None = None,
    on_operation: OnOperation | None = None,
    on_retry: OnRetry | None = None,
    on_failure: OnFailure | None = None,
    clock: Clock | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ObjectStore:
    """The store of `settings`, metered per try if `on_operation` is given, retrying by `policy`.

    Nothing is sent to a bucket yet: that it can be reached shows with the first operation.

    Raises:
        StoreDeniedError: a directory that is missing or may not be used, an unknown profile. Nobody makes it: where a
            volume should be, and is not mounted, a backup would fill the disk below.
    """
    store: ObjectStore
    match settings.backend:
        case S3Settings() as backend:
            store = await S3Store.open(with_aws_environment(backend, environ), limits=limits)
        case FilesystemSettings() as backend:
            store = await FilesystemStore.open(backend.path, create=False, clock=clock)
        case other:
            assert_never(other)
    if on_operation is not None:
        store = MeteredStore(store, on_operation, clock=clock)
    return RetryingStore(store, policy=policy, on_retry=on_retry, on_failure=on_failure, clock=clock)

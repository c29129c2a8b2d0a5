"""Which archive a verb is about: `--path` and `--backup-id`, or a daemon's `--config`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kbackupd.model.errors import UsageError
from kbackupd.model.location import parse_location
from kbackupd.model.settings import StorageSettings
from kbackupd.settings.load import load_daemon_settings
from kbackupd.store.open import open_store
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import RetryPolicy

FIRST_CONTACT_SECONDS = 5.0

PathOption = Annotated[
    str | None, typer.Option("--path", metavar="URL", help="Where archives are: s3://bucket/prefix or file:///dir.")
]
WHERE_A_PATH_ENDS = "an archive is PATH/BACKUP_ID/, so PATH ends before its id"

BackupIdOption = Annotated[str | None, typer.Option("--backup-id", metavar="ID", help="Which archive under --path.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="KBACKUPD_CONFIG", metavar="FILE", help="A daemon's configuration, instead of both."
    ),
]


@dataclass(frozen=True, slots=True)
class Place:
    storage: StorageSettings
    backup_id: str | None


def place(path: str | None, backup_id: str | None, config: Path | None) -> Place:
    """What the options say together; `--path` and `--backup-id` beat what the configuration says.

    Raises:
        UsageError: they say too little, or the path is none.
        ConfigurationError: the configuration is wrong.
    """
    if path is not None:
        return Place(parse_location(path, os.environ), backup_id)
    if config is None:
        raise UsageError(
            "no archive was named",
            hint="give --path s3://bucket/prefix (or file:///dir) and --backup-id ID, or --config kbackupd.yaml",
        )
    settings = load_daemon_settings(config, os.environ)
    return Place(settings.storage, backup_id if backup_id is not None else settings.backup_id)


def one_archive(path: str | None, backup_id: str | None, config: Path | None) -> tuple[StorageSettings, str]:
    """As `place`, for verbs that are about one archive.

    Raises:
        UsageError: the backup id is missing or none.
    """
    found = place(path, backup_id, config)
    if found.backup_id is None:
        raise UsageError("--backup-id is missing", hint="kbackupd list --path … shows what there is")
    if "/" in found.backup_id or found.backup_id in ("", ".", ".."):
        raise UsageError(f"{found.backup_id!r} is no backup id", hint="it is one name, without slashes")
    return found.storage, found.backup_id


@asynccontextmanager
async def opened(storage: StorageSettings) -> AsyncIterator[ObjectStore]:
    """The store, closed at the end. A first question is asked with little patience, the rest with much.

    Somebody waits at a terminal: a wrong endpoint must show at once. But in the middle of hours of reading, a minute
    without an answer must not end it.
    """
    hasty = await open_store(storage, policy=RetryPolicy(total_seconds=FIRST_CONTACT_SECONDS))
    try:
        _ = [info async for info in hasty.list_from("", limit=1)]
    finally:
        await hasty.close()
    store = await open_store(storage)
    try:
        yield store
    finally:
        await store.close()

"""`kbackupd restore`: bring topics of an archive back into a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from kbackupd.archive.archive import Archive, archive_identity
from kbackupd.archive.local_file import to_local
from kbackupd.archive.new_file import NewFile
from kbackupd.archive.pins import Pins
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.cli.restore_progress import showing
from kbackupd.cli.restore_text import interruption, print_plan, print_report
from kbackupd.format.offset_map import encode_offset_map
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import UsageError
from kbackupd.model.settings import FilesystemSettings, RestoreSettings, StorageSettings
from kbackupd.restore.course import Course
from kbackupd.restore.mapped import RestoreRecord, offset_map_of
from kbackupd.restore.plan import RestorePlan, make_plan
from kbackupd.restore.progress import Phase, RestoreProgress
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.restore import execute
from kbackupd.restore.stored import StoredRestores
from kbackupd.settings.load import load_restore_settings
from kbackupd.store.open import open_store
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore


def command(
    config: Annotated[
        Path, typer.Option("--config", envvar="KBACKUPD_CONFIG", metavar="FILE", help="What to restore, and where to.")
    ],
    plans: Annotated[
        Path | None,
        typer.Option("--plans", metavar="DIR", help="Write down there, not in the archive, what is begun."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and leave; the target is not contacted.")
    ] = False,
    offset_map: Annotated[
        Path | None,
        typer.Option(
            "--offset-map", metavar="FILE", help="Write where each record went; a name that ends in .zst compresses it."
        ),
    ] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Restore topics into absent or empty ones, verify what arrived, and say exactly what did.

    Killed or interrupted, run the same again: it goes on where the target's logs end, and nothing is restored twice.

    Exit codes: 0 everything is back · 3 the archive is damaged · 4 archive or target unreachable · 5 refused, nothing
    was written · 6 something is missing, or the archive declares gaps · 130 interrupted.
    """
    settings = load_restore_settings(config, os.environ)
    clock = SystemClock()
    progress = RestoreProgress(began_at=clock.monotonic())
    console = stdout_console()
    if dry_run:
        if offset_map is not None:
            raise UsageError("--offset-map is of a restore: with --dry-run there is none", hint="leave one of them out")
        plan = uvloop.run(_plan(settings))
        print_json(plan) if output is OutputFormat.JSON else print_plan(console, plan)
        return
    record = RestoreRecord()
    with _mapping_into(offset_map, record, clock):
        try:
            report = uvloop.run(_restore(settings, clock, progress, record, _made(plans) if plans else None))
        except (KeyboardInterrupt, Exception) as stopped:
            if isinstance(stopped, KeyboardInterrupt) or progress.touched:
                print(interruption(progress, interrupted=isinstance(stopped, KeyboardInterrupt)), file=sys.stderr)
            raise
        print_json(report) if output is OutputFormat.JSON else print_report(console, report)
    raise typer.Exit(report.exit_code)


@contextmanager
def _mapping_into(path: Path | None, record: RestoreRecord, clock: Clock) -> Iterator[None]:
    """Write the offset map of what was acknowledged, however the restore inside ends."""
    if path is None:
        yield
        return
    file = NewFile.create(path, "offset-map.json")  # before hours of work: it exists, or there can be none
    try:
        try:
            yield
        finally:
            document = offset_map_of(record, made_ms=clock.now_ms())
            if document is not None:
                file.write([memoryview(to_local(file.target, encode_offset_map(document)))])
                file.publish()
                print(f"offset map: {file.target}", file=sys.stderr)
    finally:
        file.discard()


async def _plan(settings: RestoreSettings) -> RestorePlan:
    store = await open_store(settings.source.storage)
    try:
        return make_plan(await _archive(store, settings), settings)
    finally:
        await store.close()


async def _archive(store: ObjectStore, settings: RestoreSettings, pinned: Pins | None = None) -> Archive:
    """With the rows of the topics that will be restored, and of no other."""
    options = settings.options
    return await Archive.open(
        store, settings.source.backup_id, pinned=pinned, wanted=lambda name: options.target_of(name) is not None
    )


async def _restore(
    settings: RestoreSettings,
    clock: Clock,
    progress: RestoreProgress,
    record: RestoreRecord,
    plans: StorageSettings | None,
) -> RestoreReport:
    # As Ctrl-C: what is under way is cancelled, and the last word says in what state the target is.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    store = await open_store(settings.source.storage)
    beside = await open_store(plans) if plans else store
    connection = KafkaConnection(
        bootstrap_servers=settings.target.bootstrap_servers,
        security=settings.target.security,
        client_id="kbackupd-restore",
        clock=clock,
    )
    try:
        async with showing(progress, clock):
            identity = await archive_identity(ScopedStore(store, settings.source.backup_id))
            progress.enter(Phase.CONNECTING, clock.monotonic())
            async with connection:
                restores = StoredRestores(ScopedStore(beside, settings.source.backup_id))
                course = await Course.find(restores, connection, identity, settings.options)
                progress.enter(Phase.OPENING, clock.monotonic())
                archive = await _archive(store, settings, course.pinned)
                return await execute(
                    make_plan(archive, settings),
                    settings=settings,
                    archive=archive,
                    connection=connection,
                    progress=progress,
                    course=course,
                    record=record,
                )
    finally:
        if beside is not store:
            await beside.close()
        await store.close()


def _made(plans: Path) -> StorageSettings:
    """The directory as a store's settings; made if it is not there.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        plans.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--plans {plans}: {error.strerror}", hint="name a directory you may write to") from error
    return StorageSettings(backend=FilesystemSettings(path=plans.absolute()))

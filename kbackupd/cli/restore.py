"""`kbackupd restore`: bring topics of an archive back into a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
import uvloop

from kbackupd.archive.archive import Archive, archive_identity
from kbackupd.archive.pins import Pins
from kbackupd.cli.instants import instant
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.cli.restore_groups import (
    bring_groups,
    default_map_path,
    groups_interruption,
    print_groups_intent,
    print_groups_outcome,
    with_groups,
)
from kbackupd.cli.restore_progress import showing
from kbackupd.cli.restore_targets_text import print_recovery, recovery_document
from kbackupd.cli.restore_text import interruption, print_acls, print_plan, print_report
from kbackupd.flow.collector import making_what_stays
from kbackupd.flow.freed_memory import keep_freed_memory, share_freed_memory
from kbackupd.groups.after_restore import GroupsOutcome
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import Clock, SystemClock, iso
from kbackupd.model.errors import UsageError
from kbackupd.model.segment import Identity
from kbackupd.model.settings import FilesystemSettings, RestoreOptions, RestoreSettings, StorageSettings
from kbackupd.restore.acls import AclSelection
from kbackupd.restore.as_of import read_instant, refuse_future, wanted_at
from kbackupd.restore.course import Course
from kbackupd.restore.instant import Instant
from kbackupd.restore.map_file import OffsetMapFile
from kbackupd.restore.mapped import RestoreRecord
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.planning import make_plan
from kbackupd.restore.progress import Phase, RestoreProgress
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.restore import execute
from kbackupd.restore.stored import StoredRestores
from kbackupd.restore.target_acls import recorded_acls
from kbackupd.settings.load import load_daemon_settings, load_restore_settings
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
    tiers: Annotated[
        Path | None,
        typer.Option(
            "--tiers", metavar="FILE", help="The daemon's configuration: compare with the targets of its tiers."
        ),
    ] = None,
    disaster_at: Annotated[
        str | None,
        typer.Option("--disaster-at", metavar="TIME", help="When the source was lost: what is lost counts to then."),
    ] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Restore topics, into absent or empty ones unless told to append, verify what arrived, and say exactly what did.

    Killed or interrupted, run the same again: it goes on where the target's logs end, and nothing is restored twice.

    Exit codes: 0 everything is back · 2 the file is wrong · 3 the archive is damaged · 4 archive or target unreachable,
    or access denied · 5 refused, no record was written · 6 something is missing, or the archive declares gaps · 130
    interrupted.
    """
    share_freed_memory()  # there is no thread yet
    settings = load_restore_settings(config, os.environ)
    targets = load_daemon_settings(tiers, os.environ).tiers if tiers is not None else None
    clock = SystemClock()
    disaster_ms = _past("--disaster-at", instant("--disaster-at", disaster_at), clock.now_ms())
    progress = RestoreProgress(began_at=clock.monotonic())
    console = stdout_console()
    if dry_run:
        of_a_restore = {"--offset-map": offset_map, "--tiers": tiers, "--disaster-at": disaster_at}
        for option in (name for name, value in of_a_restore.items() if value is not None):
            raise UsageError(f"{option} is of a restore: with --dry-run there is none", hint="leave one of them out")
        plan, acls = uvloop.run(_plan(settings))
        if output is OutputFormat.JSON:
            print_json(plan if acls is None else {**msgspec.to_builtins(plan), "acls": msgspec.to_builtins(acls)})
        else:
            print_plan(console, plan)
            print_acls(console, acls)
            print_groups_intent(console, settings)
        return
    brings_groups = settings.options.consumer_groups.restore
    if offset_map is None and brings_groups:
        offset_map = default_map_path(clock.now_ms())
    record = RestoreRecord()
    with _mapping_into(offset_map, record, clock) as map_file:
        try:
            report, groups = uvloop.run(
                _restore(settings, clock, progress, record, map_file, _made(plans) if plans else None)
            )
        except (KeyboardInterrupt, Exception) as stopped:
            if progress.phase is Phase.DONE and brings_groups and map_file is not None:
                print(groups_interruption(map_file.path), file=sys.stderr)
            elif isinstance(stopped, KeyboardInterrupt) or progress.touched:
                print(interruption(progress, interrupted=isinstance(stopped, KeyboardInterrupt)), file=sys.stderr)
            raise
        if output is OutputFormat.JSON:
            document = msgspec.to_builtins(report) if groups is None else with_groups(report, groups)
            document["recovery"] = recovery_document(report, targets, disaster_ms)
            print_json(document)
        else:
            print_report(console, report)
            print_recovery(console, report, targets, disaster_ms)
            print_groups_outcome(console, groups)
    raise typer.Exit(report.exit_code or (0 if groups is None or groups.complete else 6))


def _past(option: str, at_ms: int | None, now_ms: int) -> int | None:
    """A slip of the date or the zone would become a figure in a report that nobody doubts."""
    if at_ms is not None and at_ms > now_ms:
        raise UsageError(f"{option}: {iso(at_ms)} is in the future", hint=f"it is {iso(now_ms)}")
    return at_ms


@contextmanager
def _mapping_into(path: Path | None, record: RestoreRecord, clock: Clock) -> Iterator[OffsetMapFile | None]:
    if path is None:
        yield None
        return
    map_file: OffsetMapFile | None = None
    try:
        with OffsetMapFile.opened(path, record, clock) as map_file:
            yield map_file
    finally:
        if map_file is not None and map_file.document is not None:
            print(f"offset map: {map_file.path}", file=sys.stderr)


async def _plan(settings: RestoreSettings) -> tuple[RestorePlan, AclSelection | None]:
    refuse_future(settings.options, SystemClock().now_ms())
    store = await open_store(settings.source.storage)
    try:
        plan = (await _planned(store, settings)).plan
        scoped = ScopedStore(store, settings.source.backup_id)
        return plan, await _acls(scoped, await archive_identity(scoped), plan, settings.options)
    finally:
        await store.close()


async def _acls(
    store: ObjectStore, identity: Identity, plan: RestorePlan, options: RestoreOptions
) -> AclSelection | None:
    return await recorded_acls(store, identity, plan, options) if options.acls else None


class _Planned(NamedTuple):
    archive: Archive
    plan: RestorePlan
    instant: Instant | None


async def _planned(store: ObjectStore, settings: RestoreSettings, pinned: Pins | None = None) -> _Planned:
    """The archive, with the rows of the topics that will be restored and of no other, and what will be done."""
    options = settings.options
    with making_what_stays():
        archive = await Archive.open(
            store, settings.source.backup_id, pinned=pinned, wanted=lambda name: wanted_at(options, name)
        )
        of = await read_instant(archive, options)
        # Of everything in a long archive it takes seconds, in which connections must be kept and progress be shown.
        return _Planned(archive, await asyncio.to_thread(make_plan, archive, settings, of), of)


async def _restore(
    settings: RestoreSettings,
    clock: Clock,
    progress: RestoreProgress,
    record: RestoreRecord,
    map_file: OffsetMapFile | None,
    plans: StorageSettings | None,
) -> tuple[RestoreReport, GroupsOutcome | None]:
    refuse_future(settings.options, clock.now_ms())
    # As Ctrl-C: what is under way is cancelled, and the last word says in what state the target is.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    keep_freed_memory()
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
            scoped = ScopedStore(store, settings.source.backup_id)
            identity = await archive_identity(scoped)
            restores = StoredRestores(ScopedStore(beside, settings.source.backup_id))
            course = await Course.read(restores, identity, clock)
            for key, reason in restores.damaged.items():
                print(f"{key}: {reason}; whether topics belong to that restore is not known", file=sys.stderr)
            planned: _Planned | None = None
            if not course.may_go_on:  # then what is wrong with the configuration shows before the target is looked at
                planned = await _planned(store, settings)
            progress.enter(Phase.CONNECTING, clock.monotonic())
            async with connection:
                await course.find(connection, settings.options)
                if planned is None:
                    progress.enter(Phase.OPENING, clock.monotonic())
                    planned = await _planned(store, settings, course.pinned)
                archive, plan, of = planned
                report = await execute(
                    plan,
                    settings=settings,
                    archive=archive,
                    connection=connection,
                    progress=progress,
                    course=course,
                    record=record,
                    acls=await _acls(scoped, identity, plan, settings.options),
                )
                if map_file is None or not settings.options.consumer_groups.restore:
                    return report, None
                groups = await bring_groups(
                    report,
                    map_file,
                    settings=settings,
                    store=store,
                    connection=connection,
                    archive=archive,
                    instant=of,
                )
                return report, groups
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

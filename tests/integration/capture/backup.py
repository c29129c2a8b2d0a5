"""One archive under test: its daemons, and what the reading side finds in it afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import KafkaError, Message, Producer

from kbackupd.archive.archive import Archive
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import FilesystemSettings, StorageSettings
from kbackupd.model.status import FlushReport
from kbackupd.server.client import ControlClient
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import Daemon, Json, Section
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.odd_daemon import odd_command
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.workload import RecordMaker
from kbackupd.validate.report import Code, ValidationReport
from kbackupd.validate.validate import validate
from tests.integration.conditions import reaches
from tests.integration.verbatim import archived_batches, assert_verbatim, overrides

Batches = list[tuple[int, bytes]]
"""(base offset, bytes)"""


class Backup:
    """An archive of its own in the session's bucket, and the daemons of a test; `close` leaves none running."""

    def __init__(self, kafka: KafkaServer, s3: S3Server, bucket: str, prefix: str, directory: Path) -> None:
        self.kafka = kafka
        self.s3 = s3
        self.bucket = bucket
        self.prefix = prefix
        self._directory = directory
        self._daemons: list[Daemon] = []
        self._path: Path | None = None

    def keep_on(self, path: Path) -> None:
        """From now on a directory is the store, not the bucket."""
        self._path = path

    @property
    def storage(self) -> StorageSettings:
        if self._path is not None:
            return StorageSettings(backend=FilesystemSettings(path=self._path))
        return self.s3.storage(self.bucket, self.prefix)

    def daemon(
        self,
        *topics: str,
        kafka: KafkaServer | None = None,
        endpoint: str = "",
        secret_key: str = "",
        odd: tuple[str, ...] = (),
        program: list[str] | None = None,
        writer: str = "main",
        tiers: list[Json] | None = None,
        internal_topics: bool = False,
        **backup: Json,
    ) -> Daemon:
        """A daemon that is not started yet, with a directory, port and socket of its own.

        Args:
            endpoint: of a proxy; empty: the server itself.
            odd: options of `testbed.odd_daemon`; none: `kbackupd run` as users run it.
            program: what runs it instead, e.g. a shell that sets limits first.
            backup: keys of the configuration's section.
        """
        sections: dict[str, Section] = overrides(topics, **backup)
        sections["source"] = {**sections["source"], "internal_topics": internal_topics}
        if self._path is not None:
            sections["storage"] = {"type": "filesystem", "filesystem": {"path": str(self._path)}, "s3": None}
        daemon = Daemon(
            self._directory / str(len(self._daemons)),
            bootstrap=(kafka or self.kafka).bootstrap,
            s3=self.s3,
            bucket=self.bucket,
            prefix=self.prefix,
            endpoint=endpoint,
            overrides=sections,
            writer=writer,
            tiers=tiers,
            program=odd_command(*odd) if odd else program,
        )
        if secret_key:
            keys = {"access_key_id": self.s3.access_key, "secret_access_key": secret_key}
            rewritten(daemon, lambda document: document["storage"]["s3"].update(keys))
        self._daemons.append(daemon)
        return daemon

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.kill()

    def fill(self, topic: str, *partitions: int, batches: int = 3, records: int = 40) -> None:
        """`fill` on the session's broker."""
        fill(self.kafka, topic, *partitions, batches=batches, records=records)

    def objects(self, part: str = "") -> dict[str, int]:
        """Keys below the archive that contain `part`, relative to it, and sizes."""
        root = f"{self.prefix}/main/"
        listed = self.s3.list_objects(self.bucket, root)
        return {key.removeprefix(root): size for key, size in listed.items() if part in key}

    def delete(self, key: str) -> None:
        status, _ = self.s3.client().request("DELETE", f"/{self.bucket}/{self.prefix}/main/{key}")
        assert status == 204

    @asynccontextmanager
    async def archive(self) -> AsyncIterator[Archive]:
        store = await open_store(self.storage)
        try:
            yield await Archive.open(store, "main")
        finally:
            await store.close()

    async def verbatim(self, topics: dict[str, int], kafka: KafkaServer | None = None) -> int:
        """`assert_verbatim`, and the archive is valid; how many batches there are."""
        count = await assert_verbatim(self.storage, kafka or self.kafka, topics)
        await self.validated()
        return count

    async def drained(self, daemon: Daemon, topics: dict[str, int], kafka: KafkaServer | None = None) -> int:
        """Flush `daemon` and have it leave, with exit code 0; then as `verbatim`."""
        await flush(daemon)
        assert daemon.stop() == 0
        return await self.verbatim(topics, kafka)

    async def validated(self) -> ValidationReport:
        """The report of a deep validation, which must find the archive valid."""
        store = await open_store(self.storage)
        try:
            report = await validate(store, "main", deep=True)
        finally:
            await store.close()
        assert report.valid, report.findings
        return report


def fill(kafka: KafkaServer, topic: str, *partitions: int, batches: int = 3, records: int = 40) -> None:
    """Produce that many record batches of `records` each to each partition (0 if none is named), all acknowledged."""
    failed: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error.str())

    # It lingers until it is told to flush: what is produced between two flushes is one batch, once the client knows the
    # topic's partitions. Records that wait for them are dealt out one by one, while others are sent already.
    settings: dict[str, str | int] = {"bootstrap.servers": kafka.bootstrap, "linger.ms": 10_000, "log_level": 0}
    client = Producer(settings)
    known = False
    for partition in partitions or (0,):
        maker = RecordMaker(f"{topic}-{partition}-{batches}")
        for _ in range(batches):
            for _ in range(records):
                one = maker.draft()
                client.produce(
                    topic, one.value, one.key, partition=partition, on_delivery=delivered, headers=list(one.headers)
                )
                if not known:
                    known = bool(client.list_topics(topic, timeout=120).topics)
            assert client.flush(120) == 0
    assert failed == []


def rewritten(daemon: Daemon, change: Callable[[dict[str, Any]], None]) -> None:
    """Its file as somebody with an editor would change it."""
    document = yaml.safe_load(daemon.config.read_text())
    change(document)
    daemon.config.write_text(yaml.safe_dump(document, sort_keys=False))


async def flush(daemon: Daemon, topics: str = "*") -> FlushReport:
    """`kbackupd ctl flush` without a process of its own."""
    async with ControlClient(daemon.socket) as client:
        return await client.flush(topics)


async def pause(daemon: Daemon, topics: str) -> None:
    async with ControlClient(daemon.socket) as client:
        report = await client.pause(topics)
    assert report.paused
    assert report.durable


async def resume(daemon: Daemon, topics: str) -> None:
    async with ControlClient(daemon.socket) as client:
        report = await client.resume(topics)
    assert not report.paused


def topic_rows(daemon: Daemon, topic: str) -> list[Section]:
    """Its incarnations as /status shows them; none while nobody answers."""
    rows = (daemon.status() or {}).get("topics", [])
    assert isinstance(rows, list)
    return [row for row in rows if isinstance(row, dict) and row["name"] == topic]


def states(daemon: Daemon, topic: str) -> dict[str, Json]:
    """State → how many partitions, over the open incarnations; empty while it is not known."""
    found: dict[str, Json] = {}
    for row in topic_rows(daemon, topic):
        held = row["states"]
        assert isinstance(held, dict)
        found |= {state: count for state, count in held.items() if state != "closed"}
    return found


def problems(daemon: Daemon) -> dict[str, str]:
    """Subject → message of what the daemon complains of."""
    return _told(daemon, "problems")


def notes(daemon: Daemon) -> dict[str, str]:
    """Subject → message of what it found and nobody can undo."""
    return _told(daemon, "notes")


def _told(daemon: Daemon, member: str) -> dict[str, str]:
    rows = (daemon.status() or {}).get(member, [])
    assert isinstance(rows, list)
    return {str(row["subject"]): str(row["message"]) for row in rows if isinstance(row, dict)}


async def follows(daemon: Daemon, topic: str, partitions: int) -> None:
    """Return when every partition of `topic` is being followed."""
    await reaches(lambda: states(daemon, topic) == {"following": partitions}, f"{topic} followed")


async def read(archive: Archive, id: PartitionId, branch: int | None = None) -> Batches:
    """Batches of one partition, which must have no hole."""
    assert not archive.history(id, branch).holes
    return await archived_batches(archive, id, branch)


def gaps(archive: Archive, id: PartitionId) -> list[tuple[int, int, GapCause]]:
    return [(gap.first_offset, gap.next_offset, gap.cause) for gap in archive.history(id).gaps]


def codes(report: ValidationReport) -> set[Code]:
    return {finding.code for finding in report.findings}


def complaints(daemon: Daemon) -> list[str]:
    """What a daemon that ended told a person: the lines of its output that begin with `error: `."""
    return [line for line in daemon.log.read_text().splitlines() if line.startswith("error: ")]

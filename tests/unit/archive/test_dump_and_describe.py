"""A partition as a log file, and an archive in words and numbers."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from kbackupd.archive.archive import Archive
from kbackupd.archive.describe import archives_under, describe
from kbackupd.archive.dump import dump, log_file_name
from kbackupd.model.errors import CorruptObjectError, RefusedError, UnwritableError, UsageError
from kbackupd.model.events import GapCause
from kbackupd.model.positions import PartitionId
from kbackupd.store.memory import MemoryStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder


async def filled(batches: int = 5) -> tuple[ArchiveBuilder, PartitionId]:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders", partitions=2, configs={"cleanup.policy": "compact"})
    life = await built.start()
    for _ in range(batches):
        built.log(topic, 0).append([b"x" * 100] * 5)
        life.capture(topic, 0)
        await life.flush()
    await life.checkpoint()
    return built, PartitionId(topic, 0)


class TestDump:
    async def test_the_file_is_the_log_byte_for_byte(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        report = await dump(archive, archive.history(id), tmp_path / "out.log")
        assert (tmp_path / "out.log").read_bytes() == b"".join(built.log(id.topic_id, 0).batches)
        assert (report.first_offset, report.next_offset, report.batches) == (0, 25, 5)
        assert report.bytes == (tmp_path / "out.log").stat().st_size

    async def test_a_range_takes_whole_batches_and_a_directory_gets_kafkas_own_name(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        report = await dump(archive, archive.history(id), tmp_path, first_offset=7, next_offset=12)
        assert report.output == tmp_path / log_file_name(7)
        assert report.output.read_bytes() == b"".join(built.log(id.topic_id, 0).batches[1:3])

    async def test_an_existing_file_is_refused_and_kept(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        (tmp_path / "out.log").write_bytes(b"mine")
        with pytest.raises(RefusedError):
            await dump(archive, archive.history(id), tmp_path / "out.log")
        assert (tmp_path / "out.log").read_bytes() == b"mine"

    async def test_a_directory_that_is_not_there_is_a_wrong_use(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        with pytest.raises(UsageError):
            await dump(archive, archive.history(id), tmp_path / "nowhere" / "out.log")

    async def test_a_path_the_system_does_not_let_us_look_at_is_a_wrong_use(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        with pytest.raises(UsageError, match="File name too long"):
            await dump(archive, archive.history(id), tmp_path / ("x" * 300))

    async def test_a_directory_that_may_not_be_searched_is_a_wrong_use(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)

        def unsearchable(path: Path, **_: bool) -> os.stat_result:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", unsearchable)  # root may search everything, and tests may run as root
            with pytest.raises(UsageError, match="Permission denied"):
                await dump(archive, archive.history(id), tmp_path / "out.log")

    async def test_a_full_disk_is_told_as_such_and_nothing_half_done_is_left(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            with pytest.raises(UnwritableError, match=r"out\.log: File too large") as full:
                await dump(archive, archive.history(id), tmp_path / "out.log")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert full.value.exit_code == 4
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["fsync", "open", "link"])
    async def test_whatever_fails_on_the_way_to_the_files_name_leaves_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        original, calls = getattr(os, name), 0

        def failing(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if name == "fsync" and calls == 1:
                return original(*arguments, **more)  # of the file; its directory's is the one that fails
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(f"kbackupd.archive.new_file.os.{name}", failing)
            with pytest.raises(UnwritableError, match="Input/output error"):
                await dump(archive, archive.history(id), tmp_path / "out.log")
        assert calls
        assert os.listdir(tmp_path) == []

    async def test_a_file_system_without_hard_links_gets_the_file_as_well_and_overwrites_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        created: list[Path] = []

        def no_links(source: Path, target: Path) -> None:
            if created:
                created[0].write_bytes(b"mine")
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("kbackupd.archive.new_file.os.link", no_links)
        await dump(archive, archive.history(id), tmp_path / "out.log")
        assert (tmp_path / "out.log").read_bytes() == b"".join(built.log(id.topic_id, 0).batches)
        created.append(tmp_path / "late.log")
        with pytest.raises(RefusedError):
            await dump(archive, archive.history(id), created[0])
        assert created[0].read_bytes() == b"mine"
        assert sorted(os.listdir(tmp_path)) == ["late.log", "out.log"]

    async def test_a_file_system_that_cannot_sync_directories_is_good_enough(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        original = os.fsync

        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")
            original(descriptor)

        monkeypatch.setattr("kbackupd.archive.new_file.os.fsync", fsync)
        report = await dump(archive, archive.history(id), tmp_path / "out.log")
        assert report.output.stat().st_size == report.bytes

    async def test_damage_on_the_way_leaves_no_file_behind(self, tmp_path: Path) -> None:
        built, id = await filled()
        archive = await Archive.open(built.store, BACKUP_ID)
        last = archive.evidence(id).runs[-1]
        data = bytearray(built.data(last.ref.key))
        data[last.run.position] ^= 1
        built.tamper(last.ref.key, bytes(data))
        with pytest.raises(CorruptObjectError):
            await dump(archive, archive.history(id), tmp_path / "out.log")
        assert os.listdir(tmp_path) == []

    async def test_holes_and_gaps_of_the_range_are_reported(self, tmp_path: Path) -> None:
        built, id = await filled()
        life = await built.start()
        life.gap(id.topic_id, 0, 30, GapCause.LOG_START_MOVED)
        await life.flush()
        built.tamper(built.keys[[key.startswith("segments/") for key in built.keys].index(True) + 1], None)
        archive = await Archive.open(built.store, BACKUP_ID)
        history = archive.history(id)
        report = await dump(archive, history, tmp_path / "out.log")
        assert [(hole.first_offset, hole.next_offset) for hole in report.holes] == [(5, 10)]
        assert [(gap.first_offset, gap.next_offset) for gap in report.gaps] == [(25, 30)]
        part = await dump(archive, history, tmp_path / "part.log", first_offset=10, next_offset=25)
        assert (part.holes, part.gaps) == ((), ())


class TestDescribe:
    async def test_counts_are_those_of_the_source(self) -> None:
        built, id = await filled()
        found = describe(await Archive.open(built.store, BACKUP_ID))
        (topic,) = found.topics
        assert (topic.name, topic.newest, topic.configs) == ("orders", True, {"cleanup.policy": "compact"})
        assert [(one.first_offset, one.next_offset, one.records) for one in topic.partitions] == [
            (0, 25, 25),
            (0, 0, 0),
        ]
        assert topic.partitions[0].raw_bytes == sum(map(len, built.log(id.topic_id, 0).batches))
        assert not topic.partitions[0].estimated
        assert [(one.writer, one.epochs, one.segments, one.checkpoints) for one in found.writers] == [("main", 1, 5, 1)]
        assert found.stored_bytes == sum(len(built.data(key)) for key in built.keys if key.startswith("segments/"))

    async def test_overlapping_captures_are_counted_once_and_called_an_estimate_where_they_are_cut(self) -> None:
        built, id = await filled(batches=1)
        log = built.log(id.topic_id, 0)
        log.append([b"y"] * 5)
        second = await built.start("second")
        second.capture(id.topic_id, 0)
        await second.flush()
        (topic,) = describe(await Archive.open(built.store, BACKUP_ID)).topics
        assert topic.partitions[0].next_offset == 10
        assert topic.partitions[0].estimated

    async def test_a_damaged_segment_is_named(self) -> None:
        built, _ = await filled()
        key = next(key for key in built.keys if key.startswith("segments/"))
        built.tamper(key, b"")
        found = describe(await Archive.open(built.store, BACKUP_ID))
        assert [one.object for one in found.damaged] == [key]


class TestArchivesUnderAPath:
    async def test_every_archive_is_listed_with_what_its_listing_shows(self) -> None:
        store = MemoryStore()
        for name in ("first", "second"):
            built = await ArchiveBuilder.create(backup_id=name, store=store)
            life = await built.start()
            await life.flush()
        store.tamper("unrelated/file.txt", b"")
        store.tamper("top.txt", b"")
        found = await archives_under(store)
        assert [(one.backup_id, one.writers, one.objects, one.problem) for one in found] == [
            ("first", ("main",), 4, None),
            ("second", ("main",), 4, None),
        ]
        assert all(one.last_sealed_ms for one in found)

    async def test_one_without_a_readable_identity_is_listed_with_the_reason(self) -> None:
        built, _ = await filled()
        built.tamper("backup.json", b"{}")
        (damaged,) = await archives_under(built.store)
        assert damaged.archive_id is None
        assert damaged.problem is not None
        built.tamper("backup.json", None)
        (headless,) = await archives_under(built.store)
        assert headless.problem == "backup.json is missing"

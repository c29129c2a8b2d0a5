"""What validation says about particular archives: each rule, once broken and once kept."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from kbackupd.format import keys
from kbackupd.format.checkpoint import decode_checkpoint, encode_checkpoint
from kbackupd.format.cluster_snapshot import decode_cluster, encode_cluster
from kbackupd.format.restores import encode_restore
from kbackupd.format.segment import SegmentDraft, seal
from kbackupd.model.errors import ObjectMissingError, StoreUnavailableError
from kbackupd.model.events import GapCause, TopicSeen
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.restores import RestoreDone
from kbackupd.store.memory import MemoryStore
from kbackupd.store.protocol import ObjectInfo
from kbackupd.validate.coverage import Expected, ExpectedEnd
from kbackupd.validate.report import Code, Finding, Severity, ValidationReport
from kbackupd.validate.validate import validate
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life
from tests.unit.format.samples import example_cluster, example_groups
from tests.unit.validate.eventful import eventful_archive


async def check(built: ArchiveBuilder, *, deep: bool = False, expected: Expected = Expected()) -> ValidationReport:
    return await validate(built.store, BACKUP_ID, deep=deep, expected=expected, clock=built.clock)


def errors(report: ValidationReport) -> list[Finding]:
    return [one for one in report.findings if one.severity is Severity.ERROR]


def codes(findings: Iterable[Finding]) -> set[Code]:
    return {one.code for one in findings}


def of(report: ValidationReport, code: Code) -> list[Finding]:
    return [one for one in report.findings if one.code is code]


async def filled(batches: int = 4) -> tuple[ArchiveBuilder, TopicId, Life]:
    """One topic of one partition, a segment for every batch of five records."""
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    for _ in range(batches):
        built.log(topic, 0).append([b"x"] * 5)
        life.capture(topic, 0)
        await life.flush()
    return built, topic, life


async def test_an_archive_in_which_everything_happened_is_valid_and_says_what_it_lacks() -> None:
    report = await check(await eventful_archive(), deep=True)
    assert report.valid
    assert report.exit_code == 0
    assert codes(report.findings) == {
        Code.SEQUENCE_UNFINISHED,
        Code.CONTINUITY_GAP,
        Code.CONTENT_CORRUPT_AT_SOURCE,
    }
    assert report.checked.body_bytes > 0


async def test_an_archive_that_was_only_just_created_is_valid() -> None:
    built = await ArchiveBuilder.create()
    assert (await check(built, deep=True)).findings == ()


def test_the_documentation_lists_every_code() -> None:
    text = (Path(__file__).parents[3] / "docs" / "validate.md").read_text()
    listed = [
        code
        for line in text.splitlines()
        if line.startswith("| `")
        for code in re.findall(r"`([a-z]+\.[a-z_]+)`", line)
    ]
    kinds = {code.value.split(".")[0] for code in Code}
    assert {code for code in listed if code.split(".")[0] in kinds} == {code.value for code in Code}


async def test_nothing_at_all_is_an_error_and_not_a_valid_archive() -> None:
    with pytest.raises(ObjectMissingError):
        await validate(MemoryStore(), BACKUP_ID)


async def test_without_deep_no_segment_body_is_read() -> None:
    class Bodiless(MemoryStore):
        async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
            raise AssertionError(f"read {key}")

        async def get(self, key: str) -> bytes:
            assert "segments/" not in key
            return await super().get(key)

    built = await ArchiveBuilder.create(store=Bodiless())
    topic = built.topic("orders")
    life = await built.start()
    built.log(topic, 0).append([b"x"])
    life.capture(topic, 0)
    await life.flush()
    assert (await check(built)).checked.body_bytes == 0


@pytest.mark.parametrize(
    "kind", ["backup.json", "RESTORE.md", "writers/", "segments/", "checkpoints/", "groups/", "cluster/"]
)
async def test_what_cannot_be_read_is_neither_valid_nor_damaged(kind: str) -> None:
    class Down(MemoryStore):
        down = False

        async def get(self, key: str) -> bytes:
            if self.down and kind in key:
                raise StoreUnavailableError("connection reset")
            return await super().get(key)

        async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
            if self.down and kind in key:
                raise StoreUnavailableError("connection reset")
            return await super().get_suffix(key, length)

    store = Down()
    built = await ArchiveBuilder.create(store=store)
    life = await built.start()
    await life.flush()
    await life.checkpoint()
    await life.snapshot(example_groups().content, example_cluster().content)
    store.down = True
    with pytest.raises(StoreUnavailableError):
        await check(built)


class TestSnapshots:
    async def test_a_deleted_snapshot_is_told_by_the_one_after_it(self) -> None:
        built = await eventful_archive()
        first, *_ = [key for key in built.keys if key.startswith("groups/")]
        built.tamper(first, None)
        (found,) = errors(await check(built))
        assert (found.code, found.object) == (Code.OBJECT_MISSING, first)

    async def test_a_snapshot_replaced_by_a_sound_one_of_other_content_breaks_the_chain(self) -> None:
        built = await eventful_archive()
        first, *_ = [key for key in built.keys if key.startswith("cluster/")]
        snapshot, _ = decode_cluster(first, built.data(first))
        built.tamper(first, encode_cluster(replace(snapshot, asked_ms=0))[0])
        (found,) = errors(await check(built))
        assert (found.code, found.object) == (Code.CHAIN_BROKEN, first)


class TestSequences:
    async def test_a_deleted_segment_is_told_with_its_key_and_the_hole_it_leaves(self) -> None:
        built, _, life = await filled()
        await life.checkpoint()
        key = [key for key in built.keys if keys.parse_segment_key(key)][1]
        built.tamper(key, None)
        report = await check(built)
        assert [one.object for one in of(report, Code.OBJECT_MISSING)] == [key]
        (hole,) = of(report, Code.CONTINUITY_HOLE)
        assert (hole.topic, hole.partition, hole.first_offset, hole.next_offset) == ("orders", 0, 5, 10)
        assert all(one.action for one in errors(report))

    async def test_the_last_segment_is_missed_because_a_checkpoint_speaks_of_it(self) -> None:
        built, _, life = await filled()
        await life.checkpoint()
        built.tamper([key for key in built.keys if keys.parse_segment_key(key)][-1], None)
        report = await check(built)
        assert codes(errors(report)) == {Code.OBJECT_MISSING, Code.CHECKPOINT_CONTRADICTED}
        (reached,) = of(report, Code.CHECKPOINT_CONTRADICTED)
        assert (reached.first_offset, reached.next_offset) == (15, 20)

    async def test_a_segment_in_flight_at_the_kill_is_no_finding_though_a_later_one_landed(self) -> None:
        built, topic, life = await filled()
        sealed = []
        for _ in range(2):
            built.log(topic, 0).append([b"x"] * 5)
            life.capture(topic, 0)
            sealed.append(life.seal())
        await life.arrive(sealed[1])
        report = await check(built)
        assert report.valid
        (unfinished,) = of(report, Code.CONTINUITY_UNFINISHED)
        assert (unfinished.first_offset, unfinished.next_offset) == (20, 25)

    async def test_a_segment_that_a_later_one_did_not_see_in_flight_must_be_there(self) -> None:
        built, _, _ = await filled()
        key = [key for key in built.keys if keys.parse_segment_key(key)][1]
        built.tamper(key, None)
        report = await check(built)
        assert [one.object for one in of(report, Code.OBJECT_MISSING)] == [key]

    async def test_a_segment_that_landed_behind_the_listings_back_is_looked_for_again(self) -> None:
        class Paging(MemoryStore):
            """Its first whole listing passed the place of one segment before that landed."""

            late = ""

            async def list_from(
                self, prefix: str, *, start_after: str = "", limit: int | None = None
            ) -> AsyncIterator[ObjectInfo]:
                hidden, self.late = self.late, ""
                async for info in super().list_from(prefix, start_after=start_after, limit=limit):
                    if info.key != hidden:
                        yield info

        store = Paging()
        built = await ArchiveBuilder.create(store=store)
        life = await built.start()
        sealed = [await life.flush() for _ in range(3)]
        store.late = f"{BACKUP_ID}/{sealed[1].ref.key}"
        assert (await check(built)).findings == ()

    async def test_a_straggler_that_landed_after_the_next_life_began_is_harmless(self) -> None:
        built, topic, life = await filled()
        built.log(topic, 0).append([b"x"] * 5)
        life.capture(topic, 0)
        straggler = life.seal()
        second = await built.start()
        second.capture(topic, 0)
        await second.flush()
        await second.checkpoint()
        await life.arrive(straggler)
        report = await check(built, deep=True)
        assert report.valid
        assert len(of(report, Code.SEQUENCE_ABANDONED)) == 1

    async def test_two_objects_of_one_sequence_are_told(self) -> None:
        built, _, life = await filled()
        at = keys.parse_segment_key([key for key in built.keys if keys.parse_segment_key(key)][1])
        assert at is not None
        draft = SegmentDraft(
            identity=built.document.identity,
            writer="main",
            writer_epoch=1,
            seq=1,
            previous=None,
            sealed_ms=at.sealed_ms + 1,
            sealed_monotonic_ms=0,
            topics={},
        )
        twin = seal(draft, codec="none")
        await built.scoped.put_if_absent(twin.ref.key, twin.parts)
        assert life.epoch == 1
        assert codes(errors(await check(built))) == {Code.SEQUENCE_DOUBLED, Code.CHAIN_BROKEN}


class TestIdentity:
    async def test_an_archive_under_another_name_is_told(self) -> None:
        built, _, _ = await filled()
        for key in built.keys:
            built.store.tamper(f"copy/{key}", built.data(key))
        report = await validate(built.store, "copy")
        assert codes(errors(report)) == {Code.IDENTITY_FOREIGN}

    async def test_a_segment_of_another_archive_under_the_right_key_is_told(self) -> None:
        built, _, _ = await filled()
        other, _, _ = await filled()
        key = [key for key in built.keys if keys.parse_segment_key(key)][1]
        built.tamper(key, other.data(key))
        report = await check(built)
        assert key in [one.object for one in of(report, Code.OBJECT_DAMAGED)]

    async def test_a_missing_claim_is_told_for_an_epoch_that_left_a_trace(self) -> None:
        built, _, _ = await filled()
        await built.start()
        built.tamper(keys.claim_key("main", 1), None)
        assert [one.object for one in errors(await check(built))] == [keys.claim_key("main", 1)]

    async def test_an_object_nobody_knows_is_information(self) -> None:
        built, _, _ = await filled()
        built.tamper("notes.txt", b"mine")
        report = await check(built)
        assert report.valid
        assert [one.object for one in of(report, Code.OBJECT_UNKNOWN)] == ["notes.txt"]

    async def test_what_a_restore_wrote_down_is_known_and_damage_to_it_is_told(self) -> None:
        built, _, _ = await filled()
        key = keys.restore_key("20261126T041500Z-5f0c2a91", "done")
        identity = built.document.identity
        document = encode_restore(
            RestoreDone(
                key=key,
                restore_id="20261126T041500Z-5f0c2a91",
                identity=identity,
                ended_ms=1,
                verdict="complete",
                records=1,
                data_bytes=1,
            )
        )
        built.tamper(key, document)
        assert not of(sound := await check(built), Code.OBJECT_UNKNOWN)
        assert sound.valid
        built.tamper(key, document[:-9] + b"\xff" + document[-8:])
        assert [one.object for one in errors(await check(built))] == [key]


class TestCheckpoints:
    async def test_a_deleted_one_is_information_and_a_damaged_one_is_an_error(self) -> None:
        built, _, life = await filled()
        first, _ = await life.checkpoint(), await life.checkpoint()
        data = built.data(first)
        built.tamper(first, None)
        report = await check(built)
        assert report.valid
        assert len(of(report, Code.CHECKPOINT_MISSING)) == 1
        built.tamper(first, data[:-1])
        assert [one.object for one in errors(await check(built))] == [first]

    async def test_all_deleted_is_information_that_less_could_be_checked(self) -> None:
        built, _, life = await filled()
        built.tamper(await life.checkpoint(), None)
        report = await check(built)
        assert report.valid
        assert codes(report.findings) == {Code.COVERAGE_UNCHECKED}

    async def test_one_that_counts_other_events_than_the_segments_hold_is_told(self) -> None:
        built, _, life = await filled()
        life.state.events += 1
        key = await life.checkpoint()
        assert [(one.code, one.object) for one in errors(await check(built))] == [(Code.CHECKPOINT_CONTRADICTED, key)]

    async def test_one_that_knows_a_partition_no_segment_speaks_of_is_told(self) -> None:
        built, topic, life = await filled()
        key = await life.checkpoint()
        lying = decode_checkpoint(key, built.data(key), built.document.identity)
        (row,) = lying.partitions
        (known,) = lying.topics
        other = TopicId("B" * 22)
        forged = replace(
            lying,
            topics=(known, replace(known, id=other, name="lost")),
            partitions=(row, row._replace(id=row.id._replace(topic_id=other))),
        )
        built.tamper(key, encode_checkpoint(forged))
        found = errors(await check(built))
        assert codes(found) == {Code.COVERAGE_TOPIC, Code.COVERAGE_PARTITION}
        assert {one.topic for one in found} == {"lost"}
        assert topic != other


class TestContinuity:
    async def test_a_hole_that_a_checkpoint_calls_durable_is_damage_even_beside_unfinished_work(self) -> None:
        built, topic, life = await filled()
        await life.checkpoint()
        built.tamper([key for key in built.keys if keys.parse_segment_key(key)][1], None)
        for _ in range(2):
            built.log(topic, 0).append([b"x"] * 5)
            life.capture(topic, 0)
            sealed = life.seal()
        await life.arrive(sealed)
        report = await check(built)
        assert [(one.first_offset, one.next_offset) for one in of(report, Code.CONTINUITY_HOLE)] == [(5, 10)]
        assert [(one.first_offset, one.next_offset) for one in of(report, Code.CONTINUITY_UNFINISHED)] == [(20, 25)]

    async def test_a_gap_is_information_with_its_cause(self) -> None:
        built, topic, life = await filled()
        built.log(topic, 0).append([b"x"] * 5)
        life.gap(topic, 0, 25, GapCause.LOG_START_MOVED)
        await life.flush()
        report = await check(built)
        assert report.valid
        (gap,) = of(report, Code.CONTINUITY_GAP)
        assert (gap.first_offset, gap.next_offset) == (20, 25)
        assert "log_start_moved" in gap.message

    async def test_captures_of_a_compacted_log_that_differ_are_information(self) -> None:
        built = await ArchiveBuilder.create()
        topic = built.topic("table")
        log = built.log(topic, 0)
        for _ in range(4):
            log.append([b"x"] * 5)
        full = list(log.batches)
        log.compact([0, 15])
        first = await built.start("first")
        first.capture(topic, 0)
        await first.flush()
        log.batches = full
        second = await built.start("second")
        built.clock.advance(60)
        second.capture(topic, 0)
        await second.flush()
        report = await check(built, deep=True)
        assert report.valid
        assert len(of(report, Code.CONTINUITY_OVERLAP)) == 1

    async def test_a_branch_whose_beginning_was_in_flight_is_unfinished_work(self) -> None:
        built, topic, life = await filled()
        log = built.log(topic, 0)
        log.truncate(10)
        life.truncated(topic, 0, 10)
        log.append([b"y"] * 3)
        life.capture(topic, 0)
        life.seal()
        log.append([b"y"] * 3)
        life.capture(topic, 0)
        await life.arrive(life.seal())
        report = await check(built)
        assert report.valid
        assert len(of(report, Code.CONTINUITY_BRANCH)) == 1


class TestCoverage:
    async def test_an_expected_topic_that_is_not_there_is_an_error(self) -> None:
        built, _, _ = await filled()
        assert (await check(built, expected=Expected(topics=("orders",)))).valid
        (missing,) = errors(await check(built, expected=Expected(topics=("orders", "payments"))))
        assert (missing.code, missing.topic) == (Code.COVERAGE_TOPIC, "payments")

    async def test_a_partition_that_metadata_counted_and_nobody_saw_is_an_error_only_if_expected(self) -> None:
        built, topic, life = await filled()
        life.event(TopicSeen(topic_id=topic, name="orders", partitions=2, internal=False, at_ms=built.clock.now_ms()))
        await life.flush()
        report = await check(built)
        assert report.valid
        assert [one.partition for one in of(report, Code.COVERAGE_PARTITION)] == [1]
        assert not (await check(built, expected=Expected(topics=("orders",)))).valid

    async def test_a_window_that_was_watched_all_the_time_is_covered(self) -> None:
        built, topic, life = await filled()
        begin = built.clock.now_ms()
        for _ in range(6):
            built.clock.advance(600)
            life.sample(topic, 0)
            await life.flush()
        window = Expected(from_ms=begin, to_ms=built.clock.now_ms())
        assert (await check(built, expected=window)).valid

    async def test_an_hour_in_which_nobody_looked_is_told_with_its_bounds(self) -> None:
        built, topic, life = await filled()
        begin = built.clock.now_ms()
        built.clock.advance(3600)
        life.sample(topic, 0)
        await life.flush()
        (hole,) = errors(await check(built, expected=Expected(from_ms=begin, to_ms=built.clock.now_ms())))
        assert (hole.code, hole.topic, hole.partition) == (Code.COVERAGE_TIME, "orders", 0)
        assert "not looked at for 1h00m" in hole.message
        patient = Expected(from_ms=begin, to_ms=built.clock.now_ms(), tolerance_seconds=4000)
        assert (await check(built, expected=patient)).valid

    async def test_a_window_that_ends_after_the_last_look_is_not_covered(self) -> None:
        built, _, _ = await filled()
        later = Expected(to_ms=built.clock.now_ms() + 3_600_000)
        (late,) = errors(await check(built, expected=later))
        assert "not known to be up to date after" in late.message

    async def test_a_sample_above_what_is_stored_proves_nothing(self) -> None:
        built, topic, life = await filled()
        built.clock.advance(3600)
        built.log(topic, 0).append([b"never captured"])
        life.sample(topic, 0)
        await life.flush()
        assert codes(errors(await check(built, expected=Expected(to_ms=built.clock.now_ms())))) == {Code.COVERAGE_TIME}

    async def test_a_partition_held_from_its_first_offset_covers_any_time_before(self) -> None:
        built, _, _ = await filled()
        long_ago = Expected(from_ms=built.clock.now_ms() - 10 * 86_400_000)
        assert (await check(built, expected=long_ago)).valid

    async def test_a_partition_whose_beginning_was_gone_does_not_cover_the_time_before_it_was_seen(self) -> None:
        built = await ArchiveBuilder.create()
        topic = built.topic("orders", first_offset=500)
        life = await built.start()
        built.log(topic, 0).append([b"x"])
        life.capture(topic, 0)
        await life.flush()
        (early,) = errors(await check(built, expected=Expected(from_ms=built.clock.now_ms() - 86_400_000)))
        assert "captured only since" in early.message

    async def test_a_partition_that_nobody_ever_saw_is_not_covered_at_any_time(self) -> None:
        """It was left out of the window's judgement: an archive without it was valid for all of the time."""
        built, topic, life = await filled()
        begin = built.clock.now_ms()
        life.event(TopicSeen(topic_id=topic, name="orders", partitions=2, internal=False, at_ms=begin))
        for _ in range(6):
            built.clock.advance(600)
            life.sample(topic, 0)
            await life.flush()
        end = built.clock.now_ms()
        for window in (Expected(from_ms=begin, to_ms=end), Expected(from_ms=begin), Expected(to_ms=end)):
            (never,) = errors(await check(built, expected=window))
            assert (never.code, never.topic, never.partition) == (Code.COVERAGE_TIME, "orders", 1)
            assert "never looked at" in never.message
        before = Expected(from_ms=begin - 3_600_000, to_ms=begin)
        assert (await check(built, expected=before)).valid, "it did not exist"
        patient = Expected(from_ms=begin, to_ms=end, tolerance_seconds=4000)
        assert (await check(built, expected=patient)).valid
        life.deleted(topic)
        await life.flush()
        built.clock.advance(86_400)
        after = Expected(from_ms=built.clock.now_ms() - 3_600_000, to_ms=built.clock.now_ms())
        assert (await check(built, expected=after)).valid, "it is gone"

    async def test_a_partition_counted_a_moment_ago_may_still_be_waiting_for_its_first_look(self) -> None:
        built, topic, life = await filled()
        begin = built.clock.now_ms()
        for _ in range(6):
            built.clock.advance(600)
            life.sample(topic, 0)
            await life.flush()
        end = built.clock.now_ms()
        life.event(TopicSeen(topic_id=topic, name="orders", partitions=2, internal=False, at_ms=end - 60_000))
        await life.flush()
        assert (await check(built, expected=Expected(from_ms=begin, to_ms=end))).valid

    async def test_a_deleted_topic_need_not_be_watched_any_longer(self) -> None:
        built, topic, life = await filled()
        life.deleted(topic)
        await life.flush()
        built.clock.advance(86_400)
        assert (await check(built, expected=Expected(to_ms=built.clock.now_ms()))).valid


async def test_an_end_that_a_run_says_it_reached_must_be_held_from_the_first_offset_on() -> None:
    built, topic, _ = await filled(4)
    id = PartitionId(topic, 0)

    async def judged(first_offset: int, next_offset: int, branch: int = 0) -> list[tuple[Code, int | None, int | None]]:
        end = ExpectedEnd(topic="orders", branch=branch, first_offset=first_offset, next_offset=next_offset)
        report = await check(built, expected=Expected(ends={id: end}))
        return [(one.code, one.first_offset, one.next_offset) for one in errors(report)]

    assert await judged(0, 20) == []
    assert await judged(0, 12) == []
    assert await judged(0, 21) == [(Code.COVERAGE_END, 20, 21)]
    assert await judged(0, 20, branch=3) == [(Code.COVERAGE_END, 0, 20)]


async def test_an_end_of_a_partition_that_no_segment_speaks_of_is_an_error() -> None:
    built, topic, _ = await filled(1)
    end = ExpectedEnd(topic="orders", branch=0, first_offset=0, next_offset=3)
    report = await check(built, expected=Expected(ends={PartitionId(topic, 7): end}))
    (found,) = errors(report)
    assert (found.code, found.partition, found.next_offset) == (Code.COVERAGE_PARTITION, 7, 3)

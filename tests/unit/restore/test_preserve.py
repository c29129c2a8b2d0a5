"""Every record where it was: what is filled, in which order, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kbackupd.cli.restore_progress import progress_line
from kbackupd.cli.restore_text import print_plan
from kbackupd.format.batch import iter_batches
from kbackupd.format.records import build_batch
from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicOperation, TopicPartition
from kbackupd.kafka.wire_transactions import InitTransactionsRequest, WriteMarkersRequest
from kbackupd.model.errors import IncompleteError
from kbackupd.model.events import GapCause
from kbackupd.model.settings import KeepOffsets
from kbackupd.restore.offset_map import MappedRun
from kbackupd.restore.plan import PartitionPlan, RestorePlan
from kbackupd.restore.preflight import PreflightError, TargetDeniedError, examine_target
from kbackupd.restore.preserve import HOLE_OFFSETS, MOST_FILLERS, KeepingOffsets, PreservedOffsets, Way, total_seconds
from kbackupd.restore.produce_batch import Holds, ProduceBatch
from kbackupd.restore.progress import Phase, RestoreProgress
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.schedule import Schedule
from kbackupd.restore.send_queue import Listener, Patience
from kbackupd.restore.visibility import Outcomes
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.forged_target import EVERYTHING, ForgedTarget
from tests.unit.restore.planned import archive_everything, plan_of, settings_for
from tests.unit.restore.test_rewrite import PRODUCER, raw, stored

TP = TopicPartition("orders", 0)


def batch(first_offset: int, records: int = 1) -> ProduceBatch:
    return ProduceBatch(data=b"data", records=records, base_sequence=0, source_first_offset=first_offset)


def places(steps: Sequence[ProduceBatch]) -> list[tuple[str, int, int]]:
    return [(one.holds.name, one.source_first_offset, one.source_first_offset + one.records) for one in steps]


def test_what_lies_between_batches_is_filled_before_the_next_one_and_the_rest_at_the_end() -> None:
    keeping = KeepingOffsets(10)
    steps = [*keeping.steps([batch(12, 3), batch(15, 2)]), *keeping.steps([batch(30)]), *keeping.until(40)]

    assert places(steps) == [
        ("NOTHING", 10, 12),
        ("RECORDS", 12, 15),
        ("RECORDS", 15, 17),
        ("NOTHING", 17, 30),
        ("RECORDS", 30, 31),
        ("NOTHING", 31, 40),
    ]
    assert keeping.position == 40
    assert sum(one.records for one in steps if one.holds is Holds.NOTHING) == 2 + 13 + 9


def test_a_log_that_ends_behind_the_next_record_cannot_be_gone_on_with() -> None:
    with pytest.raises(ValueError, match="offset 5 lies before the end of the log, 10"):
        list(KeepingOffsets(10).steps([batch(5)]))


@given(st.lists(st.integers(0, 60), min_size=1, unique=True))
def test_a_batch_with_holes_becomes_batches_without_whose_records_lie_where_they_were(deltas: list[int]) -> None:
    deltas.sort()
    source = build_batch([raw(delta, value=b"%d" % delta) for delta in deltas], base_offset=70, last_offset_delta=60)
    into = PartitionRewriter(outcomes=Outcomes(()), producer=PRODUCER, max_batch_bytes=1 << 20, splits_at_holes=True)
    produced = into.rewrite(stored(source))

    offsets = [
        offset for one in produced for offset in range(one.source_first_offset, one.source_first_offset + one.records)
    ]
    assert offsets == [70 + delta for delta in deltas]
    for one in produced:
        ((header, _),) = iter_batches(one.data)
        assert header.record_count == header.last_offset_delta + 1 == one.records
    assert list(into.offset_map.runs(target_first_offset=3)) == [
        MappedRun(source_offset=one.source_first_offset, target_offset=one.source_first_offset, count=one.records)
        for one in produced
    ]
    assert into.offset_map.target_of(70 + deltas[0]) == 70 + deltas[0]


def test_a_large_hole_is_filled_in_parts_so_that_progress_shows() -> None:
    assert places(list(KeepingOffsets(7).until(HOLE_OFFSETS + 10))) == [
        ("NOTHING", 7, HOLE_OFFSETS + 7),
        ("NOTHING", HOLE_OFFSETS + 7, HOLE_OFFSETS + 10),
    ]


def test_the_time_left_counts_offsets_that_are_still_to_be_filled() -> None:
    progress = RestoreProgress(began_at=0.0, total_bytes=100, to_fill_offsets=1_000)
    progress.enter(Phase.RESTORING, 0.0)
    progress.read_bytes = progress.queued_bytes = progress.acknowledged_bytes = 50
    etas = []
    for filled in (0, 100, 500, 1_000):
        progress.filled_offsets = filled
        etas.append(progress.eta_seconds(10.0))

    assert etas == [None, 90.0, 10.0, 10.0]
    progress.filled_offsets = 500
    assert "500 of 1,000 or more empty offsets filled" in progress_line(progress, 10.0)


async def preserved(built: ArchiveBuilder) -> PartitionPlan:
    await archive_everything(built)
    plan = await plan_of(built, settings_for("kafka:9092", {}, offsets=KeepOffsets.PRESERVE))
    return plan.topics[0].partitions[0]


def kept(partition: PartitionPlan) -> PreservedOffsets:
    assert partition.preserved is not None
    return partition.preserved


async def test_a_plan_counts_markers_and_what_compaction_took_and_says_how_long_that_takes() -> None:
    built = await ArchiveBuilder.create()
    log = built.log(built.topic("orders", first_offset=100), 0)
    log.append([b"a", b"b"], producer_id=7, transactional=True)
    log.end_transaction(7, committed=True)
    log.add(build_batch([raw(0), raw(9)], base_offset=log.next_offset, base_timestamp_ms=0))

    partition = await preserved(built)

    assert (kept(partition).log_start, kept(partition).next_offset) == (100, 113)
    assert (kept(partition).to_fill, kept(partition).refused) == (1 + 8, "")
    assert 0 < total_seconds([kept(partition)]) < 1


async def test_a_log_begins_behind_what_was_gone_when_capture_began_and_not_at_its_first_record() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    log, life = built.log(orders, 0), await built.start()
    log.append([b"gone"] * 3)
    life.see(orders)
    life.gap(orders, 0, 3, GapCause.LOG_START_MOVED)
    log.add(build_batch([raw(4)], base_offset=3, last_offset_delta=4, base_timestamp_ms=0))
    life.capture(orders, 0)
    await life.flush()
    plan = await plan_of(built, settings_for("kafka:9092", {}, offsets=KeepOffsets.PRESERVE))

    assert kept(plan.topics[0].partitions[0]).log_start == 3
    assert plan.topics[0].moves_log_start


async def test_offsets_too_far_away_are_refused_with_the_time_it_would_take() -> None:
    built = await ArchiveBuilder.create()
    built.log(built.topic("orders", first_offset=1 << 40), 0).append([b"far"])

    assert kept(await preserved(built)).refused == (
        f"its log begins at offset {1 << 40}: filling up to there would take 6d08h (at most {MOST_FILLERS} offsets are"
        " filled)"
    )


async def test_a_plan_that_does_not_keep_offsets_says_nothing_of_them() -> None:
    built = await ArchiveBuilder.create()
    built.log(built.topic("orders", first_offset=100), 0).append([b"a"])
    await archive_everything(built)
    plan = await plan_of(built, settings_for("kafka:9092", {}))

    assert plan.topics[0].partitions[0].preserved is None
    assert (plan.fill_seconds, plan.topics[0].moves_log_start) == (0.0, False)


class Queue:
    """One partition's schedule, and what it told."""

    def __init__(self) -> None:
        self.acknowledged: list[ProduceBatch] = []
        self.ended = 0
        listener = Listener(
            acknowledged=lambda _, one: self.acknowledged.append(one), freed=lambda _: None, ended=self._ended
        )
        self.schedule = Schedule(lanes=1, listener=listener, patience=Patience())
        self.schedule.begin(TP, next_offset=0)
        self.schedule.leaders_are({TP: 1}, 0.0)

    def _ended(self, _: TopicPartition) -> None:
        self.ended += 1

    def put(self, *steps: ProduceBatch) -> None:
        for step in steps:
            self.schedule.put(TP, step)

    def sent(self) -> list[int]:
        """Offsets of the batches that go now; they are acknowledged one after the other."""
        requests = list(self.schedule.requests(0.0))
        for request in requests:
            ((queue, entry),) = request.chosen
            answer = ProduceAnswer(
                error_code=KafkaErrorCode.NONE,
                base_offset=entry.batch.source_first_offset,
                log_append_time=-1,
                log_start_offset=0,
            )
            self.schedule.answered(request, {queue.tp: answer}, 0.0)
        return [request.chosen[0][1].batch.source_first_offset for request in requests]


def test_nothing_behind_a_hole_goes_before_it_is_filled_and_it_is_filled_when_all_before_it_is_there() -> None:
    queue = Queue()
    queue.put(*KeepingOffsets(0).steps([batch(0), batch(1), batch(5), batch(6)]))
    holes, order = [], []
    for _ in range(4):
        holes.append([(entry.batch.source_first_offset, entry.batch.records) for _, entry in queue.schedule.holes()])
        order.append(queue.sent())
        if holes[-1]:
            one = queue.schedule[TP]
            one.filled(one.entries[0], None)

    assert order == [[0], [1], [], [5, 6]]
    assert holes == [[], [], [(2, 3)], []]
    assert queue.schedule[TP].next_offset == 7
    assert [one.holds for one in queue.acknowledged] == [Holds.RECORDS] * 2 + [Holds.NOTHING] + [Holds.RECORDS] * 2
    assert queue.ended == 1


def test_a_hole_that_cannot_be_filled_ends_its_partition() -> None:
    queue = Queue()
    queue.put(*KeepingOffsets(0).steps([batch(2)]))
    [(one, entry)] = queue.schedule.holes()
    one.filled(entry, IncompleteError("no"))

    assert queue.sent() == []
    assert str(one.failed) == "no"
    assert queue.ended == 1


def test_a_hole_at_the_end_ends_the_partition_when_it_is_filled() -> None:
    queue = Queue()
    queue.put(*KeepingOffsets(0).until(9))
    [(one, entry)] = queue.schedule.holes()
    before = queue.ended
    one.filled(entry, None)

    assert (before, queue.ended, one.next_offset) == (0, 1, 9)


class TestPreflight:
    DENIED: Mapping[type[object], int] = MappingProxyType(
        {WriteMarkersRequest: KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED}
    )

    @staticmethod
    async def plan(*, first_offset: int = 0, hole: int = 0) -> RestorePlan:
        built = await ArchiveBuilder.create()
        log = built.log(built.topic("orders", first_offset=first_offset), 0)
        log.append([b"v"])
        if hole:
            log.add(build_batch([raw(0)], base_offset=log.next_offset + hole, base_timestamp_ms=0))
        await archive_everything(built)
        return await plan_of(built, settings_for("kafka:9092", {}, offsets=KeepOffsets.PRESERVE))

    @staticmethod
    async def problems(target: ForgedTarget, plan: RestorePlan) -> list[str]:
        with pytest.raises((PreflightError, TargetDeniedError)) as refused:
            await examine_target(target, plan)
        assert isinstance(refused.value, PreflightError | TargetDeniedError)
        assert target.written == []
        return [f"{problem.what} → {problem.remedy}" for problem in refused.value.problems]

    async def test_markers_are_taken_where_they_are_permitted_and_empty_transactions_where_not(self) -> None:
        plan = await self.plan()
        permitted = await examine_target(ForgedTarget(), plan)
        denied = await examine_target(ForgedTarget(refuses=self.DENIED), plan)

        assert (permitted.way, denied.way) == (Way.MARKERS, Way.TRANSACTIONS)

    async def test_neither_is_told_with_both_remedies(self) -> None:
        denied: dict[type[object], int] = {
            **self.DENIED,
            InitTransactionsRequest: KafkaErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        }

        [problem] = await self.problems(ForgedTarget(refuses=denied), await self.plan())

        assert "may neither write transaction markers nor use the transactional id kbackupd-restore-" in problem
        assert "→ grant Alter or ClusterAction on the cluster, or Write and Describe on the transactional" in problem

    async def test_what_empty_transactions_would_take_days_for_is_refused(self) -> None:
        plan = await self.plan(hole=9_000_000)
        state = await examine_target(ForgedTarget(), plan)

        [problem] = await self.problems(ForgedTarget(refuses=self.DENIED), plan)

        assert state.way is Way.MARKERS
        assert "a partition has 9000000 offsets without records" in problem
        assert "empty transactions would take 2d02h" in problem

    async def test_whoever_may_not_delete_records_cannot_have_a_log_begin_behind_offset_0(self) -> None:
        able = EVERYTHING - {TopicOperation.DELETE}
        begins_at_0 = await examine_target(ForgedTarget(operations={"orders": able}), await self.plan())

        [problem] = await self.problems(ForgedTarget(operations={"orders": able}), await self.plan(first_offset=5))

        assert begins_at_0.way is Way.MARKERS
        assert problem == "topic orders: this principal lacks Delete → grant Delete on topic orders"


async def test_the_plan_that_is_printed_says_what_is_filled_and_how_long_that_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_plan(Console(width=200), await TestPreflight.plan(first_offset=4_000_000, hole=20_000))
    said = capsys.readouterr().out

    assert "offsets are kept: at least 20,000 without a record to fill, and 4,000,000 before the log starts" in said
    assert "about 4s" in said

"""When a restore is gone on with, and what of it counts as restored: decided without a store and without brokers."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from kbackupd.format.batch import iter_batches
from kbackupd.format.keys import restore_key
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.restores import decode_stage, encode_restore
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import CorruptObjectError, IncompleteError, RefusedError, StoreDeniedError
from kbackupd.model.positions import TopicId
from kbackupd.model.restores import (
    BegunTopic,
    FillingTopic,
    Finished,
    RestoreBegun,
    RestoreDone,
    RestoreReady,
    Unfinished,
)
from kbackupd.model.scope import HeaderPattern, OffsetBounds, RecordPatterns, RecordsOf, RestoreScope, TimeWindow
from kbackupd.model.segment import Identity
from kbackupd.model.settings import RestoreOptions, TopicMapping, TopicSelection
from kbackupd.restore.content_digest import batch_digest
from kbackupd.restore.course import Course
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, Holds, ProduceBatch
from kbackupd.restore.results import failure_of
from kbackupd.restore.resume import Landed, NewestBatch, deciding, gone_on_with, landed, own_overrides, refuse_twice
from kbackupd.restore.stored import StoredRestores
from kbackupd.store.memory import MemoryStore
from tests.unit.restore.forged_target import ForgedTarget, ForgedTopic

IDENTITY = Identity(backup_id="main", archive_id="0d3e…", cluster_id="source")
ID = "20261126T041500Z-5f0c2a91"
OPTIONS = RestoreOptions(topic_mapping=(TopicMapping(source="orders", target="restored"),))
ORDERS, PAYMENTS = TopicId("orders" + "x" * 15 + "A"), TopicId("payments" + "x" * 13 + "A")
TP = TopicPartition("restored", 0)


def begun(restore_id: str = ID, **changes: object) -> RestoreBegun:
    document = RestoreBegun(
        key=restore_key(restore_id, "begun"),
        restore_id=restore_id,
        identity=IDENTITY,
        software="kbackupd/test",
        began_ms=1_764_130_500_000,
        target_cluster_id="target",
        pinned=(("main", 1, ((0, 3), (5, 6))),),
        options=deciding(OPTIONS),
        plan_sha256="0" * 64,
        topics=(
            BegunTopic(
                source="orders", source_topic_id=ORDERS, target="restored", existing_topic_id=None, overrides={}
            ),
            BegunTopic(
                source="payments",
                source_topic_id=PAYMENTS,
                target="payments",
                existing_topic_id=PAYMENTS,
                overrides={"retention.ms": "7"},
            ),
        ),
    )
    return replace(document, **changes)  # type: ignore[arg-type]  # names and types are those of the document


def ready(restore_id: str = ID) -> RestoreReady:
    return RestoreReady(
        key=restore_key(restore_id, "ready"),
        restore_id=restore_id,
        identity=IDENTITY,
        producer_id=7,
        producer_epoch=1,
        topics=(
            FillingTopic(target="restored", topic_id=ORDERS, log_ends=(0, 0), configs={}, created=True),
            FillingTopic(target="payments", topic_id=PAYMENTS, log_ends=(3,), configs={}, created=False),
        ),
    )


def done(restore_id: str = ID) -> RestoreDone:
    return RestoreDone(
        key=restore_key(restore_id, "done"),
        restore_id=restore_id,
        identity=IDENTITY,
        ended_ms=1,
        verdict="complete",
        records=1,
        data_bytes=1,
    )


THERE = {"restored": ORDERS, "payments": PAYMENTS}
UNFINISHED = Unfinished(begun=begun(), ready=ready())


def chosen(
    *unfinished: Unfinished, options: RestoreOptions = OPTIONS, cluster: str = "target", there: object = None
) -> Unfinished | None:
    found = THERE if there is None else there
    assert isinstance(found, dict)
    return gone_on_with(unfinished, options=options, target_cluster_id=cluster, there=found)


class TestGoingOn:
    def test_the_same_options_in_the_same_topics_go_on(self) -> None:
        assert chosen(UNFINISHED) is UNFINISHED

    def test_what_happens_afterwards_and_how_fast_may_differ(self) -> None:
        assert chosen(UNFINISHED, options=replace(OPTIONS, verify=False, rate_limit_bytes_per_second=5)) is UNFINISHED

    @pytest.mark.parametrize("there", [{}, {"restored": TopicId("new" + "x" * 18 + "A")}], ids=["gone", "made anew"])
    def test_topics_that_are_all_gone_begin_anew(self, there: dict[str, TopicId]) -> None:
        assert chosen(UNFINISHED, there=there) is None

    def test_another_cluster_knows_nothing_of_it(self) -> None:
        assert chosen(UNFINISHED, cluster="elsewhere") is None

    def test_one_that_never_produced_a_record_is_not_gone_on_with(self) -> None:
        assert chosen(Unfinished(begun=begun(), ready=None)) is None

    def test_other_options_over_the_same_topics_are_refused_with_the_difference(self) -> None:
        with pytest.raises(RefusedError, match=r"with other options: topics was .*\["):
            chosen(UNFINISHED, options=replace(OPTIONS, topics=TopicSelection(include=("*",), exclude=("x",))))

    @pytest.mark.parametrize(
        "scope",
        [
            RestoreScope(window=TimeWindow(start_ms=1_711_234_800_000)),
            RestoreScope(records_of=RecordsOf.UNCOMMITTED),
            RestoreScope(patterns=RecordPatterns(headers=(HeaderPattern(name="h", value="x"),))),
            RestoreScope(offsets={("orders", 1): OffsetBounds(next_offset=7)}),
            RestoreScope(partitions={"orders": frozenset({2, 0})}),
            RestoreScope(incarnations={"orders": ORDERS}),
            RestoreScope(branches={("orders", 1): 2}),
            RestoreScope(target_partitions={"orders": 9}),
        ],
    )
    def test_every_part_of_the_choice_counts_and_survives_being_written_down(self, scope: RestoreScope) -> None:
        options = replace(OPTIONS, scope=scope)
        document = begun(options=deciding(options))
        read = decode_stage(document.key, encode_restore(document), IDENTITY)
        assert isinstance(read, RestoreBegun)
        same = Unfinished(begun=read, ready=ready())
        assert chosen(same, options=options) is same
        with pytest.raises(RefusedError, match="with other options: scope was"):
            chosen(same)

    def test_an_option_that_the_version_of_then_did_not_know_had_its_default(self) -> None:
        known_then = {name: value for name, value in deciding(OPTIONS).items() if name != "provenance_headers"}
        scope = deciding(OPTIONS)["scope"]
        assert isinstance(scope, dict)
        known_then["scope"] = {name: value for name, value in scope.items() if name != "as_of_ms"}
        older = Unfinished(begun=begun(options=known_then), ready=ready())

        assert chosen(older) is older
        with pytest.raises(RefusedError, match="with other options: provenance_headers was false and is true"):
            chosen(older, options=replace(OPTIONS, provenance_headers=True))

    def test_a_topic_of_it_that_is_gone_is_told_with_what_is_left_to_delete(self) -> None:
        with pytest.raises(RefusedError, match="payments that belong to the same restore are gone") as refused:
            chosen(UNFINISHED, there={"restored": ORDERS})
        assert refused.value.hint == "delete restored as well to begin anew"

    def test_a_restore_of_other_topics_is_none_of_its_business(self) -> None:
        elsewhere = RestoreOptions(topics=TopicSelection(include=("invoices",)))
        assert chosen(UNFINISHED, options=elsewhere) is None

    def test_of_several_the_newest_that_concerns_the_topics_counts(self) -> None:
        newer = Unfinished(begun=begun("20261126T051500Z-00000000"), ready=ready("20261126T051500Z-00000000"))
        assert chosen(UNFINISHED, newer) is newer

    def test_a_topic_made_safe_by_a_run_that_never_got_ready_gets_its_own_settings_back(self) -> None:
        ended_early = [Unfinished(begun=begun(), ready=None)]
        assert own_overrides(ended_early, "payments", PAYMENTS) == {"retention.ms": "7"}
        assert own_overrides(ended_early, "payments", ORDERS) is None
        assert own_overrides(ended_early, "restored", ORDERS) is None


def produced(number: int, records: int, *, producer_id: int = 7, sequence: int | None = None) -> ProduceBatch:
    data = build_batch(
        [RawRecord(0, n, n, encode_body(b"k", b"%d-%d" % (number, n))) for n in range(records)],
        base_timestamp_ms=1_000,
        producer_id=producer_id,
        producer_epoch=1,
        base_sequence=number if sequence is None else sequence,
    )
    return ProduceBatch(data=data, records=records, base_sequence=number, source_first_offset=number)


def newest(batch: ProduceBatch, base_offset: int) -> NewestBatch:
    [(header, data)] = iter_batches(batch.data)
    return NewestBatch(header=header._replace(base_offset=base_offset), digest=batch_digest(data))


class TestLanded:
    def test_whole_batches_of_what_is_made_again_are_there_and_the_rest_is_sent(self) -> None:
        batches = [produced(0, 3), produced(3, 2), produced(5, 4)]
        there = landed(TP, first_offset=10, log_end=15, newest=newest(batches[1], 13), ready=ready())
        assert [there.left_of(batch) for batch in batches] == [None, None, batches[2]]
        there.check_passed()

    def test_nothing_there_sends_everything(self) -> None:
        there = landed(TP, first_offset=10, log_end=10, newest=None, ready=ready())
        assert there.left_of(batch := produced(0, 3)) is batch
        there.check_passed()

    def test_sequences_start_over_behind_two_to_the_31st(self) -> None:
        before = SEQUENCE_MODULUS - 1
        last = produced(0, 3, sequence=before)
        there = landed(TP, first_offset=0, log_end=before + 3, newest=newest(last, before), ready=ready())
        assert there.offsets == before + 3

    @pytest.mark.parametrize(
        ("batch", "log_end"),
        [
            (produced(3, 2, producer_id=8), 15),
            (produced(4, 2), 15),
            (produced(3, 2), 16),
        ],
        ids=["another producer", "another sequence", "something behind it"],
    )
    def test_an_end_that_the_restore_did_not_write_is_refused(self, batch: ProduceBatch, log_end: int) -> None:
        with pytest.raises(RefusedError, match="something that the restore begun there did not write"):
            landed(TP, first_offset=10, log_end=log_end, newest=newest(batch, 13), ready=ready())

    def test_a_log_that_ends_inside_a_batch_of_this_run_is_not_continued(self) -> None:
        there = Landed(TP, 4, newest(produced(2, 2), 2))
        assert there.left_of(produced(0, 3)) is None
        with pytest.raises(IncompleteError, match="do not end as this run's do"):
            there.left_of(produced(3, 2))

    def test_other_content_at_the_end_is_not_continued(self) -> None:
        there = Landed(TP, 3, newest(produced(7, 3), 0))
        with pytest.raises(IncompleteError, match="do not end as this run's do"):
            there.left_of(produced(0, 3))

    def test_records_where_this_run_has_a_hole_are_not_taken_for_part_of_it(self) -> None:
        hole = replace(produced(3, 5), data=b"", holds=Holds.NOTHING)
        marker = newest(batch := produced(5, 1), 5)
        marker = replace(marker, header=marker.header._replace(attributes=marker.header.attributes | 1 << 5))
        assert marker.header.is_control
        there = Landed(TP, 6, marker)
        assert [there.left_of(one) for one in (produced(0, 3), hole)] == [
            None,
            replace(hole, records=2, source_first_offset=6),
        ]

        there = Landed(TP, 6, newest(batch, 5))
        there.left_of(produced(0, 3))
        with pytest.raises(IncompleteError, match="do not end as this run's do"):
            there.left_of(hole)

    def test_more_than_is_made_again_is_told(self) -> None:
        there = Landed(TP, 5, newest(produced(3, 2), 3))
        assert there.left_of(produced(0, 3)) is None
        with pytest.raises(IncompleteError, match="restored 5 records, this one finds 3") as told:
            there.check_passed()
        assert failure_of(told.value).endswith("the topic has what could be read then)"), "what to make of it is told"


class TestDocuments:
    async def test_a_restore_is_unfinished_until_it_is_done(self) -> None:
        restores = StoredRestores(MemoryStore())
        assert await restores.unfinished(IDENTITY) == []
        await restores.write(begun())
        assert await restores.unfinished(IDENTITY) == [Unfinished(begun=begun(), ready=None)]
        await restores.write(ready())
        assert await restores.unfinished(IDENTITY) == [UNFINISHED]
        await restores.write(done())
        assert await restores.unfinished(IDENTITY) == []

    async def test_a_damaged_document_is_told_and_holds_up_no_other_restore(self) -> None:
        store = MemoryStore()
        other = "20261126T051500Z-00000000"
        restores = StoredRestores(store)
        await store.put_if_absent(begun().key, [encode_restore(begun())[:-5]])
        await restores.write(begun(other))
        assert [one.begun.restore_id for one in await restores.unfinished(IDENTITY)] == [other]
        assert list(restores.damaged) == [begun().key]

    async def test_where_nothing_may_be_written_the_way_out_is_told(self) -> None:
        class ReadOnly(MemoryStore):
            async def put_if_absent(self, key: str, parts: object) -> None:
                raise StoreDeniedError(f"{key}: access denied")

        with pytest.raises(StoreDeniedError, match="access denied") as denied:
            await StoredRestores(ReadOnly()).write(begun())
        assert "--plans DIR" in denied.value.hint

    @pytest.mark.parametrize("document", [begun(), ready(), done()], ids=lambda one: type(one).__name__)
    def test_documents_come_back_as_they_were(self, document: RestoreBegun | RestoreReady | RestoreDone) -> None:
        assert decode_stage(document.key, encode_restore(document), IDENTITY) == document

    @pytest.mark.parametrize("document", [begun(), ready(), done()], ids=lambda one: type(one).__name__)
    def test_hazard_58_any_byte_of_them_that_changed_is_found(
        self, document: RestoreBegun | RestoreReady | RestoreDone
    ) -> None:
        sound = encode_restore(document)
        for at in range(len(sound)):
            with pytest.raises(CorruptObjectError):
                decode_stage(document.key, sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :], IDENTITY)

    def test_one_of_another_archive_or_under_another_name_is_refused(self) -> None:
        with pytest.raises(CorruptObjectError, match="belongs to another archive"):
            decode_stage(begun().key, encode_restore(begun()), replace(IDENTITY, archive_id="other"))
        with pytest.raises(CorruptObjectError, match="was written as"):
            decode_stage(restore_key("20261126T051500Z-00000000", "begun"), encode_restore(begun()), IDENTITY)


class TestAppending:
    """Topics that hold what others wrote are never to be deleted, and no log shows that a restore was finished."""

    OPTIONS: ClassVar[RestoreOptions] = replace(OPTIONS, append=True)
    FINISHED: ClassVar[Finished] = Finished(begun=begun(options=deciding(OPTIONS)), ready=ready())

    def twice(self, *, options: RestoreOptions, cluster: str = "target", there: dict[str, TopicId] = THERE) -> None:
        refuse_twice([self.FINISHED], options=options, target_cluster_id=cluster, there=there)

    def test_hazard_28_a_finished_one_is_not_appended_again(self) -> None:
        with pytest.raises(RefusedError, match=r"restored, payments is done, begun at .*: it would be appended twice"):
            self.twice(options=self.OPTIONS)

    def test_hazard_28_an_upgrade_that_brings_an_option_does_not_have_it_appended_again(self) -> None:
        known_then = {name: value for name, value in deciding(self.OPTIONS).items() if name != "provenance_headers"}
        older = Finished(begun=begun(options=known_then), ready=ready())

        with pytest.raises(RefusedError, match="it would be appended twice"):
            refuse_twice([older], options=self.OPTIONS, target_cluster_id="target", there=THERE)

    def test_hazard_28_however_the_topics_are_named_the_same_records_are_not_appended_again(self) -> None:
        named = replace(self.OPTIONS, topics=TopicSelection(include=("orders", "payments")))
        globbed = replace(self.OPTIONS, topics=TopicSelection(include=("o*",)))
        first_run_into_absent_topics = Finished(
            begun=begun(options=deciding(replace(self.OPTIONS, append=False))), ready=ready()
        )

        for options in (named, globbed):
            with pytest.raises(RefusedError, match=r"restored.* is done, .*: it would be appended twice"):
                self.twice(options=options)
        with pytest.raises(RefusedError, match="it would be appended twice"):
            refuse_twice([first_run_into_absent_topics], options=self.OPTIONS, target_cluster_id="target", there=THERE)

    @pytest.mark.parametrize(
        "of_another_topic",
        [
            RestoreScope(offsets={("payments", 0): OffsetBounds(first_offset=7)}),
            RestoreScope(partitions={"payments": frozenset({0})}),
            RestoreScope(branches={("payments", 0): 1}),
            RestoreScope(incarnations={"payments": PAYMENTS}),
            RestoreScope(target_partitions={"orders": 2, "payments": 9}),
        ],
        ids=["offsets", "partitions", "branches", "incarnations", "target partitions"],
    )
    def test_hazard_28_what_is_chosen_of_another_topic_does_not_have_this_one_appended_again(
        self, of_another_topic: RestoreScope
    ) -> None:
        both = Finished(begun=begun(options=deciding(replace(self.OPTIONS, scope=of_another_topic))), ready=ready())
        alone = replace(self.OPTIONS, topics=TopicSelection(include=("orders",)))

        with pytest.raises(RefusedError, match=r"into restored is done, .*: it would be appended twice"):
            refuse_twice([both], options=alone, target_cluster_id="target", there=THERE)

    def test_other_offsets_of_the_same_topic_are_other_records(self) -> None:
        for scope in (
            RestoreScope(offsets={("orders", 0): OffsetBounds(first_offset=7)}),
            RestoreScope(partitions={"orders": frozenset({0})}),
        ):
            self.twice(options=replace(self.OPTIONS, topics=TopicSelection(include=("orders",)), scope=scope))

    def test_other_records_into_another_cluster_or_into_topics_made_anew_are_another_restore(self) -> None:
        self.twice(options=replace(self.OPTIONS, provenance_headers=True))
        self.twice(options=self.OPTIONS, cluster="elsewhere")
        self.twice(options=self.OPTIONS, there={})
        self.twice(options=replace(self.OPTIONS, topics=TopicSelection(include=("invoices",))))
        self.twice(options=replace(self.OPTIONS, topic_mapping=(TopicMapping(source="*", target="*-again"),)))

    async def test_finished_ones_are_told_apart_from_those_that_are_not(self) -> None:
        restores, other = StoredRestores(MemoryStore()), ID.replace("5f", "6f")
        for document in (begun(), ready(), done(), begun(other), ready(other)):
            await restores.write(document)

        assert [one.begun.restore_id for one in await restores.finished(IDENTITY)] == [ID]
        assert [one.begun.restore_id for one in await restores.unfinished(IDENTITY)] == [other]

    @pytest.mark.parametrize("damaged", [begun(), ready()], ids=["begun", "ready"])
    @pytest.mark.parametrize("ended", [True, False], ids=["done", "killed"])
    async def test_where_a_document_cannot_be_read_nothing_is_appended_and_nothing_deleted(
        self, damaged: RestoreBegun | RestoreReady, ended: bool
    ) -> None:
        store = MemoryStore()
        for document in (begun(), ready(), *((done(),) if ended else ())):
            sound = encode_restore(document)
            await store.put_if_absent(document.key, [sound[:-5] if document.key == damaged.key else sound])
        target = ForgedTarget(topics={"restored": ForgedTopic(partitions=2, records=3)})

        async def found(options: RestoreOptions) -> Unfinished | None:
            course = await Course.read(StoredRestores(store), IDENTITY, SystemClock())
            await course.find(target, options)
            return course.going_on

        with pytest.raises(RefusedError, match=f"{damaged.key}: cannot be read, .*appended before") as refused:
            await found(self.OPTIONS)
        assert "delete" not in refused.value.hint
        assert "--plans DIR" in refused.value.hint
        assert await found(replace(self.OPTIONS, append=False)) is None, "it appends to nothing"
        assert target.written == []

    def test_with_other_options_nobody_is_told_to_delete_what_others_wrote(self) -> None:
        half = Unfinished(begun=begun(options=deciding(self.OPTIONS)), ready=ready())

        with pytest.raises(RefusedError, match="with other options") as refused:
            chosen(half, options=replace(self.OPTIONS, provenance_headers=True))

        assert "delete" not in refused.value.hint
        assert "--plans DIR" in refused.value.hint

    def test_a_foreign_record_behind_ours_is_told_without_asking_for_a_deletion(self) -> None:
        with pytest.raises(RefusedError, match="did not write") as refused:
            landed(TP, first_offset=7, log_end=8, newest=None, ready=ready(), appends=True)

        assert "delete" not in refused.value.hint
        assert "offset_ranges" in refused.value.hint

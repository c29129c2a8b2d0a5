"""What a starting daemon finds: at a bounded cost, alike with and without checkpoints, certain or an error (I3, I5)."""

from __future__ import annotations

import pytest

from kbackupd.archive.recovery import Recovery, recover
from kbackupd.model.errors import KbackupError, StoreDeniedError, StoreUnavailableError, UnsupportedFormatError
from kbackupd.model.positions import TopicId
from kbackupd.store.faults import FaultStore
from kbackupd.store.metered import Operation
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore
from tests.archive_builder import BACKUP_ID, ArchiveBuilder


async def found(built: ArchiveBuilder, epoch: int, *, store: ObjectStore | None = None) -> Recovery:
    scoped = built.scoped if store is None else ScopedStore(store, BACKUP_ID)
    return await recover(scoped, writer="main", writer_epoch=epoch, identity=built.document.identity)


async def three_lives(*, checkpoints: bool = True) -> tuple[ArchiveBuilder, TopicId]:
    """Three segments each."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2)
    for _ in range(3):
        life = await built.start()
        for _ in range(3):
            built.log(orders, 0).append([b"a", b"b"])
            built.log(orders, 1).append([b"c"])
            life.capture(orders, 0)
            life.capture(orders, 1)
            await life.flush()
            if checkpoints:
                await life.checkpoint()
    return built, orders


async def test_an_empty_archive_has_nothing_to_go_on_from() -> None:
    built = await ArchiveBuilder.create()
    recovery = await found(built, 1)
    assert recovery.state.partitions == {}
    assert recovery.earlier == ()
    assert recovery.damaged == ()


async def test_recovery_reads_no_footer_that_the_newest_checkpoint_covers() -> None:
    """Its cost does not grow with the archive's age."""
    built, _ = await three_lives()
    store = FaultStore(built.store)
    recovery = await found(built, 4, store=store)
    assert recovery.footers_read == 0
    assert len(store.calls) < 15


async def test_all_checkpoints_deleted_give_the_same_positions() -> None:
    """Invariant I3: losing every checkpoint costs time, never knowledge."""
    built, orders = await three_lives()
    with_checkpoints = await found(built, 4)
    for key in [key for key in built.keys if key.startswith("checkpoints/")]:
        built.tamper(key, None)
    without = await found(built, 4)
    assert without.footers_read == 9
    assert {p.id: (p.next_offset, p.branch, p.leader_epochs) for p in without.state.partitions.values()} == {
        p.id: (p.next_offset, p.branch, p.leader_epochs) for p in with_checkpoints.state.partitions.values()
    }
    assert without.state.chain_head == with_checkpoints.state.chain_head
    assert without.state.coverage == with_checkpoints.state.coverage
    assert without.earlier == with_checkpoints.earlier
    assert {id.partition: p.next_offset for id, p in without.state.partitions.items()} == {0: 18, 1: 9}
    assert orders in without.state.topics


async def test_a_damaged_checkpoint_costs_time_and_is_named() -> None:
    built, _ = await three_lives()
    newest = max(key for key in built.keys if key.startswith("checkpoints/"))
    built.tamper(newest, built.data(newest)[:-1])
    recovery = await found(built, 4)
    assert recovery.damaged == (newest,)
    assert recovery.footers_read == 1


async def test_pruned_older_checkpoints_are_no_damage() -> None:
    built, _ = await three_lives()
    kept = sorted(key for key in built.keys if key.startswith("checkpoints/"))
    for key in kept[:-1]:
        built.tamper(key, None)
    recovery = await found(built, 4)
    assert recovery.damaged == ()
    assert recovery.footers_read == 0


async def test_a_checkpoint_of_a_newer_format_is_refused_and_not_skipped() -> None:
    """Skipping it would be reading 'I do not understand' as 'there is none' (I5)."""
    built, _ = await three_lives()
    newest = max(key for key in built.keys if key.startswith("checkpoints/"))
    store = FaultStore(built.store)
    store.fail("get", error=UnsupportedFormatError(newest, "format 2"), key_part=newest)
    with pytest.raises(UnsupportedFormatError):
        await found(built, 4, store=store)


async def test_a_damaged_segment_is_named_and_holds_back_what_it_held() -> None:
    built, _ = await three_lives(checkpoints=False)
    second = sorted(key for key in built.keys if key.startswith("segments/main/0000000001"))[1]
    built.tamper(second, built.data(second)[:-1])
    recovery = await found(built, 4)
    assert recovery.damaged == (second,)
    assert {id.partition: p.next_offset for id, p in recovery.state.partitions.items()} == {0: 2, 1: 1}


async def test_sequences_that_never_came_are_declared_abandoned() -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    life = await built.start()
    sealed = []
    for _ in range(4):
        built.log(orders, 0).append([b"a"])
        life.capture(orders, 0)
        sealed.append(life.seal())
    for seq in (0, 1, 3):
        await life.arrive(sealed[seq])
    recovery = await found(built, 2)
    assert [(row.writer_epoch, row.durable) for row in recovery.earlier] == [(1, ((0, 2), (3, 4)))]
    assert recovery.earlier[0].last is not None
    assert recovery.earlier[0].last.key == sealed[3].ref.key
    (partition,) = recovery.state.partitions.values()
    assert partition.next_offset == 2


async def test_an_epoch_that_wrote_nothing_is_declared_empty() -> None:
    built, _ = await three_lives()
    await built.start()
    recovery = await found(built, 5)
    assert [(row.writer_epoch, row.durable) for row in recovery.earlier] == [(3, ((0, 3),)), (4, ())]


@pytest.mark.parametrize("checkpoints", [False, True], ids=["without checkpoints", "with checkpoints"])
async def test_a_straggler_the_next_life_had_abandoned_changes_nothing(checkpoints: bool) -> None:
    """Invariant I3: the positions are those the next life went on from, whoever remembers them."""
    built = await ArchiveBuilder.create()
    orders = built.topic("orders")
    first = await built.start()
    built.log(orders, 0).append([b"a"])
    first.capture(orders, 0)
    await first.flush()
    built.log(orders, 0).append([b"b", b"c"])
    first.capture(orders, 0)
    late = first.seal()
    second = await built.start()
    second.capture(orders, 0, until=2)
    await second.flush()
    if checkpoints:
        await second.checkpoint()
    before = await found(built, 3)
    await built.scoped.put_if_absent(late.ref.key, late.parts)
    after = await found(built, 3)
    assert after.state.partitions == before.state.partitions
    assert after.state.coverage == before.state.coverage
    assert after.state.chain_head == before.state.chain_head


OPERATIONS: tuple[Operation, ...] = ("get", "get_suffix", "get_range", "list", "head")


@pytest.mark.parametrize("error", [StoreUnavailableError("timeout"), StoreDeniedError("403")], ids=["timeout", "403"])
@pytest.mark.parametrize("checkpoints", [False, True], ids=["without checkpoints", "with checkpoints"])
async def test_each_operation_of_recovery_failed_one_by_one_is_an_error_and_never_absence(
    checkpoints: bool, error: KbackupError
) -> None:
    """Invariant I5, hazard 19: a position from half a listing would be captured from, and believed."""
    built, _ = await three_lives(checkpoints=checkpoints)
    whole = await found(built, 4)
    for operation in OPERATIONS:
        nth = 1
        while True:
            store = FaultStore(built.store)
            store.fail(operation, nth=nth, error=error)
            outcome = await _outcome(built, store)
            if isinstance(outcome, Recovery):
                assert outcome.state.partitions == whole.state.partitions
                break
            assert outcome is error
            nth += 1
            assert nth < 200


@pytest.mark.parametrize("checkpoints", [False, True], ids=["without checkpoints", "with checkpoints"])
async def test_a_listing_that_breaks_between_two_pages_is_an_error_unless_nothing_more_was_wanted_of_it(
    checkpoints: bool,
) -> None:
    """Hazard 54."""
    built, _ = await three_lives(checkpoints=checkpoints)
    whole = await found(built, 4)
    broken = 0
    for nth in range(1, 12):
        store = FaultStore(built.store)
        store.lose_answer("list", nth=nth)
        outcome = await _outcome(built, store)
        if isinstance(outcome, Recovery):
            assert outcome.state.partitions == whole.state.partitions
        else:
            broken += 1
    assert broken >= 1


async def _outcome(built: ArchiveBuilder, store: ObjectStore) -> Recovery | KbackupError:
    try:
        return await found(built, 4, store=store)
    except KbackupError as error:
        return error

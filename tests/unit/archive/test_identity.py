"""Opening an archive to write into it: whose it is, which life this is, and that 'cannot say' is never 'there is none'.

Invariants I2, I5 and I7; hazards 17, 18 and 19.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.archive.identity import claim_epoch, identity_of, newest_number, open_or_create, superseded_by
from kbackupd.format import keys
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import (
    ArchiveInvalidError,
    CorruptObjectError,
    ForeignArchiveError,
    KbackupError,
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.store.faults import FaultStore
from kbackupd.store.memory import MemoryStore
from kbackupd.store.metered import Operation
from kbackupd.store.protocol import ObjectStore
from tests.virtual_time import run

CLUSTER = "4L6g3nShT-eMCtK--X86sw"


async def opened(store: ObjectStore, *, cluster_id: str = CLUSTER, backup_id: str = "main") -> ArchiveDocument:
    document, _ = await open_or_create(
        store, backup_id=backup_id, cluster_id=cluster_id, start="earliest", clock=ManualClock()
    )
    return document


async def claimed(store: ObjectStore) -> int:
    return await claim_epoch(store, writer="main", identity=identity_of(await opened(store)), clock=ManualClock())


async def test_an_archive_is_made_once_and_keeps_its_identity() -> None:
    store = MemoryStore()
    first = await opened(store)
    assert await opened(store) == first
    assert sorted(store.objects) == [keys.RESTORE_GUIDE_KEY, keys.BACKUP_KEY]


async def test_an_archive_that_another_daemon_makes_between_two_looks_is_not_one_that_lost_its_backup_json() -> None:
    """Of two first starts at once one ended with "backup.json is missing, but there are other objects"."""

    class Late(MemoryStore):
        looks = 0

        async def get(self, key: str) -> bytes:
            if key == keys.BACKUP_KEY:
                self.looks += 1
                if self.looks == 1:
                    try:
                        return await super().get(key)
                    finally:
                        rival = MemoryStore()
                        await opened(rival)
                        for made, data in rival.objects.items():
                            self.tamper(made, data)
            return await super().get(key)

    store = Late()
    document = await opened(store)
    assert document == await opened(store)


async def test_an_archive_of_another_cluster_is_refused() -> None:
    """Invariant I7."""
    store = MemoryStore()
    await opened(store)
    with pytest.raises(ForeignArchiveError, match="belongs to the Kafka cluster"):
        await opened(store, cluster_id="another")


async def test_an_archive_of_another_backup_id_is_refused() -> None:
    store = MemoryStore()
    await opened(store)
    with pytest.raises(ForeignArchiveError, match="not 'other'"):
        await opened(store, backup_id="other")


async def test_objects_without_an_identity_are_never_adopted() -> None:
    """Hazard 16: a lifecycle rule that deleted backup.json must not give birth to a second archive on top."""
    store = MemoryStore()
    await opened(store)
    await claimed(store)
    store.tamper(keys.BACKUP_KEY, None)
    with pytest.raises(ArchiveInvalidError, match="is missing"):
        await opened(store)
    assert keys.BACKUP_KEY not in store.objects


async def test_a_damaged_identity_is_an_error_and_nothing_is_written() -> None:
    """Hazard 19."""
    store = MemoryStore()
    await opened(store)
    store.tamper(keys.BACKUP_KEY, store.objects[keys.BACKUP_KEY][:-10])
    before = store.objects
    with pytest.raises(CorruptObjectError):
        await opened(store)
    assert store.objects == before


async def test_two_first_starts_at_once_agree_on_one_archive() -> None:
    """Hazard 18."""
    store = FaultStore(MemoryStore())
    stall = store.stall("put", key_part=keys.BACKUP_KEY)

    slow = asyncio.create_task(opened(store))
    await stall.reached.wait()
    fast = await opened(store)
    stall.release()
    assert (await slow).archive_id == fast.archive_id


async def test_every_start_claims_the_next_epoch_and_fences_the_one_before() -> None:
    store = MemoryStore()
    assert [await claimed(store) for _ in range(4)] == [1, 2, 3, 4]
    assert await superseded_by(store, writer="main", writer_epoch=3) == 4
    assert await superseded_by(store, writer="main", writer_epoch=4) is None
    assert await superseded_by(store, writer="other", writer_epoch=1) is None


async def test_two_daemons_that_start_at_once_never_hold_one_epoch() -> None:

    store = MemoryStore()
    await opened(store)
    epochs = await asyncio.gather(*(claimed(store) for _ in range(10)))
    assert sorted(epochs) == list(range(1, 11))


async def test_a_fence_that_cannot_be_read_is_neither_there_nor_absent() -> None:
    """Invariant I5."""
    store = FaultStore(MemoryStore())
    await claimed(store)
    store.fail("head", error=StoreDeniedError("403"))
    with pytest.raises(StoreDeniedError):
        await superseded_by(store, writer="main", writer_epoch=1)


async def test_a_claim_whose_answer_was_lost_is_skipped_by_the_next_life() -> None:
    """Hazard 54: the claim is there, though nobody knows; epochs only count up."""
    store = FaultStore(MemoryStore())
    await opened(store)
    store.lose_answer("put", key_part="writers/")
    with pytest.raises(StoreUnavailableError):
        await claimed(store)
    assert await claimed(store) == 2


async def test_a_stranger_s_object_among_the_claims_does_not_keep_the_daemon_from_starting() -> None:
    store = MemoryStore()
    await claimed(store)
    for name in ("README", "zzz.json", "99999999999.json", "0000000001.json.bak"):
        await store.put_if_absent(f"writers/main/{name}", [b"?"])
    assert await claimed(store) == 2


async def _outcome(store: ObjectStore) -> int | KbackupError:
    try:
        return await claimed(store)
    except KbackupError as error:
        return error


OPERATIONS: tuple[Operation, ...] = ("get", "put", "list", "head")


@pytest.mark.parametrize("error", [StoreUnavailableError("503"), StoreDeniedError("403")], ids=["503", "403"])
@pytest.mark.parametrize("existing", [False, True], ids=["first start", "later start"])
async def test_each_operation_of_a_start_failed_one_by_one_is_an_error_and_writes_nothing_wrong(
    existing: bool, error: KbackupError
) -> None:
    """Invariant I5: 403, time-outs and 5xx at the start are never read as absent."""
    for operation in OPERATIONS:
        for nth in range(1, 40):
            memory = MemoryStore()
            if existing:
                for _ in range(3):
                    await claimed(memory)
            before = memory.objects
            store = FaultStore(memory)
            store.fail(operation, nth=nth, error=error)
            outcome = await _outcome(store)
            if isinstance(outcome, int):
                assert outcome == (4 if existing else 1)
                break
            assert outcome is error
            after = memory.objects
            assert {key: after[key] for key in before} == before
            identity = await opened(memory)
            if existing:
                assert memory.objects[keys.BACKUP_KEY] == before[keys.BACKUP_KEY]
            assert await claimed(memory) == (4 if existing else 1) + sum(
                key not in before and key.startswith("writers/") for key in after
            )
            assert (await opened(memory)).archive_id == identity.archive_id
        else:
            pytest.fail(f"{operation} is called without end")


@given(numbers=st.sets(st.integers(0, 5_000), max_size=30))
def test_the_newest_number_is_found_whatever_was_pruned_or_never_written(numbers: set[int]) -> None:
    def key_of(number: int) -> str:
        return keys.checkpoint_key("main", 1, number)

    async def find() -> int | None:
        store = MemoryStore()
        for number in numbers:
            await store.put_if_absent(key_of(number), [b""])
        await store.put_if_absent(keys.checkpoint_key("main", 2, 9_999), [b"of another epoch"])
        await store.put_if_absent(f"{keys.checkpoints_prefix('main', 1)}~stray", [b""])
        faults = FaultStore(store)
        found = await newest_number(faults, keys.checkpoints_prefix("main", 1), key_of, first=0)
        assert len(faults.calls) <= 4 * 14 + 4
        return found

    assert run(find(), clock=ManualClock()) == max(numbers, default=None)

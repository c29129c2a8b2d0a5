"""Other writers of the archive, as far as they stand in the way of this one.

Branches are numbered by each writer, and readers take the largest number of a partition whoever wrote it. A writer that
goes on below, or beside, another's branch would store what nobody reads. Until writers take positions over from each
other such a start is refused (docs/adr/0013).
"""

from __future__ import annotations

from functools import partial

from kbackupd.archive.identity import newest_number
from kbackupd.archive.recovery import recover
from kbackupd.archive.writer_state import WriterState
from kbackupd.format import keys
from kbackupd.model.errors import RefusedError
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Identity
from kbackupd.store.protocol import ObjectStore


async def refuse_hidden_start(store: ObjectStore, state: WriterState, *, identity: Identity) -> None:
    """Let the writer of `state` begin only if readers will see what it stores.

    Costs a listing of the claims and, per other writer, what a restart of it would cost.

    Raises:
        RefusedError: another writer has recorded cut logs, on branches as high as ours or higher.
        KbackupError: the store could not say for certain.
    """
    for other in sorted(await _writers(store) - {state.writer}):
        epoch = await newest_number(store, keys.claims_prefix(other), partial(keys.claim_key, other), first=1)
        if epoch is None:
            continue
        found = await recover(store, writer=other, writer_epoch=epoch + 1, identity=identity)
        hidden = [
            partition.id
            for partition in found.state.partitions.values()
            if partition.next_branch > 1 and partition.next_branch >= _next_branch(state, partition.id)
        ]
        if hidden:
            name = found.state.topics[hidden[0].topic_id].name
            raise RefusedError(
                f"writer {state.writer!r} cannot go on in this archive: writer {other!r} has seen logs cut "
                f"({len(hidden)} partitions, {name}/{hidden[0].partition} is one), and readers follow it there",
                hint=f"set writer: {other} again, or begin a new archive with another backup_id",
            )


def _next_branch(state: WriterState, id: PartitionId) -> int:
    known = state.partitions.get(id)
    return known.next_branch if known is not None else 1


async def _writers(store: ObjectStore) -> set[str]:
    """The names of all writers that ever claimed an epoch: one key per life, a request per thousand.

    Not by skipping from name to name: S3 servers differ in where they sort a name that another one begins with.
    """
    claims = [keys.parse_claim_key(info.key) async for info in store.list_from(keys.WRITERS_PREFIX)]
    return {claim.writer for claim in claims if claim is not None}

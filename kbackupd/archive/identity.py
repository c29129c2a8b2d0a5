"""Opening an archive to write into it: whose it is, and which life of the writer this is.

Keeps I5 (only a successful "there is none" counts as absent), I7 (an archive belongs to one cluster) and fencing: the
claim of a writer epoch is one create-only object.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping

from kbackupd import __version__
from kbackupd.archive.guide import RESTORE_GUIDE
from kbackupd.format import documents, keys
from kbackupd.model.archive import ArchiveDocument, WriterClaim
from kbackupd.model.clock import Clock
from kbackupd.model.errors import (
    ArchiveInvalidError,
    ForeignArchiveError,
    ObjectExistsError,
    ObjectMissingError,
    RefusedError,
)
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity
from kbackupd.model.settings import StartPolicy
from kbackupd.store.protocol import ObjectStore

LogEnds = Callable[[], Awaitable[Mapping[TopicId, tuple[int, ...]]]]
"""Where every log ends now, by topic and partition; -1 where no leader can say."""


async def open_or_create(
    store: ObjectStore, *, backup_id: str, cluster_id: str, start: str, clock: Clock, ends: LogEnds | None = None
) -> tuple[ArchiveDocument, bool]:
    """The archive's identity, made if there is none; True if this call made it.

    `store` is scoped to the archive. Durable on return. Cancelled in between it leaves nothing or `backup.json`, and
    the next call adds the rest.

    Args:
        start: policy of a new archive; an old one keeps its own.
        ends: asked for what an archive that starts `latest` leaves out; not asked for any other.

    Raises:
        ForeignArchiveError: the archive belongs to another Kafka cluster, or to another backup id.
        ArchiveInvalidError: objects are there but `backup.json` is not.
        KbackupError: the store could not say for certain what is there.
    """
    created = False
    try:
        document = documents.decode_backup(await store.get(keys.BACKUP_KEY))
    except ObjectMissingError:
        left_out = await ends() if ends is not None and start == StartPolicy.LATEST else {}
        document = await _create(
            store, backup_id=backup_id, cluster_id=cluster_id, start=start, ends=left_out, clock=clock
        )
        created = True
    if document.backup_id != backup_id:
        raise ForeignArchiveError(
            f"{store.location} holds the backup {document.backup_id!r}, not {backup_id!r}",
            hint="set backup_id to the archive's own, or choose another prefix",
        )
    if document.cluster_id != cluster_id:
        raise ForeignArchiveError(
            f"{store.location} belongs to the Kafka cluster {document.cluster_id}, but source.bootstrap_servers lead "
            f"to {cluster_id}",
            hint="choose another backup_id for this cluster; one archive never mixes two clusters",
        )
    guide = RESTORE_GUIDE.encode()
    if document.texts.get(keys.RESTORE_GUIDE_KEY) == hashlib.sha256(guide).hexdigest():
        await store.put_if_absent(keys.RESTORE_GUIDE_KEY, [guide])
    return document, created


async def _create(
    store: ObjectStore,
    *,
    backup_id: str,
    cluster_id: str,
    start: str,
    ends: Mapping[TopicId, tuple[int, ...]],
    clock: Clock,
) -> ArchiveDocument:
    async for stray in store.list_from("", limit=1):
        try:  # another daemon's first start may have made it between our two looks; it is always the first object
            return documents.decode_backup(await store.get(keys.BACKUP_KEY))
        except ObjectMissingError:
            raise ArchiveInvalidError(
                f"{store.location}: {keys.BACKUP_KEY} is missing, but there are other objects ({stray.key})",
                hint="put the archive's own backup.json back, or choose an empty prefix",
            ) from None
    document = ArchiveDocument(
        backup_id=backup_id,
        archive_id=str(uuid.uuid4()),
        cluster_id=cluster_id,
        created_ms=clock.now_ms(),
        start=start,
        ends=ends,
        texts={keys.RESTORE_GUIDE_KEY: hashlib.sha256(RESTORE_GUIDE.encode()).hexdigest()},
    )
    try:
        await store.put_if_absent(keys.BACKUP_KEY, [documents.encode_backup(document)])
    except ObjectExistsError:  # another daemon's first start was faster: its archive is ours
        return documents.decode_backup(await store.get(keys.BACKUP_KEY))
    return document


def identity_of(document: ArchiveDocument) -> Identity:
    return Identity(backup_id=document.backup_id, archive_id=document.archive_id, cluster_id=document.cluster_id)


async def newest_number(store: ObjectStore, prefix: str, key_of: Callable[[int], str], *, first: int) -> int | None:
    """The largest n for which `key_of(n)` exists below `prefix`, in about 2·log2(n) listings of one key each.

    Right also where lower numbers were pruned or never written: it asks "is there any key after this one", which is
    monotonic. None if there is no key at all.
    """

    async def any_from(number: int) -> bool:
        after = key_of(number - 1) if number > first else ""
        async for info in store.list_from(prefix, start_after=after, limit=1):
            if _is_number(info.key, key_of):
                return True
            # A stranger's object below our prefix: look past it, or "is there any" would be true for ever.
            async for other in store.list_from(prefix, start_after=info.key):
                if _is_number(other.key, key_of):
                    return True
        return False

    if not await any_from(first):
        return None
    low, high = first, first + 1
    while await any_from(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if await any_from(middle):
            low = middle
        else:
            high = middle
    return low


def _is_number(key: str, key_of: Callable[[int], str]) -> bool:
    digits = re.findall(r"[0-9]+", key.rpartition("/")[2])
    try:
        return len(digits) == 1 and key_of(int(digits[0])) == key
    except ValueError:  # more digits than any key has
        return False


async def claim_epoch(store: ObjectStore, *, writer: str, identity: Identity, clock: Clock) -> int:
    """Claim the next writer epoch; durable on return. Whoever holds an earlier one is fenced from now on.

    Cancellation may leave a claim nobody uses: harmless, epochs are only ever counted up.
    """
    newest = await newest_number(store, keys.claims_prefix(writer), lambda n: keys.claim_key(writer, n), first=1)
    epoch = (newest or 0) + 1
    for _ in range(100):
        claim = _claim(writer, epoch, identity, clock)
        try:
            await store.put_if_absent(claim.key, [documents.encode_claim(claim)])
        except ObjectExistsError:
            epoch += 1
            continue
        await _require_create_only(store, _claim(writer, epoch, identity, clock))
        return epoch
    raise RefusedError(
        f"writer {writer!r}: a hundred epochs in a row were claimed by others while this one tried",
        hint="stop the other daemons that use the same backup_id and writer",
    )


def _claim(writer: str, epoch: int, identity: Identity, clock: Clock) -> WriterClaim:
    """A claim like no other: identical bytes count as a retried PUT, and two daemons would share an epoch."""
    return WriterClaim(
        key=keys.claim_key(writer, epoch),
        identity=identity,
        writer=writer,
        writer_epoch=epoch,
        claimed_ms=clock.now_ms(),
        software=f"kbackupd/{__version__} {uuid.uuid4()}",
    )


async def _require_create_only(store: ObjectStore, rival: WriterClaim) -> None:
    """Some S3 servers ignore `If-None-Match` and would let one daemon overwrite another's objects: find out now."""
    try:
        await store.put_if_absent(rival.key, [documents.encode_claim(rival)])
    except ObjectExistsError:
        return
    raise RefusedError(
        f"{store.location} let {rival.key} be overwritten: it ignores `If-None-Match: *`",
        hint="use a store with conditional writes (Amazon S3 has them); without them nothing protects what is archived",
    )


async def superseded_by(store: ObjectStore, *, writer: str, writer_epoch: int) -> int | None:
    """The epoch that fences `writer_epoch`, or None. One small request."""
    try:
        await store.head(keys.claim_key(writer, writer_epoch + 1))
    except ObjectMissingError:
        return None
    return writer_epoch + 1

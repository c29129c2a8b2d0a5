"""Whether a log has anything left from an offset on, though its end is further: compaction may have taken all of it.

Below the end of a compacted log there may be offsets without any record up to the end (hazard 8): a fetch from there
is answered with nothing until something is appended. So is one whose answer was full of other partitions' records, or
that a quota cut short. Only an answer that had all its room and holds nothing for anybody proves it.
"""

from __future__ import annotations

from collections.abc import Mapping

from kbackupd.capture.source import Source
from kbackupd.kafka.types import FetchTarget, KafkaErrorCode
from kbackupd.model.positions import PartitionId

ROUNDS_MAX = 3
"""So often is asked again without those that had something after all."""


async def without_batches(
    source: Source, node_id: int, targets: Mapping[PartitionId, FetchTarget], *, max_bytes: int, timeout_seconds: float
) -> dict[PartitionId, int]:
    """High watermarks of those of `targets` of which `node_id` holds nothing from the offset asked for up to there.

    In a session of its own, so that the sessions of capture know nothing of it; what comes is not kept. Partitions that
    were answered with errors are not in the result.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    left = dict(targets)
    session = source.session(node_id)
    try:
        for _ in range(ROUNDS_MAX):
            if not left:
                break
            for id, target in left.items():
                session.want(id, target)
            answer = await session.fetch(max_bytes=max_bytes, max_wait_ms=0, timeout_seconds=timeout_seconds)
            if answer.throttle_ms or not answer.full:
                break
            holding = {part.id for part in answer.partitions if part.records}
            if not holding:
                return {
                    part.id: part.high_watermark
                    for part in answer.partitions
                    if part.id in left and part.error_code == KafkaErrorCode.NONE and part.diverging is None
                }
            for id in holding:
                left.pop(id, None)
                session.forget(id)
            await session.close()
    finally:
        await session.close()
    return {}

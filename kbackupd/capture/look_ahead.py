"""What to ask for next while an answer is still being checked: pure, by the headers of its batches alone.

That moves no position. If the check finds less, the partition's position is not where the next answer was asked from,
and that answer is dropped and asked again.
"""

from __future__ import annotations

from collections.abc import Mapping

from kbackupd.capture.partition import PartitionCapture
from kbackupd.format.batch import skim_batches
from kbackupd.kafka.types import FetchAnswer, FetchTarget, KafkaErrorCode
from kbackupd.model.positions import PartitionId

SKIM_BATCHES = 512
"""Where an answer holds more batches of a partition than this, the check finds their end, in its thread."""
SKIM_ANSWER_BATCHES = 8_192
"""Of all its partitions together: some milliseconds. An answer of a thousand partitions with a few hundred tiny batches
each is within the bound of every one of them, and would hold the event loop for a tenth of a second."""


def targets_ahead(
    answer: FetchAnswer, partitions: Mapping[PartitionId, PartitionCapture]
) -> list[tuple[PartitionId, FetchTarget]] | None:
    """Where those of `partitions` go on for which the answer holds records.

    Returns:
        None unless every partition's end can be told this way and cheaply.
    """
    targets: list[tuple[PartitionId, FetchTarget]] = []
    left = SKIM_ANSWER_BATCHES
    for part in answer.partitions:
        partition = partitions.get(part.id)
        if partition is None or part.asked_offset != partition.position:
            return None
        if part.error_code != KafkaErrorCode.NONE or part.diverging is not None:
            return None
        if part.records:
            end = skim_batches(part.records, batches_max=min(SKIM_BATCHES, left))
            if end is None or end.next_offset <= partition.position:
                return None
            left -= end.batches
            ahead = partition.target()._replace(offset=end.next_offset, last_fetched_epoch=end.leader_epoch)
            targets.append((partition.id, ahead))
    return targets

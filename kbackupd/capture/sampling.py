"""Where every partition stands at this moment: the one source of exposure, lag and state for metrics and status."""

from __future__ import annotations

from collections.abc import Iterator

from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.pipeline import Pipeline
from kbackupd.model.clock import Clock
from kbackupd.model.status import PartitionSample, PartitionState

_BEING_ASKED = frozenset({PartitionState.STARTING, PartitionState.FOLLOWING, PartitionState.CATCHING_UP})
"""All is well with them but that their broker may not answer."""
_NOTHING_TO_LOSE = frozenset({PartitionState.FOLLOWING, PartitionState.CLOSED})
"""Where all is durable that is known of. Of a partition that is not being heard, more may be there than is known."""


def partition_samples(pipeline: Pipeline, clock: Clock) -> Iterator[PartitionSample]:
    """Where every partition stands at this moment; changes nothing, however often or seldom it is asked.

    A partition that its session's answers leave out is as it was last told: that is read from the loop here. What it
    knows this way a loop makes a proof of before it forgets it (`SessionLoop`): nothing depends on somebody looking.
    """
    now = clock.monotonic()
    for partition in pipeline.roster.partitions.values():
        if partition.excluded:
            continue
        durable = pipeline.publisher.watermark.durable(partition.id)
        state = partition.state
        unchanged = None
        loop = pipeline.sessions.loop_of(partition)
        if loop is not None:
            unchanged = loop.unchanged_since(partition.id)
            if loop.failing and state in _BEING_ASKED:
                state = PartitionState.RETRYING
        high_watermark = partition.proof.high_watermark
        lag = max(0, high_watermark - durable) if high_watermark >= 0 and durable >= 0 else None
        yield PartitionSample(
            topic=partition.topic,
            topic_id=partition.id.topic_id,
            partition=partition.id.partition,
            tier=partition.tier,
            state=state,
            exposure_seconds=partition.proof.exposure(now, left_out=unchanged, durable=durable),
            lag_records=lag,
            durable_offset=durable,
            high_watermark=high_watermark,
            log_start_offset=partition.log_start_offset,
            time_to_loss_seconds=_time_to_loss(pipeline, partition, durable, now)
            if lag or (lag == 0 and state not in _NOTHING_TO_LOSE)
            else None,
        )


def _time_to_loss(pipeline: Pipeline, partition: PartitionCapture, durable: int, now: float) -> float | None:
    # A proof is a leader's word too, and all that is left of the last one when a quiet partition is paused.
    heard = max(pipeline.sessions.heard(partition), partition.proof.proven or 0.0)
    return partition.log_start_pace.seconds_until(durable, heard=heard, now=now)

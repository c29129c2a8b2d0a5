"""Where every partition stands at this moment: the one source of exposure, lag and state for metrics and status.

One step over all partitions in the event loop, which does nothing else meanwhile: at 10,000 partitions each
microsecond per partition is ten milliseconds in which nobody fetches. So sums are made without keeping a value per
partition (`exposure_of`).
"""

from __future__ import annotations

from collections.abc import Iterator

from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.sessions import BEING_ASKED
from kbackupd.model.clock import Clock
from kbackupd.model.positions import TopicId
from kbackupd.model.status import PartitionSample, PartitionState
from kbackupd.observe.exposure import Exposure, Group, TopicKey, exposure_from

_NOTHING_TO_LOSE = frozenset({PartitionState.FOLLOWING, PartitionState.CLOSED})
"""Where all is durable that is known of. Of a partition that is not being heard, more may be there than is known."""

Standing = tuple[PartitionCapture, PartitionState, float | None, int | None, int, float | None]
"""(partition, state, exposure, lag, durable offset, time to loss), as in `PartitionSample`."""


def standings(pipeline: Pipeline, clock: Clock) -> Iterator[Standing]:
    """Of every partition, at this moment; changes nothing, however often or seldom it is asked.

    A partition that its session's answers leave out is as it was last told: that is read from the loop here. What it
    knows this way a loop makes a proof of before it forgets it (`SessionLoop`): nothing depends on somebody looking.
    """
    now = clock.monotonic()
    durable_of, loop_of = pipeline.publisher.watermark.durable, pipeline.sessions.loop_of
    for partition in pipeline.roster.partitions.values():
        if partition.excluded:
            continue
        durable = durable_of(partition.id)
        state = partition.state
        unchanged = None
        loop = loop_of(partition)
        if loop is not None:
            unchanged = loop.heard.unchanged_since(partition)
            if loop.failing and state in BEING_ASKED:
                state = PartitionState.RETRYING
        proof = partition.proof
        high_watermark = proof.high_watermark
        lag = None
        if high_watermark >= 0 and durable >= 0:
            lag = high_watermark - durable if high_watermark > durable else 0
        loss = None
        if lag or (lag == 0 and state not in _NOTHING_TO_LOSE):
            loss = _time_to_loss(pipeline, partition, durable, now)
        yield partition, state, proof.exposure(now, left_out=unchanged, durable=durable), lag, durable, loss


def partition_samples(pipeline: Pipeline, clock: Clock) -> Iterator[PartitionSample]:
    """`standings`, as values that keep."""
    for partition, state, exposure, lag, durable, loss in standings(pipeline, clock):
        yield PartitionSample(
            topic=partition.topic,
            topic_id=partition.id.topic_id,
            partition=partition.id.partition,
            tier=partition.tier,
            state=state,
            exposure_seconds=exposure,
            lag_records=lag,
            durable_offset=durable,
            high_watermark=partition.proof.high_watermark,
            log_start_offset=partition.log_start_offset,
            time_to_loss_seconds=loss,
        )


def exposure_of(pipeline: Pipeline, clock: Clock) -> Exposure:
    """What `aggregate(partition_samples(…))` gives, at half its cost."""
    groups: dict[TopicId, Group] = {}
    topics: dict[TopicKey, Group] = {}
    for partition, state, exposure, lag, _, loss in standings(pipeline, clock):
        topic_id = partition.id.topic_id
        group = groups.get(topic_id)
        if group is None:
            # One incarnation is in one tier, so its id alone says which group: no key per partition.
            group = groups[topic_id] = topics[TopicKey(partition.topic, topic_id, partition.tier)] = Group()
        group.count(state, exposure, lag, loss)
    return exposure_from(topics)


def _time_to_loss(pipeline: Pipeline, partition: PartitionCapture, durable: int, now: float) -> float | None:
    # A proof is a leader's word too, and all that is left of the last one when a quiet partition is paused.
    heard = max(pipeline.sessions.heard(partition), partition.proof.proven or 0.0)
    return partition.log_start_pace.seconds_until(durable, heard=heard, now=now)

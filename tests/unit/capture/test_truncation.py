"""Hazard 21: the cluster lost records by itself. Somebody must be told, while the archive keeps what it has."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import patch

from kbackupd.kafka.types import EpochEnd, KafkaErrorCode, TopicPartition
from tests.unit.capture.site import Life, Site


def test_a_log_that_was_cut_back_moves_a_metric_and_is_noted_with_what_became_of_it() -> None:
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        log.append(10)
        log.append(10)
        await life.durable()
        assert life.metrics.registry.get_sample_value("kbackupd_log_truncations_total") == 0
        log.truncate(10, leader_id=2)
        log.append(30)
        await life.durable()
        assert life.metrics.registry.get_sample_value("kbackupd_log_truncations_total") == 1
        (note,) = life.problems.notes()
        assert note.subject == "orders/0"
        assert note.message == (
            "its log was cut back to offset 10 and goes on as branch 1; what was captured beyond stays on branch 0"
        )

    site.run_life(script)
    site.check()


def test_a_leader_deposed_between_two_questions_does_not_have_the_whole_log_read_again() -> None:
    """It had said where its log ends and not how much of it is ours: that is no answer, and not "nothing of it"."""
    site = Site.new()
    log = site.cluster.create("orders").logs[0]

    async def script(life: Life) -> None:
        log.append(10)
        log.append(10)
        await life.durable()
        true_ends = site.cluster.epoch_end_offsets
        asked: list[int] = []

        async def deposed_first(
            node_id: int, questions: Mapping[TopicPartition, tuple[int, int]]
        ) -> Mapping[TopicPartition, EpochEnd]:
            asked.append(node_id)
            if len(asked) == 1:
                code = KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
                return {tp: EpochEnd(error_code=code, leader_epoch=-1, end_offset=-1) for tp in questions}
            log._epochs = [(0, 0)]
            return await true_ends(node_id, questions)

        with patch.object(site.cluster, "epoch_end_offsets", deposed_first):
            log.batches, log._end, log._epochs = log.batches[:1], 10, []
            site.cluster.changed()
            await life.until(lambda: life.partition("orders").branch == 1, "cut back")
        assert life.partition("orders").position == 10
        assert len(asked) == 2

    site.run_life(script)
    site.check()

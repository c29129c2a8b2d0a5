"""Hazard 21: the cluster lost records by itself. Somebody must be told, while the archive keeps what it has."""

from __future__ import annotations

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

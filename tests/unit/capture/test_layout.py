"""How the runs of a segment lie: what is restored together side by side, and each partition's in their order."""

from __future__ import annotations

from itertools import groupby

from tests.unit.capture.site import Life, Site


def test_runs_lie_by_topic_and_partition_and_those_of_one_as_they_were_captured() -> None:
    site = Site.new(flush_interval_seconds=30.0)
    names = ("orders", "bills", "mails")
    logs = [(name, log) for name in names for log in site.cluster.create(name, partitions=3).logs]

    async def script(life: Life) -> None:
        for number in range(4):
            for _, log in logs:
                log.append(5)
            for name, log in reversed(logs):
                await life.follows(name, log.id.partition)
            # Whose log is cut back goes on with another run in the same segment, behind everybody's first one.
            _, log = logs[number * 2]
            log.truncate(log.end_offset - 2, leader_id=2)
            log.append(5)
        await life.durable()

    site.run_life(script)
    site.check()
    footers = site.footers()
    assert any(len(footer.runs) > len({run.id for run in footer.runs}) for footer in footers)
    for footer in footers:
        assert [run.id for run in footer.runs] == sorted(run.id for run in footer.runs)
        for _, runs in groupby(footer.runs, key=lambda run: run.id):
            in_order = list(runs)
            assert in_order == sorted(in_order, key=lambda run: (run.captured_ms, run.branch, run.asked_offset))

"""S3 in bad weather, under load (hazards 51, 54): nothing is lost or doubled, and all is well again without help.

Every scenario ends with the same reckoning: what was produced, known record by record, against what the archive holds,
and `validate --deep`. The longest ones are marked `soak`.
"""

from __future__ import annotations

import time

import pytest

from kbackupd.testbed.proxy import CutAnswer, LoseAnswer, Reset
from kbackupd.testbed.s3_proxy import Answer, CutUpload, Fault, Stall, Trickle
from kbackupd.testbed.usage import cpu_seconds, peak_rss_bytes
from kbackupd.testbed.workload import PlainStream
from tests.integration.campaigns.steady import (
    SteadyBackup,
    complained,
    exposed,
    recovered,
    stores,
)
from tests.integration.capture.backup import follows, problems
from tests.integration.capture.test_memory import reserved_share
from tests.integration.conditions import reaches

MIB = 1 << 20


@pytest.mark.parametrize(
    ("fault", "method", "share"),
    [
        pytest.param(Answer(status=503), "", 0.7, id="503 SlowDown"),
        pytest.param(Answer(status=500, code="InternalError"), "", 0.7, id="500"),
        pytest.param(Reset(), "", 0.7, id="resets"),
        pytest.param(CutUpload(after_bytes=500), "PUT", 0.7, id="torn uploads"),
        pytest.param(LoseAnswer(), "PUT", 0.7, id="lost answers"),
    ],
)
async def test_seven_of_ten_requests_fail_and_the_backup_goes_on_through_it(
    fault: Fault, method: str, share: float, steady: SteadyBackup
) -> None:
    daemon = steady.daemon()
    daemon.start()
    steady.produce()
    await recovered(daemon)

    rule = steady.proxy.strike(fault, method=method, share=share, seed=steady.seed)
    await stores(daemon, 5)
    await reaches(lambda: len(rule.struck) >= 5, "requests failed")
    rule.lift()

    await recovered(daemon)
    await steady.exact(daemon)


async def test_a_put_whose_answer_was_lost_is_met_again_as_412_and_counts_as_stored_because_the_bytes_are_ours(
    steady: SteadyBackup,
) -> None:
    daemon = steady.daemon()
    daemon.start()
    await follows(daemon, steady.topics[0], 2)
    rule = steady.proxy.strike(LoseAnswer(), method="PUT", key_part="segments/main/", share=0.5, seed=steady.seed)
    steady.produce()
    # More than a handful: the server's own refusals may be among the answers that were lost.
    await reaches(lambda: len(rule.struck) >= 10, "answers lost")
    rule.lift()
    await recovered(daemon)
    names = {target.partition("?")[0].rpartition("/")[2] for target in rule.struck}
    assert names <= {key.rpartition("/")[2] for key in steady.backup.objects("segments/main/")}
    await steady.exact(daemon)


async def test_credentials_that_are_refused_for_a_while_cost_exposure_and_nothing_else(steady: SteadyBackup) -> None:
    daemon = steady.daemon()
    daemon.start()
    steady.produce()
    await recovered(daemon)

    rule = steady.proxy.strike(Answer(status=403, code="AccessDenied"))
    await exposed(daemon, 4.0)
    await reaches(lambda: any("AccessDenied" in message for message in problems(daemon).values()), "it says why")
    assert daemon.get("/healthz")[0] == 503
    assert daemon.get("/livez")[0] == 200
    rule.lift()

    await recovered(daemon)
    await steady.exact(daemon)


async def test_requests_that_are_never_answered_are_given_up_and_sent_again(steady: SteadyBackup) -> None:
    daemon = steady.daemon(odd=("--try-seconds", "3"))
    daemon.start()
    steady.produce()
    await recovered(daemon)

    rule = steady.proxy.strike(Stall(), method="PUT")
    await exposed(daemon, 5.0)
    await reaches(lambda: len(rule.struck) > len(set(rule.struck)), "the same object is sent a second time")
    rule.lift()  # and what was stalled arrives as well, its sender long gone

    await recovered(daemon)
    await steady.exact(daemon)


async def test_a_link_that_is_all_but_dead_slows_the_backup_down_and_loses_nothing(steady: SteadyBackup) -> None:
    daemon = steady.daemon()
    daemon.start()
    await follows(daemon, steady.topics[0], 2)

    rule = steady.proxy.strike(Trickle(bytes_per_second=15_000))
    steady.produce()
    await exposed(daemon, 5.0)
    await stores(daemon, 1)  # a trickle is still a flow
    assert rule.struck
    rule.lift()

    await recovered(daemon)
    await steady.exact(daemon)


async def test_reads_that_are_cut_off_are_read_again_when_a_killed_daemon_recovers_its_positions(
    steady: SteadyBackup,
) -> None:
    daemon = steady.daemon(checkpoint_interval="1h")
    daemon.start()
    steady.produce()
    await stores(daemon, 5)  # which no checkpoint covers
    daemon.kill()

    rule = steady.proxy.strike(CutAnswer(after_bytes=30), method="GET", share=0.5, seed=steady.seed)
    daemon.start()
    assert rule.struck
    rule.lift()

    await recovered(daemon)
    await steady.exact(daemon)


async def test_a_listing_of_many_pages_that_breaks_between_them_is_continued_where_it_broke(
    steady: SteadyBackup,
) -> None:
    pages = ("--list-page-keys", "3")
    daemon = steady.daemon(odd=pages, checkpoint_interval="1h")
    daemon.start()
    steady.produce()
    await stores(daemon, 10)  # several pages of them
    daemon.kill()

    rule = steady.proxy.strike(Reset(), method="GET", key_part="list-type", share=0.4, seed=steady.seed)
    daemon.start()
    assert any("continuation-token" in target for target in rule.struck)
    rule.lift()

    await recovered(daemon)
    await steady.exact(daemon)


OUTAGES = [
    pytest.param(Reset(), 20.0, id="refused"),
    pytest.param(
        Answer(status=503), 600.0, id="503 for ten minutes", marks=(pytest.mark.soak, pytest.mark.timeout(1800))
    ),
]


@pytest.mark.parametrize(("fault", "seconds"), OUTAGES)
async def test_hazard_51_a_long_outage_fills_the_budget_and_kafka_is_the_spool_without_a_hot_loop_or_a_flood_of_lines(
    fault: Fault, seconds: float, steady: SteadyBackup
) -> None:
    limit = 256 * MIB
    daemon = steady.daemon(memory_limit=f"{limit // MIB}MiB")
    daemon.start()
    await recovered(daemon)
    heavy = PlainStream(topic=steady.topics[0], records_per_second=300, value_bytes=30_000)
    steady.produce(heavy)

    pid = daemon.pid
    assert pid is not None
    rule = steady.proxy.strike(fault)
    began, log_began = time.monotonic(), daemon.log.stat().st_size
    requests_began = steady.proxy.seen.total()
    await exposed(daemon, seconds)
    await reaches(lambda: reserved_share(daemon) > 0.8, "as much is fetched as the budget allows")
    full = cpu_seconds(pid), time.monotonic()
    await exposed(daemon, seconds + 5)
    lasted = time.monotonic() - began
    requests = steady.proxy.seen.total() - requests_began
    idle_share = (cpu_seconds(pid) - full[0]) / (time.monotonic() - full[1])
    lines = complained(daemon, since=log_began)
    rule.lift()

    # Four uploads, a checkpoint, the fence and a snapshot each wait longer and longer, up to 5 s.
    assert requests <= 30 + 4 * lasted
    assert idle_share < 0.5
    assert len(lines) <= 20 + lasted
    await recovered(daemon)
    steady.settle()
    assert peak_rss_bytes(pid) <= limit
    await steady.exact(daemon)

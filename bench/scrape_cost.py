"""What one scrape of /metrics and one /status cost the event loop at 10,000 partitions: `python -m bench.scrape_cost`.

A whole pipeline of the daemon's follows a cluster in memory, in virtual time, until everything is durable; then the
answers are computed again and again while real time is measured. Nothing else of the process runs meanwhile: what an
answer takes is how long the loop does nothing else. On a busy machine only processor time says anything.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Callable

import msgspec
import structlog

from kbackupd.daemon.service import Service
from kbackupd.observe.metrics import Metrics
from tests.unit.capture.site import Life, Site
from tests.unit.daemon.test_service import served

ROUNDS = 15


def measured(work: Callable[[], object]) -> tuple[float, float, float]:
    """(median, worst) wall milliseconds and median processor milliseconds of one call."""
    wall, cpu = [], []
    for _ in range(ROUNDS):
        started, spent = time.perf_counter(), time.process_time()
        work()
        wall.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - spent))
    return statistics.median(wall), max(wall), statistics.median(cpu)


def figures(service: Service, metrics: Metrics) -> dict[str, dict[str, float]]:
    answers: dict[str, Callable[[], bytes]] = {
        "/metrics": metrics.render,
        "/status": lambda: msgspec.json.encode(service.status()),
        "/healthz": lambda: msgspec.json.encode(service.health()),
    }
    found = {}
    for path, work in answers.items():
        size = len(work())
        median, worst, cpu = measured(work)
        found[path] = {
            "median_ms": round(median, 1),
            "worst_ms": round(worst, 1),
            "cpu_ms": round(cpu, 1),
            "bytes": float(size),
        }
    return found


def run(topics: int, partitions: int, *, profile: bool) -> dict[str, dict[str, float]]:
    """Figures of a daemon that follows so many topics of so many partitions each."""
    site = Site.new(flush_interval_seconds=2.0)
    for number in range(topics):
        topic = site.cluster.create(f"some.topic.name.{number:03}", partitions)
        for log in topic.logs[::10]:
            log.append(3)
    found: dict[str, dict[str, float]] = {}

    async def script(life: Life) -> None:
        service = await served(life)
        await life.durable()
        await asyncio.sleep(60)
        metrics = service._metrics
        if profile:
            profiler = cProfile.Profile()
            profiler.runcall(metrics.render)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)
        found.update(figures(service, metrics))

    site.run_life(script)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=200)
    parser.add_argument("--partitions", type=int, default=50, help="of each topic")
    parser.add_argument("--profile", action="store_true", help="where the time of one scrape goes")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(json.dumps(run(arguments.topics, arguments.partitions, profile=arguments.profile), indent=2))


if __name__ == "__main__":
    main()

"""Every alert and panel against a real daemon and a real Prometheus: `python -m kbackupd.testbed.try_expressions`.

Starts Kafka, an S3 server, kbackupd under load and Prometheus, lets the store be away for a moment, and asks for each
expression of `expressions.py` whether Prometheus takes it and whether each selector in it finds a series. Most alerts
find nothing, as they should: that what they compare is there at all is what counts. Needs `prometheus` on PATH.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.expressions import RULES, dashboard_expressions, rules
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.process import Deadline, ServerFailedError
from kbackupd.testbed.prometheus import PrometheusServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Truth
from kbackupd.testbed.workload import LiveLoad, PlainStream

NOT_HERE: Final = (
    "kbackupd_store_failures_total",
    "kbackupd:store_failures:increase10m",
    "kbackupd_time_to_loss_seconds",
)
"""Without a series in a short and healthy life: operations given up, and retention that comes near."""
TOPIC: Final = "orders"


def main() -> int:
    with ExitStack() as cleanup:
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kb-")))
        kafka, s3 = cleanup.enter_context(KafkaServer()), cleanup.enter_context(S3Server())
        create_topic(kafka.bootstrap, TOPIC, partitions=4)
        daemon = Daemon(
            home / "daemon",
            bootstrap=kafka.bootstrap,
            s3=s3,
            bucket=s3.create_bucket("alerts"),
            prefix="try",
            overrides={"observability": {"per_partition_metrics": True}, "backup": {"rollup_interval": "3s"}},
        )
        cleanup.callback(daemon.kill)
        daemon.start()
        prometheus = PrometheusServer(targets=[f"127.0.0.1:{daemon.port}"], rules=[RULES])
        cleanup.enter_context(prometheus)
        truth = Truth()
        truth.know_topic(TOPIC, 4)
        cleanup.enter_context(LiveLoad(kafka.bootstrap, truth, [PlainStream(topic=TOPIC)]))
        _until(lambda: bool(prometheus.query("kbackupd_segments_total > 2")), "segments")
        s3.stop()
        _until(lambda: bool(prometheus.query("sum(kbackupd_store_retries_total) > 0")), "retries")
        s3.start()
        _until(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()), "every rule evaluated")
        _until(lambda: bool(prometheus.query("sum(rate(kbackupd_segments_total[1m])) > 0")), "segments again")
        _until(lambda: bool(prometheus.query("kbackupd_segments_not_rolled_up")), "a look at what to roll up")
        return _report(prometheus)


def _report(prometheus: PrometheusServer) -> int:
    wrong = [f"{rule['name']}: {rule['lastError']}" for rule in prometheus.rules() if rule["health"] != "ok"]
    expressions = [*(rule.expression for rule in rules()), *dashboard_expressions()]
    for expression in expressions:
        try:
            print(f"{len(prometheus.query(expression.text)):4} series  {expression.where}")
            for selector in sorted(expression.selectors):
                if not prometheus.query(selector) and not selector.startswith(NOT_HERE):
                    wrong.append(f"{expression.where}: no series {selector}")
        except ServerFailedError as error:
            wrong.append(f"{expression.where}: {error.message}")
    firing = sorted({one["metric"]["alertname"] for one in prometheus.query('ALERTS{alertstate="firing"}')})
    print(f"{len(expressions)} expressions tried; firing: {', '.join(firing) or 'none'}")
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = Deadline(120.0)
    while not condition():
        if deadline.passed:
            raise ServerFailedError(f"waited in vain for: {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())

"""One daemon over many partitions, phase by phase: what is done to it, and what each phase shows."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.archive_facts import ArchiveFacts, counted, exposures, quantile
from bench.daemon_log import logged, logged_at
from bench.many_topics import Load
from bench.partition_figures import Figure, held
from bench.process import run_measured
from bench.scrape import Scraped, loop_waits, scrape
from kbackupd.observe import events
from kbackupd.testbed.daemon import Daemon, Section, kbackupd_command, kbackupd_environment
from kbackupd.testbed.process import Deadline, ServerFailedError
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.usage import cpu_seconds, peak_rss_bytes, rss_bytes

DEADLINE_SECONDS = 600.0
READY_POLL_SECONDS = 0.5
"""Every question about readiness looks at every partition: asked more often, the asking would be what is measured."""
SCRAPE_SECONDS = 15.0
"""As Prometheus does by default in our deployment; its cost is part of every figure."""
LOAD_SCRAPE_SECONDS = 3.7
"""Not in step with any flush interval: exposure goes up and down with that, and every scrape would see the same."""
PROBE_SECONDS = 20.0
READY_AIM_SECONDS = 10.0
EXPOSURE_MARGIN_SECONDS = 2.0
IDLE_AIM_PERCENT = 5.0
MIB = 1 << 20
KIB = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    daemon: Daemon
    s3: S3Server
    bucket: str
    prefix: str
    """Of the archive's keys, with its closing slash."""
    load: Load
    partitions: int
    flush_interval_seconds: float
    memory_limit_bytes: int
    say: Callable[[str], None]


class Watched:
    """Runs the phases in the order of its methods; `figures` grows with each."""

    def __init__(self, site: Site) -> None:
        self.figures: list[Figure] = []
        self._site = site
        self._daemon = site.daemon
        self._facts = ArchiveFacts(site.s3, site.bucket, site.prefix, site.daemon.log)

    def first_start(self) -> None:
        """Into an empty archive, with a record waiting in every partition."""
        self._site.say("first start")
        seconds, cpu = self._start()
        self._add(
            held("first start to ready", seconds, "s", most=READY_AIM_SECONDS, aim="seconds"),
            held("first start, CPU", cpu, "s", digits=2),
        )
        began = time.monotonic()
        self._until_durable()
        self._add(
            held("from ready until every partition is durable", time.monotonic() - began, "s"),
            held("first start until durable, CPU", cpu_seconds(self._pid), "s", digits=2),
            held("peak RSS by then", peak_rss_bytes(self._pid) / MIB, "MiB", digits=0),
        )

    def idle(self, seconds: float) -> None:
        """Nobody produces; Prometheus scrapes as ever."""
        self._site.say(f"idle for {seconds:g} s")
        time.sleep(2 * self._site.flush_interval_seconds)
        before, cpu = self._facts.objects(), cpu_seconds(self._pid)
        began = time.monotonic()
        scrapes = self._scrape_until(began + seconds, SCRAPE_SECONDS)
        used, spent = time.monotonic() - began, cpu_seconds(self._pid) - cpu
        share = 100 * spent / used
        made = counted(self._facts.objects().keys() - before.keys())
        self._add(
            held("idle, share of a core", share, "%", digits=2, most=IDLE_AIM_PERCENT, aim="< 5 %"),
            Figure(
                title=f"idle, objects made in {used:.0f} s",
                value=", ".join(f"{count} {kind}" for kind, count in sorted(made.items())) or "none",
            ),
            held("idle, RSS", rss_bytes(self._pid) / MIB, "MiB", digits=0),
            held("idle, scrape median", 1000 * quantile([one.seconds for one in scrapes], 0.5), "ms", digits=0),
            held("scrape, size", scrapes[-1].size_bytes / KIB, "KiB", digits=0),
        )
        self._lagged("idle", scrapes)
        self._probe("idle")

    def under_load(self, name: str, seconds: float, *, heavy: bool) -> None:
        """A little on every partition; `heavy`: and much on a few."""
        site, load = self._site, self._site.load
        site.say(f"{name} for {seconds:g} s")
        load.late_seconds = 0.0
        load.light.set()
        if heavy:
            load.heavy.set()
        time.sleep(3 * site.flush_interval_seconds)
        since, began, cpu, produced = time.time(), time.monotonic(), cpu_seconds(self._pid), load.produced
        scrapes = self._scrape_until(began + seconds, LOAD_SCRAPE_SECONDS)
        used, spent, until = time.monotonic() - began, cpu_seconds(self._pid) - cpu, time.time()
        rate = (load.produced - produced) / used
        self._add(
            held(f"{name}, records", rate, "/s", digits=0),
            held(f"{name}, producer late by at most", load.late_seconds, "s"),
            held(f"{name}, share of a core", 100 * spent / used, "%", digits=1),
            held(f"{name}, scrape median", 1000 * quantile([one.seconds for one in scrapes], 0.5), "ms", digits=0),
            held(f"{name}, scrape slowest", 1000 * max(one.seconds for one in scrapes), "ms", digits=0),
        )
        self._lagged(name, scrapes)
        self._probe(name)
        # Records made before `until` must all be durable, or those that took longest would be missing.
        load.heavy.clear()
        load.light.clear()
        load.check()
        self._until_durable()
        self._stored(name, since, until, heavy=heavy)
        self._exposed(name, since, until, [value for one in scrapes for value in one.exposures])
        self._add(
            held(f"{name}, RSS", rss_bytes(self._pid) / MIB, "MiB", digits=0),
            held(
                f"{name}, peak RSS so far",
                peak_rss_bytes(self._pid) / MIB,
                "MiB",
                digits=0,
                most=site.memory_limit_bytes / MIB,
                aim=f"memory_limit: {site.memory_limit_bytes // MIB} MiB",
            ),
        )

    def restarts(self) -> None:
        """Told to leave, and killed; each time into the archive that is there."""
        self._site.say("restarts")
        began = time.monotonic()
        self._daemon.stop()
        self._add(held("SIGTERM to the end of the drain", time.monotonic() - began, "s"))
        for name in ("after SIGTERM", "after SIGKILL"):
            self._daemon.kill()  # harmless where it has left by itself
            seconds, cpu = self._start()
            recovered = logged(self._daemon.log, events.POSITIONS_RECOVERED)[-1]
            started = logged(self._daemon.log, events.DAEMON_STARTED)[-1]
            self._add(
                held(f"restart {name} to ready", seconds, "s", most=READY_AIM_SECONDS, aim="seconds"),
                held(
                    f"restart {name}, of that until positions are recovered",
                    logged_at(recovered) - logged_at(started),
                    "s",
                    digits=2,
                ),
                held(f"restart {name}, CPU", cpu, "s", digits=2),
                held(f"restart {name}, RSS", rss_bytes(self._pid) / MIB, "MiB", digits=0),
            )
            self._until_durable()

    def readers(self) -> None:
        """`describe` and `validate` over what has come together."""
        self._daemon.stop()
        objects = self._facts.objects()
        kinds = counted(objects)
        self._add(
            Figure(
                title="archive",
                value=f"{', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}, "
                f"{sum(objects.values()) / MIB:.0f} MiB",
            )
        )
        for verb in ("describe", "validate"):
            self._site.say(verb)
            arguments = (verb, "--path", self._daemon.path, "--backup-id", self._daemon.backup_id)
            output = self._daemon.directory / f"{verb}.out"
            ended = run_measured(
                kbackupd_command(*arguments), output=output, environment=kbackupd_environment(self._site.s3)
            )
            self._add(
                Figure(
                    title=verb,
                    value=f"{ended.seconds:.1f} s, {ended.cpu_seconds:.1f} CPU s, "
                    f"{ended.peak_rss_bytes / MIB:.0f} MiB, exit code {ended.exit_code}",
                    aim="exit code 0",
                    reached=ended.exit_code == 0,
                )
            )

    def _stored(self, name: str, since: float, until: float, *, heavy: bool) -> None:
        segments = self._facts.segments(since, until)
        checkpoints = self._facts.checkpoint_bytes(since, until)
        flushes = (until - since) / self._site.flush_interval_seconds
        per_flush = len(segments) / flushes
        body = sum(one.footer.body_bytes for one in segments)
        runs = sum(len(one.footer.runs) for one in segments)
        # One more may fall into the stretch than it has whole intervals.
        most = None if heavy else 1.0 + 1.0 / flushes
        self._add(
            held(f"{name}, objects per flush interval", per_flush, "", digits=2, most=most, aim="one"),
            held(f"{name}, runs per object", runs / max(1, len(segments)), "", digits=0),
            held(f"{name}, body per object", body / max(1, len(segments)) / KIB, "KiB", digits=0),
            held(
                f"{name}, footer per object",
                sum(one.index_bytes for one in segments) / max(1, len(segments)) / KIB,
                "KiB",
                digits=0,
            ),
            held(f"{name}, checkpoint", sum(checkpoints) / max(1, len(checkpoints)) / KIB, "KiB", digits=0),
        )

    def _exposed(self, name: str, since: float, until: float, claimed: list[float]) -> None:
        """At risk by the archive, per partition and second; and as the daemon said, per topic and scrape."""
        later = self._facts.segments(since, time.time())
        instants = [since + number for number in range(int(until - since))]
        true = exposures(later, instants)
        most = self._site.flush_interval_seconds + EXPOSURE_MARGIN_SECONDS
        self._add(
            held(f"{name}, records at risk, p50", quantile(true, 0.5), "s"),
            held(f"{name}, records at risk, p99", quantile(true, 0.99), "s", most=most, aim=f"< {most:g} s"),
            held(f"{name}, records at risk, longest", max(true, default=float("nan")), "s"),
            held(f"{name}, exposure as told, p50", quantile(claimed, 0.5), "s"),
            held(f"{name}, exposure as told, p99", quantile(claimed, 0.99), "s", most=most, aim=f"< {most:g} s"),
        )

    def _lagged(self, name: str, scrapes: list[Scraped]) -> None:
        """As the daemon tells it: without the probes, and without the way to it."""
        told = [one.loop_lag_seconds for one in scrapes if one.loop_lag_seconds is not None]
        if told:
            self._add(held(f"{name}, loop lag as told, longest", 1000 * max(told), "ms", digits=0))

    def _probe(self, name: str) -> None:
        """How long the event loop keeps somebody waiting: after the processor's figures, which it would spoil."""
        waits = loop_waits(self._daemon.port, seconds=PROBE_SECONDS)
        self._add(
            held(f"{name}, loop waits, p99", 1000 * quantile(waits, 0.99), "ms", digits=0),
            held(f"{name}, loop waits, longest", 1000 * max(waits), "ms", digits=0, most=100.0, aim="< 100 ms"),
        )

    def _scrape_until(self, deadline: float, every_seconds: float) -> list[Scraped]:
        scrapes = []
        due = time.monotonic()
        while (due := due + every_seconds) <= deadline:
            time.sleep(max(0.0, due - time.monotonic()))
            scrapes.append(scrape(self._daemon.port))
        time.sleep(max(0.0, deadline - time.monotonic()))
        return scrapes or [scrape(self._daemon.port)]

    def _start(self) -> tuple[float, float]:
        """Launch and wait for a green /readyz; seconds, and CPU seconds until then."""
        began, deadline = time.monotonic(), Deadline(DEADLINE_SECONDS)
        self._daemon.launch()
        while not self._daemon.ready:
            self._daemon.require_running()
            if deadline.passed:
                raise ServerFailedError(f"kbackupd was not ready within {DEADLINE_SECONDS:g} s")
            time.sleep(READY_POLL_SECONDS)
        return time.monotonic() - began, cpu_seconds(self._pid)

    def _until_durable(self) -> None:
        """Everything that was appended before this call is in the archive."""
        deadline = Deadline(DEADLINE_SECONDS)
        while not self._all_durable():
            self._daemon.require_running()
            if deadline.passed:
                raise ServerFailedError(f"not all durable within {DEADLINE_SECONDS:g} s")
            time.sleep(1.0)

    def _all_durable(self) -> bool:
        status: Section | None = None
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            status = self._daemon.status()
        tiers = status.get("tiers") if status is not None else None
        if not isinstance(tiers, list):
            return False
        rows = [tier for tier in tiers if isinstance(tier, dict) and tier.get("rpo_target_seconds") is not None]
        known = sum(row["partitions"] for row in rows if isinstance(row["partitions"], int))
        return known >= self._site.partitions and all(
            row.get("lag_records") == 0 and row.get("unknown_partitions") == 0 for row in rows
        )

    @property
    def _pid(self) -> int:
        self._daemon.require_running()
        pid = self._daemon.pid
        assert pid is not None
        return pid

    def _add(self, *figures: Figure) -> None:
        self.figures += figures
        for one in figures:
            self._site.say(f"  {one.title}: {one.value}")

"""One soak: its servers, its daemons and the order of its events; entered from `soak.py`, which says what it is for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kbackupd.archive.archive import Archive
from kbackupd.store.open import open_store
from kbackupd.testbed.covered import flush_to_the_ends
from kbackupd.testbed.daemon import Daemon
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.odd_daemon import ClockFile, odd_command
from kbackupd.testbed.process import Deadline, ServerFailedError
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.s3_proxy import S3Proxy
from kbackupd.testbed.soak_check import Model, restorable, restored_differences
from kbackupd.testbed.soak_daemon import SupervisedDaemon
from kbackupd.testbed.soak_faults import Site, carry_out, plan_round
from kbackupd.testbed.soak_figures import TIER, CalmExposure, Figures
from kbackupd.testbed.soak_topics import GENERATION_ROUNDS, Generation, SoakTopics
from kbackupd.testbed.truth import Outcome

BUCKET = "soak"
PREFIX = "archives"
BACKUP_ID = "main"
MEMORY_LIMIT_MIB = 256
MEMORY_LIMIT_BYTES = MEMORY_LIMIT_MIB << 20
CALM_EVERY = 4
REPORT_EVERY = 5
VALIDATION_SHARE = 0.2
"""Deep validation reads the whole archive, which grows: it is left out while it has had more than this of the time."""
_SETTLE_SECONDS = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How hard and how long; the defaults are for an hour and more."""

    seed: int
    seconds: float = 3600.0
    rounds: int | None = None
    """Exactly so many instead of `seconds`."""
    round_seconds: float = 50.0
    nodes: int = 3
    rate: float = 0.6
    breaks: tuple[float, float] = (1.0, 6.0)


class Soak:
    """One soak in `home`, a directory of its own. `run` is the order of events; `close` leaves nothing running."""

    def __init__(self, options: Options, home: Path, say: Say) -> None:
        self.figures = Figures(options.seed, memory_limit_bytes=MEMORY_LIMIT_BYTES)
        self._options = options
        self._say = say
        self._home = home
        self._stack = ExitStack()
        self._s3 = S3Server(directory=home / "s3")
        self._stack.callback(self._s3.kill)
        self._cluster = ProxiedCluster(options.nodes, seed=options.seed)
        for node, proxy in zip(self._cluster.nodes, self._cluster.proxies, strict=True):
            self._stack.callback(node.kill)
            self._stack.callback(proxy.close)
        self._model = Model()
        self._quiet_since = time.monotonic()
        self._validated_seconds = 0.0
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def run(self) -> bool:
        """True if all held; what did not is in `figures.differences`.

        Raises:
            KbackupError: it could not go on: the daemon died, did not recover, or a verb of it failed.
        """
        try:
            deadline, number = Deadline(self._options.seconds), 0
            while not self.figures.differences and not self._over(number, deadline):
                self._round(number)
                number += 1
                if number % REPORT_EVERY == 0:
                    self._report(f"after {number} rounds")
            if not self.figures.differences:
                self._last_check()
        finally:
            self._collect()
        if self.figures.peak_rss_bytes > MEMORY_LIMIT_BYTES:
            self.figures.differences.append("the daemon's peak RSS is above memory_limit")
        return not self.figures.differences

    def close(self) -> None:
        """Nothing runs any more; all data is kept, the brokers' in `home` by links."""
        for node in self._cluster.nodes:
            with contextlib.suppress(OSError):
                (self._home / f"kafka-{node.node_id}").symlink_to(node.directory)
        self._stack.close()

    def remove(self) -> None:
        """After `close`: the data too."""
        self._cluster.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def last_words(self, lines: int) -> list[str]:
        """The end of the daemon's log."""
        return self._daemon.log_tail(lines)

    def _over(self, number: int, deadline: Deadline) -> bool:
        return deadline.passed if self._options.rounds is None else number >= self._options.rounds

    def _begin(self) -> None:
        self._s3.start()
        self._s3.create_bucket(BUCKET)
        self._cluster.open()
        self._proxy = self._stack.enter_context(S3Proxy(self._s3.port))
        clock = ClockFile(self._home / "clock")
        self._daemon = self._supervised("main", clock)
        self._second = self._supervised("second", clock)
        self._topics = SoakTopics(
            self._cluster.inside, replication=min(3, self._options.nodes), rate=self._options.rate
        )
        self._site = Site(
            proxy=self._proxy,
            cluster=self._cluster,
            daemon=self._daemon,
            second=self._second,
            clock=clock,
            topics=lambda: list(self._current.partitions),
        )
        self._exposure = CalmExposure(self._daemon.daemon.status, lambda: time.monotonic() - self._quiet_since)
        self._current = self._begin_generation(0)
        self._daemon.launch()
        self._daemon.settle()
        self._exposure.start()
        self._stack.callback(self._exposure.stop)

    def _supervised(self, writer: str, clock: ClockFile) -> SupervisedDaemon:
        daemon = Daemon(
            self._home / writer,
            bootstrap=self._cluster.outside,
            s3=self._s3,
            bucket=BUCKET,
            prefix=PREFIX,
            endpoint=self._proxy.endpoint,
            backup_id=BACKUP_ID,
            writer=writer,
            overrides={
                "backup": {
                    "flush_interval": "2s",
                    "checkpoint_interval": "5s",
                    "discovery_interval": "2s",
                    "snapshot_interval": "20s",
                    "memory_limit": f"{MEMORY_LIMIT_MIB}MiB",
                },
            },
            tiers=[{"name": TIER, "topics": ["*"], "rpo": "1m", "rto": "15m"}],
            program=odd_command("--clock-file", str(clock.path)),
        )
        made = SupervisedDaemon(writer, daemon)
        self._stack.callback(made.close)
        return made

    def _begin_generation(self, number: int) -> Generation:
        made = self._topics.begin(number)
        self.figures.topics += len(made.partitions)
        return made

    def _round(self, number: int) -> None:
        chance = random.Random(f"{self._options.seed}-{number}")
        if number and number % GENERATION_ROUNDS == 0:
            self._topics.end(self._current)
            self._current = self._begin_generation(self._current.number + 1)
        generation = self._current
        calm = number % CALM_EVERY == CALM_EVERY - 1
        plan = [] if calm else plan_round(chance, self._options.round_seconds, breaks=self._options.breaks)
        self._say(
            f"round {number}: "
            + ("calm" if calm else ", ".join(f"{one.kind.name} {one.begin:.0f}–{one.end:.0f} s" for one in plan))
        )
        load = self._topics.load(generation, seed=self._options.seed * 100_000 + number)
        before = generation.truth.record_count, generation.truth.outcomes[Outcome.ABORTED]
        if plan:
            self._quiet_since = math.inf
        load.start()
        try:
            with ThreadPoolExecutor(max_workers=1) as aside:
                churn = aside.submit(self._churn, generation, number)
                seconds, struck = self._options.round_seconds, self.figures.faults
                carry_out(plan, self._site, chance, seconds=seconds, struck=struck)
                self._heal()
                churn.result()
        finally:
            try:
                load.stop()
            except BaseExceptionGroup as error:
                # A producer that gave up is no loss of the backup's; the brokers know what they have.
                self.figures.load_failures.append(f"round {number}: {error.exceptions[0]}")
        self.figures.produced += generation.truth.record_count - before[0]
        self.figures.aborted_transactions += generation.truth.outcomes[Outcome.ABORTED] - before[1]
        self._recover()
        if plan:
            self._quiet_since = time.monotonic()
        self._check()
        generation.doomed, generation.brief = generation.brief, ""
        self.figures.rounds += 1

    def _churn(self, generation: Generation, number: int) -> None:
        """Topics come, go and grow while everything else happens."""
        self._topics.delete_doomed(generation)
        self._topics.make_brief(generation, number)
        self.figures.topics += 1
        if number % 3 == 1:
            self._topics.grow(generation)

    def _heal(self) -> None:
        self._proxy.clear()
        self._daemon.thaw()
        asyncio.run(self._cluster.heal())

    def _recover(self) -> None:
        """Nobody helps the daemon: it must be ready, and then store all there is, by itself."""
        for daemon in (self._daemon, self._second):
            daemon.weather = True  # what it met a moment ago may still end a start
        self._daemon.settle(_SETTLE_SECONDS)
        steered = self._daemon.daemon
        steered.cli("ctl", "--socket", str(steered.socket), "resume").require(0, 2)  # 2: nothing is paused
        deadline = Deadline(_SETTLE_SECONDS)
        while self._second.lives:
            self._second.retire()
            self._second.look()
            if deadline.passed:
                raise ServerFailedError(f"the second writer did not leave within {_SETTLE_SECONDS:g} s")
            time.sleep(0.1)
        flush_to_the_ends(
            steered,
            self._cluster.inside,
            self._current.partitions,
            deadline_seconds=_SETTLE_SECONDS,
        )
        for daemon in (self._daemon, self._second):
            daemon.weather = False

    def _check(self) -> None:
        began = time.monotonic()
        found = asyncio.run(self._compare(lambda a: self._model.compare_new(a, self._current, self._cluster.inside)))
        compared = time.monotonic()
        self.figures.differences += found
        spent = self._validated_seconds / max(1.0, compared - self.figures.began)
        if spent < VALIDATION_SHARE:
            self._validate()
        took = time.monotonic() - compared
        self._validated_seconds += took
        self.figures.checks.append((compared - began, took))
        self._collect()
        self._say(
            f"  checked: {self.figures.compared:,} records in all, {len(self.figures.differences)} differences "
            f"({compared - began:.1f} s, validation {took:.1f} s)"
        )

    async def _compare(self, compare: Callable[[Archive], Awaitable[list[str]]]) -> list[str]:
        store = await open_store(self._s3.storage(BUCKET, PREFIX))
        try:
            archive = await Archive.open(store, BACKUP_ID)
            damaged = [f"damaged: {one}" for one in archive.damaged] + [f"lost: {one}" for one in archive.lost]
            return damaged + await compare(archive)
        finally:
            await store.close()

    def _validate(self) -> None:
        daemon = self._daemon.daemon
        finished = daemon.cli(
            *("validate", "--path", daemon.path, "--backup-id", BACKUP_ID, "--deep", "--format", "json")
        ).require(0, 3)
        report = json.loads(finished.stdout)
        if not report["valid"]:
            self.figures.differences += [f"validate: {finding}" for finding in report["findings"]][:20]

    def _last_check(self) -> None:
        """Drain, read everything once more, destroy the cluster, restore what it had last, compare."""
        generation = self._current
        self._exposure.stop()
        if (exit_code := self._daemon.stop()) != 0:
            self.figures.differences.append(f"the last drain ended with exit code {exit_code}")
        self._validate()
        self.figures.differences += asyncio.run(self._compare(self._model.compare_all))
        self._say(f"  the whole archive read again: {len(self.figures.differences)} differences")
        wanted = restorable(self._model, generation, self._cluster.inside)
        self._collect()
        for node in self._cluster.nodes:
            node.kill()
        target = KafkaServer(directory=self._home / "target")
        self._stack.callback(target.kill)
        target.start()
        self._daemon.daemon.restore(target.bootstrap, {one: one for one in sorted(generation.partitions)}).require(0, 6)
        self.figures.restored, differences = restored_differences(wanted, target.bootstrap)
        self.figures.differences += differences

    def _collect(self) -> None:
        """Bring the figures up to date."""
        figures = self.figures
        figures.compared, figures.batches = self._model.records, self._model.batches
        figures.compacted_away = self._model.compacted_away
        figures.starts, figures.second_starts = self._daemon.starts, self._second.starts
        figures.exits = self._daemon.exits + self._second.exits
        figures.verbs = self._daemon.verbs + self._second.verbs
        figures.peak_rss_bytes = max(self._daemon.peak_rss_bytes, self._second.peak_rss_bytes)
        figures.calm_exposure_seconds = self._exposure.calm_seconds
        figures.calm_samples = self._exposure.calm_samples
        figures.worst_exposure_seconds = self._exposure.worst_seconds
        figures.requests = self._proxy.seen.total()
        figures.slowest_start_seconds = self._daemon.slowest_start_seconds
        figures.note_log(self._daemon.daemon.log)
        objects = self._s3.list_objects(BUCKET, f"{PREFIX}/")
        figures.objects, figures.stored_bytes = len(objects), sum(objects.values())

    def _report(self, when: str) -> None:
        self._collect()
        self._say(f"soak {when}:")
        for line in self.figures.lines():
            self._say(line)

"""The composition root of `kbackupd run`: wires every part, owns signals and the order of starting and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable

import structlog

from kbackupd import __version__
from kbackupd.capture.group_commit import GroupCommitter, committable
from kbackupd.capture.pipeline import Pipeline, Resume
from kbackupd.capture.snapshots import Snapshots
from kbackupd.capture.source import ClusterQuestions, GroupPositions, Source
from kbackupd.capture.steering import Steering
from kbackupd.daemon.descriptors import allow_descriptors
from kbackupd.daemon.errand import Errand
from kbackupd.daemon.loop_lag import LoopLag, sampling_lag
from kbackupd.daemon.memory import budget_bytes, collect_seldom, keep_freed_memory, left_for_data
from kbackupd.daemon.reload import Reloader, no_configuration, reloading_on_hangup
from kbackupd.daemon.rollup_process import RollupProcess
from kbackupd.daemon.rollups import RollUp, Rollups
from kbackupd.daemon.service import Service, nothing_to_reload
from kbackupd.daemon.source import QUESTION_SECONDS, KafkaQuestions, KafkaSource
from kbackupd.daemon.systemd import Heartbeat, ServiceManager, beating
from kbackupd.daemon.take_over import take_over
from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.groups import GroupQuestions
from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import ConfigurationError, IncompleteError, KbackupError, StoreUnavailableError
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe import events
from kbackupd.observe.logging import set_level
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.observe.repeats import RepeatLimiter
from kbackupd.server.control import ControlServer
from kbackupd.server.http import ObservabilityServer
from kbackupd.store.metered import Operation, Outcome
from kbackupd.store.open import open_store
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import OnRetry, RetryPolicy
from kbackupd.store.scoped import ScopedStore

PROBLEM_AFTER_TRIES = 2
"""So many failed tries of one operation of the store are a problem that status shows."""

log = structlog.get_logger()


class Aborted(KbackupError):
    """A second signal: left at once. What was durable stays, what was not is fetched again by the next life."""

    exit_code = 6


async def run_daemon(
    settings: DaemonSettings,
    *,
    load: Callable[[], DaemonSettings] = no_configuration,
    clock: Clock | None = None,
    retries: RetryPolicy | None = None,
    dropped_lines: Callable[[], int] | None = None,
    manager: ServiceManager | None = None,
    errand: Errand | None = None,
    rollup_limits: dict[str, int] | None = None,
) -> None:
    """Back up until SIGTERM or SIGINT, or until `errand` is done, drain, return.

    Args:
        load: reads the configuration again, for a reload (SIGHUP).
        retries: how long the store insists on one operation before it fails.
        dropped_lines: how many log lines were dropped so far, for the metric.
        manager: is told how we are; None: nobody is.
        errand: what this life is for, if it is to end by itself (`run --once`). Such a life goes without the socket and
            the port where it cannot have them, and rolls nothing up.
        rollup_limits: fields of `archive.rollup_build.RollupLimits` that are not to be the defaults.

    On return everything fetched is durable and checkpointed. Raises the reason otherwise:
        ConfigurationError: too few descriptors or too little memory to work with.
        UnreachableError, DeniedError: Kafka or the store could not be used at the start.
        ForeignArchiveError: the archive is another cluster's.
        FencedError: another daemon took over.
        IncompleteError: the drain did not finish within backup.shutdown_timeout; nothing acknowledged is lost.
    """
    clock = clock or SystemClock()
    allow_descriptors()
    metrics = Metrics(clock, version=__version__, backup_id=settings.backup_id, writer=settings.writer)
    problems = Problems(clock)
    service = Service(settings=settings, clock=clock, metrics=metrics, problems=problems)
    heart = Heartbeat(manager or ServiceManager(), health=service.health, clock=clock)
    reloader = Reloader(settings=settings, load=load, heart=heart, problems=problems)
    lag = LoopLag(clock, metrics.loop_lagged)
    metrics.watch_loop_lag(lag.worst_seconds)
    log.info(events.DAEMON_STARTED, version=__version__, backup_id=settings.backup_id, writer=settings.writer)
    async with (
        beating(heart),
        reloading_on_hangup(reloader),
        sampling_lag(lag),
        _open_archive_store(settings, metrics, problems, clock, retries) as store,
        _connection_to(settings, clock) as connection,
    ):
        keep_freed_memory()
        life = _Life(
            settings=settings,
            source=KafkaSource(connection, clock=clock),
            questions=KafkaQuestions(connection),
            positions=GroupQuestions(connection, timeout_seconds=QUESTION_SECONDS),
            store=store,
            service=service,
            heart=heart,
            reloader=reloader,
            clock=clock,
            metrics=metrics,
            problems=problems,
            errand=errand,
            roll_up=RollupProcess(settings.storage, settings.backup_id, limits=rollup_limits).run,
        )
        if dropped_lines is not None:
            metrics.watch_dropped_lines(dropped_lines)
        # Before the writer's epoch is claimed: a daemon that cannot have its socket, because another one on this host
        # answers there, must not fence that one and then leave too.
        async with _serving(settings, life.service, needed=errand is None):
            await _until_stopped(life, lambda: reloader.settings.backup.shutdown_timeout_seconds)
    log.info(events.DAEMON_STOPPED)


class _Life:
    """From taking over the archive to the end of the drain."""

    _reloader: Reloader | None = None
    """None: nobody asks this life to obey another configuration."""
    _committer: GroupCommitter | None = None
    _errand: Errand | None = None
    """What this life is for; None: to go on until it is stopped."""
    _rollups: Rollups | None = None
    _rolling_up: asyncio.Task[None] | None = None

    def __init__(
        self,
        *,
        settings: DaemonSettings,
        source: Source,
        questions: ClusterQuestions,
        positions: GroupPositions | None = None,
        store: ObjectStore,
        service: Service,
        heart: Heartbeat,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
        reloader: Reloader | None = None,
        errand: Errand | None = None,
        roll_up: RollUp | None = None,
    ) -> None:
        """
        Args:
            positions: where durable offsets are committed; None: nowhere.
            roll_up: rolls up what segments say; None: somebody else does.
        """
        self.service = service
        self._errand = errand
        self._heart = heart
        self._reloader = reloader
        self._settings = settings
        self._source = source
        self._questions = questions
        self._positions = positions
        self._roll_up = roll_up
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.problems = problems
        self._pipeline: Pipeline | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Take over, back up until `stop`, drain. Stopped before the take-over is done it leaves at most a claim."""
        taking = asyncio.ensure_future(self._take_over())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({taking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                return
            pipeline, snapshots = taking.result()
        finally:
            for future in (taking, stopped):
                future.cancel()
            await asyncio.gather(taking, stopped, return_exceptions=True)
        self._pipeline = pipeline
        if self._stopped.is_set():
            pipeline.stop()
        else:
            self._heart.began()
            if self._reloader is not None:
                self._reloader.began(lambda wanted: self._obey(wanted, pipeline, snapshots))
        # Beside the pipeline, not among its tasks: nothing that happens to a snapshot, or to the consumer group, is the
        # records' concern.
        beside = [asyncio.create_task(collect_seldom(), name="garbage")]
        if self._committer is not None:
            beside.append(asyncio.create_task(self._committer.run(), name="group-commits"))
        if self._errand is None:
            beside.append(asyncio.create_task(snapshots.run(), name="snapshots"))
        if self._rollups is not None and not self._stopped.is_set():
            self._rolling_up = asyncio.create_task(self._rollups.run(), name="roll-ups")
            beside.append(self._rolling_up)
        try:
            if self._errand is None:
                await pipeline.run()
            else:
                await self._errand.run(pipeline, snapshots, source=self._source, problems=self.problems)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        if self._committer is not None:
            await self._committer.leave()

    def stop(self) -> None:
        """Ask `run` to return; idempotent."""
        within = self._settings.backup.shutdown_timeout_seconds
        self._heart.stopping(within_seconds=within)
        if self._reloader is not None:
            self._reloader.stopping()
        if self._committer is not None:
            self._committer.stopping(within_seconds=within)
        self._stopped.set()
        # At once, and not after the drain: that has the processor and the store for itself, and nothing waits for it.
        if self._rolling_up is not None:
            self._rolling_up.cancel()
        if self._errand is not None:
            self._errand.stop()
        if self._pipeline is not None:
            self._pipeline.stop()

    def _obey(self, wanted: DaemonSettings, pipeline: Pipeline, snapshots: Snapshots) -> None:
        """Run with `wanted` from now on: all of it when this returns."""
        self._settings = wanted
        set_level(wanted.observability.log_level)
        pipeline.reconfigure(wanted)
        snapshots.every(wanted.backup.snapshot_interval_seconds)
        if self._rollups is not None:
            self._rollups.every(wanted.backup.rollup_interval_seconds)
        self.service.reconfigure(wanted)

    async def _take_over(self) -> tuple[Pipeline, Snapshots]:
        # Too little to begin with is told before the claim of an epoch fences a daemon that has enough.
        left_for_data(self._settings.backup.memory_limit_bytes)
        if self._errand is not None:
            await self._errand.begin(self._store)
        document, resume = await take_over(
            self._settings, store=self._store, source=self._source, clock=self._clock, problems=self.problems
        )
        for key in resume.recovery.damaged:
            self._metrics.damaged_object_found()
            self.problems.note(
                f"object {key}",
                "damaged in the archive; its offsets are captured again where the source still has them",
                hint="kbackupd validate --deep says what is missing; look at the store: written bytes have changed",
            )
        pipeline = Pipeline(
            settings=self._settings,
            source=self._source,
            store=self._store,
            resume=resume,
            budget=MemoryBudget(budget_bytes(self._settings.backup.memory_limit_bytes)),
            clock=self._clock,
            metrics=self._metrics,
            problems=self.problems,
        )
        self._committer = self._commits_to(pipeline, resume)
        self._rollups = self._rolls_up(pipeline)
        steering = Steering(pipeline, clock=self._clock)
        self.service.began(
            document,
            writer_epoch=resume.writer_epoch,
            pipeline=pipeline,
            steering=steering,
            reload=nothing_to_reload if self._reloader is None else self._reloader.reload,
        )
        snapshots = Snapshots(
            source=self._questions,
            store=self._store,
            identity=resume.identity,
            writer=self._settings.writer,
            writer_epoch=resume.writer_epoch,
            interval_seconds=self._settings.backup.snapshot_interval_seconds,
            own_group=self._settings.commits_to,
            clock=self._clock,
            metrics=self._metrics,
            problems=self.problems,
        )
        return pipeline, snapshots

    def _rolls_up(self, pipeline: Pipeline) -> Rollups | None:
        # A life with an end ends when its errand is done; whoever starts such lives runs `kbackupd rollup` after them.
        if self._roll_up is None or self._errand is not None:
            return None
        rollups = Rollups(
            roll_up=self._roll_up,
            writer=self._settings.writer,
            stored=lambda: pipeline.publisher.first_pending,
            interval_seconds=self._settings.backup.rollup_interval_seconds,
            metrics=self._metrics,
            problems=self.problems,
        )
        self._metrics.watch_rollups(rollups.not_rolled_up)
        return rollups

    def _commits_to(self, pipeline: Pipeline, resume: Resume) -> GroupCommitter | None:
        group = self._settings.commits_to
        if group is None or self._positions is None:
            return None
        state = resume.recovery.state
        committer = GroupCommitter(
            source=self._positions,
            group=group,
            recovered=committable(state.topics.values(), state.partitions.values()),
            interval_seconds=self._settings.backup.checkpoint_interval_seconds,
            clock=self._clock,
            metrics=self._metrics,
            problems=self.problems,
        )
        pipeline.checkpointer.on_stored = committer.covered
        self._metrics.watch_group(committer.behind_seconds)
        return committer


@contextlib.asynccontextmanager
async def _connection_to(settings: DaemonSettings, clock: Clock) -> AsyncIterator[KafkaConnection]:
    """Not started: the first question does that, and it is asked with patience, in sight of status and signals."""
    connection = KafkaConnection(
        bootstrap_servers=settings.source.bootstrap_servers,
        security=settings.source.security,
        client_id=f"kbackupd-{settings.writer}",
        clock=clock,
    )
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _open_archive_store(
    settings: DaemonSettings, metrics: Metrics, problems: Problems, clock: Clock, retries: RetryPolicy | None
) -> AsyncIterator[ObjectStore]:
    retried = retry_listener(metrics, problems, clock)

    def ended(operation: Operation, seconds: float, size_bytes: int, outcome: Outcome) -> None:
        metrics.store_operation_ended(operation, seconds, size_bytes, outcome)
        if outcome not in ("unavailable", "cancelled"):
            problems.clear(f"store {operation}")

    store = await open_store(
        settings.storage,
        policy=retries,
        on_operation=ended,
        on_retry=retried,
        on_failure=metrics.store_failed,
        clock=clock,
    )
    try:
        yield ScopedStore(store, settings.backup_id)
    finally:
        await store.close()


def retry_listener(metrics: Metrics, problems: Problems, clock: Clock) -> OnRetry:
    """What is made of a failed try that will be followed by another.

    A store that is gone is tried for a minute before an operation fails: told by then only, status would call the
    daemon healthy meanwhile, and a drain that runs out of time could not say why. One failed try is everyday life; from
    the second of one operation on it is said, but once a minute for each kind with a count: in bad weather every
    operation fails twice, several times a second and for hours.
    """
    repeats = RepeatLimiter(clock)

    def retried(operation: str, error: KbackupError, attempt: int) -> None:
        metrics.store_retried(operation, error)
        told = {"operation": operation, "error": error.message, "attempt": attempt}
        if attempt < PROBLEM_AFTER_TRIES:
            log.debug(events.STORE_RETRIED, **told)
            return
        problems.report(f"store {operation}", error.message, hint=error.hint)
        cause = error.cause if isinstance(error, StoreUnavailableError) else ""
        if (count := repeats.admit((operation, cause))) is None:
            log.debug(events.STORE_RETRIED, **told)
        else:
            log.warning(events.STORE_RETRIED, count=count, **told)

    return retried


@contextlib.asynccontextmanager
async def _serving(settings: DaemonSettings, service: Service, *, needed: bool = True) -> AsyncIterator[None]:
    control = ControlServer(service, settings.control.socket)
    http = ObservabilityServer(service, host=settings.observability.host, port=settings.observability.port)
    try:
        for server in (control, http):
            try:
                await server.start()
            except ConfigurationError as error:
                # Where another process answers on the socket, that is no ConfigurationError: it backs this up already.
                if needed:
                    raise
                log.warning(events.SERVER_LEFT_OUT, error=error.message)
        yield
    finally:
        await http.stop()
        await control.stop()


async def _until_stopped(life: _Life, shutdown_timeout: Callable[[], float]) -> None:
    """Live; the first signal drains within the timeout, the second leaves at once."""
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    running = asyncio.create_task(life.run(), name="life")
    try:
        await _first_of(running, first)
        if not running.done():
            shutdown_timeout_seconds = shutdown_timeout()
            log.info(events.DAEMON_STOPPING, timeout_seconds=shutdown_timeout_seconds)
            life.stop()
            await _drained(life, running, second, shutdown_timeout_seconds)
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _drained(life: _Life, running: asyncio.Task[None], second: asyncio.Event, timeout_seconds: float) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await _first_of(running, second)
    except TimeoutError as error:
        reasons = [f"{problem.subject}: {problem.message}" for problem in life.problems.current()]
        raise IncompleteError(
            "; ".join(
                (f"the last flush did not finish within backup.shutdown_timeout ({timeout_seconds:.0f} s)", *reasons)
            ),
            hint="the archive is as of the last stored segment; the next start goes on from there. See the log for why "
            "the store or the brokers were slow",
        ) from error
    if not running.done():
        raise Aborted(
            "aborted by a second signal before the last flush was durable",
            hint="nothing acknowledged is lost; the next start fetches the rest again",
        )


async def _first_of(running: asyncio.Task[None], event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()

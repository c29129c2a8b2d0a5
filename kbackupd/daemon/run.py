"""The composition root of `kbackupd run`: wires every part, owns the order of starting and stopping."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import structlog

from kbackupd import __version__
from kbackupd.daemon.archive_store import open_archive_store
from kbackupd.daemon.descriptors import allow_descriptors
from kbackupd.daemon.errand import Errand
from kbackupd.daemon.life import DaemonLife
from kbackupd.daemon.loop_lag import LoopLag, sampling_lag
from kbackupd.daemon.reload import Reloader, no_configuration, reloading_on_hangup
from kbackupd.daemon.rollup_process import RollupProcess
from kbackupd.daemon.service import Service
from kbackupd.daemon.source import QUESTION_SECONDS, KafkaQuestions, KafkaSource
from kbackupd.daemon.stopping import until_stopped
from kbackupd.daemon.systemd import Heartbeat, ServiceManager, beating
from kbackupd.flow.freed_memory import keep_freed_memory
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.groups import GroupQuestions
from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import ConfigurationError
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.server.control import ControlServer
from kbackupd.server.http import ObservabilityServer
from kbackupd.store.retrying import RetryPolicy

log = structlog.get_logger()


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
        open_archive_store(settings, metrics, problems, clock, retries) as store,
        _connection_to(settings, clock) as connection,
    ):
        keep_freed_memory()
        life = DaemonLife(
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
            await until_stopped(life, lambda: reloader.settings.backup.shutdown_timeout_seconds)
    log.info(events.DAEMON_STOPPED)


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

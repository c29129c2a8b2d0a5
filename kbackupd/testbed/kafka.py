"""The real Apache Kafka on this machine: one broker, or a small cluster, KRaft, each node its own JVM and directory.

A node owns its directory (`server.properties`, `kafka.log`, `data/`). It can be stopped, killed, frozen and started
again on the same data and port, or destroyed with its data. Methods block (a start takes 2-5 s on a quiet machine).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kbackupd.testbed.java import FAST_START, KAFKA_VERSION, java_command, kafka_tool
from kbackupd.testbed.listeners import Listener, listener_properties, scram_arguments
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline, GuardedProcess
from kbackupd.testbed.server import LocalServer

START_DEADLINE_SECONDS = 120.0
STOP_DEADLINE_SECONDS = 60.0

DEFAULT_PROPERTIES: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # After a SIGKILL the controller refuses the same node until its old session has run out (default 9 s).
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    # Background work in seconds instead of minutes, so that tests can wait for retention, compaction and time-outs.
    "log.initial.task.delay.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.cleaner.backoff.ms": "500",
    "log.cleaner.dedupe.buffer.size": str(32 << 20),
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
"""What every node starts with, besides its replication factors; `properties` overrides."""


class KafkaServer(LocalServer):
    """One Kafka node, broker and controller in one process, listening on 127.0.0.1 only.

    Args:
        properties: broker properties on top of `DEFAULT_PROPERTIES`; a change to `self.properties` counts from the
            next start on.
        directory: where it lives; None: a temporary directory. `close` removes it either way.
        heap: value of -Xmx.
        jvm_options: `FAST_START`, or `()` where throughput counts more than start-up.
        version: another Apache Kafka than the newest; 3.1.2 to 3.9.1 were seen to run on the same Java.
        listeners: beside the plain one.
        users: password by name, for every SASL mechanism of those listeners; the cluster is formatted with them.
    """

    stop_deadline_seconds = STOP_DEADLINE_SECONDS

    def __init__(
        self,
        *,
        properties: Mapping[str, str] | None = None,
        directory: Path | None = None,
        heap: str = "512m",
        jvm_options: Sequence[str] = FAST_START,
        node_id: int = 1,
        cluster_id: str | None = None,
        quorum: Mapping[int, tuple[int, int]] | None = None,
        version: str = KAFKA_VERSION,
        listeners: Sequence[Listener] = (),
        users: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory or Path(tempfile.mkdtemp(prefix=f"kbackupd-kafka-{node_id}-")))
        self.node_id = node_id
        self.version = version
        self.cluster_id = cluster_id or _new_cluster_id()
        self.properties: dict[str, str] = dict(properties or {})
        self.listeners = tuple(listeners)
        """Beside the plain one; read at every start."""
        self._users = dict(users or {})
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data = self.directory / "data"
        self.log = self.directory / "kafka.log"
        self.quorum = dict(quorum) if quorum is not None else {node_id: _port_pair()}
        """Per node id: client port and controller port."""
        self.port, self._controller_port = self.quorum[node_id]
        self._options = (
            f"-Xmx{heap}",
            "-Xms64m",
            "-XX:+ExitOnOutOfMemoryError",
            # A killed JVM leaves its unpacked codec libraries and its performance counters: here, not in /tmp.
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={self.directory}",
            *jvm_options,
        )

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def log_dir(self, topic: str, partition: int) -> Path:
        """The broker's own directory of that partition."""
        return self.data / f"{topic}-{partition}"

    def start(self, *, deadline_seconds: float = START_DEADLINE_SECONDS) -> None:
        """Return when it has answered a metadata request; on existing data continues it, else formats first.

        Raises:
            ServerFailedError: it died or did not answer in time; it is not left running.
        """
        deadline = Deadline(deadline_seconds)
        self.launch()
        self.wait_ready(deadline)

    def launch(self) -> None:
        """Start the process without waiting for it."""
        if self.running:
            raise RuntimeError(f"Kafka node {self.node_id} runs already")
        configuration = self.directory / "server.properties"
        configuration.write_text("".join(f"{key}={value}\n" for key, value in self._all_properties().items()))
        if not (self.data / "meta.properties").exists():
            scram = scram_arguments(self._users)
            storage = ("format", "-t", self.cluster_id, "-c", str(configuration), *scram)
            kafka_tool("kafka.tools.StorageTool", *storage, version=self.version)
        self._process = GuardedProcess(
            f"Kafka node {self.node_id}",
            java_command("kafka.Kafka", [str(configuration)], options=self._options, version=self.version),
            log=self.log,
            cwd=self.directory,
            env=os.environ,
        )

    def wait_ready(self, deadline: Deadline) -> None:
        """Return when a client got this node listed as a live broker, from this node.

        Raises:
            ServerFailedError: as `start`.
        """
        process = self._process
        if process is None:
            raise RuntimeError(f"Kafka node {self.node_id} was not launched")
        while not self._answers(deadline):
            if not process.alive or deadline.passed:
                error = process.failure("died while starting" if not process.alive else "was not ready in time")
                process.kill()
                raise error
            time.sleep(0.02)

    def _answers(self, deadline: Deadline) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                pass
        except OSError:
            return False
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            metadata = admin.list_topics(timeout=min(5.0, deadline.remaining + 0.1))
        except KafkaException:
            return False
        return self.node_id in metadata.brokers

    def destroy(self) -> None:
        """Kill it and delete all it stored. A later `start` gives an empty cluster with another cluster id."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.cluster_id = _new_cluster_id()

    def _all_properties(self) -> dict[str, str]:
        copies = str(min(3, len(self.quorum)))
        in_sync = str(min(2, len(self.quorum)))
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{ports[1]}" for n, ports in self.quorum.items()),
            **listener_properties(
                self.listeners, plain_port=self.port, controller_port=self._controller_port, users=self._users
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.data),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
            **DEFAULT_PROPERTIES,
            **self.properties,
        }


class KafkaCluster:
    """`n` combined nodes in one quorum; `nodes` are `KafkaServer`s that can be stopped, killed and started singly."""

    def __init__(self, n: int, *, properties: Mapping[str, str] | None = None, heap: str = "512m") -> None:
        # All at once: those of one call differ.
        ports = free_ports(2 * n)
        quorum = {node_id: (ports[2 * node_id - 2], ports[2 * node_id - 1]) for node_id in range(1, n + 1)}
        self.cluster_id = _new_cluster_id()
        self.nodes: list[KafkaServer] = [
            KafkaServer(properties=properties, heap=heap, node_id=node_id, cluster_id=self.cluster_id, quorum=quorum)
            for node_id in quorum
        ]

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self, *, deadline_seconds: float = START_DEADLINE_SECONDS) -> None:
        """Start the nodes that do not run; returns when each has answered. Raises as `KafkaServer.start`."""
        deadline = Deadline(deadline_seconds)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.kill)
            starting = [node for node in self.nodes if not node.running]
            for node in starting:
                node.launch()
            for node in starting:
                node.wait_ready(deadline)
            on_failure.pop_all()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    async def astart(self) -> None:
        await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _port_pair() -> tuple[int, int]:
    client, controller = free_ports(2)
    return client, controller


def _new_cluster_id() -> str:
    """22 characters of URL-safe base64, as Kafka's own random-uuid; a leading dash would read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text

"""Several real brokers and a proxy before each of them, and everything that happens to such clusters.

Every node has two listeners: its own port, for other brokers and for a test's own clients, and one that is advertised
at the proxy's port. So faults of the network strike only who was given `outside` as bootstrap servers; what is done to
the nodes themselves strikes everybody. Node ids count from 1.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import PartitionMetadata
from confluent_kafka.cimpl import KafkaError, KafkaException, NewTopic

from kbackupd.testbed.elections import active_controller, elect_preferred, reassign
from kbackupd.testbed.kafka import KafkaCluster, KafkaServer
from kbackupd.testbed.kafka_proxy import KafkaProxy
from kbackupd.testbed.listeners import Listener
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline, ServerFailedError
from kbackupd.testbed.topics import await_leaders

PATIENCE_SECONDS = 120.0
_UNANSWERED = (KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError.REQUEST_TIMED_OUT)


class ProxiedCluster:
    """
    Args:
        properties: of every node, on top of the testbed's defaults.
        seed: of what the proxies do at random.
    """

    def __init__(
        self, n: int = 3, *, properties: Mapping[str, str] | None = None, heap: str = "256m", seed: int | str = 0
    ) -> None:
        self._cluster = KafkaCluster(n, properties=properties, heap=heap)
        self.proxies: list[KafkaProxy] = []
        ports = free_ports(2 * n)
        for number, node in enumerate(self.nodes):
            behind, before = ports[2 * number], ports[2 * number + 1]
            node.listeners = (Listener(name="OUTSIDE", protocol="PLAINTEXT", port=behind, advertised_port=before),)
            self.proxies.append(KafkaProxy(behind, port=before, seed=f"{seed}-{node.node_id}"))

    @property
    def nodes(self) -> list[KafkaServer]:
        return self._cluster.nodes

    @property
    def inside(self) -> str:
        """Bootstrap servers for who shall not meet the proxies."""
        return self._cluster.bootstrap

    @property
    def outside(self) -> str:
        """Bootstrap servers for who shall."""
        return ",".join(proxy.bootstrap for proxy in self.proxies)

    def node(self, node_id: int) -> KafkaServer:
        return self.nodes[node_id - 1]

    def proxy(self, node_id: int) -> KafkaProxy:
        return self.proxies[node_id - 1]

    @property
    def running(self) -> list[int]:
        return [node.node_id for node in self.nodes if node.running]

    def open(self) -> None:
        """Start proxies and nodes; returns when each node has answered. Raises as `KafkaServer.start`."""
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            for proxy in self.proxies:
                proxy.start()
            self._cluster.start(deadline_seconds=2 * PATIENCE_SECONDS)
            on_failure.pop_all()

    def close(self) -> None:
        """End everything and remove the nodes' data."""
        self._cluster.close()
        for proxy in self.proxies:
            proxy.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def kill(self, node_id: int) -> None:
        """SIGKILL; returns when the process is gone. The others notice when its session has run out."""
        await self.node(node_id).akill()

    async def stop(self, node_id: int) -> None:
        """SIGTERM: it hands its leaderships over and leaves, as in a rolling restart."""
        await self.node(node_id).astop()

    async def start(self, node_id: int) -> None:
        """On its old data and ports; returns when it answers. Harmless if it runs."""
        if not self.node(node_id).running:
            await self.node(node_id).astart()

    def freeze(self, node_id: int) -> None:
        """SIGSTOP: connections stay, nothing answers, and after its session has run out others lead."""
        self.node(node_id).freeze()

    def thaw(self, node_id: int) -> None:
        self.node(node_id).thaw()

    async def heal(self, *, deadline_seconds: float = 2 * PATIENCE_SECONDS) -> None:
        """Good weather, every node up, every replica in sync.

        Raises:
            ServerFailedError: not within the deadline.
        """
        for proxy in self.proxies:
            proxy.heal()
        for node in self.nodes:
            node.thaw()
        await self._cluster.astart()
        await self.in_sync(deadline_seconds=deadline_seconds)

    async def in_sync(self, *, deadline_seconds: float = PATIENCE_SECONDS) -> None:
        """Return when every partition has a leader and all of its replicas are in sync. Raises as `heal`."""
        deadline = Deadline(deadline_seconds)
        while True:
            behind = await asyncio.to_thread(self._out_of_sync)
            if not behind:
                return
            if deadline.passed:
                raise ServerFailedError(f"not in sync after {deadline_seconds:g} s: {', '.join(behind[:10])}")
            await asyncio.sleep(0.1)

    def _out_of_sync(self) -> list[str]:
        """In the eyes of any node that runs: one that hung says what it knew before, until it has caught up."""
        behind: set[str] = set()
        for node_id in self.running:
            topics = _admin(self.node(node_id).bootstrap).list_topics(timeout=PATIENCE_SECONDS).topics
            for name, topic in topics.items():
                behind |= {f"{name}/{number}" for number, one in topic.partitions.items() if _behind(one)}
        return sorted(behind)

    async def create_topic(
        self, topic: str, replicas: Sequence[Sequence[int]], *, config: Mapping[str, str] | None = None
    ) -> str:
        """With one partition per entry of `replicas`, whose first node leads; returns its name when all are in sync.

        Of other topics nothing is asked: with a node away theirs are not in sync for as long as it is.

        Raises:
            KafkaException: refused.
            ServerFailedError: made, and not in sync within two minutes.
        """
        assignment = [list(nodes) for nodes in replicas]
        new = NewTopic(topic, num_partitions=len(assignment), replica_assignment=assignment, config=dict(config or {}))
        deadline, tried = Deadline(2 * PATIENCE_SECONDS), False
        while True:
            # Anew each time: a client whose first broker still names a dead controller waits for that one and no other.
            admin = self._admin()  # held: what is under way ends with it
            # Not for long: half a minute of that was the half of a test, and asking again does no harm.
            made = admin.create_topics([new], operation_timeout=5, request_timeout=8)[topic]
            try:
                await asyncio.to_thread(made.result, PATIENCE_SECONDS)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS and tried:
                    break  # an attempt that was not answered made it
                if code not in _UNANSWERED or deadline.passed:
                    raise
                tried = True
            else:
                break
        await self._until(topic, lambda found: len(found) == len(assignment) and not any(map(_behind, found.values())))
        await asyncio.to_thread(await_leaders, self._alive, topic, len(assignment))
        return topic

    async def partitions(self, topic: str) -> dict[int, PartitionMetadata]:
        """Leader (-1: none), replicas and in-sync replicas by partition, as a live broker has them now."""
        return await asyncio.to_thread(self._partitions, topic)

    async def partition(self, topic: str, partition: int = 0) -> PartitionMetadata:
        """As `partitions`, of one."""
        return (await self.partitions(topic))[partition]

    async def leader(self, topic: str, partition: int = 0) -> int:
        return (await self.partition(topic, partition)).leader

    async def led_by(self, node_id: int, topic: str, partition: int = 0) -> None:
        """Return when `node_id` (-1: nobody) leads.

        Raises:
            ServerFailedError: not within two minutes.
        """
        await self._until(topic, lambda found: partition in found and found[partition].leader == node_id)

    async def led_by_another(self, former: int, topic: str, partition: int = 0) -> None:
        """Return when somebody else than `former` leads. Raises as `led_by`."""
        await self._until(topic, lambda found: partition in found and found[partition].leader not in (former, -1))

    async def left_by(self, node_id: int, topic: str) -> None:
        """Return when nobody waits for `node_id` any more: it is no partition's in-sync replica. Raises as `led_by`."""
        await self._until(topic, lambda found: all(node_id not in partition.isrs for partition in found.values()))

    async def move_leader(self, topic: str, partition: int, to: int) -> None:
        """Make `to`, one of its in-sync replicas, the preferred leader and have it elected; no data moves.

        Raises:
            ServerFailedError: it does not lead after two minutes.
            KafkaUnavailableError, KafkaDeniedError, KafkaException: refused.
        """
        replicas = list((await self.partition(topic, partition)).replicas)
        await reassign(self.inside, topic, {partition: [to, *(node for node in replicas if node != to)]})
        await self._until(topic, lambda found: found[partition].replicas[0] == to)
        deadline = Deadline(PATIENCE_SECONDS)
        while not await elect_preferred(self.inside, topic, partition):
            if deadline.passed:
                raise ServerFailedError(f"{to} cannot lead {topic}/{partition} after {PATIENCE_SECONDS:g} s")
            await asyncio.sleep(0.1)
        await self.led_by(to, topic, partition)

    async def controller(self) -> int:
        """The node whose controller leads the quorum. Raises TimeoutError if there is none for a minute."""
        return await active_controller(self._alive)

    async def _until(self, topic: str, condition: Callable[[dict[int, PartitionMetadata]], bool]) -> None:
        deadline = Deadline(PATIENCE_SECONDS)
        while not condition(found := await asyncio.to_thread(self._partitions, topic)):
            if deadline.passed:
                shown = {number: (row.leader, row.replicas, row.isrs) for number, row in found.items()}
                raise ServerFailedError(f"{topic} is not as it should be after {PATIENCE_SECONDS:g} s: {shown}")
            await asyncio.sleep(0.05)

    def _partitions(self, topic: str) -> dict[int, PartitionMetadata]:
        return self._admin().list_topics(topic, timeout=PATIENCE_SECONDS).topics[topic].partitions

    @property
    def _alive(self) -> str:
        """Bootstrap servers: the nodes that run."""
        return ",".join(self.node(n).bootstrap for n in self.running)

    def _admin(self) -> AdminClient:
        return _admin(self._alive)


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def _behind(partition: PartitionMetadata) -> bool:
    """It has no leader, or not all of its replicas are in sync."""
    return partition.leader < 0 or len(partition.isrs) < len(partition.replicas)

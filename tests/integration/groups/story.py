"""A small archive with groups in it, restored under another name, and `offset-reset` as an operator runs it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from kbackupd.cli.main import main
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import (
    CommittedOffset,
    CoordinatorState,
    GroupsContent,
    GroupState,
    PartState,
    ReadOutcome,
)
from kbackupd.testbed.kafka import KafkaServer
from tests.archive_builder import ArchiveBuilder
from tests.unit.validate.eventful import cluster

Groups = Mapping[str, Mapping[int, int]]
"""Group → partition of "orders" → source offset."""

SECOND_MS = 1_000
FIRST_MS = 1_767_225_600_000
"""Timestamp of the first record; each batch is a second later."""


class Story:
    """Topic "orders" of two partitions: records 0-9, an aborted transaction 10-12 and its marker, records 14-23, an
    open transaction; partition 1 has records 0-4. Value = partition and source offset, each batch a second apart."""

    def __init__(self, root: Path, bootstrap: str, target: str) -> None:
        self.root = root
        self.bootstrap = bootstrap
        self.target = target
        self.config = root / "restore.yaml"
        self.map = root / "orders.offset-map.json"
        self.plan = root / "offset-plan.json"
        self.built: ArchiveBuilder
        self.orders: TopicId

    async def archive(self, *snapshots: Groups, options: str = "", compacted: bool = False) -> list[int]:
        """Archive the topic and, a minute apart, what the groups had; the instant of each snapshot.

        Args:
            options: more of the restore's, in YAML's flow style, with a comma before them.
            compacted: partition 1 has records 5 and 7 as well, and compaction has taken 6.
        """
        self.built = await ArchiveBuilder.create()
        self.orders = self.built.topic("orders", partitions=2)
        log = self.built.log(self.orders, 0)
        log.append([b"0-%d" % n for n in range(10)], timestamp_ms=FIRST_MS)
        log.append([b"aborted"] * 3, producer_id=5, transactional=True, timestamp_ms=FIRST_MS + SECOND_MS)
        log.end_transaction(5, committed=False)
        log.append([b"0-%d" % n for n in range(14, 24)], timestamp_ms=FIRST_MS + 2 * SECOND_MS)
        log.append([b"open"], producer_id=7, transactional=True, timestamp_ms=FIRST_MS + 3 * SECOND_MS)
        self.built.log(self.orders, 1).append([b"1-%d" % n for n in range(5)], timestamp_ms=FIRST_MS)
        if compacted:
            other = self.built.log(self.orders, 1)
            for n in (5, 6, 7):
                other.append([b"1-%d" % n], timestamp_ms=FIRST_MS + n * SECOND_MS)
            other.compact([0, 5, 7])
        life = await self.built.start()
        life.see(self.orders)
        for number in range(2):
            life.capture(self.orders, number)
        await life.flush()
        instants = []
        for groups in snapshots:
            self.built.clock.advance(60)
            await life.snapshot(self.groups(groups), cluster(self.orders, 1))
            instants.append(self.built.clock.now_ms())
        for key, data in self.built.store.objects.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.config.write_text(
            "restore:\n"
            f"  source: {{path: 'file://{self.root}', backup_id: main}}\n"
            f"  target: {{bootstrap_servers: {json.dumps(self.bootstrap.split(','))}}}\n"
            f"  options: {{topic_mapping: [{{source: orders, target: {self.target}}}]{options}}}\n"
        )
        return instants

    def groups(self, groups: Groups) -> GroupsContent:
        now = self.built.clock.now_ms()
        part = PartState(outcome=ReadOutcome.OK, answered_ms=now)
        return GroupsContent(
            lists_all=True,
            coordinators=(CoordinatorState(node_id=1, part=part),),
            groups=tuple(
                GroupState(
                    group_id=id,
                    type="classic",
                    protocol_type="consumer",
                    state="Empty",
                    coordinator=1,
                    members=0,
                    part=part,
                    sent_ms=now,
                    positions=tuple(
                        CommittedOffset(self.orders, "orders", partition, offset, 0, f"meta of {id}")
                        for partition, offset in sorted(offsets.items())
                    ),
                )
                for id, offsets in sorted(groups.items())
            ),
        )

    def restore(self) -> None:
        code, out, err = verb("restore", "--config", str(self.config), "--offset-map", str(self.map))
        assert code == 0, (out, err)

    def planned(self, strategy: str, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The plan in the file that `offset-reset plan` wrote, which must end with `code`."""
        self.plan.unlink(missing_ok=True)
        options = ["--strategy", strategy, "--config", str(self.config), "--output", str(self.plan), *arguments]
        if strategy in ("group", "offset") and "--offset-map" not in arguments:
            options += ["--offset-map", str(self.map)]
        ended, out, err = verb("offset-reset", "plan", *options)
        assert ended == code, (out, err)
        document: dict[str, Any] = json.loads(self.plan.read_text())
        return document

    def executed(self, *, code: int = 0) -> tuple[dict[str, Any], str]:
        """Report and complaint of executing the plan."""
        return self._run("execute", self.plan, code)

    def rolled_back(self, *, code: int = 0) -> tuple[dict[str, Any], str]:
        return self._run("rollback", self.plan.with_name(self.plan.name + ".rollback.json"), code)

    def _run(self, name: str, file: Path, code: int) -> tuple[dict[str, Any], str]:
        ended, out, err = verb(
            "offset-reset", name, "--plan", str(file), "--config", str(self.config), "--format", "json"
        )
        assert ended == code, (out, err)
        return (json.loads(out) if out else {}), err


def new_offsets(plan: Mapping[str, Any]) -> dict[tuple[str, int], tuple[int | None, str]]:
    """(group, partition) → new offset and how exact it is."""
    return {(row["group"], row["partition"]): (row["new_offset"], row["exactness"]) for row in plan["partitions"]}


def verb(*arguments: str) -> tuple[int, str, str]:
    """Exit code and both outputs of a verb, in this process: a new one for each would be most of the tests' time."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code, out.getvalue(), err.getvalue()


def held(kafka: KafkaServer, group: str) -> dict[tuple[str, int], tuple[int, str]]:
    """What the group has committed, by an independent client: offset and metadata.

    aiokafka's, for librdkafka's reads a position's metadata beyond its end.
    """
    return asyncio.run(_held(kafka.bootstrap, group))


async def _held(bootstrap: str, group: str) -> dict[tuple[str, int], tuple[int, str]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {(tp.topic, tp.partition): (one.offset, one.metadata or "") for tp, one in found.items() if one.offset >= 0}


def exists(kafka: KafkaServer, group: str) -> bool:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    return any(one.group_id == group for one in admin.list_consumer_groups().result(60).valid)


def commit(kafka: KafkaServer, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Positions with the metadata "mine", by an independent client without becoming a member."""
    asyncio.run(_commit(kafka.bootstrap, group, topic, offsets))


async def _commit(bootstrap: str, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        rows = {aiokafka.TopicPartition(topic, p): OffsetAndMetadata(offset, "mine") for p, offset in offsets.items()}
        consumer.assign(list(rows))
        await consumer.commit(rows)
    finally:
        await consumer.stop()


def resumed(kafka: KafkaServer, group: str, topic: str, count: int) -> list[bytes]:
    """The first `count` values of partition 0 that a consumer of the group gets, going on where the group stands."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    values: list[bytes] = []
    try:
        consumer.subscribe([topic])
        for message in iter(lambda: consumer.poll(60), None):
            assert message.error() is None, message.error()
            if message.partition() == 0:
                values.append(message.value() or b"")
            if len(values) == count:
                break
    finally:
        consumer.close()
    return values

"""The target's groups, wired up for the verbs that move them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kbackupd.groups.coordinators import LANES, Coordinators
from kbackupd.groups.target import listed_groups
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.groups import GroupQuestions
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import RestoreSettings

REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class GroupTarget:
    connection: KafkaConnection
    lanes: list[GroupQuestions]
    coordinators: Coordinators

    async def list_groups(self) -> list[str]:
        return await listed_groups(self.connection, self.lanes[0])


def over(connection: KafkaConnection) -> GroupTarget:
    """On a connection that stands already."""
    lanes = [GroupQuestions(connection, timeout_seconds=REQUEST_SECONDS) for _ in range(LANES)]
    return GroupTarget(connection, lanes, Coordinators(lanes, clock=connection.clock))


@asynccontextmanager
async def group_target(settings: RestoreSettings) -> AsyncIterator[GroupTarget]:
    """On a connection of its own. Raises like `KafkaConnection.start`."""
    async with KafkaConnection(
        bootstrap_servers=settings.target.bootstrap_servers,
        security=settings.target.security,
        client_id="kbackupd-offset-reset",
        clock=SystemClock(),
    ) as connection:
        yield over(connection)

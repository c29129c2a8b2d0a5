"""A broker made of lists: it keeps every fetch request and answers from a script, or keeps its own session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

from kbackupd.kafka.codec import WireRequest
from kbackupd.kafka.types import FetchTarget, PartitionAnswer
from kbackupd.kafka.wire_fetch import FetchRequest, FetchResponse
from kbackupd.model.positions import PartitionId, TopicId

T = TypeVar("T")

Answer = FetchResponse | BaseException | Callable[[FetchRequest], FetchResponse]


def part(partition: int, topic: str = "A" * 22) -> PartitionId:
    return PartitionId(TopicId(topic), partition)


def at(offset: int, *, epoch: int = 0) -> FetchTarget:
    return FetchTarget(offset=offset, max_bytes=1 << 20, current_leader_epoch=epoch)


def answered(
    *ids: PartitionId, session: int = 77, error: int = 0, throttle_ms: int = 0
) -> Callable[[FetchRequest], FetchResponse]:
    """Answers these partitions of whatever was asked."""

    def respond(request: FetchRequest) -> FetchResponse:
        return FetchResponse(throttle_ms, error, session, [_answer(request, id_) for id_ in ids], 100)

    return respond


def everything(session: int = 77) -> Callable[[FetchRequest], FetchResponse]:
    """Answers everything the request itself names, as a full fetch is answered."""

    def respond(request: FetchRequest) -> FetchResponse:
        return FetchResponse(0, 0, session, [_answer(request, id_) for id_, _ in request.targets], 100)

    return respond


def _answer(request: FetchRequest, id_: PartitionId) -> PartitionAnswer:
    target = request.asked.get(id_)
    return PartitionAnswer(
        id=id_,
        error_code=0,
        high_watermark=10,
        last_stable_offset=10,
        log_start_offset=0,
        diverging=None,
        preferred_read_replica=-1,
        records=b"",
        asked_offset=-1 if target is None else target.offset,
    )


class Told:
    """What one request said, copied when it was sent."""

    def __init__(self, request: FetchRequest) -> None:
        self.session = (request.session_id, request.session_epoch)
        self.targets = dict(request.targets)
        self.order = [id_ for id_, _ in request.targets]
        self.forgotten = list(request.forgotten)


class ScriptedBroker:
    """Fills `kbackupd.kafka.connection.Sender`. `gate`, when set to an unset event, holds answers back."""

    def __init__(self, *answers: Answer) -> None:
        self.told: list[Told] = []
        self.dropped: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self._answers = list(answers)
        self._lanes = iter(range(1, 1000))

    def script(self, answers: Iterable[Answer]) -> None:
        self._answers.extend(answers)

    def new_lane(self) -> int:
        return next(self._lanes)

    def drop(self, node_id: int, *, lane: int = 0) -> None:
        self.dropped.append(lane)

    async def send(
        self, node_id: int, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0
    ) -> T:
        assert isinstance(request, FetchRequest)
        self.told.append(Told(request))
        answer = self._answers.pop(0)
        self.arrived.set()
        await self.gate.wait()
        if isinstance(answer, BaseException):
            raise answer
        return cast(T, answer(request) if callable(answer) else answer)

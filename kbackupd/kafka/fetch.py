"""One incremental fetch session with one broker (KIP-227, by topic ids).

Owns what the broker has been told, so that a request carries only what changed since: an idle session of 10,000
partitions costs what one of ten costs. The broker forgets sessions, refuses epochs and breaks connections at will;
all of that ends in a full fetch of what is wanted, which is always right.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kbackupd.kafka.connection import Sender
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.types import FetchAnswer, FetchTarget, KafkaErrorCode, PartitionAnswer
from kbackupd.kafka.wire_fetch import FetchRequest, FetchResponse
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KbackupError
from kbackupd.model.positions import PartitionId

_NO_SESSION = 0
_NEW_SESSION_EPOCH = 0
_CLOSING_EPOCH = -1
_LAST_EPOCH = 2**31 - 1
_SESSION_ERRORS = frozenset(
    {
        KafkaErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        KafkaErrorCode.INVALID_FETCH_SESSION_EPOCH,
        KafkaErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    }
)


class FetchSession:
    """What is wanted of broker `node_id`, and the fetches that get it. One fetch at a time.

    `want` and `forget` may be called at any moment; called while a fetch is under way they take effect with the next,
    and an answer that was asked for under another leader epoch than the one wanted by then is not handed on.
    A topic deleted under a session is answered with UNKNOWN_TOPIC_OR_PARTITION (3) and one re-created under its name
    with INCONSISTENT_TOPIC_ID (103), because the broker looks the id up once per session; in a fresh session both are
    UNKNOWN_TOPIC_ID (100). All three are retriable (a broker may be behind the controller): metadata decides.

    A partition that stays wanted after its records came is asked for at the same offset again: move it on (`want`) or
    stop it (`forget`) before the next fetch.

    Args:
        rack: our rack, so that the broker may name a nearer replica (KIP-392); "" for none.
    """

    def __init__(self, connection: Sender, node_id: int, *, rack: str = "", clock: Clock) -> None:
        self.node_id = node_id
        self._connection = connection
        self._lane = connection.new_lane()
        self._rack = rack
        self._clock = clock
        self._wanted: dict[PartitionId, FetchTarget] = {}
        self._changed: dict[PartitionId, None] = {}
        self._told: dict[PartitionId, FetchTarget] = {}
        self._session_id = _NO_SESSION
        self._session_epoch = _NEW_SESSION_EPOCH
        self._fetching = False
        self._unheard: set[PartitionId] = set()
        """Whose part of the last answer was handed to nobody, and will not be told again by the broker."""

    @property
    def wanted(self) -> Mapping[PartitionId, FetchTarget]:
        """What the next fetch asks for, least recently changed first (a live view)."""
        return MappingProxyType(self._wanted)

    def want(self, id_: PartitionId, target: FetchTarget) -> None:
        """Fetch `id_` as `target` says, from the next request on; replaces what was wanted of it before."""
        # Moved to the end: a broker that has no session for us fills its answer in the order we ask, and those served
        # last must not be served first again while others starve (in a session the broker rotates by itself).
        self._wanted.pop(id_, None)
        self._wanted[id_] = target
        self._changed[id_] = None

    def forget(self, id_: PartitionId) -> None:
        """Stop fetching `id_`, from the next request on; an answer under way leaves it out. Unknown ids are fine.

        Wanted again before the next request, it is told of anew if an answer that left it out had anything to tell.
        """
        if self._wanted.pop(id_, None) is not None:
            self._changed[id_] = None

    async def fetch(
        self, *, max_bytes: int, max_wait_ms: int, min_bytes: int = 1, timeout_seconds: float
    ) -> FetchAnswer:
        """Ask for everything wanted and wait for what is there.

        A session the broker no longer knows is replaced within the call. An error, a time-out or a cancellation drops
        the connection (an answer still on its way would cost memory nobody reserved) and makes the next fetch a full
        one; what is wanted stays wanted.

        Args:
            max_bytes: bound for all records of the answer; the first batch comes whole even if it is larger.
            max_wait_ms: how long the broker may wait for `min_bytes`; it must leave room within `timeout_seconds`.

        Raises:
            KafkaUnavailableError, KafkaDeniedError: the request failed as a whole. Errors of single partitions are in
                their answers.
            ValueError: nothing is wanted; the broker would answer at once and for ever.
        """
        if not self._wanted:
            raise ValueError("a fetch with nothing wanted")
        if max_wait_ms >= timeout_seconds * 1000:
            raise ValueError(f"the broker may wait {max_wait_ms} ms, we only {timeout_seconds} s")
        if self._fetching:
            raise RuntimeError("a fetch session has one fetch at a time")
        self._fetching = True
        try:
            return await self._fetch(max_bytes, max_wait_ms, min_bytes, timeout_seconds)
        except BaseException:
            self._start_over(self._session_id)
            self._connection.drop(self.node_id, lane=self._lane)
            raise
        finally:
            self._fetching = False

    async def close(self, *, timeout_seconds: float = 2.0) -> None:
        """Give the broker its session slot back, if it can be reached in time, and close our connection to it."""
        try:
            if self._session_id != _NO_SESSION:
                request = self._request(0, 0, 0, epoch=_CLOSING_EPOCH, targets=[], forgotten=[])
                await self._connection.send(self.node_id, request, timeout_seconds=timeout_seconds, lane=self._lane)
        except KbackupError:
            pass  # the broker evicts idle sessions by itself; ours is one of a thousand slots
        finally:
            self._start_over(_NO_SESSION)
            self._connection.drop(self.node_id, lane=self._lane)

    async def _fetch(self, max_bytes: int, max_wait_ms: int, min_bytes: int, timeout_seconds: float) -> FetchAnswer:
        deadline = self._clock.monotonic() + timeout_seconds
        while True:
            if not self._unheard.isdisjoint(self._wanted):
                self._start_over(self._session_id)
            self._unheard.clear()
            full = self._session_epoch == _NEW_SESSION_EPOCH
            request = self._next_request(max_wait_ms, min_bytes, max_bytes)
            sent_monotonic, sent_ms = self._clock.monotonic(), self._clock.now_ms()
            response = await self._connection.send(
                self.node_id,
                request,
                timeout_seconds=max(deadline - sent_monotonic, 0.001),
                lane=self._lane,
            )
            if response.error_code in _SESSION_ERRORS and not full:
                unknown = response.error_code == KafkaErrorCode.FETCH_SESSION_ID_NOT_FOUND
                self._start_over(_NO_SESSION if unknown else self._session_id)
                continue
            if response.error_code != KafkaErrorCode.NONE:
                raise error_for_code(response.error_code, f"fetching from broker {self.node_id}")
            self._advance(response, full)
            return FetchAnswer(
                throttle_ms=response.throttle_ms,
                full=full,
                partitions=self._still_wanted(response.partitions),
                size_bytes=response.size_bytes,
                sent_monotonic=sent_monotonic,
                answered_monotonic=self._clock.monotonic(),
                sent_ms=sent_ms,
                answered_ms=self._clock.now_ms(),
            )

    def _next_request(self, max_wait_ms: int, min_bytes: int, max_bytes: int) -> FetchRequest:
        """The next request, full or incremental; what it carries counts as told from now on."""
        forgotten: list[PartitionId] = []
        if self._session_epoch == _NEW_SESSION_EPOCH:
            self._told = dict(self._wanted)
            targets = list(self._told.items())
        else:
            targets = []
            for id_ in self._changed:
                wanted, told = self._wanted.get(id_), self._told.get(id_)
                if wanted is not None:
                    # Never in both lists of one request: the broker adds first and forgets afterwards, so a partition
                    # forgotten and wanted again in between would be gone from the session.
                    if wanted != told:
                        targets.append((id_, wanted))
                        self._told[id_] = wanted
                elif told is not None:
                    forgotten.append(id_)
                    del self._told[id_]
        self._changed.clear()
        return self._request(
            max_wait_ms, min_bytes, max_bytes, epoch=self._session_epoch, targets=targets, forgotten=forgotten
        )

    def _request(
        self,
        max_wait_ms: int,
        min_bytes: int,
        max_bytes: int,
        *,
        epoch: int,
        targets: list[tuple[PartitionId, FetchTarget]],
        forgotten: list[PartitionId],
    ) -> FetchRequest:
        return FetchRequest(
            max_wait_ms=max_wait_ms,
            min_bytes=min_bytes,
            max_bytes=max_bytes,
            session_id=self._session_id,
            session_epoch=epoch,
            targets=targets,
            forgotten=forgotten,
            asked=self._told,
            rack=self._rack,
        )

    def _advance(self, response: FetchResponse, full: bool) -> None:
        """Take up, go on with or give up the broker's session after a good answer."""
        strangers = any(answer.id not in self._told for answer in response.partitions)
        incomplete = full and len(response.partitions) < len(self._told)
        if response.session_id == _NO_SESSION:
            # Its session cache is full, it closed ours, or it throttles: ask for a session again next time.
            self._start_over(_NO_SESSION)
        elif strangers or incomplete:
            # It and we disagree on what the session holds; only a full fetch makes us agree again.
            self._start_over(response.session_id)
        else:
            self._session_id = response.session_id
            self._session_epoch = 1 if self._session_epoch == _LAST_EPOCH else self._session_epoch + 1

    def _start_over(self, session_id: int) -> None:
        """Make the next fetch a full one, which closes session `session_id` at the broker."""
        self._session_id = session_id
        self._session_epoch = _NEW_SESSION_EPOCH

    def _still_wanted(self, answers: list[PartitionAnswer]) -> tuple[PartitionAnswer, ...]:
        told = [answer for answer in answers if answer.asked_offset >= 0]
        heard = tuple([answer for answer in told if self._meant(answer.id)])
        self._unheard = {answer.id for answer in told} - {answer.id for answer in heard}
        return heard

    def _meant(self, id_: PartitionId) -> bool:
        """Whether what was asked of it is still what is wanted, but for where to go on.

        Not so after an election. While one answer was on its way its leader may have been deposed, cut back and elected
        again: at the same offset there is another log then, and the next batch would have passed for a part of it.
        """
        wanted = self._wanted.get(id_)
        return wanted is not None and wanted.current_leader_epoch == self._told[id_].current_leader_epoch

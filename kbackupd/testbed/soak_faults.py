"""What a soak does to the daemon and to what it stands on; which, when and how long is decided by the seed alone.

Two lanes run beside each other, so that a daemon is also killed while the store is away: `weather` is what S3 and Kafka
do, `hands` is what happens to the process itself. Each fault strikes, lasts and is over.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kbackupd.testbed import kafka_proxy
from kbackupd.testbed.kafka_proxy import FETCH, KafkaProxy
from kbackupd.testbed.odd_daemon import ClockFile
from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.proxy import CutAnswer, LoseAnswer, Reset
from kbackupd.testbed.s3_proxy import Answer, CutUpload, Fault, S3Proxy, Stall, Trickle
from kbackupd.testbed.soak_daemon import SupervisedDaemon


@dataclass(slots=True, kw_only=True)
class Site:
    """Everything a fault can get at."""

    proxy: S3Proxy
    cluster: ProxiedCluster
    daemon: SupervisedDaemon
    second: SupervisedDaemon
    """Another writer on the same archive; it runs only while a fault says so."""
    clock: ClockFile
    topics: Callable[[], Sequence[str]]


def _nothing() -> None:
    """Some faults are over at once."""


Strike = Callable[[Site, random.Random], Callable[[], None]]
"""Begin it; the answer ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    name: str
    strike: Strike
    seconds: tuple[float, float]
    """How long it lasts, at least and at most."""
    weight: int = 1


def _s3(fault: Fault, *, method: str = "", share: float = 1.0, times: int | None = None) -> Strike:
    def strike(site: Site, chance: random.Random) -> Callable[[], None]:
        return site.proxy.strike(fault, method=method, share=share, times=times, seed=chance.randrange(1 << 30)).lift

    return strike


def _node_frozen(site: Site, chance: random.Random) -> Callable[[], None]:
    node = chance.choice(site.cluster.nodes)
    node.freeze()
    return node.thaw


def _node_killed(site: Site, chance: random.Random) -> Callable[[], None]:
    node = chance.choice(site.cluster.nodes)
    node.kill()

    def again() -> None:
        if not node.running:
            node.launch()

    return again


def _path_to_a_broker(harm: Callable[[KafkaProxy], object]) -> Strike:
    """On the daemon's way to one broker; producers do not meet it."""

    def strike(site: Site, chance: random.Random) -> Callable[[], None]:
        proxy = chance.choice(site.cluster.proxies)
        harm(proxy)
        return proxy.heal

    return strike


def _fetches(fault: kafka_proxy.Fault, share: float) -> Strike:
    return _path_to_a_broker(lambda proxy: proxy.strike(fault, api_keys=(FETCH,), share=share))


def _killed(site: Site, _: random.Random) -> Callable[[], None]:
    site.daemon.kill()
    return _nothing


def _terminated(site: Site, _: random.Random) -> Callable[[], None]:
    site.daemon.terminate()
    return _nothing


def _frozen(site: Site, _: random.Random) -> Callable[[], None]:
    site.daemon.freeze()
    return site.daemon.thaw


def _flushed(site: Site, _: random.Random) -> Callable[[], None]:
    site.daemon.ask("flush")
    return _nothing


def _paused(site: Site, chance: random.Random) -> Callable[[], None]:
    topic = chance.choice(sorted(site.topics()))
    site.daemon.ask("pause", topic)
    return lambda: site.daemon.ask("resume", topic)


def _clock_stepped(site: Site, chance: random.Random) -> Callable[[], None]:
    site.clock.step_to(chance.choice((-7200, -3600, -61, -2, 2, 61, 3600, 7200)))
    return lambda: site.clock.step_to(0)


def _second_writer(site: Site, _: random.Random) -> Callable[[], None]:
    site.second.come()  # with the store away it may be leaving yet, from the time before

    def leave() -> None:
        if site.second.daemon.running:
            site.second.retire()

    return leave


WEATHER: Sequence[Kind] = (
    Kind(name="503 SlowDown", strike=_s3(Answer(), share=0.7), seconds=(3, 12), weight=2),
    Kind(name="500", strike=_s3(Answer(status=500, code="InternalError"), share=0.7), seconds=(3, 10)),
    Kind(name="403", strike=_s3(Answer(status=403, code="AccessDenied")), seconds=(3, 10)),
    Kind(name="resets", strike=_s3(Reset(), share=0.8), seconds=(3, 12)),
    Kind(name="stalled uploads", strike=_s3(Stall(), method="PUT", times=3), seconds=(5, 15), weight=2),
    Kind(name="stalled requests", strike=_s3(Stall(), share=0.5), seconds=(3, 10)),
    Kind(name="lost answers", strike=_s3(LoseAnswer(), method="PUT", share=0.7), seconds=(3, 12), weight=2),
    Kind(name="torn uploads", strike=_s3(CutUpload(after_bytes=700), method="PUT", share=0.7), seconds=(3, 12)),
    Kind(name="truncated reads", strike=_s3(CutAnswer(after_bytes=20), method="GET", share=0.7), seconds=(3, 12)),
    Kind(name="trickle", strike=_s3(Trickle(bytes_per_second=20_000)), seconds=(5, 15)),
    Kind(name="S3 away", strike=_s3(Reset()), seconds=(20, 40)),
    Kind(name="broker frozen", strike=_node_frozen, seconds=(2, 12), weight=2),
    Kind(name="broker blocked", strike=_path_to_a_broker(KafkaProxy.block), seconds=(3, 15)),
    Kind(name="broker silent", strike=_path_to_a_broker(KafkaProxy.silence), seconds=(3, 20)),
    Kind(name="broker far", strike=_path_to_a_broker(lambda proxy: proxy.delay(0.3)), seconds=(5, 15)),
    Kind(name="broker slow", strike=_path_to_a_broker(lambda proxy: proxy.trickle(30_000)), seconds=(5, 15)),
    Kind(name="connections forgotten", strike=_path_to_a_broker(KafkaProxy.forget), seconds=(5, 15)),
    Kind(name="torn fetches", strike=_fetches(CutAnswer(after_bytes=5_000), 0.3), seconds=(3, 12)),
    Kind(name="lost fetches", strike=_fetches(LoseAnswer(), 0.3), seconds=(3, 12)),
    Kind(name="broker killed", strike=_node_killed, seconds=(2, 8)),
)
HANDS: Sequence[Kind] = (
    Kind(name="SIGKILL", strike=_killed, seconds=(1, 3), weight=4),
    Kind(name="SIGTERM", strike=_terminated, seconds=(1, 3), weight=3),
    Kind(name="SIGSTOP", strike=_frozen, seconds=(2, 20), weight=2),
    Kind(name="ctl flush", strike=_flushed, seconds=(0, 1), weight=2),
    Kind(name="ctl pause", strike=_paused, seconds=(3, 12), weight=2),
    Kind(name="clock stepped", strike=_clock_stepped, seconds=(3, 15), weight=2),
    Kind(name="second writer", strike=_second_writer, seconds=(8, 20)),
)


class Planned(NamedTuple):
    """A fault of a round; seconds from the round's beginning."""

    begin: float
    end: float
    kind: Kind
    weather: bool


def plan_round(chance: random.Random, seconds: float, *, breaks: tuple[float, float]) -> list[Planned]:
    """The faults of one round by their beginning; all are over within it.

    Args:
        breaks: the shortest and the longest pause between two faults of a lane.
    """
    planned = []
    for kinds, weather in ((WEATHER, True), (HANDS, False)):
        at = chance.uniform(*breaks)
        while at < seconds - 1:
            kind = chance.choices(kinds, [kind.weight for kind in kinds])[0]
            end = min(seconds, at + chance.uniform(*kind.seconds))
            planned.append(Planned(at, end, kind, weather))
            at = end + chance.uniform(*breaks)
    return sorted(planned, key=lambda one: one.begin)


CLEARING_SECONDS = 75.0
"""So long after bad weather a start may still fail of it: the store is tried for a minute."""
_LOOK_SECONDS = 0.1


class _Going(NamedTuple):
    until: float
    end: Callable[[], None]
    weather: bool


def carry_out(
    plan: Sequence[Planned], site: Site, chance: random.Random, *, seconds: float, struck: Counter[str]
) -> None:
    """Strike and end what is planned, each at its time, within so many seconds; count in `struck` what struck.

    Meanwhile the daemons are looked after as a service manager would.

    Raises:
        ServerFailedError: one of them ended, and nothing explains that.
    """
    todo, going = list(plan), list[_Going]()
    began = time.monotonic()
    weather_until = 0.0
    while todo or going or time.monotonic() - began < seconds:
        now = time.monotonic() - began
        for one in [one for one in going if one.until <= now]:
            going.remove(one)
            one.end()
            if one.weather:
                weather_until = now + CLEARING_SECONDS
        while todo and todo[0].begin <= now:
            planned = todo.pop(0)
            struck[planned.kind.name] += 1
            going.append(_Going(planned.end, planned.kind.strike(site, chance), planned.weather))
        for daemon in (site.daemon, site.second):
            daemon.weather = now < weather_until or any(one.weather for one in going)
            daemon.look()
        time.sleep(_LOOK_SECONDS)

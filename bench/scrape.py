"""The daemon's observability port as its clients see it: how long an answer takes, and what it says."""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass

PROBE_EVERY_SECONDS = 0.02
_TIMEOUT_SECONDS = 60.0
_EXPOSURE = re.compile(rb"^kbackupd_rpo_exposure_seconds\{[^}]*\} (\S+)$", re.MULTILINE)
_LOOP_LAG = re.compile(rb"^kbackupd_loop_lag_max_seconds (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    seconds: float
    size_bytes: int
    exposures: tuple[float, ...]
    """RPO exposure in seconds as told, per topic by its worst partition; the system topics among them."""
    loop_lag_seconds: float | None
    """The event loop's largest lag of the last minute or two, as the daemon measures it; None where it does not."""


def scrape(port: int) -> Scraped:
    """GET /metrics once, as Prometheus does.

    Raises:
        OSError, http.client.HTTPException: nobody answered in time.
    """
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
    finally:
        connection.close()
    seconds = time.perf_counter() - began
    lag = _LOOP_LAG.search(body)
    return Scraped(
        seconds=seconds,
        size_bytes=len(body),
        exposures=tuple(map(float, _EXPOSURE.findall(body))),
        loop_lag_seconds=None if lag is None else float(lag[1]),
    )


def loop_waits(port: int, *, seconds: float) -> list[float]:
    """How long /livez took, asked every 20 ms over one connection: it needs nothing but the event loop's turn.

    An answer that took long stands for all the questions that would have been asked meanwhile; the one that waits
    longest is about the longest stretch in which the loop did one thing only.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    waits: list[float] = []
    try:
        due = time.perf_counter()
        ending = due + seconds
        while due < ending:
            time.sleep(max(0.0, due - time.perf_counter()))
            asked = time.perf_counter()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            answered = time.perf_counter()
            waits.append(answered - asked)
            due += PROBE_EVERY_SECONDS
            while due < answered:
                # Who would have asked by now would have waited for the same thing.
                waits.append(max(0.0, answered - due))
                due += PROBE_EVERY_SECONDS
    finally:
        connection.close()
    return waits

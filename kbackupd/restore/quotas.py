"""What client quotas of the target do to a restore: which one is ours, and how long it makes it. Pure.

A quota refuses nothing: the broker delays its answers. So a restore under one is slow without a reason that anybody
sees, and is told before it begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kbackupd.model.snapshots import Quota
from kbackupd.model.units import format_bytes, format_duration

_KEY = "producer_byte_rate"


def producer_quota(quotas: Sequence[Quota], *, user: str | None, client_id: str) -> float | None:
    """Bytes per second that each broker takes of us; None: as many as come.

    Args:
        user: None: not known; then only quotas that do not name a user are ours for certain.

    Source: the precedence in Kafka's documentation, "Design, Quotas", "Quota configuration".
    """
    for wanted in _by_precedence(user, client_id):
        for quota in quotas:
            if dict(quota.entity) == wanted and _KEY in quota.values:
                rate = quota.values[_KEY]
                return rate if math.isfinite(rate) else None  # Kafka takes "Infinity" for a quota that is none
    return None


def _by_precedence(user: str | None, client_id: str) -> Iterator[dict[str, str | None]]:
    """None as a name: Kafka's default entity of that type."""
    for name in (user, None) if user is not None else (None,):
        yield {"user": name, "client-id": client_id}
        yield {"user": name, "client-id": None}
        yield {"user": name}
    yield {"client-id": client_id}
    yield {"client-id": None}


def quota_note(
    rate_bytes_per_second: float,
    *,
    brokers: int,
    partitions: int,
    raw_bytes: int,
    user: str | None,
    client_id: str,
) -> str:
    """One line for people, without a promise.

    A broker measures over its last ten seconds or so and takes each request before it delays the answer to it: 4.3 MiB
    at 195 KiB/s were seen to pass in 15 s, not in 23.

    Args:
        partitions: that are filled; at most so many brokers lead any.
        raw_bytes: what is going to be produced, at most.
    """
    whom = f"client id {client_id}" if user is None else f"user {user}, client id {client_id}"
    each = f"a producer quota of the target allows {whom} {format_bytes(int(rate_bytes_per_second))}/s on each broker"
    if rate_bytes_per_second <= 0 or brokers <= 0:
        return f"{each}: the restore may hardly get on"
    seconds = raw_bytes / (rate_bytes_per_second * max(min(brokers, partitions), 1))
    return (
        f"{each}: at most {format_bytes(raw_bytes)}, which take {format_duration(round(seconds))} at that pace, a burst"
        " of some seconds aside"
    )

"""The values a metric's label may have, and which of them an error is counted under. Pure.

Every label has a bound: a value outside its list is `other`. An error's text, a request's id or a name nobody foresaw
as a label would make a series each, and a store of metrics keeps every one of them.
"""

from __future__ import annotations

from typing import Literal

from kbackupd.model.errors import (
    KafkaDeniedError,
    KafkaUnavailableError,
    StoreDeniedError,
    StoreUnavailableError,
)

Stream = Literal["user", "system"]
Session = Literal["following", "catching-up"]
SnapshotPart = Literal["groups", "topics", "acls", "quotas"]
SnapshotCause = Literal["denied", "failed", "store", "unexpected"]
CommitOutcome = Literal["ok", "denied", "in_use", "failed"]
COMMIT_OUTCOMES: tuple[CommitOutcome, ...] = ("ok", "denied", "in_use", "failed")
RollupOutcome = Literal["ok", "failed", "timeout"]
ROLLUP_OUTCOMES: tuple[RollupOutcome, ...] = ("ok", "failed", "timeout")
SNAPSHOT_PARTS: tuple[SnapshotPart, ...] = ("groups", "topics", "acls", "quotas")
SNAPSHOT_CAUSES: tuple[SnapshotCause, ...] = ("denied", "failed", "store", "unexpected")

OTHER = "other"
STORE_OPERATIONS = frozenset({"put", "get", "get_range", "get_suffix", "head", "list", "delete"})
STORE_OUTCOMES = frozenset({"ok", "missing", "exists", "denied", "unavailable", "cancelled", "error"})
STORE_CAUSES = frozenset(
    {
        "checksum",
        "conflict",
        "connect",
        "credentials",
        "denied",
        "descriptors",
        "disk_full",
        "io",
        "not_s3",
        "reset",
        "server_error",
        "throttled",
        "timeout",
        "tls",
        "truncated",
    }
)
_ERROR_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (KafkaUnavailableError, "kafka_unavailable"),
    (KafkaDeniedError, "kafka_denied"),
    (StoreUnavailableError, "store_unavailable"),
    (StoreDeniedError, "store_denied"),
    (BaseException, OTHER),
)
ERROR_KINDS = frozenset(kind for _, kind in _ERROR_KINDS)
PARTITION_CAUSES = frozenset(
    {
        "CORRUPT_MESSAGE",
        "FENCED_LEADER_EPOCH",
        "INCONSISTENT_TOPIC_ID",
        "KAFKA_STORAGE_ERROR",
        "LEADER_NOT_AVAILABLE",
        "NETWORK_EXCEPTION",
        "NOT_LEADER_OR_FOLLOWER",
        "OFFSET_NOT_AVAILABLE",
        "OFFSET_OUT_OF_RANGE",
        "REPLICA_NOT_AVAILABLE",
        "REQUEST_TIMED_OUT",
        "TOPIC_AUTHORIZATION_FAILED",
        "UNKNOWN_LEADER_EPOCH",
        "UNKNOWN_SERVER_ERROR",
        "UNKNOWN_TOPIC_ID",
        "UNKNOWN_TOPIC_OR_PARTITION",
    }
)
"""Kafka's names of what a partition may fail with."""


def bounded(value: str, known: frozenset[str]) -> str:
    """`value` if it is `known`, else `other`."""
    return value if value in known else OTHER


def error_kind(error: BaseException) -> str:
    """The bounded label an error is counted under."""
    return next(kind for cls, kind in _ERROR_KINDS if isinstance(error, cls))


def store_cause(error: BaseException) -> str:
    """The bounded label a store's error is counted under."""
    if isinstance(error, StoreUnavailableError):
        return bounded(error.cause, STORE_CAUSES)
    return "denied" if isinstance(error, StoreDeniedError) else OTHER

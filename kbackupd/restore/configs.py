"""Which configuration a target topic has during a restore, and what becomes of the recorded one afterwards. Pure.

Owns the retention rule: nothing that was restored is deleted by putting retention or compaction back, unless the
operator said so (hazard 36: a restored topic that empties itself within a second).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kbackupd.model.clock import iso
from kbackupd.model.settings import RetentionAfter
from kbackupd.model.units import format_bytes, format_duration

_FOREVER = str((1 << 63) - 1)
_MAX_MESSAGE_BYTES = (1 << 31) - 1
_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own default for max.message.bytes."""

SAFE: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": _FOREVER,
    "message.timestamp.after.max.ms": _FOREVER,
    "compression.type": "producer",
}
"""Compaction, retention, LogAppendTime, timestamp bounds or recompression during a restore would change its result."""

_SINCE_KAFKA_3_6 = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms")

_DELETING_NOTHING: Mapping[str, str] = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
DELETING = tuple(_DELETING_NOTHING)
"""Keys that can make the broker delete what was restored."""

Changes = dict[str, str | None]
"""Key → value to set; None: back to the brokers' default."""


def during_restore(recorded: Mapping[str, str], largest_batch_bytes: int) -> dict[str, str]:
    """The overrides a target topic has while records are produced into it.

    A rebuilt batch may come out larger than the stored one (another compressor), so the size limit leaves room.
    """
    limit = max(
        int(recorded.get("max.message.bytes", 0)), 2 * largest_batch_bytes + (64 << 10), _DEFAULT_MAX_MESSAGE_BYTES
    )
    return {**SAFE, "max.message.bytes": str(min(limit, _MAX_MESSAGE_BYTES))}


def before_kafka_3_6(configs: Mapping[str, str]) -> dict[str, str]:
    """`configs` without the timestamp bounds: older brokers have one for both directions, which by default is none."""
    return {key: value for key, value in configs.items() if key not in _SINCE_KAFKA_3_6}


def is_left_by_a_restore(overrides: Mapping[str, str]) -> bool:
    """Whether an empty topic's overrides are those of an earlier run that did not come to its end."""
    older = not any(key in overrides for key in _SINCE_KAFKA_3_6)
    safe = before_kafka_3_6(SAFE) if older else SAFE
    return all(overrides.get(key) == value for key, value in safe.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredFacts:
    """What was restored into a topic, as far as retention cares."""

    complete: bool
    """False: a partition failed, and the topic is not to be touched."""
    oldest_timestamp_ms: int | None
    """None: nothing with a timestamp."""
    largest_partition_bytes: int
    records: int
    replicas: int | None = None
    """Of the partition that has the fewest; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDecision:
    """What is set at the end of a restore, and what is not."""

    apply: Changes
    held: Changes
    """Would delete restored records, or was asked to be held back."""
    reasons: Sequence[str]
    """Why each of `held` is."""
    deletes: Sequence[str] = ()
    """What of `apply` has the broker delete restored records, for somebody said so."""


def after_restore(
    *,
    recorded: Mapping[str, str],
    during: Collection[str],
    earlier: Mapping[str, str],
    defaults: Mapping[str, str],
    facts: RestoredFacts,
    mode: RetentionAfter,
    now_ms: int,
) -> ConfigDecision:
    """The changes that give the topic its recorded configuration, split by whether they may be made now.

    Args:
        during: keys that were set for the time of the restore: what the broker does not know must not be put back.
        earlier: overrides an existing empty topic had; what the record does not name is put back to these.
        defaults: what the brokers give a topic without overrides, as far as known.
    """
    wanted: Changes = {key: recorded.get(key, earlier.get(key)) for key in during} | dict(recorded)
    if not facts.complete:
        return ConfigDecision(apply={}, held=wanted, reasons=("the topic's restore did not come to its end",))
    held: dict[str, str] = {}
    if mode is RetentionAfter.HOLD:
        held = dict.fromkeys(DELETING, "retention_after is hold")
    elif mode is RetentionAfter.AUTO and facts.records:
        in_force = {key: wanted.get(key) or defaults.get(key) for key in DELETING}
        held = _would_delete(in_force, facts, now_ms)
    deletes: dict[str, str] = {}
    if mode is RetentionAfter.RECORDED and facts.records:
        known = {key: wanted.get(key) or defaults.get(key, harmless) for key, harmless in _DELETING_NOTHING.items()}
        deletes = _would_delete(known, facts, now_ms)
    held |= _would_shut(wanted, facts)
    return ConfigDecision(
        apply={key: value for key, value in wanted.items() if key not in held},
        held={key: value for key, value in wanted.items() if key in held},
        reasons=tuple(dict.fromkeys(held.values())),
        deletes=tuple(dict.fromkeys(deletes.values())),
    )


def _would_shut(wanted: Changes, facts: RestoredFacts) -> dict[str, str]:
    """A small target that got `min.insync.replicas` of a large source would take no record any more (acks=all)."""
    least = wanted.get("min.insync.replicas")
    if least is None or facts.replicas is None or int(least) <= facts.replicas:
        return {}
    why = f"min.insync.replicas ({least}) is above the number of replicas ({facts.replicas}): no producer could write"
    return {"min.insync.replicas": why}


def _would_delete(in_force: Mapping[str, str | None], facts: RestoredFacts, now_ms: int) -> dict[str, str]:
    """Keys whose value would make the broker delete something now, and how."""
    policy = in_force["cleanup.policy"]
    if policy is None or "compact" in policy:
        # Without its policy the topic deletes by age and size, which a compacted topic's records were never meant
        # for: what is recorded (or defaulted) for those must wait as well.
        why = (
            "compaction would remove all but the newest record of each key"
            if policy is not None
            else "the brokers' default cleanup policy could not be read"
        )
        return dict.fromkeys(DELETING, why)
    held: dict[str, str] = {}
    age, size = in_force["retention.ms"], in_force["retention.bytes"]
    if age is None:
        held["retention.ms"] = "the brokers' default retention.ms could not be read"
    elif int(age) >= 0 and facts.oldest_timestamp_ms is not None and facts.oldest_timestamp_ms < now_ms - int(age):
        held["retention.ms"] = (
            f"retention.ms ({format_duration(int(age) / 1000)}) would delete records from"
            f" {iso(facts.oldest_timestamp_ms)} on"
        )
    if size is None:
        held["retention.bytes"] = "the brokers' default retention.bytes could not be read"
    elif 0 <= int(size) < facts.largest_partition_bytes:
        held["retention.bytes"] = (
            f"retention.bytes ({format_bytes(int(size))}) would delete part of a partition of"
            f" {format_bytes(facts.largest_partition_bytes)}"
        )
    return held


def config_command(bootstrap_servers: Sequence[str], topic: str, changes: Mapping[str, str | None]) -> str:
    """The kafka-configs.sh call that makes `changes`; empty if there are none."""
    if not changes:
        return ""
    words = ["kafka-configs.sh", "--bootstrap-server", ",".join(bootstrap_servers), "--alter"]
    words += ["--entity-type", "topics", "--entity-name", topic]
    added = [f"{key}={_bracketed(value)}" for key, value in changes.items() if value is not None]
    deleted = [key for key, value in changes.items() if value is None]
    if added:
        words += ["--add-config", ",".join(added)]
    if deleted:
        words += ["--delete-config", ",".join(deleted)]
    return shlex.join(words)


def _bracketed(value: str) -> str:
    """kafka-configs.sh takes a comma for the next key unless the value stands in brackets."""
    return f"[{value}]" if "," in value else value

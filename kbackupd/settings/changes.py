"""Which settings of a running daemon may change while it runs, and what a new configuration changes. Pure.

Every key of `kbackupd.yaml` is decided here, one by one: obeyed at once, or only by the next start, with the reason. A
test fails for a key that is in neither list. What a reload comes to is worked out as a whole before anything is done,
so that nothing is ever half applied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from kbackupd.model.settings import SEGMENTS_IN_MEMORY, DaemonSettings, Secret, TierSettings
from kbackupd.model.status import DeferredSetting, SettingChange
from kbackupd.model.units import format_bytes

_UNSET: Final = "(not set)"
_SIZES: Final = {"GiB": 2.0**30, "GB": 1e9, "MiB": 2.0**20, "MB": 1e6, "KiB": 1024.0, "kB": 1e3, "B": 1.0}

_Path = tuple[str, ...]


def _whole(value: float, units: Mapping[str, float]) -> str:
    """In the largest unit that leaves a short number, as the file would write it."""
    unit, size = next((u, s) for u, s in units.items() if s <= 1 or (value >= s and (value / s * 100).is_integer()))
    return f"{value / size:.15g}{unit}"


def _duration(value: Any) -> str:
    if value < 1:
        return f"{value * 1000:g}ms"
    return _whole(value, {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0})


def _duration_or_off(value: Any) -> str:
    return _duration(value) if value else "off"


def _size(value: Any) -> str:
    return _whole(value, _SIZES)


def _rate(value: Any) -> str:
    return f"{_size(value)}/s"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return json.dumps([_tier(item) if isinstance(item, TierSettings) else item for item in value])
    return str(value.value) if isinstance(value, Enum) else str(value)


def _tier(tier: TierSettings) -> dict[str, object]:
    return {
        "name": tier.name,
        "topics": tier.topics,
        "rpo": _duration(tier.rpo_seconds),
        "rto": _duration(tier.rto_seconds),
    }


def _listen(host: Any, port: Any) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Setting:
    """Where `model.settings` keeps a key's value (or the two that it is made of), and how people write it."""

    paths: tuple[_Path, ...]
    text: Callable[..., str] = _plain
    deferred: str = ""
    """Why only the next start obeys it; empty: obeyed at once."""


def _live(*path: str, text: Callable[..., str] = _plain) -> _Setting:
    return _Setting((path,), text)


def _restart(why: str, *paths: _Path, text: Callable[..., str] = _plain) -> _Setting:
    return _Setting(paths, text, why)


_ARCHIVE = "it names the archive that is being written"
_CLUSTER = "the archive belongs to the cluster that was found through them at the start"
_CREDENTIALS = "the connections to the brokers were made with the running one"
_STORE = "the archive that is being written is there"
_LISTENING = "the daemon listens on the running one"


def _backend(name: str) -> _Setting:
    return _restart(_STORE, ("storage", "backend", name))


def _security(*path: str) -> _Setting:
    return _restart(_CREDENTIALS, ("source", "security", *path))


SETTINGS: Final[Mapping[str, _Setting]] = {
    "backup_id": _restart(_ARCHIVE, ("backup_id",)),
    "writer": _restart("its epoch was claimed at the start", ("writer",)),
    "tiers": _live("tiers"),
    "source.bootstrap_servers": _restart(_CLUSTER, ("source", "bootstrap_servers")),
    "source.internal_topics": _live("source", "internal_topics"),
    "source.consumer_group": _restart(
        "what stood in the group was compared at the start", ("source", "consumer_group")
    ),
    "source.rate_limit": _live("source", "rate_limit_bytes_per_second", text=_rate),
    "source.topics.include": _live("source", "topics", "include"),
    "source.topics.exclude": _live("source", "topics", "exclude"),
    "source.security.protocol": _security("protocol"),
    "source.security.ca_file": _security("ca_file"),
    "source.security.cert_file": _security("cert_file"),
    "source.security.key_file": _security("key_file"),
    "source.security.sasl.mechanism": _security("sasl", "mechanism"),
    "source.security.sasl.username": _security("sasl", "username"),
    "source.security.sasl.password": _security("sasl", "password"),
    "storage.type": _restart(_STORE, ("storage", "type")),
    "storage.s3.bucket": _backend("bucket"),
    "storage.s3.prefix": _backend("prefix"),
    "storage.s3.region": _backend("region"),
    "storage.s3.endpoint": _backend("endpoint"),
    "storage.s3.force_path_style": _backend("force_path_style"),
    "storage.s3.profile": _backend("profile"),
    "storage.s3.access_key_id": _backend("access_key_id"),
    "storage.s3.secret_access_key": _backend("secret_access_key"),
    "storage.s3.session_token": _backend("session_token"),
    "storage.filesystem.path": _backend("path"),
    "backup.flush_interval": _live("backup", "flush_interval_seconds", text=_duration),
    "backup.segment_max_bytes": _live("backup", "segment_max_bytes", text=_size),
    "backup.checkpoint_interval": _live("backup", "checkpoint_interval_seconds", text=_duration),
    "backup.memory_limit": _restart(
        "what is left of it after the start was divided then", ("backup", "memory_limit_bytes"), text=_size
    ),
    "backup.start": _restart("obeyed only when an archive is created; this one exists", ("backup", "start")),
    "backup.discovery_interval": _live("backup", "discovery_interval_seconds", text=_duration),
    "backup.snapshot_interval": _live("backup", "snapshot_interval_seconds", text=_duration),
    "backup.rollup_interval": _live("backup", "rollup_interval_seconds", text=_duration_or_off),
    "backup.shutdown_timeout": _live("backup", "shutdown_timeout_seconds", text=_duration),
    "backup.compression.codec": _live("backup", "compression_codec"),
    "backup.compression.level": _live("backup", "compression_level"),
    "observability.listen": _restart(_LISTENING, ("observability", "host"), ("observability", "port"), text=_listen),
    "observability.per_partition_metrics": _live("observability", "per_partition_metrics"),
    "observability.log_format": _restart("whoever collects the log reads one format", ("observability", "log_format")),
    "observability.log_level": _live("observability", "log_level"),
    "control.socket": _restart(_LISTENING, ("control", "socket")),
}
"""By key of the file."""

CONSTANT: Final = frozenset({"backup.per_partition_isolation"})
"""Keys with one permitted value."""


def is_live(key: str) -> bool:
    """Whether a running daemon obeys a change of `key`, written with dots."""
    return key in SETTINGS and not SETTINGS[key].deferred


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a new configuration comes to for a daemon that runs."""

    effective: DaemonSettings
    """What is in force once `applied` is: the new values of live keys, the running ones of all others."""
    applied: tuple[SettingChange, ...]
    needs_restart: tuple[DeferredSetting, ...]
    unchanged: tuple[str, ...]


def compare(running: DaemonSettings, wanted: DaemonSettings) -> Changes:
    """Key by key, what becomes of it when a daemon that runs with `running` is told `wanted`."""
    effective = running
    applied: list[SettingChange] = []
    deferred: list[DeferredSetting] = []
    unchanged: list[str] = []
    for key, setting in SETTINGS.items():
        before = [_at(running, path) for path in setting.paths]
        after = [_at(wanted, path) for path in setting.paths]
        if before == after:
            unchanged.append(key)
            continue
        why = setting.deferred or _contradiction(key, running, wanted)
        texts = _text(setting, before), _text(setting, after)
        if why:
            deferred.append(DeferredSetting(key=key, running=texts[0], wanted=texts[1], reason=why))
            continue
        applied.append(SettingChange(key=key, before=texts[0], after=texts[1]))
        for path, value in zip(setting.paths, after, strict=True):
            effective = _with(effective, path, value)
    return Changes(
        effective=effective, applied=tuple(applied), needs_restart=tuple(deferred), unchanged=tuple(unchanged)
    )


def _contradiction(key: str, running: DaemonSettings, wanted: DaemonSettings) -> str:
    """Why a live value does not fit what stays in force; the new file as a whole may be right all the same."""
    limit = running.backup.memory_limit_bytes
    if key == "backup.segment_max_bytes" and wanted.backup.segment_max_bytes * SEGMENTS_IN_MEMORY > limit:
        return f"three segments of that size do not fit into the memory_limit in force ({format_bytes(limit)})"
    return ""


def _text(setting: _Setting, values: list[Any]) -> str:
    if any(value is None for value in values):
        return _UNSET
    # A secret's text is its mask: that it changed is all that is told.
    return str(values[0]) if isinstance(values[0], Secret) else setting.text(*values)


def _at(value: Any, path: _Path) -> Any:
    """None where a section on the way is absent."""
    for name in path:
        value = getattr(value, name, None)
    return value


def _with(value: Any, path: _Path, new: Any) -> Any:
    head, *rest = path
    return replace(value, **{head: _with(getattr(value, head), tuple(rest), new) if rest else new})

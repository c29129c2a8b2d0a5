"""What two values must not say together. Pure; each section is judged by itself, so one bad value hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from kbackupd.model.settings import SEGMENTS_IN_MEMORY, SYSTEM_TIER, UNTIERED
from kbackupd.model.units import format_bytes, format_duration
from kbackupd.settings.choice_contradictions import Contradiction, choice_contradictions
from kbackupd.settings.daemon_sections import BackupSection, StorageSection, TierSection
from kbackupd.settings.document import Tree, Value
from kbackupd.settings.judgement import at
from kbackupd.settings.refusal import KeyPath
from kbackupd.settings.restore_sections import RestoreOptionsSection, RestoreSourceSection
from kbackupd.settings.sections import S3Access, SecuritySection

_Judged = TypeVar("_Judged")
_TIERS: TypeAdapter[list[TierSection]] = TypeAdapter(list[TierSection])


def daemon_contradictions(merged: Tree) -> Iterator[Contradiction]:
    backup = _judged(BackupSection.model_validate, merged.get("backup", {}))
    if backup is not None:
        yield from _backup(backup)
    tiers = _judged(_TIERS.validate_python, merged.get("tiers", []))
    if tiers is not None:
        yield from _tiers(tiers, None if backup is None else backup.flush_interval)
    storage = _judged(StorageSection.model_validate, merged.get("storage"))
    if storage is not None:
        yield from _storage(storage)
    yield from _security(merged, ("source", "security"))


def restore_contradictions(merged: Tree) -> Iterator[Contradiction]:
    source = _judged(RestoreSourceSection.model_validate, at(merged, ("restore", "source")))
    if source is not None and source.s3 is not None:
        path = ("restore", "source", "s3")
        if not source.path.lower().startswith("s3:"):
            yield path, "the archive is in a directory, so this section would be ignored", "remove it"
        yield from _s3(source.s3, path)
    yield from _security(merged, ("restore", "target", "security"))
    options = _judged(RestoreOptionsSection.model_validate, at(merged, ("restore", "options")) or {})
    if options is not None:
        yield from choice_contradictions(options)


def _judged(validate: Callable[[Value], _Judged], value: Value) -> _Judged | None:
    """The section, or None if it has problems of its own (which are reported anyway)."""
    try:
        return validate(value)
    except ValidationError:
        return None


def _backup(backup: BackupSection) -> Iterator[Contradiction]:
    if backup.checkpoint_interval < backup.flush_interval:
        yield (
            ("backup", "checkpoint_interval"),
            f"{format_duration(backup.checkpoint_interval)} is below flush_interval "
            f"({format_duration(backup.flush_interval)}): between two flushes nothing moves that could be checkpointed",
            "raise checkpoint_interval or lower flush_interval",
        )
    if backup.segment_max_bytes * SEGMENTS_IN_MEMORY > backup.memory_limit:
        yield (
            ("backup", "segment_max_bytes"),
            f"three segments of {format_bytes(backup.segment_max_bytes)} (one filling, one sealing, one uploading) "
            f"do not fit into memory_limit ({format_bytes(backup.memory_limit)})",
            f"at most {format_bytes(backup.memory_limit // 3)}, or a higher memory_limit",
        )


def _tiers(tiers: list[TierSection], flush_interval: float | None) -> Iterator[Contradiction]:
    names: set[str] = set()
    catch_all = ""
    for index, tier in enumerate(tiers):
        path = ("tiers", index)
        if tier.name in names:
            yield (*path, "name"), f"another tier is called {tier.name!r} already", "names are labels in metrics"
        if tier.name == UNTIERED:
            yield (*path, "name"), f"{UNTIERED!r} is the name of the topics that no tier matches", "choose another"
        if tier.name == SYSTEM_TIER:
            yield (*path, "name"), f"{SYSTEM_TIER!r} is the name of the internal topics", "choose another"
        if catch_all:
            yield (
                path,
                f"never reached: tier {catch_all!r} before it matches every topic",
                "put the narrower tier first",
            )
        if flush_interval is not None and tier.rpo <= flush_interval:
            yield (
                (*path, "rpo"),
                f"{format_duration(tier.rpo)} is not above backup.flush_interval ({format_duration(flush_interval)}), "
                "so it would be missed between any two flushes",
                "lower flush_interval (flushing often costs little: one object holds all partitions) or raise rpo",
            )
        names.add(tier.name)
        catch_all = catch_all or (tier.name if "*" in tier.topics else "")


def _storage(storage: StorageSection) -> Iterator[Contradiction]:
    present = {"s3": storage.s3, "filesystem": storage.filesystem}
    for name, section in present.items():
        if name == storage.type and section is None:
            yield ("storage",), f"type is {name}, but there is no section {name}", f"add {name}:"
        if name != storage.type and section is not None:
            yield ("storage", name), f"type is {storage.type}, so this section would be ignored", "remove one of them"
    if storage.s3 is not None:
        yield from _s3(storage.s3, ("storage", "s3"))


def _s3(s3: S3Access, path: KeyPath) -> Iterator[Contradiction]:
    keys = {"access_key_id": s3.access_key_id, "secret_access_key": s3.secret_access_key}
    given = [name for name, value in keys.items() if value is not None]
    if len(given) == 1:
        missing = next(name for name in keys if name not in given)
        yield (*path, given[0]), f"needs {missing} beside it", "or remove it, to use the AWS chain"
    if s3.session_token is not None and not given:
        yield (
            (*path, "session_token"),
            "means nothing without access_key_id and secret_access_key",
            "add or remove them",
        )
    if s3.profile is not None and given:
        yield (*path, "profile"), "contradicts the static keys: one of them would be ignored", "remove one of them"


def _security(merged: Tree, path: KeyPath) -> Iterator[Contradiction]:
    security = _judged(SecuritySection.model_validate, at(merged, path) or {})
    if security is None:
        return
    protocol = security.protocol
    if protocol.authenticated and security.sasl is None:
        yield path, f"{protocol} needs credentials", "add sasl: {mechanism: …, username: …, password: …}"
    if security.sasl is not None and not protocol.authenticated:
        yield (*path, "sasl"), f"would be ignored: the protocol is {protocol}", "SASL_SSL or SASL_PLAINTEXT uses it"
    files = {"ca_file": security.ca_file, "cert_file": security.cert_file, "key_file": security.key_file}
    for name, value in files.items():
        if value is not None and not protocol.encrypted:
            yield (*path, name), f"would be ignored: the protocol is {protocol}", "SSL or SASL_SSL uses it"
    if (security.cert_file is None) != (security.key_file is None):
        given, missing = ("cert_file", "key_file") if security.key_file is None else ("key_file", "cert_file")
        yield (*path, given), f"needs {missing} beside it", "a client certificate is a certificate and its key"

"""What a configuration comes to: every value, secrets redacted, and where each was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kbackupd.settings.document import Value
from kbackupd.settings.judgement import at
from kbackupd.settings.load import Judged, judge
from kbackupd.settings.refusal import KeyPath, dotted
from kbackupd.settings.schema import Key, section_keys, written_as

REDACTED = "**********"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveValue:
    """`value` is as the file would write it; None: not set and without a default."""

    key: str
    value: str | None
    origin: str


def show(path: Path | str, environ: Mapping[str, str]) -> list[EffectiveValue]:
    """The effective configuration of either kind of file, in the order of the reference.

    Raises:
        ConfigurationError: the configuration has problems.
    """
    judged = judge(path, environ)
    return [value for key in judged.shape.keys for value in _values(judged, key)]


def _values(judged: Judged, key: Key) -> Iterator[EffectiveValue]:
    above = next(section for section in judged.shape.sections if key in section.keys)
    if above.optional and at(judged.merged, above.path) is None:
        return
    value = at(judged.merged, key.path)
    if key.items is not None and isinstance(value, list) and value:
        for index, item in enumerate(value):
            for inner in (k for section in section_keys(key.items) for k in section.keys):
                item_path: KeyPath = (*key.path, index, *inner.path)
                yield _value(judged, inner, item_path, at(item, inner.path))
        return
    yield _value(judged, key, key.path, value)


def _value(judged: Judged, key: Key, path: KeyPath, value: Value) -> EffectiveValue:
    text = key.default if value is None else written_as(value)
    origin = str(judged.origin(path))
    if raw := judged.document.raw.get(path):
        origin = f"{origin}, from {raw}" if origin.startswith(judged.document.name) else origin
    return EffectiveValue(key=dotted(path), value=REDACTED if key.secret and text is not None else text, origin=origin)

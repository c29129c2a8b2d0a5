"""The keys of a file as a flat list, read off its sections: for variables, hints, the reference and `config show`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from kbackupd.settings.daemon_sections import DaemonFile
from kbackupd.settings.fields import Kind
from kbackupd.settings.restore_sections import RestoreFile
from kbackupd.settings.sections import Root

PREFIX = "KBACKUPD_"
DELIMITER = "__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One value that can be set. `default` is as the file would write it; None: there is none."""

    path: tuple[str, ...]
    kind: str
    required: bool
    default: str | None
    description: str
    secret: bool
    listed: bool
    items: type[BaseModel] | None = None
    """The section each item of the list is."""

    @property
    def variable(self) -> str:
        return PREFIX + DELIMITER.join(self.path).upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionKeys:
    """A section and the keys directly in it; sections follow each other as in the file."""

    path: tuple[str, ...]
    optional: bool
    """It may be absent, and then none of its keys means anything (`storage.s3`, `security.sasl`)."""
    description: str
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of file."""

    name: str
    root: type[Root]
    sections: tuple[SectionKeys, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(key for section in self.sections for key in section.keys)


def section_keys(
    model: type[BaseModel], path: tuple[str, ...] = (), *, optional: bool = False, description: str = ""
) -> Iterator[SectionKeys]:
    """The section `model` at `path`, then those below it."""
    keys: list[Key] = []
    below: list[SectionKeys] = []
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            keys.append(_key((*path, name), field))
        else:
            below += section_keys(
                section, (*path, name), optional=optional or field.default is None, description=field.description or ""
            )
    yield SectionKeys(path=path, optional=optional, description=description, keys=tuple(keys))
    yield from below


def _key(path: tuple[str, ...], field: FieldInfo) -> Key:
    members = [field.annotation, *get_args(field.annotation)]
    items = next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)
    plain = [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]
    return Key(
        path=path,
        kind=_kind(field),
        required=field.is_required(),
        default=None if field.is_required() or field.default is None else written_as(field.default),
        description=field.description or "",
        secret=SecretStr in plain,
        listed=any(get_origin(member) is tuple for member in plain),
        items=items,
    )


def _kind(field: FieldInfo) -> str:
    inner = [get_args(member)[1:] for member in get_args(field.annotation) if get_origin(member) is Annotated]
    marks = [mark for marks in (*inner, tuple(field.metadata)) for mark in marks if isinstance(mark, Kind)]
    assert marks, f"a key without a Kind: {field}"
    return marks[-1].name


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for member in (annotation, *(() if get_origin(annotation) is tuple else get_args(annotation))):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def written_as(value: object) -> str:
    """Text as it is, lists and their sections as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


DAEMON = Shape(name="daemon", root=DaemonFile, sections=tuple(section_keys(DaemonFile)))
RESTORE = Shape(name="restore", root=RestoreFile, sections=tuple(section_keys(RestoreFile)))
SHAPES = (DAEMON, RESTORE)

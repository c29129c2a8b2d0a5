"""`KBACKUPD_…` variables as a tree that lies over the file; unknown names refused, never ignored (hazard 47)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from kbackupd.settings.document import Tree, Value
from kbackupd.settings.refusal import KeyPath, Origin, Problem, Refusal, did_you_mean
from kbackupd.settings.schema import DELIMITER, PREFIX, SHAPES, Key, Shape

CONFIG_VARIABLE = "KBACKUPD_CONFIG"
"""Names the configuration file for the command line; no key."""

_SERVICE_LINK = re.compile(
    r"KBACKUPD_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes adds to every pod beside a Service called `kbackupd`."""


@dataclass(slots=True)
class Environment:
    tree: Tree = field(default_factory=dict)
    variables: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_environment(environ: Mapping[str, str], shape: Shape) -> Environment:
    """The variables that set keys of `shape`; those of the other kind of file are known and left alone."""
    own = {key.variable: key for key in shape.keys}
    known = {key.variable for other in SHAPES for key in other.keys}
    read = Environment()
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or name == CONFIG_VARIABLE or _SERVICE_LINK.fullmatch(name):
            continue
        if name in own:
            _set(read, own[name], name, environ[name])
        elif name not in known:
            read.problems.append(_unknown(name, known))
    return read


def _set(read: Environment, key: Key, name: str, text: str) -> None:
    try:
        value = _items(text) if key.listed else text
    except Refusal as refusal:
        read.problems.append(
            Problem(origin=Origin(variable=name), path=key.path, message=refusal.message, hint=refusal.hint)
        )
        return
    section = read.tree
    for part in key.path[:-1]:
        section = cast(Tree, section.setdefault(part, {}))
    section[key.path[-1]] = value
    read.variables[key.path] = name


def _items(text: str) -> Value:
    hint = """a JSON list, such as '["one", "two"]'"""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError):
        raise Refusal("is not JSON", hint=hint) from None
    if not isinstance(value, list):
        raise Refusal("is not a list", hint=hint)
    return value


def _unique(pairs: list[tuple[str, Value]]) -> Tree:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise Refusal("has the same key twice in one section")
    return tree


def _unknown(name: str, known: set[str]) -> Problem:
    below = sorted(other for other in known if other.startswith(name + DELIMITER))
    above = [other for other in known if name.startswith(other + DELIMITER)]
    if below:
        hint = f"a section is set key by key, such as {below[0]}"
    elif above:
        hint = f"a list is set as a whole, as JSON, in {above[0]}"
    else:
        hint = did_you_mean(name.upper(), sorted(known), cutoff=0.75) or (
            f"nested keys are joined by {DELIMITER}, such as KBACKUPD_BACKUP__FLUSH_INTERVAL"
        )
    return Problem(origin=Origin(variable=name), path=(), message="no key has this variable", hint=hint)

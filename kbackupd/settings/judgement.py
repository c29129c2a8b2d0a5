"""From pydantic's errors to problems with a place, a sentence and a hint; values are never taken from pydantic."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from kbackupd.settings.document import Value
from kbackupd.settings.refusal import KeyPath, Origin, Problem, Refusal, did_you_mean
from kbackupd.settings.schema import SHAPES, Key, Shape, section_keys


def problems_of(
    error: ValidationError, *, shape: Shape, merged: Value, origin: Callable[[KeyPath], Origin]
) -> list[Problem]:
    """One problem per error, in sentences of ours. `origin` finds the line or variable of a path, or of its section."""
    return [
        Problem(origin=origin(path), path=path, message=message, hint=hint)
        for path, message, hint in (
            _sentence(
                entry["type"], tuple(entry["loc"]), entry.get("ctx", {}).get("error"), entry["msg"], shape, merged
            )
            for entry in error.errors(include_url=False, include_input=False)
        )
    ]


def _sentence(
    kind: str, path: KeyPath, cause: object, message: str, shape: Shape, merged: Value
) -> tuple[KeyPath, str, str]:
    if isinstance(cause, Refusal):
        return path, cause.message, cause.hint
    if kind == "missing":
        return path, "required, but not there", _purpose(path, shape)
    if kind == "extra_forbidden":
        return path, *_unknown(path, shape)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        empty = at(merged, path) is None
        return path, "the section is empty" if empty else "must be a section", "indent its keys below it, or remove it"
    return path, message.removeprefix("Value error, "), ""


def _unknown(path: KeyPath, shape: Shape) -> tuple[str, str]:
    *above, wrong = path
    section = tuple(part for part in above if isinstance(part, str))
    stranger = next((other for other in SHAPES if not above and wrong in _names_in((), other)), None)
    if stranger is not None:
        return f"unknown key in a {shape.name} configuration", f"it belongs to a {stranger.name} configuration"
    siblings = _names_in(section, shape)
    elsewhere = [key.path for key in _all_keys(shape) if key.path[-1] == wrong]
    hint = did_you_mean(str(wrong), siblings)
    if not hint and elsewhere:
        hint = f"it belongs to {'.'.join(elsewhere[0][:-1]) or 'the top level'}"
    return "unknown key", hint or f"known here: {', '.join(siblings)}"


def _all_keys(shape: Shape) -> list[Key]:
    """The keys of `shape`, those of list items included."""
    keys: list[Key] = []
    for key in shape.keys:
        keys.append(key)
        if key.items is not None:
            keys += [inner for section in section_keys(key.items, key.path) for inner in section.keys]
    return keys


def _names_in(section: tuple[str, ...], shape: Shape) -> list[str]:
    depth = len(section)
    names = [key.path[depth] for key in _all_keys(shape) if key.path[:depth] == section and len(key.path) > depth]
    names += [part.path[depth] for part in shape.sections if part.path[:depth] == section and len(part.path) > depth]
    return list(dict.fromkeys(names))


def _purpose(path: KeyPath, shape: Shape) -> str:
    names = tuple(part for part in path if isinstance(part, str))
    descriptions = {key.path: key.description for key in _all_keys(shape)}
    descriptions |= {section.path: section.description for section in shape.sections}
    return descriptions.get(names, "").split(". ")[0].rstrip(".")


def at(tree: Value, path: KeyPath) -> Value:
    """The value at `path`; None where there is none."""
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(str(part))
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree

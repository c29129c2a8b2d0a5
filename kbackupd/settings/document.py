"""A YAML file as text leaves with the line of each: no implicit dates, booleans or octal numbers.

Every scalar stays the text that was written (`2026-03-24`, `on`, `0123`) or None; the fields decide what it means,
the same way as for environment variables. Messages never quote the file: what looks like syntax may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml

from kbackupd.settings.refusal import KeyPath, Origin, Problem, RefusedConfigurationError

Tree = dict[str, "Value"]
Value = str | None | Tree | list["Value"]

_NULL = {"", "~", "null", "Null", "NULL"}
_VARIABLE = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|(?P<broken>\$\{)")
_TAB_HINT = "indent with spaces, not with tabs"
_QUOTE_HINT = "text that begins with & * ! | > % @ or ` needs quotes, and so does ${NAME} inside [ ] or { }"


@dataclass(slots=True)
class Document:
    """What one file says; `broken` leaves (an unset variable) were reported and must not be judged again."""

    name: str
    tree: Tree = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    raw: dict[KeyPath, str] = field(default_factory=dict)
    """The text before expansion, of leaves in which a variable was expanded."""
    expanded: dict[KeyPath, list[str]] = field(default_factory=dict)
    """What the variables of those leaves held: not to be quoted, it may be a secret at the wrong key."""
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)

    def origin(self, path: KeyPath) -> Origin:
        """The line of `path` or of the nearest section above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return Origin(file=self.name, line=self.lines.get(path, 0))

    def report(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.append(Problem(origin=self.origin(path), path=path, message=message, hint=hint))


def read_document(path: Path, environ: Mapping[str, str]) -> Document:
    """Read and expand `path`.

    Raises:
        RefusedConfigurationError: the file is missing, unreadable, not UTF-8 or not YAML. What can be reported
            together with wrong keys (duplicates, unset variables) is in `problems` instead.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise _refused(path, "no such file", hint="examples: config/kbackupd.yaml, config/restore.yaml") from error
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _refused(path, f"not UTF-8 text (byte {error.start})") from error
    return parse_document(text, name=str(path), environ=environ)


def parse_document(text: str, *, name: str, environ: Mapping[str, str]) -> Document:
    """As `read_document`, from text."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(name, f"holds a control character (U+{ord(text[error.position]):04X})", line=line) from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise _refused(name, f"not valid YAML: {_problem_of(error)}", line=line, hint=_hint_for(error)) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _refused(name, f"not valid YAML: {type(error).__name__}") from None
    finally:
        loader.dispose()
    document = Document(name=name)
    if node is None:
        return document
    if not isinstance(node, yaml.MappingNode):
        raise _refused(name, "the file must be `key: value` pairs", line=node.start_mark.line + 1)
    document.tree = cast(Tree, _Walk(document, environ).value(node, ()))
    return document


def _hint_for(error: yaml.MarkedYAMLError) -> str:
    return _TAB_HINT if "'\\t'" in str(error.problem) else _QUOTE_HINT


class _Loader(yaml.SafeLoader):
    """Refuses anchors, aliases and tags: unquoted, they swallow passwords that begin with `&`, `*` or `!`."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        peek: Callable[[], yaml.Event] = self.peek_event
        event = peek()
        for attribute, sign in (("anchor", "& and *"), ("tag", "!")):
            if getattr(event, attribute, None) is not None:
                raise yaml.MarkedYAMLError(
                    problem=f"a value that begins with {sign} is not plain text",
                    problem_mark=cast(yaml.Mark, event.start_mark),
                )
        return super().compose_node(parent, index)


class _Walk:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ

    def value(self, node: yaml.Node, path: KeyPath) -> Value:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items: list[Value] = []
            for index, item in enumerate(node.value):
                self._document.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self.value(item, (*path, index)))
            return items
        assert isinstance(node, yaml.ScalarNode)
        if node.style is None and node.value in _NULL:
            return None
        return self._expanded(node.value, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Tree:
        tree: Tree = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._document.problems.append(
                    Problem(
                        origin=Origin(file=self._document.name, line=line),
                        path=path,
                        message="a key must be a plain name",
                        hint="text with { } or [ ] needs quotes",
                    )
                )
                continue
            key = (*path, key_node.value)
            if key_node.value in tree:
                first = self._document.lines[key]
                self._document.problems.append(
                    Problem(
                        origin=Origin(file=self._document.name, line=line),
                        path=key,
                        message=f"duplicate key: written on line {first} already",
                        hint="remove one of them",
                    )
                )
                continue
            self._document.lines[key] = line
            tree[key_node.value] = self.value(value_node, key)
        return tree

    def _expanded(self, text: str, path: KeyPath) -> str:
        """`text` with `${NAME}` and `${NAME:-default}` replaced; `$${` is a literal `${`."""

        def replacement(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["broken"]:
                self._document.report(
                    path,
                    "`${` without a variable name and `}`",
                    "write ${NAME}, ${NAME:-default}, or $${ for a literal",
                )
                self._document.broken.add(path)
                return ""
            name, default = match["name"], match["default"]
            self._document.raw[path] = text
            found = self._environ.get(name)
            if default is not None:
                found = found or default
            if found is None:
                self._document.report(
                    path, f"environment variable {name} is not set", f"export {name}, or write ${{{name}:-default}}"
                )
                self._document.broken.add(path)
                return ""
            self._document.expanded.setdefault(path, []).append(found)
            return found

        return _VARIABLE.sub(replacement, text)


def _problem_of(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's own words, unless they quote a name from the file."""
    problem = error.problem or "syntax error"
    return "syntax error" if any(word in problem for word in ("tag handle", "undefined alias")) else problem


def _refused(name: Path | str, message: str, *, hint: str = "", line: int = 0) -> RefusedConfigurationError:
    origin = Origin(file=str(name), line=line)
    return RefusedConfigurationError(str(name), [Problem(origin=origin, path=(), message=message, hint=hint)])

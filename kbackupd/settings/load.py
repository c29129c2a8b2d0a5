"""A file and the variables over it, judged as one: either settings, or every problem at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from kbackupd.model.settings import DaemonSettings, RestoreSettings
from kbackupd.settings.contradictions import daemon_contradictions, restore_contradictions
from kbackupd.settings.daemon_sections import DaemonFile
from kbackupd.settings.document import Document, Tree, Value, read_document
from kbackupd.settings.environment import Environment, read_environment
from kbackupd.settings.judgement import at, problems_of
from kbackupd.settings.plain import daemon_settings, restore_settings
from kbackupd.settings.refusal import KeyPath, Origin, Problem, RefusedConfigurationError
from kbackupd.settings.restore_sections import RestoreFile
from kbackupd.settings.schema import DAEMON, RESTORE, Shape
from kbackupd.settings.sections import Root

_BLOT = "**********"


def load_daemon_settings(path: Path | str, environ: Mapping[str, str]) -> DaemonSettings:
    """The configuration of `kbackupd run`: the file at `path` under the `KBACKUPD_…` variables of `environ`.

    Raises:
        ConfigurationError: with every problem, each with its line or variable, key path and hint; never with a secret.
    """
    root = judge(path, environ, DAEMON).root
    assert isinstance(root, DaemonFile)
    return daemon_settings(root)


def load_restore_settings(path: Path | str, environ: Mapping[str, str]) -> RestoreSettings:
    """The configuration of `kbackupd restore`; as `load_daemon_settings`."""
    root = judge(path, environ, RESTORE).root
    assert isinstance(root, RestoreFile)
    return restore_settings(root, environ)


@dataclass(frozen=True, slots=True)
class Judged:
    """A configuration without problems, and where each of its values came from."""

    shape: Shape
    root: Root
    merged: Tree
    document: Document
    environment: Environment

    def origin(self, path: KeyPath) -> Origin:
        """Of the value at `path` exactly; the default if it was written nowhere."""
        variable = _variable(self.environment, path)
        if variable:
            return Origin(variable=variable)
        if path in self.document.lines:
            return Origin(file=self.document.name, line=self.document.lines[path])
        return Origin()


def judge(path: Path | str, environ: Mapping[str, str], shape: Shape | None = None) -> Judged:
    """Read, merge and check. Without `shape` the file says what it is: a top key `restore` makes it a restore's.

    Raises:
        ConfigurationError: as above.
    """
    document = read_document(Path(path), environ)
    if shape is None:
        shape = RESTORE if "restore" in document.tree else DAEMON
    environment = read_environment(environ, shape)
    merged = _with_empty_sections(merge(document.tree, environment.tree), shape)

    def origin(at_path: KeyPath) -> Origin:
        variable = _variable(environment, at_path)
        return Origin(variable=variable) if variable else document.origin(at_path)

    problems = [*document.problems, *environment.problems]
    reported = {problem.path for problem in problems}
    root: Root | None = None
    found: list[Problem] = []
    try:
        root = shape.root.judged(merged)
    except ValidationError as error:
        found += problems_of(error, shape=shape, merged=merged, origin=origin)
    contradictions = daemon_contradictions(merged) if shape is DAEMON else restore_contradictions(merged)
    found += [Problem(origin=origin(at), path=at, message=text, hint=hint) for at, text, hint in contradictions]
    problems += [problem for problem in found if problem.path not in reported]
    if problems or root is None:
        raise RefusedConfigurationError(str(path), list(_blotted(problems, merged, document, shape)))
    return Judged(shape, root, merged, document, environment)


def merge(below: Tree, above: Tree) -> Tree:
    """`above` over `below`, section by section; a section of the file that is none stays, to be refused."""
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and name in below:
            under = below[name]
            if under is None:
                under = {}
            merged[name] = merge(under, value) if isinstance(under, dict) else under
        else:
            merged[name] = value
    return merged


def _with_empty_sections(merged: Tree, shape: Shape) -> Tree:
    """A section whose keys are all commented out says nothing; it must not read as a missing value."""
    for section in shape.sections:
        if section.path and not section.optional:
            above = at(merged, section.path[:-1])
            if isinstance(above, dict) and section.path[-1] in above and above[section.path[-1]] is None:
                above[section.path[-1]] = {}
    return merged


def _variable(environment: Environment, path: KeyPath) -> str:
    """The variable that set `path` or the list it is part of."""
    lengths = range(len(path), 0, -1)
    return next((environment.variables[path[:n]] for n in lengths if path[:n] in environment.variables), "")


def _blotted(problems: Iterable[Problem], merged: Tree, document: Document, shape: Shape) -> Iterable[Problem]:
    """Problems without a secret: neither one set as such, nor one that came in through `${…}` at the wrong key."""
    secrets = [text for key in shape.keys if key.secret and len(text := _text(at(merged, key.path))) >= 4]
    for problem in problems:
        message, hint = problem.message, problem.hint
        hidden = list(secrets)
        if not problem.origin.variable and (raw := document.raw.get(problem.path)) is not None:
            message = message.replace(repr(_text(at(merged, problem.path))), repr(raw))
            hidden += [text for text in document.expanded.get(problem.path, []) if len(text) >= 4]
        for secret in sorted(hidden, key=len, reverse=True):
            message, hint = message.replace(secret, _BLOT), hint.replace(secret, _BLOT)
        yield replace(problem, message=message, hint=hint)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else ""

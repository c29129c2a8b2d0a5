"""Which recorded ACLs concern what is restored, and under which name. Pure.

Owns the rule that a restore widens nothing: what is about all topics or all groups of a cluster is named and left to
people, for the target may hold others; nothing is ever taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from kbackupd.model.globs import is_literal
from kbackupd.model.snapshots import Acl

_ALL = "*"
_EVERY = "it is about every {kind} of the cluster, and the target may hold others: set it yourself if that is meant"
_PATTERN = "its pattern type is unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class AclLeft:
    """An ACL that concerns what is restored and is not applied, or was refused."""

    acl: Acl
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AclSelection:
    """What is going to be applied."""

    known_ms: int
    """When the source's brokers told them."""
    apply: tuple[Acl, ...]
    left: tuple[AclLeft, ...]
    others: int
    """About other topics and groups, the cluster, transactional ids, …: no business of this restore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AclsOutcome:
    """What became of a selection."""

    selection: AclSelection
    applied: int
    """Taken by the target; those that were there already are among them."""
    refused: tuple[AclLeft, ...]


def select_acls(
    acls: Sequence[Acl], *, known_ms: int, topics: Mapping[str, str], groups: Sequence[str] | None
) -> AclSelection:
    """Args:
    topics: those restored: name in the archive → name in the target.
    groups: globs over group ids; None: groups are not restored.
    """
    apply: dict[Acl, None] = {}
    left: list[AclLeft] = []
    others = 0
    for acl in acls:
        found = list(_as_restored(acl, topics, groups))
        others += not found
        for one in found:
            if isinstance(one, AclLeft):
                left.append(one)
            else:
                apply[one] = None
    return AclSelection(known_ms=known_ms, apply=tuple(apply), left=tuple(left), others=others)


def _as_restored(acl: Acl, topics: Mapping[str, str], groups: Sequence[str] | None) -> Iterator[Acl | AclLeft]:
    """The ACL as it is applied, or why it is not; nothing where it concerns nothing that is restored."""
    match acl.resource_type:
        case "TOPIC":
            yield from _of_topics(acl, topics)
        case "GROUP":
            yield from _of_groups(acl, groups)


def _of_topics(acl: Acl, topics: Mapping[str, str]) -> Iterator[Acl | AclLeft]:
    name = acl.resource_name
    if name == _ALL and acl.pattern_type == "LITERAL":
        yield AclLeft(acl=acl, reason=_EVERY.format(kind="topic"))
    elif acl.pattern_type == "LITERAL":
        if name in topics:
            yield acl._replace(resource_name=topics[name])
    elif acl.pattern_type == "PREFIXED":
        # A renamed topic is not under the prefix any more: it alone gets what the prefix gave it.
        for source, target in topics.items():
            if source.startswith(name):
                kept = target.startswith(name)
                yield acl if kept else acl._replace(resource_name=target, pattern_type="LITERAL")
    else:
        yield AclLeft(acl=acl, reason=_PATTERN)


def _of_groups(acl: Acl, groups: Sequence[str] | None) -> Iterator[Acl | AclLeft]:
    name, literal = acl.resource_name, acl.pattern_type == "LITERAL"
    if groups is None:
        return
    if literal and name == _ALL:
        yield AclLeft(acl=acl, reason=_EVERY.format(kind="group"))
    elif literal:
        if any(fnmatchcase(name, glob) for glob in groups):
            yield acl
    elif acl.pattern_type != "PREFIXED":
        yield AclLeft(acl=acl, reason=_PATTERN)
    elif any(_may_meet(glob, name) for glob in groups):
        yield acl


def _may_meet(glob: str, prefix: str) -> bool:
    """Whether a group under `prefix` can match `glob`."""
    fixed = glob if is_literal(glob) else glob[: min(glob.find(sign) for sign in "*?[" if sign in glob)]
    return fixed.startswith(prefix) or (not is_literal(glob) and prefix.startswith(fixed))


def in_words(acl: Acl) -> str:
    """One ACL in one line, for people."""
    pattern = "" if acl.pattern_type == "LITERAL" else f" ({acl.pattern_type.lower()})"
    return (
        f"{acl.permission} {acl.principal} {acl.operation} on {acl.resource_type.lower()} {acl.resource_name}{pattern}"
        f" from {acl.host}"
    )


def by_batches(acls: Sequence[Acl], size: int) -> Iterable[Sequence[Acl]]:
    return (acls[start : start + size] for start in range(0, len(acls), size))

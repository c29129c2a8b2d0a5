"""Which of an archive's topics a restore is about, and whether all that it was told of them is there. Pure.

Owns the names: a topic, partition, incarnation or branch that somebody named and that the archive does not have is
refused, all of them at once and each with what there is, and no topic is merged into another (hazards 12 and 47).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kbackupd.archive.archive import Archive, ArchivedTopic, newest_of
from kbackupd.model.clock import iso
from kbackupd.model.errors import UsageError
from kbackupd.model.globs import is_literal
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.settings import RestoreOptions

GO_FIRST = frozenset({"_schemas"})
"""By their names in the archive: what others need before they can be read (the Schema Registry's topic)."""
_LONGEST_NAME = 249


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTopic:
    """One incarnation, and what becomes of it."""

    topic: ArchivedTopic
    target: str
    target_partitions: int
    earlier: tuple[TopicId, ...]
    """Other incarnations of its name, in the order they were last seen."""
    newer: tuple[TopicId, ...]


def choose_topics(archive: Archive, options: RestoreOptions) -> list[ChosenTopic]:
    """What `options` choose of `archive`, in the order it is restored.

    Raises:
        UsageError: nothing is chosen, or something named is not there; every problem at once.
    """
    at_ms = options.scope.as_of_ms
    newest = archive.newest() if at_ms is None else newest_of(topics_there(archive, at_ms))
    namesakes: dict[str, list[TopicId]] = {}
    for one in archive.topics:
        namesakes.setdefault(one.name, []).append(one.topic_id)
    problems = [*_names(newest, options)]
    latest = archive.newest()
    chosen: list[ChosenTopic] = []
    sources: dict[str, str] = {}
    for name in sorted(newest, key=lambda name: (name not in GO_FIRST, name)):
        target = None if newest[name].internal else options.target_of(name)
        if target is None:
            continue
        if target in sources:
            problems.append(f"{sources[target]!r} and {name!r} would both become {target!r}")
        if len(target) > _LONGEST_NAME:
            problems.append(f"{name!r} would become {target!r}, which is longer than a topic's name can be")
        sources[target] = name
        topic = _incarnation(archive, newest[name], options, problems)
        problems += _within(archive, topic, options)
        partitions = options.scope.target_partitions.get(name, topic.partitions)
        earlier, newer = _around(topic.topic_id, namesakes[name], latest[name].topic_id)
        chosen.append(
            ChosenTopic(topic=topic, target=target, target_partitions=partitions, earlier=earlier, newer=newer)
        )
    problems += _idle_mappings(chosen, options)
    if not chosen and not problems:
        problems.append("options select no topic of the archive")
    if problems:
        there = ", ".join(name for name, topic in sorted(newest.items()) if not topic.internal) or "no topics"
        raise UsageError("; ".join(dict.fromkeys(problems)), hint=f"{archive.location} holds {there}")
    return chosen


def topics_there(archive: Archive, at_ms: int) -> list[ArchivedTopic]:
    """Those that were at the source at `at_ms`, with the partitions and configuration of then."""
    return [topic for topic in archive.topics_at(at_ms) if topic.deleted_ms is None]


def not_there(archive: Archive, options: RestoreOptions) -> list[str]:
    """Topics of the archive that `options` select and that did not exist at their instant, by name."""
    at_ms = options.scope.as_of_ms
    if at_ms is None:
        return []
    there = {topic.name for topic in topics_there(archive, at_ms)}
    absent = (topic for name, topic in archive.newest().items() if name not in there and not topic.internal)
    return sorted(topic.name for topic in absent if options.target_of(topic.name) is not None)


def _around(
    own: TopicId, namesakes: Sequence[TopicId], newest: TopicId
) -> tuple[tuple[TopicId, ...], tuple[TopicId, ...]]:
    """Those before and those after `own`; the newest is the last, whenever it was last spoken of."""
    ordered = [one for one in namesakes if one != newest] + [newest]
    at = ordered.index(own)
    return tuple(ordered[:at]), tuple(ordered[at + 1 :])


def _names(newest: Mapping[str, ArchivedTopic], options: RestoreOptions) -> Iterator[str]:
    mapped = (mapping.source for mapping in options.topic_mapping if is_literal(mapping.source))
    for name in dict.fromkeys([*options.topics.literals, *mapped, *options.scope.topics_named]):
        if name not in newest:
            at_ms = options.scope.as_of_ms
            yield f"topic {name!r} " + ("is not in the archive" if at_ms is None else f"did not exist at {iso(at_ms)}")
        elif newest[name].internal:
            yield f"topic {name!r} is internal and never restored by producing"


def _idle_mappings(chosen: list[ChosenTopic], options: RestoreOptions) -> Iterator[str]:
    """Patterns that rename nothing: something else was meant."""
    for mapping in options.topic_mapping:
        names = (one.topic.name for one in chosen)
        if not is_literal(mapping.source) and all(mapping.target_of(name) is None for name in names):
            yield f"no topic that is restored matches {mapping.source!r} of topic_mapping"


def _incarnation(
    archive: Archive, newest: ArchivedTopic, options: RestoreOptions, problems: list[str]
) -> ArchivedTopic:
    wanted = options.scope.incarnations.get(newest.name)
    if wanted is None:
        return newest
    found = archive.topic(wanted)
    if found is not None and found.name == newest.name:
        return found
    there = ", ".join(
        topic.topic_id
        + (f" (deleted, seen {iso(topic.deleted_ms)})" if topic.deleted_ms is not None else "")
        + (" (the newest)" if topic.topic_id == newest.topic_id else "")
        for topic in archive.topics
        if topic.name == newest.name
    )
    problems.append(f"topic {newest.name!r} has no incarnation {wanted}, but {there}")
    return newest


def _within(archive: Archive, topic: ArchivedTopic, options: RestoreOptions) -> Iterator[str]:
    """What was told of the topic's partitions and does not fit it."""
    scope, name = options.scope, topic.name
    ranges = {partition for named, partition in scope.offsets if named == name}
    branches = {partition for named, partition in scope.branches if named == name}
    absent = sorted(n for n in scope.partitions.get(name, frozenset()) | ranges | branches if n >= topic.partitions)
    if absent:
        listed = ", ".join(map(str, absent))
        yield f"topic {name!r} has no partition {listed}, but {topic.partitions} of them from 0 on"
    wanted = scope.target_partitions.get(name, topic.partitions)
    if wanted < topic.partitions:
        yield (
            f"topic {name!r} has {topic.partitions} partitions, and partition_mapping would leave it {wanted}:"
            " it can only add some"
        )
    for partition in sorted(ranges | branches):
        if partition < topic.partitions:
            yield from _range_and_branch(archive, topic, partition, options)


def _range_and_branch(archive: Archive, topic: ArchivedTopic, partition: int, options: RestoreOptions) -> Iterator[str]:
    id, where = PartitionId(topic.topic_id, partition), f"{topic.name}-{partition}"
    branch = options.scope.branches.get((topic.name, partition))
    try:
        history = archive.history(id, branch)
    except KeyError:
        there = ", ".join(map(str, archive.history(id).branches))
        yield f"{where} has no branch {branch}, but {there}"
        return
    asked = options.scope.offsets_of(topic.name, partition)
    if asked and not asked.reach_into(history.first_offset, history.next_offset):
        held = OffsetRange(history.first_offset, history.next_offset)
        yield f"{where}: nothing of the offsets {asked} is in the archive, which holds {held}"

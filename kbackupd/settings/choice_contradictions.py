"""What a restore's options must not say together about what they choose. Pure; `contradictions` asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from kbackupd.model.globs import is_literal, stars_in
from kbackupd.model.settings import SYSTEM_TOPICS, KeepOffsets, TopicSelection
from kbackupd.settings.refusal import KeyPath
from kbackupd.settings.restore_sections import OfPartitionSection, OfTopicSection, RestoreOptionsSection

Contradiction = tuple[KeyPath, str, str]
"""Where, what, and the hint."""

_OPTIONS = ("restore", "options")


def choice_contradictions(options: RestoreOptionsSection) -> Iterator[Contradiction]:
    """Whatever the archive holds; what it does not hold the plan tells."""
    yield from _mapping(options)
    yield from _window(options)
    yield from _instant(options)
    yield from _ranges(options)
    yield from _named_topics(options)
    if options.append and options.offsets is KeepOffsets.PRESERVE:
        yield (
            (*_OPTIONS, "append"),
            "contradicts offsets: preserve: behind records that are there no record has the offset it had",
            "offsets: compact, or restore into absent topics (topic_mapping)",
        )


def topic_selection(options: RestoreOptionsSection) -> TopicSelection:
    """What is selected: the mapping's sources where `topics.include` was not written."""
    include = options.topics.include
    if include is None:
        include = tuple(mapping.source for mapping in options.topic_mapping) or ("*",)
    return TopicSelection(include=include, exclude=options.topics.exclude)


def _mapping(options: RestoreOptionsSection) -> Iterator[Contradiction]:
    path = (*_OPTIONS, "topic_mapping")
    selection = topic_selection(options)
    sources: list[str] = []
    targets: set[str] = set()
    for index, mapping in enumerate(options.topic_mapping):
        source, target = mapping.source, mapping.target
        if source in sources:
            yield (*path, index, "source"), f"{source!r} is mapped twice", "one topic has one target"
        elif is_literal(source) and (earlier := next((one for one in sources if fnmatchcase(source, one)), None)):
            yield (
                (*path, index, "source"),
                f"never reached: {earlier!r} before it matches {source!r}",
                "put the narrower mapping first",
            )
        if target in targets:
            yield (*path, index, "target"), f"two topics would become {target!r}", "merging is not restoring"
        if target.count("*") > 1:
            yield (*path, index, "target"), f"{target!r} has more than one *", "one can stand for one thing"
        elif "*" in target and stars_in(source) != 1:
            yield (
                (*path, index, "target"),
                f"what * stands for is not clear: the source {source!r} has {stars_in(source)}",
                "one * in the source, and one in the target",
            )
        for end, name in (("source", source), ("target", target)):
            if name in SYSTEM_TOPICS:
                yield (*path, index, end), f"{name!r} is internal and never restored by producing", "remove it"
        if is_literal(source) and not selection.selects(source):
            yield (*path, index, "source"), f"options.topics does not select {source!r}", "change one of them"
        sources.append(source)
        targets.add(target)


def _window(options: RestoreOptionsSection) -> Iterator[Contradiction]:
    start_ms, end_ms = options.time_window_start, options.time_window_end
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        yield (
            (*_OPTIONS, "time_window_end"),
            "is not after time_window_start: nothing lies in between",
            "the start is inclusive, the end exclusive",
        )


def _instant(options: RestoreOptionsSection) -> Iterator[Contradiction]:
    """Window, offsets and filters narrow down what was there at the instant; which log that was it says itself."""
    if options.as_of is not None:
        for key, rows in (("incarnations", options.incarnations), ("branches", options.branches)):
            if rows:
                yield (
                    (*_OPTIONS, key),
                    "as_of restores what was there at that instant, and no other",
                    f"leave as_of or {key} out",
                )


def _ranges(options: RestoreOptionsSection) -> Iterator[Contradiction]:
    chosen = {one.topic: set(one.partitions) for one in options.partitions}
    of_partitions: tuple[tuple[str, Sequence[OfPartitionSection]], ...] = (
        ("offset_ranges", options.offset_ranges),
        ("branches", options.branches),
    )
    for key, rows in of_partitions:
        seen: set[tuple[str, int]] = set()
        for index, row in enumerate(rows):
            path = (*_OPTIONS, key, index)
            if (row.topic, row.partition) in seen:
                yield path, f"{row.topic}-{row.partition} is listed twice", "one entry for each partition"
            if row.topic in chosen and row.partition not in chosen[row.topic]:
                yield path, f"options.partitions leaves {row.topic}-{row.partition} out", "change one of them"
            seen.add((row.topic, row.partition))
    for index, one in enumerate(options.offset_ranges):
        path = (*_OPTIONS, "offset_ranges", index)
        if one.first_offset is None and one.next_offset is None:
            yield path, "needs first_offset or next_offset", "a partition that is not listed is restored whole"
        elif one.next_offset is not None and (one.first_offset or 0) >= one.next_offset:
            yield (*path, "next_offset"), "is not above first_offset: nothing lies in between", "it is exclusive"


def _named_topics(options: RestoreOptionsSection) -> Iterator[Contradiction]:
    """A choice within a topic that is not restored would be ignored, and so would the first of two."""
    of_topics: tuple[tuple[str, Sequence[OfTopicSection]], ...] = (
        ("partitions", options.partitions),
        ("partition_mapping", options.partition_mapping),
        ("incarnations", options.incarnations),
    )
    of_partitions: tuple[tuple[str, Sequence[OfTopicSection]], ...] = (
        ("offset_ranges", options.offset_ranges),
        ("branches", options.branches),
    )
    selection = topic_selection(options)
    for key, rows in (*of_topics, *of_partitions):
        for index, row in enumerate(rows):
            path = (*_OPTIONS, key, index, "topic")
            if row.topic in SYSTEM_TOPICS:
                yield path, f"{row.topic!r} is internal and never restored by producing", "remove it"
            elif not selection.selects(row.topic):
                yield path, f"options.topics does not select {row.topic!r}", "change one of them"
    for key, rows in of_topics:
        seen: set[str] = set()
        for index, row in enumerate(rows):
            if row.topic in seen:
                yield (*_OPTIONS, key, index, "topic"), f"{row.topic!r} is listed twice", "one entry for each topic"
            seen.add(row.topic)

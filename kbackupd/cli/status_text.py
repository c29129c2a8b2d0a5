"""What `kbackupd ctl status` prints for people: the worst first, colour only as emphasis, never as the only sign."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kbackupd.cli.output import count_of, plain_table, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.settings import SYSTEM_TIER
from kbackupd.model.status import PartitionState, Problem, StatusReport, TierStatus, TopicStatus
from kbackupd.model.units import format_bytes, format_duration

ROWS_ON_TERMINAL = 30
"""Of a table; the rest is summed up in a line. Piped output is complete."""
UNKNOWN = "?"
NONE = "–"
NEAR = 0.8
"""Share of a target from which on it is shown as nearly missed."""
LINES_FOR_TOPICS, SMALLEST_SECTION_LINES = 8, 4
"""Of a page that problems leave to the topics, if they can."""

_UNREMARKABLE = frozenset({PartitionState.FOLLOWING, PartitionState.CLOSED})
ALARMING = {PartitionState.QUARANTINED: "red", PartitionState.RETRYING: "yellow", PartitionState.PAUSED: "yellow"}


def of_topics(report: StatusReport, topic: str) -> StatusReport:
    """`report` with those topics only that the glob matches; everything else stays that of all."""
    if topic == "*":
        return report
    return replace(report, topics=tuple(one for one in report.topics if fnmatchcase(one.name, topic)))


def print_status(console: Console, report: StatusReport, *, topic: str = "*") -> None:
    """The whole status: who, how well, tiers, the topics that the glob matches, problems, notes."""
    sections: list[RenderableType] = [_head(report), _tiers(console, report.tiers)]
    shown = of_topics(report, topic)
    if shown.topics:
        sections.append(_topics(console, shown, ROWS_ON_TERMINAL if console.is_terminal else None))
    sections += _all_problems(report)
    print_sections(console, sections)


def status_page(console: Console, report: StatusReport, *, lines: int, topic: str = "*") -> RenderableType:
    """The status as it fits on `lines` lines: what is wrong above the topics, of which the most urgent are shown."""
    fixed: list[RenderableType] = [_head(report), "", _tiers(console, report.tiers)]
    for section in _all_problems(report):
        room = max(SMALLEST_SECTION_LINES, lines - _height(console, fixed) - 1 - LINES_FOR_TOPICS)
        fixed += ["", _cut(console, section, room)]
    shown = of_topics(report, topic)
    if not shown.topics:
        return Group(*fixed)
    # An empty line, the header with its rule, and the line that says how many are not shown.
    room = lines - _height(console, fixed) - 4
    for rows in range(min(max(room, 1), len(shown.topics)), 0, -1):
        page = Group(*fixed, "", _topics(console, shown, rows))
        if rows == 1 or _height(console, [page]) <= lines:
            return page
    raise AssertionError("one row is always shown")


def verdict(report: StatusReport) -> tuple[str, str]:
    """One word for the whole, and its style. HEALTHY is said only of what is known and being backed up."""
    user_topics = [
        topic
        for topic in report.topics
        if topic.tier != SYSTEM_TIER and topic.states.get(PartitionState.CLOSED, 0) < topic.partitions
    ]
    if not report.ready:
        return "STARTING", "bold yellow"
    if not report.healthy:
        return "UNHEALTHY", "bold red"
    if not user_topics:
        return "NO TOPICS", "bold yellow"
    if all(topic.paused for topic in user_topics):
        return "PAUSED", "bold yellow"
    if all(topic.exposure_seconds is None for topic in user_topics):
        return "UNKNOWN", "bold yellow"
    return "HEALTHY", "bold green"


def number(value: int) -> str:
    return f"{value:,}"


def _head(report: StatusReport) -> RenderableType:
    word, style = verdict(report)
    first = Text(word, style)
    paused = sum(topic.states.get(PartitionState.PAUSED, 0) for topic in report.topics)
    if paused and word != "PAUSED":
        first.append(f", {count_of(paused, 'partition')} paused", "yellow")
    up = format_duration(max(0, report.now_ms - report.started_ms) / 1000)
    first.append(f"  kbackupd {report.version}, up {up}, {iso(report.now_ms)}", "dim")

    memory = report.memory
    lines = [
        ("backup", f"{report.backup_id}, writer {report.writer} epoch {report.writer_epoch}"),
        ("archive", f"{report.archive_id} of cluster {report.cluster_id}"),
        ("segment", _last_segment(report)),
        ("checkpoint", NONE if report.last_checkpoint_ms is None else _ago(report, report.last_checkpoint_ms)),
        (
            "memory",
            f"{format_bytes(memory.rss_bytes)} of {format_bytes(memory.limit_bytes)} used, "
            f"{format_bytes(memory.reserved_bytes)} of {format_bytes(memory.budget_bytes)} reserved for data",
        ),
    ]
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in lines:
        facts.add_row(name, text)
    return Group(first, facts)


def _last_segment(report: StatusReport) -> str:
    flying = f", {count_of(report.uploads_in_flight, 'upload')} in flight" if report.uploads_in_flight else ""
    segment = report.last_segment
    if segment is None:
        return f"none yet{flying}"
    return f"{_ago(report, segment.sealed_ms)}, {format_bytes(segment.stored_bytes)}{flying}  {segment.key}"


def _tiers(console: Console, tiers: Iterable[TierStatus]) -> RenderableType:
    table = plain_table(console)
    table.add_column("TIER", overflow="fold")
    for heading in ("EXPOSURE", "TARGET", "USED", "LAG", "LOSS IN", "TOPICS", "PARTITIONS"):
        table.add_column(heading, justify="right", no_wrap=True)
    others: list[Text] = []
    for tier in tiers:
        target = tier.rpo_target_seconds
        table.add_row(
            tier.name,
            _exposure(tier),
            NONE if target is None else format_duration(target),
            _share(tier.exposure_seconds, target),
            _lag(tier.lag_records, tier.partitions),
            NONE if tier.time_to_loss_seconds is None else _loss(tier.time_to_loss_seconds),
            number(tier.topics),
            number(tier.partitions),
        )
        # No column: a tier's partitions are in many states at once, and would fill a narrow terminal with its shreds.
        if not_following := _states({k: n for k, n in tier.states.items() if k not in _UNREMARKABLE}):
            others.append(Text.assemble((f"{tier.name}: ", "bold"), not_following))
    return Group(table, *others) if others else table


def _topics(console: Console, report: StatusReport, rows: int | None) -> RenderableType:
    """Args:
    rows: how many topics to show, the most urgent ones; None: all.
    """
    topics = report.topics
    targets = {tier.name: tier.rpo_target_seconds for tier in report.tiers}
    table = plain_table(console)
    table.add_column("TOPIC", overflow="fold", ratio=None)
    table.add_column("TIER", overflow="fold")
    for heading in ("EXPOSURE", "LAG", "LOSS IN"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("PARTITIONS", overflow="fold")
    shown = sorted(topics, key=lambda topic: _urgency(topic, targets))[:rows]
    for topic in shown:
        open_partitions = topic.partitions - topic.states.get(PartitionState.CLOSED, 0)
        table.add_row(
            topic.name if open_partitions else Text(f"{topic.name} (deleted, {topic.topic_id})", "dim"),
            topic.tier,
            _short_exposure(topic, targets.get(topic.tier), open_partitions),
            _lag(topic.lag_records, open_partitions),
            NONE if topic.time_to_loss_seconds is None else _loss(topic.time_to_loss_seconds),
            _states(topic.states),
        )
    left = len(topics) - len(shown)
    if not left:
        return table
    return Group(
        table, Text(f"… and {count_of(left, 'topic')} less urgent: --topic GLOB picks, --format json has all", "dim")
    )


def _urgency(topic: TopicStatus, targets: dict[str, float | None]) -> tuple[bool, bool, float, str]:
    """Sort key: deleted ones last; failing ones first, then by how much of the target is used up; unknown is worst."""
    alarm = topic.states.get(PartitionState.QUARANTINED, 0) > 0
    closed = topic.states.get(PartitionState.CLOSED, 0) == topic.partitions
    target = targets.get(topic.tier)
    if topic.exposure_seconds is None:
        used = float("inf")
    else:
        used = topic.exposure_seconds / target if target else 0.0
    return (closed, not alarm, -used, topic.name)


def _all_problems(report: StatusReport) -> list[RenderableType]:
    sections = []
    if report.problems:
        sections.append(_problems(report, report.problems, "problem", "bold red"))
    if report.notes:
        sections.append(_problems(report, report.notes, "note", "bold"))
    return sections


def _problems(report: StatusReport, problems: tuple[Problem, ...], noun: str, style: str) -> RenderableType:
    lines: list[RenderableType] = [Text(f"{count_of(len(problems), noun).upper()}", style)]
    for problem in problems:
        times = f", {problem.count:,} times" if problem.count > 1 else ""
        since = format_duration(max(0, report.now_ms - problem.since_ms) / 1000)
        lines.append(Text.assemble((problem.subject, "bold"), (f"  for {since}{times}", "dim")))
        lines.append(Padding(Text(problem.message), (0, 0, 0, 2), expand=False))
        if problem.hint:
            lines.append(Padding(Text(f"→ {problem.hint}", "cyan"), (0, 0, 0, 2), expand=False))
    return Group(*lines)


def _exposure(tier: TierStatus) -> Text:
    if not tier.partitions:
        return Text(NONE, "dim")
    seconds, target = tier.exposure_seconds, tier.rpo_target_seconds
    if seconds is None:
        return Text(f"{UNKNOWN} ({tier.unknown_partitions:,} unknown)", "yellow")
    text = Text(format_duration(seconds), _style(seconds, target))
    if target is not None and seconds > target:
        text.append(" MISSED")
    if tier.unknown_partitions:
        text.append(f" ({tier.unknown_partitions:,} unknown)", "yellow")
    return text


def _short_exposure(topic: TopicStatus, target: float | None, open_partitions: int) -> Text:
    """`≥` when some partitions are unknown, `!` when the target is missed: many rows leave no room for words."""
    if not open_partitions:
        return Text(NONE, "dim")
    seconds = topic.exposure_seconds
    if seconds is None:
        return Text(UNKNOWN, "yellow")
    least = "≥" if topic.unknown_partitions else ""
    missed = "! " if target is not None and seconds > target else ""
    return Text(f"{missed}{least}{format_duration(seconds)}", _style(seconds, target))


def _style(seconds: float, target: float | None) -> str:
    if target is None:
        return ""
    return "red" if seconds > target else "yellow" if seconds > NEAR * target else "green"


def _share(seconds: float | None, target: float | None) -> str:
    return NONE if seconds is None or not target else f"{seconds / target:.0%}"


def _lag(records: int | None, partitions: int) -> str:
    if not partitions:
        return NONE
    return UNKNOWN if records is None else number(records)


def _loss(seconds: float) -> Text:
    return Text(format_duration(seconds), "red" if seconds < 3600 else "yellow" if seconds < 86400 else "")


def _states(states: Mapping[str, int]) -> Text:
    """`12 following`, or the states apart, the alarming ones marked."""
    text = Text()
    for state in PartitionState:
        count = states.get(state, 0)
        if count:
            text.append(", " if text else "")
            text.append(f"{number(count)} {state}", ALARMING.get(state, ""))
    return text


def _ago(report: StatusReport, ms: int) -> str:
    return f"{format_duration(max(0, report.now_ms - ms) / 1000)} ago"


def _height(console: Console, parts: Iterable[RenderableType]) -> int:
    return len(console.render_lines(Group(*parts), pad=False))


def _cut(console: Console, section: RenderableType, lines: int) -> RenderableType:
    """`section`, or its first lines and how many there are more."""
    rendered = console.render_lines(section, pad=False)
    if len(rendered) <= lines:
        return section
    shown = [Text.assemble(*((part.text, part.style or "") for part in line)) for line in rendered[: max(1, lines - 1)]]
    left = len(rendered) - len(shown)
    return Group(*shown, Text(f"… {count_of(left, 'line')} more: ctl status without --watch has all", "dim"))

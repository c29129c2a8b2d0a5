"""What `kbackupd restore` prints for people: the plan before, the report after, the worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from kbackupd.cli.output import count_of, plain_table, print_sections
from kbackupd.cli.restore_cut_text import choice_in_words, cut_in_words, instant_in_words, is_cut, what_came_of_it
from kbackupd.model.clock import iso
from kbackupd.model.units import format_bytes, format_duration, format_few
from kbackupd.restore.acls import AclSelection, AclsOutcome, in_words
from kbackupd.restore.plan import PinnedEpoch, RestorePlan, TopicPlan
from kbackupd.restore.progress import Phase, RestoreProgress
from kbackupd.restore.report import PartitionReport, RestoreReport, TopicReport, Verdict
from kbackupd.restore.visibility import Visibility

ROWS_ON_TERMINAL = 30
"""Of a list; piped output is complete."""

_WIDE = 100
"""Columns of a terminal that has room for every column of a table."""

_LEFT_OUT: Mapping[str, Callable[[PartitionReport], int]] = {
    "CUT AWAY": lambda partition: partition.records_cut_away,
    "FILTERED": lambda partition: partition.records_filtered,
    "ABORTED": lambda partition: partition.records_aborted,
    "UNDECIDED": lambda partition: partition.records_undecided,
    "MISSING": lambda partition: partition.records_missing,
}
_OF_A_CUT = ("CUT AWAY", "FILTERED")

_ANEW = "; to begin anew, delete these topics first"

_STYLES = {
    Verdict.COMPLETE: "bold green",
    Verdict.DECLARED_GAPS: "bold yellow",
    Verdict.INCOMPLETE: "bold red",
    Verdict.DAMAGED: "bold red",
}


def print_plan(console: Console, plan: RestorePlan) -> None:
    """What `--dry-run` shows."""
    head = Text(f"plan: at most {plan.records:,} records (topics: {len(plan.topics)}, partitions: {plan.partitions})\n")
    head.append(
        f"from {plan.archive} ({plan.backup_id})\n"
        f"into {', '.join(plan.target)}\n"
        f"to download: {format_bytes(plan.download_bytes)}, {format_bytes(plan.raw_bytes)} unpacked{_skipped(plan)}\n"
        "archive pinned at: " + (", ".join(_pinned(one) for one in plan.pinned) or "no segments")
    )
    table = plain_table(console)
    for name in ("TOPIC", "TARGET"):
        table.add_column(name, overflow="fold")
    if plan.append:
        head.append("\nappended wherever a topic holds records; such a topic keeps its own configuration")
    if plan.keeping_offsets:
        head.append(_filling(plan))
    for name in ("PARTITIONS", "OFFSETS", "RECORDS ≤", "DOWNLOAD", "LARGEST BATCH"):
        table.add_column(name, justify="right")
    for topic in plan.topics:
        table.add_row(
            topic.source,
            topic.target,
            str(len(topic.partitions)),
            f"{sum(partition.offsets_wanted for partition in topic.partitions):,}",
            f"{sum(partition.records for partition in topic.partitions):,}",
            format_bytes(sum(partition.download_bytes for partition in topic.partitions)),
            format_bytes(topic.largest_batch_bytes),
        )
    notes = [f"{name} is not restored: it did not exist at that instant" for name in plan.not_there]
    notes += [line for topic in plan.topics for line in _plan_notes(topic)]
    notes += [f"damaged: {one.key}: {one.reason}" for one in plan.damaged]
    sections: list[RenderableType] = [head, table]
    if wanted := list(cut_in_words(plan.cut)):
        sections.insert(1, _listed(console, "what comes back:", wanted))
    if notes:
        sections.append(_listed(console, "to know:", notes))
    recorded = [f"{topic.target}: {_settings(topic.configs)}" for topic in plan.topics if topic.configs]
    if recorded:
        sections.append(
            _listed(
                console, f"recorded configuration, applied last (retention_after: {plan.retention_after}):", recorded
            )
        )
    print_sections(console, sections)


def _pinned(one: PinnedEpoch) -> str:
    ranges = ", ".join(f"{first} to {end - 1}" if end - first > 1 else f"{first}" for first, end in one.sequences)
    return f"{one.writer} epoch {one.writer_epoch}, segments {ranges}"


def _skipped(plan: RestorePlan) -> str:
    skipped = sum(partition.runs_skipped for topic in plan.topics for partition in topic.partitions)
    read = sum(partition.runs for topic in plan.topics for partition in topic.partitions)
    return f" ({skipped:,} of {skipped + read:,} runs hold nothing that is wanted)" if skipped else ""


def _filling(plan: RestorePlan) -> str:
    keeping = plan.keeping_offsets
    kept = [one.preserved for topic in keeping for one in topic.partitions if one.preserved is not None]
    whose = "" if len(keeping) == len(plan.topics) else f" of {format_few([topic.target for topic in keeping])}"
    return (
        f"\noffsets{whose} are kept: at least {sum(one.to_fill for one in kept):,} without a record to fill, and"
        f" {sum(one.log_start for one in kept):,} before the log starts, about {format_duration(plan.fill_seconds)}"
        " (more where the target denies transaction markers)"
    )


def _plan_notes(topic: TopicPlan) -> Iterator[str]:
    yield from choice_in_words(topic)
    yield from instant_in_words(topic)
    if topic.deleted_at_source_ms is not None:
        yield f"{topic.source} was deleted at the source, seen {iso(topic.deleted_at_source_ms)}"
    if topic.earlier_incarnations:
        yield f"{topic.source}: {len(topic.earlier_incarnations)} earlier incarnations in the archive are not restored"
    for partition in topic.partitions:
        where = f"{topic.source}-{partition.partition}"
        for lacking in partition.not_in_archive:
            which = f"offsets {lacking.offsets} are not in the archive: " if lacking.offsets else ""
            yield f"{where}: {which}{lacking.meaning}"
        for row in partition.open_transactions:
            does = "restored" if row.restored else "not restored"
            yield (
                f"{where}: transaction of producer {row.producer_id} from offset {row.first_offset} on: {row.outcome},"
                f" {does}"
            )
        if partition.preserved is not None and partition.preserved.refused:
            yield f"{where}: cannot keep its offsets: {partition.preserved.refused}"
        if partition.log_append_time:
            yield f"{where}: LogAppendTime records keep their timestamps, as CreateTime"
        if partition.legacy:
            yield f"{where}: message formats 0 and 1 become format 2"


def print_report(console: Console, report: RestoreReport) -> None:
    """Verdict first, then counts, what is missing, where records went, configuration."""
    head = Text()
    head.append(f"{report.verdict}\n", style=_STYLES[report.verdict])
    head.append(
        f"{report.records_restored:,} records, {format_bytes(report.bytes_restored)}"
        f" (topics: {len(report.topics)}, partitions: {report.partitions})\n"
        f"restored in {format_duration(report.restore_seconds)} ({format_bytes(report.bytes_per_second)}/s),"
        f" verified in {format_duration(report.verify_seconds)}, all in {format_duration(report.total_seconds)}\n"
        f"from {report.archive} ({report.backup_id}), begun {iso(report.began_ms)}"
        + (f"\nof these, earlier runs had restored {report.records_found:,} records" if report.records_found else "")
    )
    if report.filling is not None:
        head.append(f"\noffsets kept, {report.offsets_filled:,} without a record filled by {report.filling}")
    sections: list[RenderableType] = [head, _counts(console, report)]
    if wanted := list(cut_in_words(report.cut)):
        sections.insert(1, _listed(console, "what was asked for:", wanted))
    lost = [f"damaged: {one}" for one in report.damaged]
    lost += [line for topic in report.topics for partition in topic.partitions for line in _lost(topic, partition)]
    if lost:
        sections.append(_listed(console, "not restored, and why:", lost))
    differs = [f"{name} was not restored: it did not exist at that instant" for name in report.not_there]
    differs += [line for topic in report.topics for line in instant_in_words(topic)]
    differs += report.notes
    if created := [topic for topic in report.topics if topic.created]:
        differs += _replicas(created)
    differs += [line for topic in report.topics for line in what_came_of_it(topic)]
    differs += [
        f"{topic.target}: applied although {reason} (retention_after: recorded)"
        for topic in report.topics
        for reason in topic.config_deletes
    ]
    differs += [
        line for topic in report.topics for partition in topic.partitions for line in _differs(topic, partition)
    ]
    if differs:
        sections.append(_listed(console, "to know:", differs))
    moved = [line for topic in report.topics for partition in topic.partitions for line in _moved(topic, partition)]
    if moved:
        sections.append(_listed(console, "offsets, source → target:", moved))
    if report.acls is not None:
        sections.append(_listed(console, "ACLs:", list(acl_lines(report.acls.selection, report.acls))))
    held = [line for topic in report.topics for line in _configuration(topic)]
    if held:
        sections.append(_listed(console, "configuration not applied:", held))
    print_sections(console, sections)


def print_acls(console: Console, selection: AclSelection | None) -> None:
    """Behind a dry run's plan."""
    if selection is not None:
        print_sections(console, [_listed(console, "ACLs, set last:", list(acl_lines(selection)))], behind=True)


def acl_lines(selection: AclSelection, outcome: AclsOutcome | None = None) -> Iterator[str]:
    """What is going to be set, or was; the worst first where it was."""
    refused = outcome.refused if outcome is not None else ()
    yield from (f"refused: {in_words(one.acl)}: {one.reason}" for one in refused)
    if outcome is not None:
        yield f"{count_of(outcome.applied, 'ACL')} set, as they were at {iso(selection.known_ms)}"
    else:
        yield f"as they were at {iso(selection.known_ms)}:"
        yield from (f"  {in_words(acl)}" for acl in selection.apply)
    yield from (f"left out: {in_words(one.acl)}: {one.reason}" for one in selection.left)
    if selection.others:
        concern = "concerns" if selection.others == 1 else "concern"
        yield f"{count_of(selection.others, 'ACL')} of the archive {concern} nothing that is restored"


def _replicas(created: Sequence[TopicReport]) -> Iterator[str]:
    """The archive does not know how many a topic had: the target's brokers decided."""
    by_count: dict[int, list[str]] = {}
    for topic in created:
        if topic.replicas is not None:
            by_count.setdefault(topic.replicas, []).append(topic.target)
    for count, names in sorted(by_count.items()):
        few = format_few(names)
        yield f"created with {count_of(count, 'replica')}, the target's default.replication.factor: {few}"


def _counts(console: Console, report: RestoreReport) -> RenderableType:
    table = plain_table(console)
    left_out = _left_out(console, report)
    for name in ("TOPIC", "TARGET"):
        table.add_column(name, overflow="fold")
    for name in ("PARTS", "RECORDS", "SIZE", *left_out):
        table.add_column(name, justify="right")
    table.add_column("READ BACK")
    for topic in report.topics:
        table.add_row(
            topic.source,
            topic.target,
            str(len(topic.partitions)),
            f"{topic.records_restored:,}",
            format_bytes(topic.bytes_restored),
            *(f"{sum(map(count, topic.partitions)):,}" for count in left_out.values()),
            _read_back(topic),
        )
    return table


def _left_out(console: Console, report: RestoreReport) -> Mapping[str, Callable[[PartitionReport], int]]:
    """The columns of what is not in the target; on a narrow terminal names are not folded for the sake of zeros."""
    columns = {name: count for name, count in _LEFT_OUT.items() if is_cut(report) or name not in _OF_A_CUT}
    if not console.is_terminal or console.width >= _WIDE:
        return columns
    partitions = [partition for topic in report.topics for partition in topic.partitions]
    return {name: count for name, count in columns.items() if any(map(count, partitions))}


def _read_back(topic: TopicReport) -> str:
    verified = [partition.verified for partition in topic.partitions]
    if any(one is not None and one.problem for one in verified):
        return "DIFFERS"
    if all(one is None for one in verified):
        return "not done"
    return "identical" if all(one is not None for one in verified) else "partly"


def _lost(topic: TopicReport, partition: PartitionReport) -> Iterator[str]:
    where = f"{topic.source}-{partition.partition}"
    if partition.failure:
        yield f"{where}: stopped after {partition.records_restored:,} records: {partition.failure}"
    for missing in partition.missing:
        yield f"{where}: offsets {missing.offsets} ({missing.records} records): {missing.reason}"
    for lacking in partition.not_in_archive:
        which = f"offsets {lacking.offsets}: " if lacking.offsets else ""  # else nobody knows which
        yield f"{where}: {which}{lacking.meaning}"
    if partition.verified is not None and partition.verified.problem:
        yield f"{where}: read back, {topic.target}-{partition.partition} {partition.verified.problem}"
    for row in partition.transactions:
        if not row.restored:
            yield (
                f"{where}: undecided transaction, {row.records} records not restored (producer {row.producer_id},"
                f" offsets [{row.first_offset}, {row.next_offset}))"
            )


def _differs(topic: TopicReport, partition: PartitionReport) -> Iterator[str]:
    where = f"{topic.source}-{partition.partition}"
    if partition.records_restamped:
        yield f"{where}: timestamp type differs: {partition.records_restamped:,} LogAppendTime records are CreateTime"
    if partition.records_converted:
        yield f"{where}: {partition.records_converted:,} records were converted from message format 0 or 1"
    for row in partition.transactions:
        if row.restored:
            of = (
                "an undecided transaction"
                if row.outcome is Visibility.UNDECIDED
                else "a transaction of unknown outcome"
            )
            yield (
                f"{where}: {row.records} records of {of} were restored (producer"
                f" {row.producer_id}, offsets [{row.first_offset}, {row.next_offset}))"
            )


def _moved(topic: TopicReport, partition: PartitionReport) -> Iterator[str]:
    """Partitions whose offsets are not what they were."""
    if not partition.offset_map:
        return
    first = partition.offset_map[0]
    if partition.offsets_filled and first.source_offset == first.target_offset:
        return
    if partition.offset_map_runs > 1 or first.source_offset != first.target_offset:
        more = f", {partition.offset_map_runs} runs in all" if partition.offset_map_runs > 1 else ""
        yield f"{topic.target}-{partition.partition}: {first.source_offset} → {first.target_offset}{more}"


def _configuration(topic: TopicReport) -> Iterator[str]:
    if topic.config_held:
        yield f"{topic.target}: {_settings(topic.config_held)} held back: {'; '.join(topic.config_held_because)}"
    for key, why in topic.config_refused.items():
        yield f"{topic.target}: {key} refused by the target: {why}"
    if topic.config_command:
        yield f"  {topic.config_command}"


def _settings(configs: Mapping[str, str | None]) -> str:
    return ", ".join(f"{key}={'(default)' if value is None else value}" for key, value in configs.items())


def _listed(console: Console, title: str, lines: list[str]) -> RenderableType:
    shown = lines[:ROWS_ON_TERMINAL] if console.is_terminal else lines
    text = Text(title)
    for line in shown:
        text.append(f"\n  {line}")
    if len(shown) < len(lines):
        text.append(f"\n  … and {len(lines) - len(shown)} more; --format json has them all")
    return text


def interruption(progress: RestoreProgress, *, interrupted: bool) -> str:
    """In what state a restore that ended before its report leaves the target."""
    what = "interrupted" if interrupted else "the restore failed"
    if not progress.touched:
        return f"{what} while {progress.phase}: nothing was written to the target"
    topics = list(progress.touched)
    names = ", ".join(topics[:10]) + (f" and {len(topics) - 10} more" if len(topics) > 10 else "")
    if progress.phase is Phase.PREPARING:
        return (
            f"{what} while {progress.phase}: this run produced no record; topics may have been created, or"
            f" protected from retention and compaction: {names}; run the restore again"
        )
    # At least: what an earlier run left counts only once this one has come by it.
    # At the end some have their own configuration already, and which ones nobody told.
    configured = progress.phase in (Phase.CONFIGURING, Phase.DONE)
    protected = "" if configured else ", in topics without retention and compaction"
    return (
        f"{what} while {progress.phase}: at least {progress.acknowledged_records:,} records"
        f" ({format_bytes(progress.acknowledged_bytes)}) are in the target{protected}: {names}"
        "\nrun the same restore again to go on"
        + ("; those that held records before hold them still" if progress.appends else _ANEW)
    )

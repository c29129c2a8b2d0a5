"""What the demo found, as figures and a verdict on one screen."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from kbackupd.model.units import format_bytes
from kbackupd.testbed.demo_topics import PARTITIONS
from kbackupd.testbed.truth import Outcome, Truth


@dataclass(slots=True)
class Findings:
    """What the report is made of."""

    kills: int = 0
    objects: int = 0
    stored_bytes: int = 0
    worst_exposure_seconds: float = 0.0
    worst_running_seconds: float = 0.0
    recovery_seconds: list[float] = field(default_factory=list)
    validation_seconds: float = 0.0
    restore_seconds: float = 0.0
    rto_seconds: float = 0.0
    restored_records: int = 0
    differences: list[str] = field(default_factory=list)


def report(console: Console, truth: Truth, findings: Findings) -> bool:
    """Print the figures and the verdict; True if all held."""
    outcomes = truth.outcomes
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    aborted = outcomes[Outcome.ABORTED]
    rows = {
        "produced": f"{truth.record_count:,} records, {format_bytes(truth.content_bytes)} of keys and "
        f"values, {sum(PARTITIONS.values())} partitions of {len(PARTITIONS)} topics, 5 codecs",
        "transactions": f"{outcomes[Outcome.COMMITTED]} committed, {aborted} aborted",
        "archive": f"{findings.objects} objects, {format_bytes(findings.stored_bytes)}, every byte validated "
        f"in {findings.validation_seconds:.1f} s",
        "kill -9 under load": f"{findings.kills} times; ready again in "
        f"{', '.join(f'{seconds:.1f} s' for seconds in findings.recovery_seconds)}",
        "RPO, running": f"{findings.worst_running_seconds:.1f} s at worst",
        "RPO, kills included": f"{findings.worst_exposure_seconds:.1f} s at worst",
        "RTO": f"{findings.rto_seconds:.1f} s from the loss of the cluster to restored and compared "
        f"(restore itself {findings.restore_seconds:.1f} s)",
        "restored": f"{findings.restored_records:,} committed records, {len(findings.differences)} differences",
    }
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/bold]", text)
    console.print()
    console.print(table, highlight=False)
    console.print()
    if findings.differences:
        for difference in findings.differences[:20]:
            console.print(f"  {difference}", markup=False, highlight=False)
        console.print("[bold red]FAILED: what was restored is not what was produced.[/bold red]")
        return False
    console.print("[bold green]PASSED: every record, byte for byte, is what was produced.[/bold green]")
    return True

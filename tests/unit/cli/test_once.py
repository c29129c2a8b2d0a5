"""What `run --once` says: its options, its progress, its report."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from kbackupd.capture.once_progress import OncePhase, OnceProgress
from kbackupd.cli import once_progress
from kbackupd.cli import run as verb
from kbackupd.cli.main import main
from kbackupd.cli.once_text import print_report
from kbackupd.daemon.once import OnceErrand
from kbackupd.daemon.once_report import DeclaredGap, MissingPart, OnceReport, OnceVerdict, TopicCaptured, verdict_of
from kbackupd.model.clock import ManualClock
from kbackupd.model.events import GAP_MEANING, GapCause
from kbackupd.validate.report import Checked, Code, Finding, Severity, ValidationReport

CONFIGURATION = """
backup_id: main
source: {bootstrap_servers: ["localhost:1"]}
storage: {type: filesystem, filesystem: {path: /nowhere}}
"""
PAUSED = MissingPart(
    what="partition",
    name="orders/3",
    fate="paused",
    first_offset=10,
    next_offset=25,
    reason="paused by an operator",
    hint="kbackupd ctl resume, while kbackupd run is up; the next --once captures it",
)
GONE = DeclaredGap(
    name="orders/1",
    first_offset=5,
    next_offset=9,
    cause=GapCause.LOG_START_MOVED,
    meaning=GAP_MEANING[GapCause.LOG_START_MOVED],
)


def validation(*findings: Finding) -> ValidationReport:
    return ValidationReport(
        location="s3://bucket/main",
        backup_id="main",
        archive_id="a",
        cluster_id="c",
        deep=False,
        started_ms=0,
        duration_seconds=0.5,
        checked=Checked(segments=12),
        valid=not findings,
        errors=len(findings),
        informations=0,
        findings=findings,
    )


def report(
    verdict: OnceVerdict = OnceVerdict.COMPLETE,
    *,
    missing: tuple[MissingPart, ...] = (),
    gaps: tuple[DeclaredGap, ...] = (),
    found: ValidationReport | None = None,
    interrupted: bool = False,
    partitions: int = 8,
) -> OnceReport:
    return OnceReport(
        verdict=verdict,
        location="s3://bucket/main",
        backup_id="main",
        cluster_id="c",
        writer="main",
        writer_epoch=4,
        began_ms=1_767_225_600_000,
        complete_as_of_ms=1_767_225_601_500,
        interrupted=interrupted,
        timed_out=False,
        total_seconds=75.0,
        validate_seconds=0.5,
        partitions=partitions,
        partitions_complete=partitions - len(missing),
        records=12_345,
        bytes=5 << 20,
        segments=2,
        stored_bytes=1 << 20,
        snapshots_hidden=(),
        topics=(TopicCaptured(topic="orders", partitions=8, records=12_345, bytes=5 << 20),),
        missing=missing,
        gaps=gaps,
        validation=found,
    )


def printed(one: OnceReport, capsys: pytest.CaptureFixture[str]) -> str:
    print_report(Console(color_system=None, width=200), one)
    return capsys.readouterr().out


def test_the_worst_that_is_the_matter_is_the_verdict() -> None:
    damage = Finding(severity=Severity.ERROR, code=Code.OBJECT_MISSING, message="gone")
    assert verdict_of(validation(), [], [], cut_short=False) is OnceVerdict.COMPLETE
    assert verdict_of(validation(), [], [GONE], cut_short=False) is OnceVerdict.DECLARED_GAPS
    assert verdict_of(validation(), [PAUSED], [GONE], cut_short=False) is OnceVerdict.INCOMPLETE
    assert verdict_of(validation(), [], [], cut_short=True) is OnceVerdict.INCOMPLETE
    assert verdict_of(validation(damage), [PAUSED], [], cut_short=True) is OnceVerdict.NOT_VALID
    codes = {verdict: report(verdict).exit_code for verdict in OnceVerdict}
    assert list(codes.values()) == [0, 6, 6, 3]


def test_a_complete_run_says_as_of_when_and_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(report(found=validation()), capsys)
    assert text.startswith("COMPLETE  as of 2026-01-01T00:00:01.500Z\n")
    assert "partitions  8 of 8 complete" in text
    assert "12,345 records, 5.0 MiB; stored in 2 segments, 1.0 MiB" in text
    assert "valid (12 segments, no segment body read, 500ms)" in text
    assert "MISSING" not in text


def test_one_of_a_thing_is_not_many(capsys: pytest.CaptureFixture[str]) -> None:
    found = validation()
    text = printed(report(found=replace(found, checked=replace(found.checked, segments=1))), capsys)
    assert "valid (1 segment, no segment body read" in text


def test_what_is_missing_and_what_is_gone_is_listed_with_offsets_reason_and_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(report(OnceVerdict.INCOMPLETE, missing=(PAUSED,), gaps=(GONE,), found=validation()), capsys)
    assert text.startswith("INCOMPLETE  all but what is listed below, as of ")
    assert "orders/3 offsets [10, 25)  paused: paused by an operator" in text
    assert "→ kbackupd ctl resume" in text
    assert "orders/1 offsets [5, 9): the source deleted these records" in text


def test_an_archive_that_is_not_valid_shows_the_findings_and_claims_no_instant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage = Finding(severity=Severity.ERROR, code=Code.OBJECT_MISSING, message="was durable once", object="segments/x")
    text = printed(report(OnceVerdict.NOT_VALID, found=validation(damage)), capsys)
    assert text.splitlines()[0] == "NOT VALID"
    assert "segments/x  object.missing" in text


def test_an_interrupted_run_says_so_and_that_nothing_was_validated(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(report(OnceVerdict.INCOMPLETE, interrupted=True), capsys)
    assert text.startswith("INCOMPLETE, interrupted  in part as of")
    assert "validated   no: interrupted" in text


def test_a_backup_of_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no topic of the cluster is part of the backup" in printed(report(partitions=0), capsys)


def capturing() -> OnceProgress:
    progress = OnceProgress(began_at=100.0, partitions=3_000, partitions_done=1_204, offsets=1_000, offsets_done=250)
    progress.enter(OncePhase.NOTING, 110.0)
    progress.enter(OncePhase.CAPTURING, 111.0)
    progress.records, progress.bytes = 12_345_678, 30 << 20
    progress.held_up = {"retrying": 10, "paused": 2}
    return progress


def test_progress_shows_share_rate_and_eta_and_who_is_held_up() -> None:
    progress = capturing()
    assert once_progress.headline(progress, 120.0) == "capturing 25 %  20s  ETA 30s"
    assert once_progress.details(progress, 120.0) == (
        "1,204 of 3,000 partitions, 12,345,678 records, 30.0 MiB, 3.0 MiB/s; 2 paused, 10 retrying"
    )


def test_progress_is_never_100_percent_before_all_is_durable_and_knows_no_eta_before_it_moved() -> None:
    progress = capturing()
    progress.offsets_done = 1_000
    assert "99 %" in once_progress.headline(progress, 120.0)
    progress.offsets_done = 0
    assert "ETA unknown" in once_progress.headline(progress, 120.0)


def test_progress_of_a_validation_that_reads_every_byte_says_how_much_is_read() -> None:
    progress = capturing()
    progress.enter(OncePhase.VALIDATING, 120.0)
    assert once_progress.headline(progress, 130.0) == "validating  30s"
    progress.bodies_bytes, progress.bodies_read_bytes = 8 << 20, 3 << 20
    assert once_progress.headline(progress, 130.0) == "validating: 3.0 MiB of 8.0 MiB  30s"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_picture_on_a_terminal_fits_its_width(columns: int) -> None:
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    clock = ManualClock(monotonic_seconds=120.0)
    with console.capture() as capture:
        console.print(once_progress._Picture(capturing(), clock))
    lines = capture.get().splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= columns


def test_log_lines_appear_above_the_picture_and_none_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with once_progress.log_above(capturing(), ManualClock(monotonic_seconds=120.0)) as fd:
        os.write(fd, b"first\nsec")
        os.write(fd, b"ond\nlast")
    shown = capfd.readouterr().err
    assert [line.strip() for line in shown.splitlines() if line.strip() in ("first", "second", "last")] == [
        "first",
        "second",
        "last",
    ]


def run_verb(tmp_path: Path, *options: str) -> int:
    config = tmp_path / "kbackupd.yaml"
    config.write_text(CONFIGURATION)
    with pytest.raises(SystemExit) as leaving:
        main(["run", "--config", str(config), *options])
    code = leaving.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(
    "options",
    [
        ("--timeout", "5m"),
        ("--deep",),
        ("--once", "--timeout", "5"),
        ("--once", "--patience", "x"),
        ("--once", "--patience", ""),
    ],
)
def test_options_of_once_without_it_and_durations_without_a_unit_are_refused(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(verb, "run_daemon", never)
    assert run_verb(tmp_path, *options) == 2


@pytest.mark.usefixtures("restored_logging")
def test_the_report_is_on_stdout_the_log_on_stderr_and_the_exit_code_is_the_report_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def done(*_: object, errand: OnceErrand, **__: object) -> None:
        structlog.get_logger().info("something.happened")
        errand.report = report(OnceVerdict.INCOMPLETE, missing=(PAUSED,), found=validation())

    monkeypatch.setattr(verb, "run_daemon", done)
    assert run_verb(tmp_path, "--once", "--format", "json") == 6
    out, err = capfd.readouterr()
    assert json.loads(out)["missing"][0]["name"] == "orders/3"
    assert "something.happened" in err


@pytest.mark.usefixtures("restored_logging")
def test_stopped_before_the_archive_was_taken_over_it_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def stopped(*_: object, **__: object) -> None:
        return

    monkeypatch.setattr(verb, "run_daemon", stopped)
    assert run_verb(tmp_path, "--once") == 6
    assert "nothing was captured" in capfd.readouterr().err

"""`kbackupd ctl` against a real socket: text for people, JSON for programs, and the exit code."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from kbackupd.cli.ctl_text import print_flush, print_pause, print_reload
from kbackupd.cli.main import main
from kbackupd.cli.status_text import ROWS_ON_TERMINAL, print_status
from kbackupd.model.errors import ConfigurationError, StoreUnavailableError
from kbackupd.model.status import (
    DeferredSetting,
    FlushedPartition,
    FlushReport,
    LeftOutPartition,
    PartitionSample,
    PartitionState,
    PauseReport,
    Problem,
    ReloadReport,
    SettingChange,
)
from kbackupd.server.control import ControlServer
from tests.unit.server.fake_daemon import FakeDaemon, sample


@dataclass
class Served:
    """A fake daemon behind a real socket, on a loop of its own: the verbs bring their own loop."""

    daemon: FakeDaemon
    path: Path

    def ctl(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as leaving:
            main(["ctl", "--socket", str(self.path), *arguments])
        assert isinstance(leaving.value.code, int)
        return leaving.value.code


@pytest.fixture
def served() -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with tempfile.TemporaryDirectory(prefix="kb") as directory:
        daemon = FakeDaemon()
        server = ControlServer(daemon, Path(directory) / "control.sock")
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        yield Served(daemon, Path(directory) / "control.sock")
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


def rows(text: str, first: str) -> list[list[str]]:
    """Rows of the table whose header starts with `first`, columns parted at two blanks."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(first))
    table: list[list[str]] = []
    for line in lines[start + 1 :]:
        if not line:
            break
        table.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return table


def test_status_shows_exposure_against_target_lag_and_states(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.ctl("status") == 0
    text = capsys.readouterr().out
    assert text.startswith("HEALTHY  kbackupd 0.1.0")
    assert rows(text, "TIER") == [
        ["critical", "8.5s", "30s", "28%", "10", "–", "1", "2"],
        ["standard", "1s (1 unknown)", "5m00s", "0%", "1", "–", "1", "2"],
        ["standard: 1 starting"],
    ]
    assert rows(text, "TOPIC") == [
        ["orders", "critical", "8.5s", "10", "–", "2 following"],
        ["audit", "standard", "≥1s", "1", "–", "1 starting, 1 following"],
    ]


def test_piped_status_has_no_control_characters_and_no_trailing_blanks(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.ctl("status")
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_status_names_each_problem_with_its_remedy(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.daemon.problems = (
        Problem(
            subject="orders/1",
            message="no leader",
            hint="check broker 2",
            since_ms=served.daemon.clock.now_ms() - 90_000,
            count=41,
        ),
    )
    assert served.ctl("status") == 0
    text = capsys.readouterr().out
    assert text.startswith("UNHEALTHY")
    assert text.endswith("1 PROBLEM\norders/1  for 1m30s, 41 times\n  no leader\n  → check broker 2\n")


def test_status_shows_notes_apart_from_problems(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.daemon.notes = (
        Problem(
            subject="orders/1",
            message="offsets [5, 10) fail their CRC at the source",
            hint="look at the broker's disk",
            since_ms=served.daemon.clock.now_ms() - 90_000,
            count=1,
        ),
    )
    assert served.ctl("status") == 0
    text = capsys.readouterr().out
    assert text.startswith("HEALTHY")
    assert text.endswith(
        "1 NOTE\norders/1  for 1m30s\n  offsets [5, 10) fail their CRC at the source\n  → look at the broker's disk\n"
    )


def test_status_json_is_the_report(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.ctl("status", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["backup_id"] == "main"
    assert report["last_checkpoint_ms"] is None
    assert [topic["states"] for topic in report["topics"]] == [{"starting": 1, "following": 1}, {"following": 2}]


def test_status_of_some_topics_shows_only_those(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.ctl("status", "--topic", "ord*", "--format", "json") == 0
    assert [topic["name"] for topic in json.loads(capsys.readouterr().out)["topics"]] == ["orders"]
    assert served.ctl("status", "--topic", "nothing*") == 2


def test_flush_says_up_to_which_offsets_all_is_durable(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.ctl("flush", "--topic", "orders") == 0
    text = capsys.readouterr().out
    assert text.startswith("stored in 250ms: 2 partitions of 1 topic durable, in 1 segment\n  segments/main/3/")
    assert rows(text, "TOPIC") == [["orders", "0", "100"], ["orders", "1", "90"]]
    assert served.ctl("flush", "--topic", "orders") == 0
    assert capsys.readouterr().out.startswith("nothing new: all that was captured of 2 partitions of 1 topic")


def test_a_flush_that_did_without_partitions_lists_them_and_is_incomplete(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hazards 1 and 30: exit code 0 while a partition lagged."""
    served.daemon.left_out = (
        LeftOutPartition(
            topic="orders",
            topic_id="i",
            partition=1,
            durable_offset=80,
            state=PartitionState.QUARANTINED,
            reason="the partition has no leader",
        ),
    )
    assert served.ctl("flush") == 6
    said = capsys.readouterr()
    assert rows(said.out, "LEFT OUT") == [["orders", "1", "80", "quarantined", "the partition has no leader"]]
    assert "did without 1 of 4 partitions, orders/1 first: the partition has no leader" in said.err
    assert served.ctl("flush", "--format", "json") == 6
    report = json.loads(capsys.readouterr().out)
    assert [(p["partition"], p["state"], p["reason"]) for p in report["left_out"]] == [
        (1, "quarantined", "the partition has no leader")
    ]


def test_a_flush_without_paused_partitions_names_them_in_order_and_points_at_resume(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.daemon.left_out = tuple(
        LeftOutPartition(
            topic=topic,
            topic_id="i",
            partition=0,
            durable_offset=80,
            state=PartitionState.PAUSED,
            reason="paused by an operator",
        )
        for topic in ("payments", "orders")
    )
    assert served.ctl("flush") == 6
    said = capsys.readouterr()
    assert [row[0] for row in rows(said.out, "LEFT OUT")] == ["orders", "payments"]
    assert "orders/0 first" in said.err
    assert "kbackupd ctl resume" in said.err


def test_flush_json_is_the_report(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.ctl("flush", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["outcome"], len(report["partitions"]), len(report["segments"])) == ("stored", 4, 1)


def test_checkpoint_says_its_key_and_what_was_stored_before_it(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.ctl("checkpoint") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stored in 250ms: a checkpoint of 4 partitions, 1 new segment before it"
    assert lines[1].startswith("  segments/main/3/")
    assert lines[2] == "  checkpoints/main/0000000003/0000000000000001.kbc"
    assert served.ctl("checkpoint") == 0
    assert capsys.readouterr().out.startswith("nothing new: the newest checkpoint says all (250ms)\n  checkpoints/")
    assert served.ctl("checkpoint", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["outcome"], report["key"]) == ("nothing new", "checkpoints/main/0000000003/0000000000000001.kbc")


def test_a_checkpoint_that_the_store_does_not_take_is_exit_code_four(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.daemon.failure = StoreUnavailableError("s3://bucket: connection refused", hint="is the store up?")
    assert served.ctl("checkpoint") == 4
    assert capsys.readouterr().err == "error: s3://bucket: connection refused\nhint: is the store up?\n"


def test_reload_says_what_is_in_force_now_and_what_needs_a_restart(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.ctl("reload") == 0
    text = capsys.readouterr().out
    assert text.startswith("1 applied, 1 needs a restart, 2 unchanged\n")
    assert rows(text, "APPLIED") == [["backup.flush_interval", "10s", "5s"]]
    assert rows(text, "NEEDS A RESTART") == [["backup_id", "main", "other", "another archive"]]
    assert served.ctl("reload", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["applied"] == [{"key": "backup.flush_interval", "before": "10s", "after": "5s"}]
    assert report["unchanged"] == ["writer", "tiers"]
    served.daemon.reloaded = replace(served.daemon.reloaded, applied=(), needs_restart=())
    assert served.ctl("reload") == 0
    assert capsys.readouterr().out == "nothing changed: all 2 settings are as they were\n"


def test_a_reloads_keys_are_whole_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    key = "observability.per_partition_metrics"
    report = ReloadReport(
        applied=(SettingChange(key=key, before="x" * 90, after="y" * 90),),
        needs_restart=(DeferredSetting(key=key, running="x" * 90, wanted="y" * 90, reason="because " * 20),),
        unchanged=(),
    )
    print_reload(terminal(80), report)
    text = capsys.readouterr().out
    assert text.count(key) == 2
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_reload_of_a_wrong_configuration_is_exit_code_two(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.daemon.failure = ConfigurationError("no such key", hint="did you mean x?", where="kbackupd.yaml:4: y")
    assert served.ctl("reload") == 2
    assert capsys.readouterr().err == "error: kbackupd.yaml:4: y: no such key\nhint: did you mean x?\n"


def test_a_pause_without_topics_pauses_nothing_and_asks_which(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out it once meant all: a tired operator stopped the whole backup."""
    assert served.ctl("pause") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: pause needs to be told which topics: nothing was paused\nhint: --topic GLOB")
    assert PartitionState.PAUSED not in {p.state for p in served.daemon.partitions}
    assert served.ctl("pause", "--topic", "*") == 0
    assert {p.state for p in served.daemon.partitions} == {PartitionState.PAUSED}
    assert served.ctl("resume") == 0
    assert PartitionState.PAUSED not in {p.state for p in served.daemon.partitions}


@pytest.mark.parametrize(
    ("partitions", "ready", "word"),
    [
        ((sample(),), False, "STARTING"),
        ((), True, "NO TOPICS"),
        ((sample("__consumer_offsets", tier="system"),), True, "NO TOPICS"),
        ((sample(state=PartitionState.CLOSED),), True, "NO TOPICS"),
        ((sample(state=PartitionState.PAUSED), sample("audit", state=PartitionState.PAUSED)), True, "PAUSED"),
        ((sample(exposure=None, lag=None), sample("audit", exposure=None, lag=None)), True, "UNKNOWN"),
        ((sample(state=PartitionState.PAUSED), sample("audit")), True, "HEALTHY, 1 partition paused"),
        ((sample(exposure=None, lag=None), sample("audit")), True, "HEALTHY"),
    ],
)
def test_only_what_is_known_and_backed_up_is_called_healthy(
    partitions: tuple[PartitionSample, ...], ready: bool, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hazard 44."""
    daemon = FakeDaemon(partitions)
    daemon.ready = ready
    print_status(terminal(140), daemon.status())
    assert capsys.readouterr().out.startswith(f"{word}  kbackupd")


def test_the_verdict_is_on_all_topics_also_where_few_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(
        terminal(140), FakeDaemon((sample(state=PartitionState.PAUSED), sample("audit"))).status(), topic="ord*"
    )
    text = capsys.readouterr().out
    assert text.startswith("HEALTHY, 1 partition paused  kbackupd")
    assert "audit" not in text


def test_pause_and_resume_say_what_they_did(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.ctl("pause", "--topic", "ord*") == 0
    assert capsys.readouterr().out == (
        "paused 1 topic (2 partitions)\n  orders\nit survives a restart; kbackupd ctl resume undoes it\n"
    )
    assert {p.state for p in served.daemon.partitions if p.topic == "orders"} == {PartitionState.PAUSED}
    assert served.ctl("resume", "--topic", "ord*", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "topics": ["orders"],
        "partitions": 2,
        "paused": False,
        "durable": True,
    }


def test_a_glob_that_matches_nothing_is_exit_code_two(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.ctl("pause", "--topic", "paymnets*") == 2
    assert capsys.readouterr().err == (
        "error: no topic matches 'paymnets*'\nhint: kbackupd ctl status lists the topics\n"
    )


def test_no_daemon_is_exit_code_four(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["ctl", "--socket", "/nonexistent/control.sock", "status"])
    assert leaving.value.code == 4
    assert capsys.readouterr().err.startswith("error: there is no socket /nonexistent/control.sock\nhint: ")


def terminal(columns: int) -> Console:
    return Console(force_terminal=True, width=columns, color_system=None, highlight=False, markup=False)


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_topic_name_is_cut(
    columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "billing." + "x" * 120
    daemon = FakeDaemon(
        (
            sample(name, 0, exposure=99_999.0, lag=123_456_789, loss=3_000.0, state=PartitionState.QUARANTINED),
            sample("orders", 0),
        )
    )
    print_status(terminal(columns), daemon.status())
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= columns
    assert text.count("x") >= 120
    assert "quarantined" in text


def test_the_worst_topics_come_first_deleted_ones_last_and_a_terminal_shows_no_more_than_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon = FakeDaemon(
        (
            *(sample(f"fine-{n:03}", exposure=float(n % 7)) for n in range(50)),
            sample("gone", state=PartitionState.CLOSED),
            sample("late", exposure=31.0),
            sample("blind", exposure=None, lag=None),
            sample("broken", exposure=1.0, state=PartitionState.QUARANTINED),
        )
    )
    print_status(terminal(100), daemon.status())
    on_terminal = capsys.readouterr().out
    names = [row[0] for row in rows(on_terminal, "TOPIC")[1:]]
    assert names[:3] == ["broken", "blind", "late"]
    assert len(names) == ROWS_ON_TERMINAL + 1
    assert names[-1].startswith(f"… and {54 - ROWS_ON_TERMINAL} topics less urgent")
    print_status(Console(width=1000, markup=False), daemon.status())
    piped = rows(capsys.readouterr().out, "TOPIC")
    assert len(piped) == 54
    assert piped[-1][0] == "gone (deleted, id-of-gone)"


def test_a_missed_target_is_said_in_words_and_signs_not_only_in_colour(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(terminal(100), FakeDaemon((sample(exposure=31.0),)).status())
    text = capsys.readouterr().out
    assert rows(text, "TIER")[1][1] == "31s MISSED"
    assert rows(text, "TOPIC")[1][2] == "! 31s"


def test_an_unknown_exposure_is_a_question_mark_never_a_zero(capsys: pytest.CaptureFixture[str]) -> None:
    daemon = FakeDaemon((sample(exposure=None, lag=None, state=PartitionState.STARTING),))
    print_status(terminal(100), daemon.status())
    text = capsys.readouterr().out
    assert rows(text, "TIER")[1][1:5] == ["? (1 unknown)", "30s", "–", "?"]
    assert rows(text, "TOPIC")[1][2:4] == ["?", "?"]


def test_markup_in_a_topic_or_message_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    daemon = FakeDaemon((sample("orders", tier="[tier]"),))
    daemon.problems = (Problem(subject="[red]s3[/]", message="got [bold]", hint="see [link]", since_ms=0, count=1),)
    print_status(terminal(100), daemon.status())
    text = capsys.readouterr().out
    assert "[tier]" in text
    assert "[red]s3[/]" in text
    assert "got [bold]" in text
    assert "see [link]" in text


def test_a_pause_that_a_restart_would_forget_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_pause(terminal(100), PauseReport(topics=("a",), partitions=1, paused=True, durable=False))
    assert "a restart before its upload lands would forget it" in capsys.readouterr().out


def test_a_flush_of_thousands_of_partitions_is_cut_on_a_terminal_with_the_way_to_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    partitions = tuple(
        FlushedPartition(topic="t", topic_id="i", partition=n, durable_offset=2**40 + n) for n in range(5_000)
    )
    report = FlushReport(topics="*", partitions=partitions, segments=("s",), outcome="stored", seconds=3.0)
    print_flush(terminal(100), report)
    text = capsys.readouterr().out
    assert "1,099,511,627,776" in text
    assert f"… and {5_000 - ROWS_ON_TERMINAL:,} partitions more: --format json has all" in text

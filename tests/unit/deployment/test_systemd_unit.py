"""The unit file fits the daemon: its defaults, its exit codes, its paths. systemd itself is not asked."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from kbackupd.cli.ctl import DEFAULT_SOCKET
from kbackupd.daemon.systemd import BEAT_SECONDS
from kbackupd.model import errors
from kbackupd.model.settings import DaemonSettings
from kbackupd.settings.load import load_daemon_settings
from kbackupd.testbed.expressions import REPOSITORY

UNIT = REPOSITORY / "systemd" / "kbackupd.service"
MIB = 1 << 20


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Key → its values in order; sections do not matter here."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found[match[1]].append(match[2])
    return found


@pytest.fixture(scope="module")
def defaults() -> DaemonSettings:
    return load_daemon_settings(REPOSITORY / "config" / "kbackupd.yaml", {})


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_systemd_waits_longer_than_the_drain_may_take(unit: dict[str, list[str]], defaults: DaemonSettings) -> None:
    assert seconds(unit["TimeoutStopSec"][0]) >= defaults.backup.shutdown_timeout_seconds + 10


def test_the_watchdog_gives_time_for_several_beats(unit: dict[str, list[str]]) -> None:
    assert unit["Type"] == ["notify"]
    assert seconds(unit["WatchdogSec"][0]) >= 3 * BEAT_SECONDS


def test_memory_max_leaves_room_above_the_memory_limit(unit: dict[str, list[str]], defaults: DaemonSettings) -> None:
    (limit,) = unit["MemoryMax"]
    assert limit.endswith("M")
    assert int(limit[:-1]) * MIB >= defaults.backup.memory_limit_bytes + 256 * MIB


def test_a_roll_up_has_room_beside_the_daemon_and_gives_way_to_it(
    unit: dict[str, list[str]], defaults: DaemonSettings
) -> None:
    """Some 210 MiB; and systemd's default is to stop a service of which the kernel has killed any process."""
    assert defaults.backup.rollup_interval_seconds > 0
    assert int(unit["MemoryMax"][0][:-1]) * MIB >= defaults.backup.memory_limit_bytes + 512 * MIB
    assert unit["OOMPolicy"] == ["continue"]
    assert unit["SystemCallFilter"][-1] == "setpriority"


def test_a_restart_is_tried_exactly_where_it_can_help(unit: dict[str, list[str]]) -> None:
    """Fenced daemons that restart fence each other for ever; a store that is away comes back."""
    assert unit["Restart"] == ["on-failure"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    useless = {
        error.exit_code
        for error in (errors.UsageError, errors.ArchiveInvalidError, errors.RefusedError, errors.FencedError)
    }
    assert {int(code) for code in unit["RestartPreventExitStatus"][0].split()} == useless
    helped = (errors.KbackupError, errors.UnreachableError, errors.DeniedError, errors.IncompleteError)
    assert not useless & {error.exit_code for error in helped}


def test_the_directories_of_the_defaults_are_made(unit: dict[str, list[str]], defaults: DaemonSettings) -> None:
    assert defaults.control.socket == Path("/run") / unit["RuntimeDirectory"][0] / "control.sock"
    assert unit["StateDirectory"] == ["kbackupd"]


def test_a_reload_is_asked_of_the_daemon_and_waited_for(unit: dict[str, list[str]], defaults: DaemonSettings) -> None:
    """An asynchronous ExecReload lets `systemctl reload` succeed over a configuration that was refused."""
    program = unit["ExecStart"][0].split()[0]
    assert unit["ExecReload"] == [f"{program} ctl reload"]
    assert defaults.control.socket == DEFAULT_SOCKET, "ctl finds the daemon without --socket"


def test_it_cannot_become_more_than_it_is(unit: dict[str, list[str]]) -> None:
    for key, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "CapabilityBoundingSet": "",
        "DynamicUser": "yes",
        "UMask": "0077",
    }.items():
        assert unit[key] == [value], key
    # The boot time in /proc/stat is what kbackupd_process_start_time_seconds counts from; without it, it is 1970.
    assert "ProcSubset" not in unit


def test_the_timer_rolls_up_as_the_daemons_user_and_last_of_all(unit: dict[str, list[str]]) -> None:
    text = (REPOSITORY / "systemd" / "kbackupd-rollup.service").read_text(encoding="utf-8")
    told = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert told["ExecStart"] == unit["ExecStart"][0].replace(" run ", " rollup ")
    assert [told[key] for key in ("User", "DynamicUser", "StateDirectory", "EnvironmentFile")] == [
        unit[key][0] for key in ("User", "DynamicUser", "StateDirectory", "EnvironmentFile")
    ]
    assert int(told["Nice"]) > 0
    assert (REPOSITORY / "systemd" / "kbackupd-rollup.timer").is_file()

"""A port of the testbed is somebody's from when it is chosen, not only while somebody listens on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kbackupd.testbed import ports

TAKE_ALL = """
import sys
from kbackupd.testbed import ports

ports._LOWEST = int(sys.argv[1])
ports._ephemeral_start = lambda: int(sys.argv[2])
try:
    while True:
        print(*ports.free_ports(1), flush=True)
except OSError as error:
    print(error, flush=True)
sys.stdin.read()
"""
"""Its range is so small that each port in it is drawn."""


class Taking:
    """A process that has all ports of a range it can get, until it is let go."""

    def __init__(self, lowest: int, tmp_path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_ALL, str(lowest), str(lowest + 30)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        )
        assert self._process.stdout is not None
        self.ports: list[int] = []
        for line in self._process.stdout:
            if "no 1 free ports" in line:
                break
            self.ports.append(int(line))

    def end(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def test_a_port_is_given_once_to_all_processes_and_again_when_its_process_is_gone(tmp_path: Path) -> None:
    """The processes share reservations of their own, lest other tests' servers count."""
    (lowest,) = ports.free_ports(1)
    first = Taking(lowest, tmp_path)
    second = Taking(lowest, tmp_path)
    first.end()
    third = Taking(lowest, tmp_path)

    assert len(set(first.ports)) == len(first.ports) > 0
    assert second.ports == []
    assert set(third.ports) & set(first.ports)
    second.end()
    third.end()


def test_no_process_is_given_a_port_that_this_one_has_and_nobody_listens_on() -> None:
    (mine,) = ports.free_ports(1)
    asked = subprocess.run(
        [sys.executable, "-c", f"from kbackupd.testbed import ports; print(ports._reserved({mine}))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert asked.stdout == "False\n"

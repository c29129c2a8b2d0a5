"""A port of the testbed is somebody's from when it is chosen, not only while somebody listens on it."""

from __future__ import annotations

import subprocess
import sys

from kbackupd.testbed import ports

TAKE_ALL = """
import sys
from kbackupd.testbed import ports

ports._LOWEST, highest, ports._BLOCK = map(int, sys.argv[1:])
ports._ephemeral_start = lambda: highest
try:
    while True:
        print(*ports.free_ports(1), flush=True)
except OSError as error:
    print(error, flush=True)
sys.stdin.read()
"""


class Taking:
    """A process that has all ports of a range it can get, until it is let go."""

    def __init__(self, lowest: int, highest: int, block: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_ALL, str(lowest), str(highest), str(block)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.ports: list[int] = []
        for line in self._process.stdout:
            if line.startswith("no free ports"):
                break
            self.ports.append(int(line))

    def end(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def unused_block() -> list[int]:
    """Of a block that is ours: connections of a server that had it before may linger on some of its ports."""
    while True:
        block = ports._claimed()
        listening = [one for port in block if (one := ports._listening(port)) is not None]
        for one in listening:
            one.close()
        if len(listening) == len(block):
            return block


def test_a_port_is_given_once_to_all_processes_and_again_when_its_process_is_gone() -> None:
    mine = sorted(unused_block())  # nobody else has ports of these; here they are the others' whole range
    first = Taking(mine[0], mine[-1] + 1, 7)
    second = Taking(mine[0], mine[-1] + 1, 7)
    first.end()
    third = Taking(mine[0], mine[-1] + 1, 7)
    second.end()
    third.end()

    assert sorted(first.ports) == sorted(third.ports) == [one for one in mine if (one - mine[0]) % 7]
    assert second.ports == []


def test_no_process_is_given_a_port_that_this_one_has_and_nobody_listens_on() -> None:
    first = min(ports._claimed()) - 1
    other = Taking(first, first + ports._BLOCK, ports._BLOCK)
    other.end()
    assert other.ports == []

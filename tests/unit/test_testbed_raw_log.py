"""Reading a broker's own files while its log cleaner is at work."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.truth import raw_log


class Node:
    """A broker whose cleaner has merged the first two of three segments; it goes on while somebody waits."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.waited = 0
        (directory / f"{0:020}.log.swap").write_bytes(b"merged, ")
        (directory / f"{50:020}.log").write_bytes(b"left over, ")
        (directory / f"{100:020}.log").write_bytes(b"last")

    def log_dir(self, *_: object) -> Path:
        return self.directory

    def sleep(self, _: float) -> None:
        self.waited += 1
        if self.waited == 1:
            (self.directory / f"{50:020}.log").rename(self.directory / f"{50:020}.log.deleted")
        else:
            (self.directory / f"{0:020}.log.swap").rename(self.directory / f"{0:020}.log")


def test_a_log_is_read_when_what_the_cleaner_made_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    monkeypatch.setattr("kbackupd.testbed.truth.time", node)

    assert raw_log(cast(KafkaServer, node), "orders", 0) == b"merged, last"
    assert node.waited == 2


def test_a_partition_that_is_not_there_is_no_empty_log(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.directory = tmp_path / "another"

    with pytest.raises(FileNotFoundError):
        raw_log(cast(KafkaServer, node), "orders", 0)

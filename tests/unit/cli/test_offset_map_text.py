"""An offset map on a terminal, and in a pipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from kbackupd.cli.offset_map_text import print_lookup, print_map
from kbackupd.model.offset_map import OffsetMapDocument
from tests.unit.restore.test_mapped import document_of, partition_map

SOURCE, TARGET = "payments.orders.international.v2", "payments.orders.international.v2-restored"


def document() -> OffsetMapDocument:
    whole = partition_map([(0, 10), (4, 10)], first=9_876_543_210, trailing=1)
    half = replace(partition_map([(0, 3)]), complete=False, source_partition=1, target_partition=1)
    mapped = document_of(whole, half)
    return replace(mapped, topics=(replace(mapped.topics[0], source=SOURCE, target=TARGET),))


def test_on_a_terminal_neither_names_nor_offsets_are_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_map(Console(width=100, force_terminal=True, color_system=None), document())

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert f"{SOURCE} → {TARGET}" in lines
    assert any("[9876543210, 9876543235)" in line and line.endswith("complete") for line in lines)
    assert any(line.endswith("not to its end") for line in lines)


def test_hundreds_of_partitions_are_counted_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    one = partition_map([])
    mapped = document_of(*(replace(one, source_partition=n, target_partition=n) for n in range(250)))

    print_map(Console(width=100, force_terminal=True, color_system=None), mapped)

    assert "… and 50 partitions more" in capsys.readouterr().out


def test_in_a_pipe_every_partition_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_map(Console(width=1000, color_system=None), document())

    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(SOURCE)]
    assert [row[:3] for row in rows] == [[SOURCE, TARGET, "0"], [SOURCE, TARGET, "1"]]


def test_a_lookup_says_what_a_position_of_a_half_restored_partition_rests_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = document().topics[0]
    half = topic.partitions[1]

    print_lookup(Console(width=100, color_system=None), topic, half, [half.mapped(n) for n in (1, 7)])

    out = capsys.readouterr().out
    assert "not restored to its end: only offsets below 3" in out
    assert [line.split()[:3] for line in out.splitlines()[-2:]] == [["1", "1", "exact"], ["7", "3", "end"]]

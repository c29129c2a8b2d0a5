"""Which branch tells which offsets of a partition, and from where on a run is a tail that its log has lost.

Pure. Branches are told by `truncated` events; a cut that no daemon could see shows in leader epochs alone. Where two
captures contradict each other, the log that went on counts (invariant I8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kbackupd.model.events import Truncated
from kbackupd.model.segment import Run

ROOT_BRANCH = 0

MAX_OFFSET = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchSpan:
    """A stretch of the chosen history and the branch that tells it; the root's begins at 0, the newest's is open."""

    branch: int
    first_offset: int
    next_offset: int


def root_of(branch: int, origins: dict[int, Truncated]) -> int:
    """Where the known events lead back to from `branch`: to ROOT_BRANCH, or its beginning is not known."""
    while branch in origins and origins[branch].parent < branch:
        branch = origins[branch].parent
    return branch


def lineage_of(branch: int, origins: dict[int, Truncated]) -> tuple[BranchSpan, ...]:
    """From the newest branch down: each tells what its child does not, and nothing below its own beginning."""
    spans: list[BranchSpan] = []
    end = MAX_OFFSET
    while True:
        origin = origins.get(branch)
        first = origin.offset if origin is not None and origin.parent < branch else 0
        if first < end:
            spans.append(BranchSpan(branch=branch, first_offset=first, next_offset=end))
        end = min(end, first)
        if origin is None or origin.parent >= branch:
            return tuple(reversed(spans))
        branch = origin.parent


def valid_below_of(runs: Iterable[Run]) -> Callable[[Run], int]:
    """Up to which offset a run tells its branch's history, by leader epochs, which never fall along a log.

    A life is killed when a later segment has landed and an earlier one has not; the log is cut between the two while
    nobody looks. The next life starts before both, meets no cut, and captures what grew instead on the same branch. Of
    the two captures the one of the older leader epoch is a tail that the log has lost.

    A run is judged by its last epoch. What is older in it was read from one log together with that, and where in
    between an epoch begins, a run does not say for certain: compaction may have taken its first batches.
    """
    starts: dict[int, dict[int, int]] = {}
    for run in runs:
        table = starts.setdefault(run.branch, {})
        for epoch, offset in run.leader_epochs:
            table[epoch] = min(table.get(epoch, MAX_OFFSET), offset)
    newer: dict[int, dict[int, int]] = {}
    for branch, table in starts.items():
        least = MAX_OFFSET
        for epoch in sorted(table, reverse=True):
            newer.setdefault(branch, {})[epoch] = least
            least = min(least, table[epoch])

    def below(run: Run) -> int:
        replaced = newer[run.branch][run.leader_epochs[-1][0]] if run.leader_epochs else MAX_OFFSET
        return replaced if replaced < run.next_offset else MAX_OFFSET

    return below

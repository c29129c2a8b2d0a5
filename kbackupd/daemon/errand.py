"""What a life of the daemon is for, where that is not to go on for ever."""

from __future__ import annotations

from typing import Protocol

from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.snapshots import Snapshots
from kbackupd.capture.source import Source
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore


class Errand(Protocol):
    """One life's; run by the task that took the archive over."""

    async def begin(self, store: ObjectStore) -> None:
        """Before the archive is taken over: raise what speaks against it. `store` is scoped to the archive."""

    async def run(self, pipeline: Pipeline, snapshots: Snapshots, *, source: Source, problems: Problems) -> None:
        """Run `pipeline` and have it drain when all is done. On return what it fetched is durable and checkpointed."""

    def stop(self) -> None:
        """End soon with what there is: the pipeline is being told to drain. Idempotent, at any moment."""

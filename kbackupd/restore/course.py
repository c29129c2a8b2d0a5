"""The course of one restore from begun to done, over as many runs as it takes.

Owns when what is written down: that it is begun before the target is touched, under which producer and from which
offsets on before a record is produced, and that it is done when nothing is left to do. On the way in it tells which
restore, if any, is gone on with.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kbackupd import __version__
from kbackupd.archive.pins import Pins
from kbackupd.format.keys import restore_key
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.model.clock import Clock, iso
from kbackupd.model.errors import RefusedError
from kbackupd.model.restores import (
    BegunTopic,
    FillingTopic,
    RestoreBegun,
    RestoreDone,
    RestoreReady,
    RestoreWithdrawn,
    Unfinished,
)
from kbackupd.model.segment import Identity
from kbackupd.model.settings import RestoreOptions
from kbackupd.model.units import format_few
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.preflight import TargetState
from kbackupd.restore.produce_batch import ProducerIdentity
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.resume import deciding, gone_on_with, plan_digest, refuse_twice
from kbackupd.restore.stored import StoredRestores
from kbackupd.restore.topics import ReadyTopic

_SOFTWARE = f"kbackupd/{__version__}"


@dataclass(slots=True, kw_only=True)
class Course:
    """Use `read` to get it, then the other calls in their order."""

    restores: StoredRestores
    identity: Identity
    clock: Clock
    unfinished: Sequence[Unfinished] = ()
    going_on: Unfinished | None = None
    _before: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Id → stages: what was written down before this run looked at anything."""
    _begun: RestoreBegun | None = field(default=None)

    @classmethod
    async def read(cls, restores: StoredRestores, identity: Identity, clock: Clock) -> Course:
        """What restores of the archive `identity` are written down and not done. Changes nothing.

        Raises:
            KbackupError: the store could not say for certain.
        """
        before = await restores.stages()
        unfinished = await restores.unfinished(identity)
        return cls(restores=restores, identity=identity, clock=clock, unfinished=unfinished, _before=before)

    @property
    def may_go_on(self) -> bool:
        """Whether one of them began to fill its topics: the target must tell whether it is this one."""
        return any(one.ready for one in self.unfinished)

    async def find(self, connection: KafkaConnection, options: RestoreOptions) -> None:
        """Find out which restore these options began in this target and did not finish, if any. Changes nothing.

        Raises:
            RefusedError: topics are half filled by a restore with other options, part of what it filled is gone, or
                the same was appended before.
            KbackupError: the target could not be asked.
        """
        finished = await self.restores.finished(self.identity) if options.append else []
        if options.append and self.restores.damaged:
            raise RefusedError(
                f"{', '.join(sorted(self.restores.damaged))}: cannot be read, so it is not known whether the same was"
                " appended before",
                hint="look at what topics hold; an empty directory (--plans DIR) knows nothing of earlier restores",
            )
        names = {name for one in self.unfinished for name in one.filling}
        names |= {topic.target for one in finished for topic in one.ready.topics}
        if not names:
            return
        metadata = await cluster_metadata(connection, sorted(names))
        there = {topic.name: topic.topic_id for topic in metadata.topics if not topic.error_code}
        cluster = metadata.cluster_id
        self.going_on = gone_on_with(self.unfinished, options=options, target_cluster_id=cluster, there=there)
        if self.going_on is None:
            refuse_twice(finished, options=options, target_cluster_id=cluster, there=there)

    @property
    def pinned(self) -> Pins | None:
        """As which segments the archive is to be opened; None: as it is."""
        if self.going_on is None:
            return None
        return {(writer, epoch): sequences for writer, epoch, sequences in self.going_on.begun.pinned}

    @property
    def began_ms(self) -> int:
        """Of the first run, once `begin` has been called."""
        return self._known().began_ms

    @property
    def filling(self) -> Mapping[str, FillingTopic]:
        """Topics that an earlier run made ready, by name."""
        return self.going_on.filling if self.going_on else {}

    async def begin(self, plan: RestorePlan, options: RestoreOptions, state: TargetState) -> None:
        """Write down that it is begun; on return that is durable. One that is gone on with is only compared.

        Raises:
            RefusedError: the archive does not show what it showed when the restore was begun, or another restore into
                the same topics is being begun beside this one.
            StoreDeniedError: nothing may be written there.
        """
        digest = plan_digest(plan)
        if self.going_on is not None:
            self._begun = self.going_on.begun
            if self._begun.plan_sha256 != digest:
                why = "a segment went away or was damaged: kbackupd validate tells"
                if self._begun.software != _SOFTWARE:
                    why = f"{self._begun.software} began it, and this is {_SOFTWARE}: go on with that one; else {why}"
                raise RefusedError(
                    f"{plan.archive}: the archive does not show what it showed when {self._begun.key} was begun",
                    hint=f"{why}; {self._anew(self._begun)}",
                )
            return
        now_ms = self.clock.now_ms()
        stamp = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        restore_id = f"{stamp}-{secrets.token_hex(4)}"
        begun = RestoreBegun(
            key=restore_key(restore_id, "begun"),
            restore_id=restore_id,
            identity=self.identity,
            software=_SOFTWARE,
            began_ms=now_ms,
            target_cluster_id=state.cluster_id,
            pinned=tuple((one.writer, one.writer_epoch, one.sequences) for one in plan.pinned),
            options=deciding(options),
            plan_sha256=digest,
            topics=tuple(
                BegunTopic(
                    source=topic.source,
                    source_topic_id=topic.topic_id,
                    target=topic.target,
                    existing_topic_id=there.topic_id if (there := state.existing.get(topic.target)) else None,
                    overrides=dict(there.overrides) if there else {},
                )
                for topic in plan.topics
            ),
        )
        await self.restores.write(begun)
        self._begun = begun
        await self._refuse_beside(begun)

    async def _refuse_beside(self, begun: RestoreBegun, *, that_are_ready: bool = False) -> None:
        """Two that found the same topics empty, or the same log ends to append to, would fill them twice (hazard 28).

        Each writes down first and looks then, so of two at least one sees the other.

        Args:
            that_are_ready: one that only began is no concern any more, it has still to look.

        Raises:
            RefusedError: another one came, or came to be ready, since this run looked at what there was.
        """
        ours = {topic.target for topic in begun.topics}
        for restore_id, there in (await self.restores.stages()).items():
            before = self._before.get(restore_id)
            if restore_id == begun.restore_id or "withdrawn" in there or (before is not None and "ready" in before):
                continue
            if "ready" not in there and (that_are_ready or before is not None):
                continue
            other = await self.restores.begun(restore_id, self.identity)
            if other is None or other.target_cluster_id != begun.target_cluster_id:
                continue
            if shared := [topic.target for topic in other.topics if topic.target in ours]:
                raise RefusedError(
                    f"another restore into {format_few(shared)} was begun meanwhile, at {iso(other.began_ms)}"
                    f" ({other.key})",
                    hint="let that one end, or end it, and run this one again; if both were refused, run one of them",
                )

    @staticmethod
    def _anew(begun: RestoreBegun) -> str:
        if begun.options.get("append"):
            return "what is there of it stays; choose what is missing and begin that as another restore"
        names = ", ".join(topic.target for topic in begun.topics)
        return f"delete that restore's topics ({names}) to begin anew with what is left"

    async def filling_begins(self, producer: ProducerIdentity, ready: Mapping[str, ReadyTopic]) -> None:
        """Write down under which identity and from where on records are produced; on return that is durable.

        Raises:
            RefusedError: another restore into the same topics is ahead of this one; no record was produced, and what
                is written down of this one stands in nobody's way.
        """
        begun = self._known()
        if self.going_on is not None:
            return
        await self._refuse_beside(begun)
        await self.restores.write(
            RestoreReady(
                key=restore_key(begun.restore_id, "ready"),
                restore_id=begun.restore_id,
                identity=self.identity,
                producer_id=producer.producer_id,
                producer_epoch=producer.producer_epoch,
                topics=tuple(
                    FillingTopic(
                        target=name,
                        topic_id=topic.topic_id,
                        log_ends=tuple(topic.log_ends[number] for number in range(len(topic.log_ends))),
                        configs=dict(topic.configs),
                        created=topic.created,
                        appends=topic.appends,
                    )
                    for name, topic in ready.items()
                ),
            )
        )
        try:
            # The store may have taken so long that another one began after we looked, looked, and is ready.
            await self._refuse_beside(begun, that_are_ready=True)
        except RefusedError:
            await self.restores.write(
                RestoreWithdrawn(
                    key=restore_key(begun.restore_id, "withdrawn"),
                    restore_id=begun.restore_id,
                    identity=self.identity,
                    ended_ms=self.clock.now_ms(),
                )
            )
            raise

    async def end(self, report: RestoreReport) -> None:
        """Write down that nothing is left to do, if that is so; else a later run goes on. On return that is durable.

        Raises:
            KbackupError: the store did not take it; the same restore, run again, goes on and finds nothing left.
        """
        begun = self._known()
        partitions = [partition for topic in report.topics for partition in topic.partitions]
        unverified = any(one.verified is not None and one.verified.problem for one in partitions)
        if unverified or any(one.failure for one in partitions):
            return
        if report.acls is not None and report.acls.refused:
            return  # the next run has nothing else to do: a finished restore would not be run again
        await self.restores.write(
            RestoreDone(
                key=restore_key(begun.restore_id, "done"),
                restore_id=begun.restore_id,
                identity=self.identity,
                ended_ms=self.clock.now_ms(),
                verdict=str(report.verdict),
                records=report.records_restored,
                data_bytes=report.bytes_restored,
            )
        )

    def _known(self) -> RestoreBegun:
        if self._begun is None:
            raise RuntimeError("a restore that was not begun")
        return self._begun

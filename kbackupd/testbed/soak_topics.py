"""What the soak produces: generations of topics of every kind, so that neither disk nor memory grows with the hours.

A generation lives for some rounds and is then deleted from the cluster; what the archive holds of it is checked to the
end by digests alone. Within it topics are plain, compressed, transactional with aborts, compacted, grown while they are
written to, and brief: made and deleted again within two rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kbackupd.testbed.topics import add_partitions, create_topic, delete_topic
from kbackupd.testbed.truth import Truth
from kbackupd.testbed.workload import CODECS, LiveLoad, PlainStream, RecordMaker, TransactionalStream, produce

GENERATION_ROUNDS = 12
_BRIEF_RECORDS = 300
_COMPACTION = {
    "cleanup.policy": "compact",
    "segment.ms": "10000",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "15000",
}


@dataclass(slots=True)
class Generation:
    """Topics of one time, and every record produced to them."""

    number: int
    truth: Truth = field(default_factory=Truth)
    partitions: dict[str, int] = field(default_factory=dict)
    """Of the topics the cluster has."""
    compacted: str = ""
    grown: str = ""
    doomed: str = ""
    """The brief topic of the round before, all of it durable and compared: deleted under load in this round."""
    brief: str = ""

    @property
    def transactional(self) -> tuple[str, str]:
        return f"ledger-{self.number}", f"transfers-{self.number}"

    def streams(self, rate: float) -> Sequence[PlainStream | TransactionalStream]:
        """Live load; `rate` 1: about 1,000 records a second in all."""
        codec = CODECS[1 + self.number % (len(CODECS) - 1)]
        return (
            PlainStream(topic=f"plain-{self.number}", records_per_second=350 * rate),
            PlainStream(topic=f"packed-{self.number}", codec=codec, records_per_second=350 * rate),
            PlainStream(topic=self.grown, codec="zstd", records_per_second=100 * rate),
            PlainStream(topic=self.compacted, records_per_second=80 * rate, value_bytes=200, null_keys=False),
            TransactionalStream(topics=self.transactional, codec="lz4", records_per_second=120 * rate),
        )


class SoakTopics:
    """Makes and removes the topics of one cluster.

    Args:
        replication: of every topic; one node may be away, so all but one copy must be in sync.
    """

    def __init__(self, bootstrap: str, *, replication: int, rate: float) -> None:
        self._bootstrap = bootstrap
        self._replication = replication
        self._rate = rate

    def begin(self, number: int) -> Generation:
        made = Generation(number, compacted=f"compacted-{number}", grown=f"grown-{number}")
        first, second = made.transactional
        sizes = {f"plain-{number}": 3, f"packed-{number}": 2, first: 2, second: 1, made.grown: 1, made.compacted: 1}
        for topic, partitions in sizes.items():
            self._create(made, topic, partitions, _COMPACTION if topic == made.compacted else {})
        self._create(made, f"empty-{number}", 1, {})
        return made

    def load(self, generation: Generation, *, seed: int) -> LiveLoad:
        return LiveLoad(self._bootstrap, generation.truth, generation.streams(self._rate), seed=seed)

    def make_brief(self, generation: Generation, round_number: int) -> None:
        """A new topic with some records; call it under load."""
        generation.brief = f"brief-{generation.number}-{round_number}"
        self._create(generation, generation.brief, 2, {})
        maker = RecordMaker(generation.brief)
        drafts = (maker.draft() for _ in range(_BRIEF_RECORDS))
        produce(self._bootstrap, generation.truth, generation.brief, drafts, codec="snappy")

    def delete_doomed(self, generation: Generation) -> None:
        if generation.doomed:
            delete_topic(self._bootstrap, generation.doomed)
            del generation.partitions[generation.doomed]
            generation.doomed = ""

    def grow(self, generation: Generation) -> None:
        total = generation.partitions[generation.grown] + 1
        add_partitions(self._bootstrap, generation.grown, total=total)
        generation.truth.know_topic(generation.grown, total)
        generation.partitions[generation.grown] = total

    def end(self, generation: Generation) -> None:
        """Delete what is left of it."""
        for topic in list(generation.partitions):
            delete_topic(self._bootstrap, topic)
            del generation.partitions[topic]

    def _create(self, generation: Generation, topic: str, partitions: int, config: dict[str, str]) -> None:
        in_sync = {"min.insync.replicas": str(max(1, self._replication - 1))}
        create_topic(
            self._bootstrap,
            topic,
            partitions=partitions,
            replication_factor=self._replication,
            config={**in_sync, **config},
        )
        generation.truth.know_topic(topic, partitions)
        generation.partitions[topic] = partitions

"""How the benchmark tells from an archive alone how long records were at risk."""

from __future__ import annotations

import math

import pytest

from bench.archive_facts import StoredFacts, exposures, quantile
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import CODEC_NONE, Footer, Identity, Run, RunFlag

ORDERS = TopicId("b8tRS7h4TJ2Vt43Dp85v2A")


def stored(durable_at: float, made: dict[int, float], *, system: bool = False) -> StoredFacts:
    """A segment with a run per partition, by the second in which its oldest record was made."""
    runs = tuple(
        Run(
            id=PartitionId(ORDERS, number),
            system=system,
            asked_offset=0,
            first_offset=0,
            next_offset=1,
            branch=0,
            replica=1,
            captured_ms=0,
            batches=1,
            records=1,
            flags=RunFlag(0),
            base_timestamp_ms=round(seconds * 1000),
            max_timestamp_ms=round(seconds * 1000),
            largest_batch_bytes=70,
            position=8,
            stored_bytes=70,
            raw_bytes=70,
            codec=CODEC_NONE,
            crc32c=0,
            leader_epochs=(),
        )
        for number, seconds in made.items()
    )
    footer = Footer(
        identity=Identity(backup_id="main", archive_id="a", cluster_id="c"),
        key="segments/main/0000000001/0000000000000000-0.kbs",
        writer="main",
        writer_epoch=1,
        seq=0,
        previous=None,
        in_flight=(),
        earlier=(),
        sealed_ms=0,
        sealed_monotonic_ms=0,
        body_bytes=78,
        body_sha256="",
        topics={ORDERS: "orders"},
        runs=runs,
    )
    return StoredFacts(key=footer.key, size_bytes=100, footer=footer, durable_at=durable_at)


def test_a_record_is_at_risk_from_when_it_was_made_until_its_segment_is_durable() -> None:
    segments = [stored(12.0, {0: 2.0})]
    assert exposures(segments, [1.0, 2.0, 7.0, 11.5, 12.0, 20.0]) == pytest.approx([0.0, 0.0, 5.0, 9.5, 0.0, 0.0])


def test_the_oldest_record_counts_where_segments_overtake_each_other() -> None:
    segments = [stored(30.0, {0: 2.0}), stored(15.0, {0: 10.0})]
    assert exposures(segments, [12.0, 20.0]) == pytest.approx([10.0, 18.0])


def test_every_partition_counts_by_itself_and_system_streams_do_not() -> None:
    segments = [stored(12.0, {0: 2.0, 1: 8.0}), stored(40.0, {2: 0.0}, system=True)]
    assert sorted(exposures(segments, [10.0])) == pytest.approx([2.0, 8.0])


def test_quantiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert math.isnan(quantile([], 0.5))

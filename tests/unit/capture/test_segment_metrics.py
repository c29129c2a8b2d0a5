"""What a life tells of its segments: how long the oldest byte waited, and what compression gained."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.capture.site import Life, Site
from tests.unit.observe.test_metrics import value


def test_a_flush_is_timed_from_the_oldest_user_batch_and_includes_the_upload() -> None:
    site = Site.new(flush_interval_seconds=2.0)
    site.cluster.create("orders")
    site.upload_seconds = lambda key: 0.5 if key.startswith("main/segments/") else 0.01

    async def script(life: Life) -> None:
        await life.follows("orders")
        await life.durable()
        count = value(life.metrics, "flush_duration_seconds_count") or 0.0
        total = value(life.metrics, "flush_duration_seconds_sum") or 0.0
        site.cluster.log("orders").append(10)
        await life.until(lambda: life.sample("orders").durable_offset == 10, "the records durable")
        await life.until(lambda: value(life.metrics, "flush_duration_seconds_count") == count + 1, "one flush")
        waited = (value(life.metrics, "flush_duration_seconds_sum") or 0.0) - total
        assert waited == pytest.approx(2.0 + 0.75, abs=0.3)  # flush interval, the way there and the answer

    site.run_life(script)


def test_internal_topics_alone_are_no_flush_that_anybody_waits_for() -> None:
    site = Site.new(flush_interval_seconds=2.0, checkpoint_interval_seconds=60.0)
    site.cluster.create("__consumer_offsets")

    async def script(life: Life) -> None:
        await life.follows("__consumer_offsets")
        await life.durable()
        count = value(life.metrics, "flush_duration_seconds_count")
        site.cluster.log("__consumer_offsets").append(3)
        await life.until(lambda: life.sample("__consumer_offsets").durable_offset == 3, "the records durable")
        await asyncio.sleep(1)
        assert value(life.metrics, "flush_duration_seconds_count") == count

    site.run_life(script)


def test_bytes_before_compression_are_those_of_what_became_durable() -> None:
    site = Site.new(flush_interval_seconds=2.0)
    site.cluster.create("orders")
    batch = site.cluster.log("orders").append(50, value=b"v" * 1000)

    async def script(life: Life) -> None:
        await life.follows("orders")
        assert value(life.metrics, "segment_raw_bytes_total") == 0
        await life.durable()
        assert value(life.metrics, "segment_raw_bytes_total") == len(batch.data)
        assert (value(life.metrics, "segment_stored_bytes_total") or 0.0) < len(batch.data) / 5

    site.run_life(script)

"""Incremental fetch sessions against a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from kbackupd.kafka.admin import create_topic, delete_records, delete_topic
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import FetchAnswer, FetchTarget, KafkaErrorCode, TopicMetadata, TopicPartition
from kbackupd.model.errors import KafkaUnavailableError, KbackupError
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.testbed.kafka import KafkaServer
from tests.integration.kafka.conftest import Topics
from tests.integration.kafka.sessions import Follower, from_start, poll, poll_until, session_on, want_all

_UNHEARD_OF = TopicId("zzzzzzzzzzzzzzzzzzzzzA")


def _id(topic: TopicMetadata, partition: int = 0) -> PartitionId:
    return PartitionId(topic.topic_id, partition)


async def _failure(fetch: Awaitable[FetchAnswer]) -> KbackupError | None:
    try:
        await fetch
    except KbackupError as error:
        return error
    return None


def _log_bytes(kafka: KafkaServer, topic: TopicMetadata, partition: int) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(kafka.log_dir(topic.name, partition).glob("*.log")))


async def test_one_session_over_200_partitions_gets_exactly_the_bytes_of_the_brokers_log_files(
    connection: KafkaConnection, kafka: KafkaServer, topics: Topics
) -> None:
    made = [await topics.create(partitions=50) for _ in range(4)]
    for topic in made:
        for partition in range(50):
            topics.fill(topic, 3 + partition, partition=partition)
    session = session_on(connection)
    for topic in made:
        want_all(session, from_start(topic, max_bytes=64 << 10))
    follower = Follower(session)

    ends = {_id(topic, partition): 3 + partition for topic in made for partition in range(50)}
    await follower.until(lambda: all(follower.offset(id_) == end for id_, end in ends.items()), max_bytes=256 << 10)

    for topic in made:
        for partition in range(50):
            assert follower.logs[_id(topic, partition)] == _log_bytes(kafka, topic, partition)
    assert [answer.full for answer in follower.answers].count(True) == 1
    await session.close()


async def test_after_a_long_idle_only_the_partition_with_new_data_is_answered(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=20)
    session = session_on(connection)
    want_all(session, from_start(topic))
    first = await poll(session)
    idle = [await poll(session, max_wait_ms=20) for _ in range(5)]
    topics.fill(topic, 10, partition=7)
    woken = await poll(session, max_wait_ms=25_000)

    assert first.full
    assert {part.id for part in first.partitions} == set(from_start(topic))
    assert [(answer.full, answer.partitions) for answer in idle] == [(False, ())] * 5
    assert not woken.full
    assert [part.id for part in woken.partitions] == [_id(topic, 7)]
    assert woken.partitions[0].records
    assert woken.answered_monotonic - woken.sent_monotonic < 20, "the broker waited although there was data"


async def test_a_forgotten_partition_is_not_answered_and_comes_back_with_its_offsets_when_wanted_again(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=2)
    session = session_on(connection)
    want_all(session, from_start(topic))
    await poll(session)
    session.forget(_id(topic, 0))
    topics.fill(topic, 5, partition=0)
    without = [await poll(session, max_wait_ms=50) for _ in range(3)]
    session.want(_id(topic, 0), FetchTarget(offset=5, max_bytes=1 << 20))
    again = await poll(session)

    assert [answer.partitions for answer in without] == [(), (), ()]
    assert [(part.id.partition, part.high_watermark, part.records) for part in again.partitions] == [(0, 5, b"")]


async def test_forgetting_and_wanting_again_between_two_fetches_keeps_the_partition_in_the_session(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    topics.fill(topic, 5)
    session = session_on(connection)
    want_all(session, from_start(topic))
    await poll(session)
    session.forget(_id(topic))
    session.want(_id(topic), FetchTarget(offset=3, max_bytes=1 << 20))
    answer = await poll(session)

    assert not answer.full
    assert [(part.asked_offset, part.high_watermark) for part in answer.partitions] == [(3, 5)]
    assert answer.partitions[0].records


async def test_an_unknown_topic_id_is_an_error_of_its_partition_alone(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    topics.fill(topic, 5)
    session = session_on(connection)
    want_all(session, from_start(topic))
    stranger = PartitionId(_UNHEARD_OF, 3)
    session.want(stranger, FetchTarget(offset=0, max_bytes=1 << 20))
    first = await poll(session)
    second = await poll(session)

    codes = {part.id: part.error_code for part in first.partitions}
    assert codes == {_id(topic): KafkaErrorCode.NONE, stranger: KafkaErrorCode.UNKNOWN_TOPIC_ID}
    assert not second.full
    assert stranger in {part.id for part in second.partitions}, "errors are said again until we forget"


async def test_a_wrong_leader_epoch_is_told_apart_from_the_right_one(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=2)
    session = session_on(connection)
    epoch = topic.partitions[0].leader_epoch
    session.want(_id(topic, 0), FetchTarget(offset=0, max_bytes=1 << 20, current_leader_epoch=epoch + 5))
    session.want(_id(topic, 1), FetchTarget(offset=0, max_bytes=1 << 20, current_leader_epoch=epoch))
    answer = await poll(session)

    codes = {part.id.partition: part.error_code for part in answer.partitions}
    assert codes == {0: KafkaErrorCode.UNKNOWN_LEADER_EPOCH, 1: KafkaErrorCode.NONE}


async def test_an_old_leader_epoch_is_fenced_after_the_leader_changed(kafka: KafkaServer, topics: Topics) -> None:
    topic = await topics.create()
    await kafka.arestart()
    session = session_on(topics.connection)
    session.want(_id(topic), FetchTarget(offset=0, max_bytes=1 << 20, current_leader_epoch=0))
    # For a moment the broker knows that it leads before it does.
    not_yet = KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
    answer = await poll_until(session, lambda answer: answer.partitions[0].error_code != not_yet)

    assert [part.error_code for part in answer.partitions] == [KafkaErrorCode.FENCED_LEADER_EPOCH]


async def test_a_position_beyond_the_log_is_answered_with_where_the_logs_part(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=2)
    topics.fill(topic, 5, partition=0)
    session = session_on(connection)
    session.want(_id(topic, 0), FetchTarget(offset=900, max_bytes=1 << 20, last_fetched_epoch=0))
    session.want(_id(topic, 1), FetchTarget(offset=900, max_bytes=1 << 20))
    answer = await poll(session)

    parts = {part.id.partition: part for part in answer.partitions}
    assert parts[0].error_code == KafkaErrorCode.NONE
    assert parts[0].diverging is not None
    assert (parts[0].diverging.epoch, parts[0].diverging.end_offset) == (0, 5)
    assert parts[0].records == b""
    assert parts[1].error_code == KafkaErrorCode.OFFSET_OUT_OF_RANGE, "without an epoch it is only out of range"


async def test_a_topic_deleted_under_a_session_is_told_gone_and_under_a_fresh_one_unknown(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    topics.fill(topic, 5)
    session = session_on(connection)
    session.want(_id(topic), FetchTarget(offset=5, max_bytes=1 << 20))
    await poll(session)
    await delete_topic(connection, topic.name)
    # For a moment the broker still serves what its metadata have no more: it says nothing of a log without news.
    under_way = await poll_until(session, lambda answer: bool(answer.partitions))
    fresh = session_on(connection)
    want_all(fresh, from_start(topic))
    afresh = await poll(fresh)

    assert [part.error_code for part in under_way.partitions] == [KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert [part.error_code for part in afresh.partitions] == [KafkaErrorCode.UNKNOWN_TOPIC_ID]


async def test_a_topic_recreated_under_a_session_is_another_partition_and_its_records_are_not_mixed_up(
    connection: KafkaConnection, topics: Topics
) -> None:
    old = await topics.create()
    topics.fill(old, 5)
    session = session_on(connection)
    session.want(_id(old), FetchTarget(offset=5, max_bytes=1 << 20))
    await poll(session)
    await delete_topic(connection, old.name)
    new = await create_topic(connection, old.name, partitions=1)
    topics.fill(new, 50)
    both = await poll(session)
    session.forget(_id(old))
    want_all(session, from_start(new))
    follower = Follower(session)
    await follower.until(lambda: follower.offset(_id(new)) == 50)
    fresh = session_on(connection)
    want_all(fresh, from_start(old))
    afresh = await poll(fresh)

    assert new.topic_id != old.topic_id
    assert [(part.error_code, part.records) for part in both.partitions] == [
        (KafkaErrorCode.INCONSISTENT_TOPIC_ID, b"")
    ]
    assert set(follower.logs) == {_id(new)}
    assert [part.error_code for part in afresh.partitions] == [KafkaErrorCode.UNKNOWN_TOPIC_ID]


async def test_retention_overtaking_the_position_is_an_error_that_names_the_new_log_start(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create()
    topics.fill(topic, 30)
    await delete_records(connection, {TopicPartition(topic.name, 0): 20})
    session = session_on(connection)
    want_all(session, from_start(topic))
    refused = (await poll(session)).partitions[0]
    session.want(_id(topic), FetchTarget(offset=20, max_bytes=1 << 20))
    answered = (await poll(session)).partitions[0]

    assert refused.error_code == KafkaErrorCode.OFFSET_OUT_OF_RANGE
    assert (answered.error_code, answered.log_start_offset, answered.high_watermark) == (0, 20, 30)
    assert answered.records


async def test_a_batch_larger_than_every_limit_still_comes_whole(connection: KafkaConnection, topics: Topics) -> None:
    topic = await topics.create()
    topics.fill(topic, 1, size_bytes=600_000)
    session = session_on(connection)
    want_all(session, from_start(topic, max_bytes=1_000))
    answer = await poll(session, max_bytes=1_000)

    assert len(answer.partitions[0].records) > 600_000


async def test_a_cancelled_fetch_is_followed_by_a_full_one_that_misses_nothing(
    connection: KafkaConnection, topics: Topics
) -> None:
    topic = await topics.create(partitions=3)
    session = session_on(connection)
    want_all(session, from_start(topic))
    await poll(session)
    waiting = asyncio.create_task(poll(session, max_wait_ms=20_000))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    topics.fill(topic, 4, partition=1)
    answer = await poll(session)

    assert answer.full
    assert {part.id.partition: part.high_watermark for part in answer.partitions} == {0: 0, 1: 4, 2: 0}


async def test_a_restarted_broker_has_forgotten_the_session_and_gets_a_full_fetch_in_the_same_call(
    kafka: KafkaServer, topics: Topics
) -> None:
    topic = await topics.create()
    session = session_on(topics.connection)
    session.want(_id(topic), FetchTarget(offset=0, max_bytes=1 << 20))
    await poll(session)
    await kafka.arestart()
    topics.fill(topic, 3)
    answer = await poll(session)

    assert answer.full
    assert answer.partitions[0].high_watermark == 3


async def test_a_broker_killed_under_a_fetch_is_an_error_and_what_is_wanted_stays_wanted(
    kafka: KafkaServer, topics: Topics
) -> None:
    topic = await topics.create()
    session = session_on(topics.connection)
    want_all(session, from_start(topic))
    await poll(session)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_failure(poll(session, max_wait_ms=20_000)))
        await kafka.akill()
    await kafka.astart()
    topics.fill(topic, 3)
    session.want(_id(topic), FetchTarget(offset=0, max_bytes=1 << 20))
    answer = await poll(session)

    assert isinstance(waiting.result(), KafkaUnavailableError)
    assert answer.full
    assert answer.partitions[0].high_watermark == 3


async def test_two_sessions_with_one_broker_do_not_wait_for_each_other(
    connection: KafkaConnection, topics: Topics
) -> None:
    quiet, busy = await topics.create(), await topics.create()
    topics.fill(busy, 5)
    waiting, catching_up = session_on(connection), session_on(connection)
    want_all(waiting, from_start(quiet))
    want_all(catching_up, from_start(busy))
    await poll(waiting)
    async with asyncio.TaskGroup() as group:
        long_poll = group.create_task(poll(waiting, max_wait_ms=25_000))
        await asyncio.sleep(0)
        answer = await poll(catching_up)
        overtaken = not long_poll.done()
        topics.fill(quiet, 1)

    assert answer.partitions[0].records
    assert overtaken
    assert long_poll.result().partitions[0].records

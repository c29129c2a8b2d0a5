"""When a topic of the testbed counts as made."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kbackupd.testbed import topics


class Broker:
    """Its metadata has both leaders from the start; the second partition's answers only when it is asked again."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def list_offsets(self, wanted: dict[TopicPartition, Any]) -> dict[TopicPartition, Future[None]]:
        self.asked.append(len(wanted))
        answers: dict[TopicPartition, Future[None]] = {}
        for place in wanted:
            answer = answers[place] = Future()
            if place.partition == 1 and len(self.asked) == 1:
                answer.set_exception(KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)))
            else:
                answer.set_result(None)
        return answers


def test_a_topic_is_made_when_its_leaders_answer_not_when_the_metadata_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker()
    monkeypatch.setattr(topics, "_admin", lambda _: broker)
    monkeypatch.setattr(topics, "partition_leaders", lambda *_: {0: 1, 1: 1})

    topics.await_leaders("unused", "orders", 2)

    assert broker.asked == [2, 2]

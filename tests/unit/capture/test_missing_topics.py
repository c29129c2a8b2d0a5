"""A topic is gone when brokers say so twice, by name and successfully; nothing else is a deletion (I5)."""

from __future__ import annotations

import pytest

from kbackupd.capture.missing_topics import MissingTopics, unlisted_names
from kbackupd.kafka.types import NO_TOPIC_ID, KafkaErrorCode, TopicMetadata
from kbackupd.model.positions import TopicId

ORDERS = TopicId("AAAAAAAAAAAAAAAAAAAAAQ")
SUCCESSOR = TopicId("AAAAAAAAAAAAAAAAAAAAAg")
OPEN = {ORDERS: "orders"}
UNKNOWN = KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def row(topic_id: TopicId = ORDERS, *, code: int = KafkaErrorCode.NONE) -> TopicMetadata:
    return TopicMetadata(name="orders", topic_id=topic_id, internal=False, error_code=code, partitions=())


def test_what_is_described_is_neither_missing_nor_asked_for() -> None:
    assert unlisted_names(OPEN, [row()]) == []
    missing = MissingTopics().judge(OPEN, listed=[row()], asked=[])
    assert (missing.gone, missing.silences) == ([], {})


def test_a_topic_the_list_leaves_out_is_asked_for_by_name_and_gone_when_denied_twice() -> None:
    assert unlisted_names(OPEN, []) == ["orders"]
    topics = MissingTopics()
    first = topics.judge(OPEN, listed=[], asked=[row(NO_TOPIC_ID, code=UNKNOWN)])
    assert (first.gone, first.silences[ORDERS].code) == ([], UNKNOWN)
    assert topics.doubted
    assert topics.judge(OPEN, listed=[], asked=[row(NO_TOPIC_ID, code=UNKNOWN)]).gone == [ORDERS]
    assert not topics.doubted


def test_an_incarnation_whose_name_belongs_to_another_is_gone_after_two_rounds_as_well() -> None:
    assert unlisted_names(OPEN, [row(SUCCESSOR)]) == []
    topics = MissingTopics()
    first = topics.judge(OPEN, listed=[row(SUCCESSOR)], asked=[])
    assert (first.gone, first.silences[ORDERS].code) == ([], KafkaErrorCode.UNKNOWN_TOPIC_ID)
    assert topics.judge(OPEN, listed=[row(SUCCESSOR)], asked=[]).gone == [ORDERS]


def test_a_lagging_broker_in_between_begins_the_count_anew() -> None:
    topics = MissingTopics()
    denied = [row(NO_TOPIC_ID, code=UNKNOWN)]
    assert topics.judge(OPEN, listed=[], asked=denied).gone == []
    assert topics.judge(OPEN, listed=[row()], asked=[]).gone == []
    assert topics.judge(OPEN, listed=[], asked=denied).gone == []


@pytest.mark.parametrize(
    "code",
    [KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED, KafkaErrorCode.LEADER_NOT_AVAILABLE, KafkaErrorCode.INVALID_REQUEST],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_any_other_error_is_a_silence_however_often_it_comes(code: KafkaErrorCode, by_name: bool) -> None:
    topics = MissingTopics()
    answer = [row(NO_TOPIC_ID, code=code)]
    for _ in range(5):
        missing = topics.judge(OPEN, listed=[] if by_name else answer, asked=answer if by_name else [])
        assert (missing.gone, missing.silences[ORDERS].code) == ([], code)
    assert not topics.doubted


def test_permissions_that_hide_a_topic_are_named_with_what_to_grant() -> None:
    hidden = [row(NO_TOPIC_ID, code=KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED)]
    silence = MissingTopics().judge(OPEN, listed=[], asked=hidden).silences[ORDERS]
    assert "Describe and Read on topic 'orders'" in silence.hint


def test_an_answer_that_leaves_out_what_was_asked_for_denies_nothing() -> None:
    missing = MissingTopics().judge(OPEN, listed=[], asked=[])
    assert (missing.gone, missing.silences[ORDERS].code) == ([], KafkaErrorCode.UNKNOWN_SERVER_ERROR)


def test_a_topic_that_is_there_when_asked_for_by_name_is_not_silent() -> None:
    missing = MissingTopics().judge(OPEN, listed=[], asked=[row()])
    assert (missing.gone, missing.silences) == ([], {})

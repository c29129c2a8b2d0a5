"""A metric's labels have bounds, whatever an error says."""

from __future__ import annotations

import pytest

from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import (
    KafkaDeniedError,
    KafkaUnavailableError,
    KbackupError,
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.observe.labels import PARTITION_CAUSES, error_kind, store_cause


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KafkaUnavailableError("x"), "kafka_unavailable"),
        (KafkaDeniedError("x"), "kafka_denied"),
        (StoreUnavailableError("x"), "store_unavailable"),
        (StoreDeniedError("x"), "store_denied"),
        (KbackupError("x"), "other"),
        (ValueError("x"), "other"),
    ],
)
def test_an_error_is_counted_by_its_class_never_by_its_text(error: BaseException, kind: str) -> None:
    assert error_kind(error) == kind


def test_the_causes_of_a_partition_s_failures_are_errors_kafka_knows_by_that_name() -> None:
    assert {code.name for code in KafkaErrorCode} >= PARTITION_CAUSES


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (StoreUnavailableError("x", cause="throttled"), "throttled"),
        (StoreUnavailableError("x", cause="request-id-8f3a1c"), "other"),
        (StoreDeniedError("x"), "denied"),
        (ValueError("x"), "other"),
    ],
)
def test_a_store_s_error_is_counted_by_a_cause_that_is_listed_or_as_other(error: BaseException, cause: str) -> None:
    assert store_cause(error) == cause

"""Asking a broker for the configuration that protects a restore when it may be too old to know all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import KafkaDeniedError
from kbackupd.restore.configs import before_kafka_3_6

T = TypeVar("T")


async def as_far_as_known(
    configs: Mapping[str, str], ask: Callable[[Mapping[str, str]], Awaitable[T]]
) -> tuple[Mapping[str, str], T]:
    """What `ask` returns, and the configuration the broker took: all of it, or what brokers before 3.6 know of it.

    Which key a broker does not know is only in its prose, so the second try is made whatever was invalid; where age
    was not the reason it fails with the same words.

    Raises: what `ask` raises.
    """
    try:
        return configs, await ask(configs)
    except KafkaDeniedError as error:
        if error.code != KafkaErrorCode.INVALID_CONFIG:
            raise
    older = before_kafka_3_6(configs)
    return older, await ask(older)

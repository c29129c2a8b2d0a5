"""Writes the missing files of `coordinators/`: `python -m tests.golden.make_coordinators`. Starts real brokers.

Each holds the records of `__consumer_offsets` and `__transaction_state` of one version of Kafka, byte for byte, and
what Kafka's own DumpLogSegments (of 4.3.1) says of each. A file is never written again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kbackupd.testbed.java import KAFKA_VERSION
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from tests.integration.coordinator_story import (
    OFFSETS_DECODER,
    ONE_COORDINATOR,
    TRANSACTIONS_DECODER,
    LoggedRecord,
    coordinator_log,
    tell,
)

COORDINATORS = Path(__file__).parent / "coordinators"
VERSIONS = (KAFKA_VERSION, "3.9.1", "3.1.2")


def main() -> None:
    for version in VERSIONS:
        path = COORDINATORS / f"kafka-{version}.json"
        if not path.exists():
            path.write_text(json.dumps(_told(version), indent=0) + "\n")
            sys.stdout.write(f"{path}\n")


def _told(version: str) -> dict[str, Any]:
    with KafkaServer(properties=ONE_COORDINATOR, version=version) as kafka:
        tell(kafka, create_topic(kafka.bootstrap, "orders", partitions=3), modern=version == KAFKA_VERSION)
        return {
            "consumer_offsets": [_row(one) for one in coordinator_log(kafka, "__consumer_offsets", 0, OFFSETS_DECODER)],
            "transaction_state": [
                _row(one) for one in coordinator_log(kafka, "__transaction_state", 0, TRANSACTIONS_DECODER)
            ],
        }


def _row(one: LoggedRecord) -> dict[str, Any]:
    return {
        "offset": one.offset,
        "key": one.key.hex(),
        "value": None if one.value is None else one.value.hex(),
        "says_key": one.says_key,
        "says_value": one.says_value,
    }


if __name__ == "__main__":
    main()

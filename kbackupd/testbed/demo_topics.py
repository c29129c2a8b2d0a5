"""What the demo produces: topics of every codec, one transactional pair, one that stays empty; and their tiers."""

from __future__ import annotations

from collections.abc import Mapping

from kbackupd.testbed.workload import PlainStream, TransactionalStream

PLAIN: Mapping[str, tuple[int, PlainStream]] = {
    "orders": (4, PlainStream(topic="orders", codec="zstd", records_per_second=300)),
    "payments": (3, PlainStream(topic="payments", codec="lz4", records_per_second=200)),
    "clicks": (3, PlainStream(topic="clicks", codec="snappy", records_per_second=300, value_bytes=150)),
    "invoices": (2, PlainStream(topic="invoices", codec="gzip", records_per_second=100, value_bytes=1_200)),
    "audit": (2, PlainStream(topic="audit", codec="none", records_per_second=200)),
}
TRANSACTIONAL: Mapping[str, int] = {"ledger": 3, "transfers": 2}
TRANSACTIONS = TransactionalStream(topics=tuple(TRANSACTIONAL), codec="zstd", records_per_second=200)
EMPTY: Mapping[str, int] = {"nothing-yet": 2}
PARTITIONS: Mapping[str, int] = {
    **{topic: partitions for topic, (partitions, _) in PLAIN.items()},
    **TRANSACTIONAL,
    **EMPTY,
}
TIERS = {"critical": ["payments", "ledger", "transfers"], "standard": ["*"]}
HISTORY_RECORDS = 40_000

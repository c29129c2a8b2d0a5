"""What the benchmark's limit sends is what a restore would send: every batch once, in each partition's order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.restoring import requests_of
from kbackupd.kafka.types import TopicPartition
from kbackupd.restore.schedule import REQUEST_BYTES

SIZES = st.sampled_from((1, 1 << 20, 3 << 20, REQUEST_BYTES + 1))


@given(st.lists(st.lists(SIZES, max_size=8), max_size=6))
def test_requests_hold_every_batch_once_in_order_and_one_of_a_partition_at_most(sizes: list[list[int]]) -> None:
    held = {
        TopicPartition("orders", partition): [_Batch(number, size) for number, size in enumerate(of_partition)]
        for partition, of_partition in enumerate(sizes)
    }

    made = list(requests_of(held))

    for request in made:
        assert len(request) == 1 or sum(map(len, request.values())) <= REQUEST_BYTES
    sent = {tp: [request[tp] for request in made if tp in request] for tp in held}
    assert sent == held


class _Batch(bytes):
    """As long as it says, and no heavier than its number."""

    size: int

    def __new__(cls, number: int, size: int) -> _Batch:
        made = super().__new__(cls, b"%d" % number)
        made.size = size
        return made

    def __len__(self) -> int:
        return self.size

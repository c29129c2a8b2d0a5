"""The contract of every store, as tests: a test class derives from StoreContract and brings a fixture `store`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest

from kbackupd.model.errors import CorruptObjectError, ObjectExistsError, ObjectMissingError
from kbackupd.store.protocol import Buffer, ObjectStore

BIG = os.urandom(1 << 20) + b"and a tail"


async def keys_of(
    store: ObjectStore, prefix: str = "", *, start_after: str = "", limit: int | None = None
) -> list[str]:
    return [info.key async for info in store.list_from(prefix, start_after=start_after, limit=limit)]


async def put_many(store: ObjectStore, keys: Sequence[str], *, at_once: int = 16) -> None:
    gate = asyncio.Semaphore(at_once)

    async def put(key: str) -> None:
        async with gate:
            await store.put_if_absent(key, [key.encode()])

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(put(key))


class StoreContract:
    """What archive, capture and restore rest on. Every store starts empty."""

    async def test_put_stores_the_concatenation_of_all_kinds_of_buffers(self, store: ObjectStore) -> None:
        parts: list[Buffer] = [b"one ", bytearray(b"two "), memoryview(b"..three..")[2:7], b"", b" four"]
        await store.put_if_absent("segments/main/1/0000000000000001-17.kbs", parts)
        assert await store.get("segments/main/1/0000000000000001-17.kbs") == b"one two three four"

    async def test_big_object_comes_back_as_it_was(self, store: ObjectStore) -> None:
        await store.put_if_absent("big", [BIG[:1000], memoryview(BIG)[1000:]])
        assert await store.get("big") == BIG

    @pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
    async def test_empty_object_is_an_object(self, store: ObjectStore, parts: list[bytes]) -> None:
        await store.put_if_absent("empty", parts)
        await store.put_if_absent("empty", parts)
        assert await store.get("empty") == b""
        assert (await store.head("empty")).size_bytes == 0
        assert await store.get_suffix("empty", 10) == (b"", 0)
        assert await store.get_range("empty", 0, 0) == b""

    @pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "big"])
    async def test_putting_the_same_bytes_again_succeeds_however_they_are_cut(
        self, store: ObjectStore, data: bytes
    ) -> None:
        await store.put_if_absent("again", [data])
        await store.put_if_absent("again", [data[:3], data[3:]])
        assert await store.get("again") == data

    @pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "big"])
    async def test_putting_other_bytes_fails_and_leaves_the_first(self, store: ObjectStore, data: bytes) -> None:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        await store.put_if_absent("once", [data])
        for other in (flipped, data + b"x", data[:-1], b""):
            with pytest.raises(ObjectExistsError) as caught:
                await store.put_if_absent("once", [other])
            assert caught.value.key == "once"
        assert await store.get("once") == data

    async def test_of_sixteen_racing_puts_of_different_bytes_exactly_one_wins(self, store: ObjectStore) -> None:
        offers = [b"claim of writer %02d" % number for number in range(16)]
        outcomes = await asyncio.gather(
            *(store.put_if_absent("writers/main/1", [offer]) for offer in offers), return_exceptions=True
        )
        winners = [offer for offer, outcome in zip(offers, outcomes, strict=True) if outcome is None]
        assert len(winners) == 1
        assert await store.get("writers/main/1") == winners[0]
        assert sum(isinstance(outcome, ObjectExistsError) for outcome in outcomes) == 15

    async def test_range_reads_exactly_what_was_asked_for(self, store: ObjectStore) -> None:
        await store.put_if_absent("ten", [b"0123456789"])
        assert await store.get_range("ten", 0, 10) == b"0123456789"
        assert await store.get_range("ten", 0, 1) == b"0"
        assert await store.get_range("ten", 9, 1) == b"9"
        assert await store.get_range("ten", 3, 4) == b"3456"
        assert await store.get_range("ten", 3, 0) == b""

    @pytest.mark.parametrize(("first_byte", "length"), [(9, 2), (10, 1), (0, 11), (500, 1)])
    async def test_range_beyond_the_end_is_an_error_not_a_short_answer(
        self, store: ObjectStore, first_byte: int, length: int
    ) -> None:
        await store.put_if_absent("ten", [b"0123456789"])
        with pytest.raises(CorruptObjectError):
            await store.get_range("ten", first_byte, length)

    @pytest.mark.parametrize(("first_byte", "length"), [(-1, 2), (0, -1)])
    async def test_nonsense_range_is_refused(self, store: ObjectStore, first_byte: int, length: int) -> None:
        await store.put_if_absent("ten", [b"0123456789"])
        with pytest.raises(ValueError, match="not a range"):
            await store.get_range("ten", first_byte, length)

    async def test_suffix_gives_the_end_and_the_whole_size(self, store: ObjectStore) -> None:
        await store.put_if_absent("ten", [b"0123456789"])
        assert await store.get_suffix("ten", 1) == (b"9", 10)
        assert await store.get_suffix("ten", 10) == (b"0123456789", 10)
        assert await store.get_suffix("ten", 4096) == (b"0123456789", 10)
        with pytest.raises(ValueError, match="suffix"):
            await store.get_suffix("ten", 0)

    async def test_head_tells_size_and_time(self, store: ObjectStore) -> None:
        await store.put_if_absent("ten", [b"0123456789"])
        info = await store.head("ten")
        assert (info.key, info.size_bytes) == ("ten", 10)
        listed = [listed async for listed in store.list_from("")]
        assert [(one.key, one.size_bytes) for one in listed] == [("ten", 10)]
        assert abs(info.modified_ms - listed[0].modified_ms) < 2000

    async def test_what_is_missing_is_reported_missing_by_every_read(self, store: ObjectStore) -> None:
        await store.put_if_absent("here/it/is", [b"x"])
        for key in ("nowhere", "here", "here/it", "here/it/was", "here/it/is/below"):
            with pytest.raises(ObjectMissingError) as caught:
                await store.head(key)
            assert caught.value.key == key
            with pytest.raises(ObjectMissingError):
                await store.get(key)
            with pytest.raises(ObjectMissingError):
                await store.get_range(key, 0, 1)
            with pytest.raises(ObjectMissingError):
                await store.get_range(key, 0, 0)
            with pytest.raises(ObjectMissingError):
                await store.get_suffix(key, 1)

    async def test_listing_pages_through_1200_keys_in_order_each_once(self, store: ObjectStore) -> None:
        keys = [f"segments/main/1/{number:016d}-1767225600000.kbs" for number in range(1200)]
        await put_many(store, keys)
        assert await keys_of(store) == keys
        assert await keys_of(store, "segments/main/1/") == keys
        assert await keys_of(store, start_after=keys[999]) == keys[1000:]
        assert await keys_of(store, "segments/main/", start_after=keys[5], limit=1100) == keys[6:1106]
        assert await keys_of(store, limit=1000) == keys[:1000]
        assert await keys_of(store, start_after=keys[-1]) == []
        assert await keys_of(store, limit=0) == []

    async def test_listing_starts_after_a_key_that_is_not_there(self, store: ObjectStore) -> None:
        await put_many(store, ["s/1/0001", "s/1/0003", "s/1/0005"])
        assert await keys_of(store, "s/1/", start_after="s/1/0002") == ["s/1/0003", "s/1/0005"]
        assert await keys_of(store, "s/1/", start_after="s/1/0009") == []
        assert await keys_of(store, "s/1/", start_after="a") == ["s/1/0001", "s/1/0003", "s/1/0005"]

    async def test_prefix_is_any_string_and_matches_nothing_else(self, store: ObjectStore) -> None:
        await put_many(store, ["writers/main/1", "writers/main-2/1", "writers/other/1", "writings/1", "z"])
        assert sorted(await keys_of(store, "writers/main")) == ["writers/main-2/1", "writers/main/1"]
        assert await keys_of(store, "writers/main/") == ["writers/main/1"]
        assert await keys_of(store, "writers/main/1") == ["writers/main/1"]
        assert sorted(await keys_of(store, "writ")) == [
            "writers/main-2/1",
            "writers/main/1",
            "writers/other/1",
            "writings/1",
        ]
        assert await keys_of(store, "nothing/") == []
        assert await keys_of(store, "writers/main/1/") == []

    async def test_listing_of_one_directory_is_in_the_order_of_utf8_bytes(self, store: ObjectStore) -> None:
        names = ["a-b", "a.b", "a0", "A", "Ω", "aé", "a b", "a+b", "%41", "z~", "😀", "￮", "a=1&b", "(1)", "10", "9"]
        await put_many(store, [f"names/{name}" for name in names])
        listed = await keys_of(store, "names/")
        assert listed == sorted((f"names/{name}" for name in names), key=str.encode)
        for key in listed:
            assert await store.get(key) == key.encode()
            assert (await store.head(key)).key == key

    async def test_deleted_objects_are_gone_and_missing_ones_are_no_error(self, store: ObjectStore) -> None:
        await put_many(store, ["d/1", "d/2", "d/3"])
        await store.delete_many(["d/1", "d/nothing", "d/3", "x/y/z"])
        assert await keys_of(store) == ["d/2"]
        with pytest.raises(ObjectMissingError):
            await store.get("d/1")
        await store.delete_many([])
        await store.put_if_absent("d/1", [b"anew"])
        assert await store.get("d/1") == b"anew"

    async def test_more_keys_than_one_request_takes_are_deleted(self, store: ObjectStore) -> None:
        keys = [f"many/{number:05d}" for number in range(1050)]
        await put_many(store, keys)
        await store.delete_many(keys[1:])
        assert await keys_of(store, "many/") == keys[:1]

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../../b", "a/.", ".tmp/x", "a\nb", "a\x00b", "x" * 1025]
    )
    async def test_what_is_no_key_is_refused(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(ValueError, match="not an object key"):
            await store.put_if_absent(key, [b"x"])
        with pytest.raises(ValueError, match="not an object key"):
            await store.get(key)
        with pytest.raises(ValueError, match="not an object key"):
            await store.delete_many([key])

    async def test_location_is_an_address(self, store: ObjectStore) -> None:
        assert store.location.partition(":")[0] in ("memory", "file", "s3")

    async def test_closing_twice_is_fine(self, store: ObjectStore) -> None:
        await store.put_if_absent("a", [b"x"])
        await store.close()
        await store.close()

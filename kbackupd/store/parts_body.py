"""An HTTP body of several buffers, sent from where they lie: nothing large is joined, so an upload costs no copy."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence

from kbackupd.store.buffers import gathered, total_bytes
from kbackupd.store.protocol import Buffer


class PartsBody:
    """What aiobotocore takes for a file and aiohttp for an asynchronous iterable.

    As a "file" it makes botocore ask for `100-continue`, so that a refusal comes before the upload; it is rewound, not
    read. As an iterable it is sent, from the start at every iteration.
    """

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._parts = parts
        self._size = total_bytes(parts)
        self._position = 0

    def release(self) -> None:
        """Refer to the buffers no longer: whoever still holds this has no more use for them."""
        self._parts = ()

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        for piece in gathered(self._parts):
            yield piece

    def read(self, size: int = -1) -> bytes:
        """Bytes from the position on, joined."""
        left = self._size - self._position if size < 0 else size
        found = bytearray()
        for piece in gathered(self._parts, skip=self._position):
            found += piece[: left - len(found)]
            if len(found) >= left:
                break
        self._position += len(found)
        return bytes(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, min(self._size, start + offset))
        return self._position

    def tell(self) -> int:
        return self._position

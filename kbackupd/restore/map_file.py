"""The offset map of a restore as a file: the name is taken before hours of work, the content written at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kbackupd.archive.local_file import to_local
from kbackupd.archive.new_file import NewFile
from kbackupd.format.offset_map import decode_offset_map, encode_offset_map
from kbackupd.model.clock import Clock
from kbackupd.model.offset_map import OffsetMapDocument
from kbackupd.restore.mapped import RestoreRecord, offset_map_of


class OffsetMapFile:
    """Written once, at the latest when `opened` is left, however the restore inside ends."""

    def __init__(self, file: NewFile, record: RestoreRecord, clock: Clock) -> None:
        self._file = file
        self._record = record
        self._clock = clock
        self.document: OffsetMapDocument | None = None
        """What was written; on disk and durable."""

    @classmethod
    @contextmanager
    def opened(cls, path: Path, record: RestoreRecord, clock: Clock) -> Iterator[OffsetMapFile]:
        """Take the name `path` for the map of `record`.

        Raises:
            RefusedError, UsageError: it exists, or there can be no such file. Nothing was done inside.
            UnwritableError: at the end; there is no map then.
        """
        file = NewFile.create(path, "offset-map.json")
        try:
            held = cls(file, record, clock)
            try:
                yield held
            finally:
                held.write()
        finally:
            file.discard()

    @property
    def path(self) -> Path:
        return self._file.target

    def write(self) -> OffsetMapDocument | None:
        """The map of what was acknowledged by now, durable; None: nothing was begun. The first call counts."""
        if self.document is None:
            document = offset_map_of(self._record, made_ms=self._clock.now_ms())
            if document is not None:
                data = encode_offset_map(document)
                self._file.write([memoryview(to_local(self.path, data))])
                self._file.publish()
                self.document = decode_offset_map(str(self.path), data)
        return self.document

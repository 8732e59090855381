"""The cache format: documents in independently compressed, checksummed frames, with random access.

A file is `frame frame ... index footer`. The index (compressed JSON) holds where each frame starts, how many documents
it has, and the counts of records. The file is renamed into place when complete: it exists whole or not at all.
"""

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
import zstandard

from data.errors import DataError

FOOTER = struct.Struct("<Q8s")  # byte offset of the index, and the version of the format
MAGIC = b"frames-1"
LENGTH = struct.Struct("<I")


@dataclass
class RecordCounts:
    """The number of records of one file by outcome."""

    documents: int = 0
    """Records that were read."""
    text_bytes: int = 0
    """Their text in UTF-8."""
    bad_json: int = 0
    """Not JSON, or not UTF-8."""
    bad_text: int = 0
    """Without the text that their form asks for."""
    empty: int = 0
    """Nothing but white space: skipped, and not counted as bad."""
    reason: str = ""
    """What is wrong with the first record without text."""

    @property
    def num_bad(self) -> int:
        """Records that could not be read."""
        return self.bad_json + self.bad_text

    @property
    def bad_share(self) -> float:
        """Their share of all records."""
        return self.num_bad / max(1, self.num_bad + self.documents + self.empty)

    def describe_bad(self) -> str:
        """Returns the number of bad records in words, for messages."""
        total = self.num_bad + self.documents + self.empty
        return f"{self.num_bad} of {total} records ({self.bad_json} bad JSON or UTF-8, {self.bad_text} without text)"

    def remedy(self, key: str) -> str:
        """Returns what to do about them, for messages; `key` is what names the field of the text."""
        return f"{self.reason}: set {key}, or repair the file" if self.reason else "repair the file"


class FrameWriter:
    """Writes documents in frames of about `frame_bytes` of text; a document is never split."""

    def __init__(self, file: BinaryIO, frame_bytes: int) -> None:
        self.counts = RecordCounts()
        self._file = file
        self._frame_bytes = frame_bytes
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self._offsets = [0]
        self._num_documents: list[int] = []
        self._pending: list[bytes] = []
        self._pending_bytes = self._pending_documents = 0

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._offsets[-1]

    def add(self, text: str) -> None:
        """Appends one document."""
        encoded = text.encode()
        self.counts.documents += 1
        self.counts.text_bytes += len(encoded)
        self._pending += (LENGTH.pack(len(encoded)), encoded)
        self._pending_documents += 1
        self._pending_bytes += len(encoded)
        del encoded  # it may be large
        if self._pending_bytes >= self._frame_bytes:
            self._flush()

    def finish(self) -> None:
        """Writes the last frame, the index and the footer."""
        self._flush()
        index = {"offsets": self._offsets, "num_documents": self._num_documents, "counts": asdict(self.counts)}
        self._file.write(self._compressor.compress(orjson.dumps(index)))
        self._file.write(FOOTER.pack(self._offsets[-1], MAGIC))

    def _flush(self) -> None:
        if not self._pending:
            return
        compressing = self._compressor.compressobj(size=sum(map(len, self._pending)))
        compressed = b"".join([*map(compressing.compress, self._pending), compressing.flush()])
        self._num_documents.append(self._pending_documents)
        self._pending, self._pending_documents, self._pending_bytes = [], 0, 0
        self._file.write(compressed)
        self._offsets.append(self._offsets[-1] + len(compressed))


class FrameFile:
    """A complete cache file: `num_documents` (int64 `[num_frames]`), `counts`, and the documents of each frame."""

    def __init__(self, path: Path) -> None:
        """Reads the index; raises DataError where it is damaged, FileNotFoundError where there is no file."""
        self.path = path
        try:
            with path.open("rb") as file:
                footer_start = file.seek(-FOOTER.size, 2)
                index_start, magic = FOOTER.unpack(file.read())
                if magic != MAGIC:
                    raise self._damaged()
                file.seek(index_start)
                index = orjson.loads(zstandard.decompress(file.read(footer_start - index_start)))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, zstandard.ZstdError) as error:
            raise self._damaged() from error
        self._offsets: Sequence[int] = index["offsets"]
        self.num_documents = np.array(index["num_documents"], np.int64)
        self.counts = RecordCounts(**index["counts"])

    def read_frame(self, frame: int, start: int = 0, step: int = 1) -> list[str]:
        """Returns the documents `start, start + step, ...` of one frame.

        Raises DataError for a damaged frame, FileNotFoundError when the file has been evicted.
        """
        begin, end = self._offsets[frame], self._offsets[frame + 1]
        # Opened for each read: a frame takes a hundred times longer to tokenise, and nothing is held across a fork.
        with self.path.open("rb") as file:
            file.seek(begin)
            compressed = file.read(end - begin)
        try:
            content = zstandard.decompress(compressed)
        except zstandard.ZstdError as error:
            raise self._damaged() from error
        extents, at = [], 0
        while at < len(content):
            (length,) = LENGTH.unpack_from(content, at)
            at += LENGTH.size + length
            extents.append((at - length, at))
        view = memoryview(content)  # a document may be large: it is not copied before it is decoded
        return [str(view[begin:end], "utf-8") for begin, end in extents[start::step]]

    def _damaged(self) -> DataError:
        return DataError(f"the cached file {self.path} is damaged; delete it and it will be made again")

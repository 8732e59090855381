"""Which of the files that a config lists are the same file, whatever their names."""

from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import DataError
from data.fetch.files import DataFile


class ListedFiles:
    """Files with the place that lists each: a source or a list.

    Two files are the same if their names are equal, if they are local and one is a link to the other (device and
    inode), or if their sizes and listed sha256 are equal. A local copy without a listed hash is not noticed, and
    neither are empty files of another name.
    """

    def __init__(self) -> None:
        self._listed: dict[tuple[Any, ...], tuple[str, str]] = {}  # what identifies a file -> place, name

    def add(self, files: Iterable[DataFile], place: str) -> None:
        """Adds the files of a place; of the same file twice, the first place is kept."""
        for file in files:
            for identity in _identities(file):
                self._listed.setdefault(identity, (place, file.name))

    def refuse(self, files: Iterable[DataFile], key: str, remedy: str) -> None:
        """Raises DataError, naming `key`, the file and the place, if one of the files has been added."""
        for file in files:
            for identity in _identities(file):
                if identity in self._listed:
                    place, name = self._listed[identity]
                    alias = f" (as {name})" if name != file.name else ""
                    raise DataError(f"{key}: {file.name} is in {place} too{alias}{remedy}")


def _identities(file: DataFile) -> Iterator[tuple[Any, ...]]:
    yield "name", file.name
    if not file.num_bytes:
        return
    if file.origin is None:
        status = file.path.stat()
        yield "inode", status.st_dev, status.st_ino
    if file.sha256:
        yield "content", file.num_bytes, file.sha256.lower()

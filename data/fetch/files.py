"""Data files of a folder: found by glob patterns, with sizes and, given a manifest, hashes."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.errors import DataError
from data.fetch.remote import Remote

MANIFEST_NAME = "manifest.json"
LISTING_NAME = ".listing.json"
END_BYTES = 4096


@dataclass(frozen=True)
class DataFile:
    """One input file."""

    name: str
    """Its path below the root, the same wherever the root lies."""
    path: Path
    """Where it lies, or will once it has been fetched from `origin`."""
    num_bytes: int
    """Its listed size."""
    sha256: str | None = None
    """In hexadecimal; None: not known."""
    etag: str | None = None
    """The server's mark of its version; None: not known."""
    origin: Remote | None = None
    """Where it is fetched from; None: a file of a local folder."""

    @property
    def version(self) -> str:
        """A value that changes with the content, as far as hash, ETag or time of modification tell."""
        return str(self.sha256 or self.etag) if self.origin else f"{self.path.stat().st_mtime_ns}\t{self.sha256}"


def open_folder(root: str) -> Path:
    """Returns the data folder; raises DataError where there is none."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(
            f"data.root: there is no folder {root}; correct it, fetch the files (README.md, Train), or make a small "
            "sample with `python -m data sample corpora/sample`"
        )
    return path


def read_manifest(root: Path) -> dict[str, dict[str, Any]]:
    """Returns what `root/manifest.json` says of each file (`bytes`, `sha256`, ...), by path; empty without one.

    Raises DataError for a file that is not a manifest.
    """
    path = root / MANIFEST_NAME
    if not path.is_file():
        return {}
    try:
        files = orjson.loads(path.read_bytes())["files"]
        return {str(name): dict(entry) for name, entry in files.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a manifest; remove or rebuild it") from error


def find_files(root: Path, patterns: Iterable[str], key: str, manifest: dict[str, dict[str, Any]]) -> list[DataFile]:
    """Returns the files that match any of the patterns, each once, ordered by name; hidden ones never match.

    Raises DataError, naming `key`, for a pattern without a match, and for a file whose size is not the manifest's.
    """
    names: set[str] = set()
    for pattern in patterns:
        if not pattern or Path(pattern).is_absolute():
            raise DataError(f"{key}: the pattern {pattern!r} must be relative to data.root")
        found = {path.relative_to(root) for path in root.glob(pattern) if path.is_file()}
        found = {name for name in found if not any(part.startswith(".") for part in name.parts)}
        if not found:
            raise DataError(f"{key}: {pattern!r} matches no file below {root}; correct the pattern or data.root")
        names.update(name.as_posix() for name in found)
    return [describe_file(root, name, manifest.get(name)) for name in sorted(names)]


def digest_files(files: Iterable[DataFile], *, contents: bool) -> str:
    """Returns a short value that changes with any file's name or size and, with `contents`, with its content.

    Content counts by the listed hash, else by the first and last bytes of a local file. A remote file without a hash
    counts by name and size alone: ETags change without a change of content.
    """
    digest = hashlib.sha256()
    for file in files:
        content = (file.sha256 or ("" if file.origin else _hash_ends(file))) if contents else ""
        digest.update(f"{file.name}\t{file.num_bytes}\t{content}\n".encode())
    return digest.hexdigest()[:12]


def _hash_ends(file: DataFile) -> str:
    with file.path.open("rb") as content:
        ends = content.read(END_BYTES)
        content.seek(max(0, file.num_bytes - END_BYTES))
        return hashlib.sha256(ends + content.read(END_BYTES)).hexdigest()


def describe_file(root: Path, name: str, listed: dict[str, Any] | None) -> DataFile:
    """Returns a file of a local root with the hash of its manifest entry, if it has one.

    Raises DataError where the sizes differ, FileNotFoundError where there is no file.
    """
    path = root / name
    num_bytes = path.stat().st_size
    if listed is None:
        return DataFile(name, path, num_bytes)
    if num_bytes != listed["bytes"]:
        raise DataError(
            f"{path} has {num_bytes:,} bytes where {MANIFEST_NAME} lists {listed['bytes']:,}; fetch or build it again"
        )
    return DataFile(name, path, num_bytes, listed.get("sha256"))

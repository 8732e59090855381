"""Which files a source has: glob patterns resolved below a root, with sizes and, given a manifest, hashes."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.errors import DataError
from data.fetch.remote import Remote

MANIFEST_NAME = "manifest.json"
END_BYTES = 4096


@dataclass(frozen=True)
class DataFile:
    """One input file; `name` is its path below the root, and stays the same wherever the root lies."""

    name: str
    path: Path
    """Where it lies, or will once it has been fetched from `origin`."""
    num_bytes: int
    sha256: str | None = None
    etag: str | None = None
    origin: Remote | None = None

    @property
    def version(self) -> str:
        """What tells it from other content of the same name and size, as far as anybody knows."""
        return str(self.sha256 or self.etag) if self.origin else f"{self.path.stat().st_mtime_ns}\t{self.sha256}"


def open_folder(root: str) -> Path:
    """The data folder; raises DataError where there is none."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(
            f"data.root: there is no folder {root}; correct it, or make a sample with `python -m data sample {root}`"
        )
    return path


def read_manifest(root: Path) -> dict[str, dict[str, Any]]:
    """What `root/manifest.json` says of each file (`bytes`, `sha256`, ...), by path below root; empty without one."""
    path = root / MANIFEST_NAME
    if not path.is_file():
        return {}
    try:
        files = orjson.loads(path.read_bytes())["files"]
        return {str(name): dict(entry) for name, entry in files.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a manifest; remove or rebuild it") from error


def find_files(root: Path, patterns: Iterable[str], key: str, manifest: dict[str, dict[str, Any]]) -> list[DataFile]:
    """Files that match any of the patterns, each once, ordered by name; hidden files and folders never match.

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
    """A short value that changes with any file's name or size, and with its listed hash, or first and last bytes.

    Those two only count with `contents`. A remote file that no hash is known of counts by name and size: servers invent
    etags anew.
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
    """A file of a local root and its manifest entry, if it has one; DataError where the two differ in size."""
    path = root / name
    num_bytes = path.stat().st_size
    if listed is None:
        return DataFile(name, path, num_bytes)
    if num_bytes != listed["bytes"]:
        raise DataError(
            f"{path} has {num_bytes:,} bytes where {MANIFEST_NAME} lists {listed['bytes']:,}; fetch or build it again"
        )
    return DataFile(name, path, num_bytes, listed.get("sha256"))

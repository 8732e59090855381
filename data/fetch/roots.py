"""What `data.root` names: a folder, or a remote place whose files are fetched to a cache folder as they are needed.

A remote is listed once, and the listing is kept in the cache folder (`.listing.json`): sizes, hashes and, for the hub,
the commit. From then on every rank and every later run reads the same files, with or without a network.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from fsspec.utils import glob_translate

from common.files import write_whole
from data.errors import DataError
from data.fetch.credentials import query_problem, take_credentials, without_credentials
from data.fetch.download import download, explained_disk_errors
from data.fetch.files import LISTING_NAME, DataFile, describe_file, find_files, open_folder, read_manifest
from data.fetch.hub import find_snapshot, is_offline, parse_hub
from data.fetch.locks import file_lock
from data.fetch.remote import Remote, is_remote, open_remote

LOCK_NAME = f"{LISTING_NAME}.lock"
FRAMES_NAME = ".frames"
REMOTE_CACHES = Path("corpora/cache")  # below the working folder, one folder per address


@dataclass(frozen=True)
class Root:
    """The files below one root, by name."""

    folder: Path
    """Where the files lie, or are fetched to."""
    frames: Path
    """The folder for ingested documents."""
    remote: Remote | None = None
    """Where files are fetched from; None: the root is a folder."""
    listing: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """What is known of each file (`bytes`, `sha256`, `etag`), by name."""

    def find(self, patterns: Sequence[str], key: str) -> list[DataFile]:
        """Returns the files that match any of the glob patterns, each once, ordered by name; hidden ones never match.

        Raises DataError, naming `key`, for a pattern without a match.
        """
        if self.remote is None:
            return find_files(self.folder, patterns, key, self.listing)
        names: set[str] = set()
        wildcards = [pattern for pattern in patterns if re.search(r"[*?[]", pattern)]
        plain = [pattern for pattern in patterns if pattern not in wildcards]
        if wildcards:
            self._look_up(None)
        for pattern in wildcards:
            found = {name for name in self.listing if matches_pattern(name, pattern)}
            if not found:
                raise DataError(f"{key}: {pattern!r} matches no file below {self.remote.root}; correct it or data.root")
            names |= found
        found_by_name = self.named(plain, key) if plain else []
        return sorted({*found_by_name, *(self._entry(name) for name in names)}, key=lambda file: file.name)

    def named(self, names: Sequence[str], key: str) -> list[DataFile]:
        """Returns the files of these names, in this order; raises DataError, naming `key`, if some are missing."""
        if self.remote is None:
            missing = [name for name in names if not (self.folder / name).is_file()]
        else:
            self._look_up(names)
            missing = [name for name in names if name not in self.listing]
        if missing:
            raise DataError(
                f"{key}: {len(missing)} of {len(names)} files are missing below {self.address}, the first is "
                f"{missing[0]}; fetch them or correct data.root"
            )
        return [self._entry(name) for name in names]

    @property
    def cache(self) -> Path:
        """The folder that everything fetched or ingested lies in, and that `data.max_cache_gib` bounds."""
        return self.folder if self.remote else self.frames

    @property
    def address(self) -> str:
        """The root as messages name it."""
        return self.remote.root if self.remote else str(self.folder)

    def _entry(self, name: str) -> DataFile:
        entry = self.listing.get(name)
        if self.remote is None:
            return describe_file(self.folder, name, entry)
        assert entry is not None
        return DataFile(name, self.folder / name, entry["bytes"], entry.get("sha256"), entry.get("etag"), self.remote)

    def _look_up(self, names: Sequence[str] | None) -> None:
        """Extends the listing to these names (None: all there are); asks the remote for those that are not kept yet."""
        assert self.remote is not None
        with explained_disk_errors(self.folder), file_lock(self.folder / LOCK_NAME):
            pinned = _read_pinned(self.folder)
            self.listing.update(pinned["files"])
            wanted = None if names is None else [name for name in names if name not in self.listing]
            if pinned["complete"] or wanted == []:
                return
            found = self.remote.listing(wanted)
            self.listing.update({name: entry for name, entry in found.items() if _is_safe(name)})
            _pin(self.folder, {**pinned, "complete": wanted is None, "files": self.listing})


def open_root(root: str, cache_dir: str | None = None) -> Root:
    """Returns the root that a config names.

    Raises DataError for a folder that is not there, and an address that leads nowhere.
    """
    root = take_credentials(root)
    if problem := query_problem(root):
        raise DataError(f"the address of the data {problem}")
    if not is_remote(root):
        folder = open_folder(root)
        frames = Path(cache_dir).expanduser() if cache_dir else folder / FRAMES_NAME
        return Root(folder, frames, None, read_manifest(folder))
    scheme, rest = root.split("://", 1)
    root = f"{scheme.lower()}://{rest}"
    slug = re.sub(r"[^A-Za-z0-9.@-]+", "-", rest).strip("-")[:80]
    default = REMOTE_CACHES / f"{slug}-{hashlib.sha256(root.encode()).hexdigest()[:8]}"
    folder = Path(cache_dir).expanduser() if cache_dir else default
    if is_offline() and root.startswith("hf://") and not (folder / LISTING_NAME).exists():
        snapshot = find_snapshot(parse_hub(root))
        return Root(snapshot, folder / FRAMES_NAME, None, read_manifest(snapshot))
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / LOCK_NAME):
            return _open_pinned(root, folder)


def forget_listing(folder: Path) -> None:
    """Deletes what opening an address has written to a folder that nothing else uses."""
    for name in (LISTING_NAME, LOCK_NAME):
        (folder / name).unlink(missing_ok=True)


def locate_tokenizer(tokenizer: str, root: Root) -> Path:
    """Returns the tokenizer.json on disk: below the root, at an absolute path, or fetched from an address of its own.

    Raises DataError when it cannot be fetched.
    """
    if is_remote(tokenizer):
        address, _, name = tokenizer.rpartition("/")
        root, tokenizer = open_root(address), name
    if root.remote is None or Path(tokenizer).is_absolute():
        return root.folder / tokenizer
    (file,) = root.named([tokenizer], "data.tokenizer")
    download(file)
    return file.path


def matches_pattern(name: str, pattern: str) -> bool:
    """Returns whether a glob pattern matches, as pathlib has it: `**` for any folders; hidden files never match."""
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return not is_hidden and re.match(glob_translate(pattern), name) is not None


def _open_pinned(address: str, folder: Path) -> Root:
    pinned = _read_pinned(folder)
    if not pinned:
        remote = open_remote(address)
        pinned = {"address": address, "root": remote.root, "complete": False, "files": {}}
        _pin(folder, pinned)
    clean = {key: without_credentials(pinned[key]) for key in ("address", "root")}
    if any(pinned[key] != value for key, value in clean.items()):  # an earlier version wrote it
        pinned |= clean
        _pin(folder, pinned)
    if pinned["address"].rstrip("/") != address.rstrip("/"):
        raise DataError(
            f"data.cache_dir: {folder} is the cache of {pinned['address']}, not {address}; give each its own folder"
        )
    return Root(folder, folder / FRAMES_NAME, open_remote(pinned["root"]), pinned["files"])


def _read_pinned(folder: Path) -> dict[str, Any]:
    path = folder / LISTING_NAME
    try:
        return dict(orjson.loads(path.read_bytes())) if path.exists() else {}
    except (orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged; delete it and the files will be listed again") from error


def _pin(folder: Path, pinned: dict[str, Any]) -> None:
    with write_whole(folder / LISTING_NAME, durable=True) as output:
        output.write(orjson.dumps(pinned, option=orjson.OPT_INDENT_2))


def _is_safe(name: str) -> bool:
    """Returns whether a remote's name for a file stays below the cache folder."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))

"""Copying a remote root, or some files of it, to a folder that can then be a root itself, with a manifest."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import orjson

from data.download import download, download_all, hash_file, is_present
from data.errors import DataError
from data.files import MANIFEST_NAME, DataFile, read_manifest
from data.locks import atomic_write
from data.roots import Root


def mirror(root: Root, files: Sequence[DataFile], report: Callable[[int], None]) -> None:
    """Fetch these files into the root's folder and list them, with sizes and hashes, in its manifest.

    `report` hears how many bytes have come. Raises DataError when the disk cannot hold what is missing, before anything
    is fetched, and for a file that cannot be had.
    """
    missing = sum(file.num_bytes for file in files if not is_present(file))
    free = shutil.disk_usage(root.folder).free
    if missing > free:
        raise DataError(
            f"{root.folder} has room for {free / 1e9:.1f} GB, and {missing / 1e9:.1f} GB are missing; make room, or "
            "fetch to a larger disk"
        )
    for file in files:
        if is_present(file):
            report(file.num_bytes)
    download_all(files, partial(download, report=report))
    _list(root.folder, files)


def _list(folder: Path, files: Sequence[DataFile]) -> None:
    entries = read_manifest(folder)
    for file in files:
        if entries.get(file.name, {}).get("bytes") != file.num_bytes:
            entries[file.name] = {"bytes": file.num_bytes, "sha256": file.sha256 or hash_file(file.path)}
    with atomic_write(folder / MANIFEST_NAME) as output:
        output.write(orjson.dumps({"files": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

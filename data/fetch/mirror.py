"""Copying a remote root, or some files of it, to a folder that can then be a root itself, with a manifest."""

import logging
import shutil
from collections.abc import Callable, Sequence

import orjson

from data.errors import DataError
from data.fetch.download import download, download_all, hash_file, is_present, missing_bytes
from data.fetch.files import MANIFEST_NAME, DataFile, read_manifest
from data.fetch.locks import atomic_write
from data.fetch.roots import Root

logger = logging.getLogger(__name__)


def mirror(root: Root, files: Sequence[DataFile], report: Callable[[int], None]) -> None:
    """Have these files in the root's folder, and list them, with sizes and hashes, in its manifest.

    Files that are there are hashed, where their hash is known, and fetched again if they are not what they should be.
    `report` hears how many more bytes are there, as in `download`. Raises DataError when the disk cannot hold what is
    missing, before anything is fetched, and for a file that cannot be had.
    """
    missing = sum(map(missing_bytes, files))
    free = shutil.disk_usage(root.folder).free
    if missing > free:
        raise DataError(
            f"{root.folder} has room for {free / 1e9:.1f} GB, and {missing / 1e9:.1f} GB are missing; make room, or "
            "fetch to a larger disk"
        )
    entries = read_manifest(root.folder)

    def bring(file: DataFile) -> None:
        known = file.sha256 or entries.get(file.name, {}).get("sha256")
        if known and is_present(file) and hash_file(file.path) != known:
            logger.warning("%s is damaged; fetching it again", file.path)
            file.path.unlink()
            entries.pop(file.name, None)
        download(file, report=report)

    download_all(files, bring)
    for file in files:
        if entries.get(file.name, {}).get("bytes") != file.num_bytes:
            entries[file.name] = {"bytes": file.num_bytes, "sha256": file.sha256 or hash_file(file.path)}
    with atomic_write(root.folder / MANIFEST_NAME) as output:
        output.write(orjson.dumps({"files": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

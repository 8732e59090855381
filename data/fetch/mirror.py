"""A copy of a remote root, or of some of its files, as a folder with a manifest, which is a root itself."""

import logging
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from common.files import write_whole
from data.errors import DataError
from data.fetch.download import download, download_all, hash_file, is_present, missing_bytes
from data.fetch.files import MANIFEST_NAME, DataFile, read_manifest
from data.fetch.locks import file_lock
from data.fetch.record import read_record
from data.fetch.roots import LOCK_NAME, Root

logger = logging.getLogger(__name__)


def mirror(root: Root, files: Sequence[DataFile], report: Callable[[int], None]) -> None:
    """Fetches these files to the root's folder, and lists them, with sizes and hashes, in its manifest.

    Files that are there are hashed, where their hash is known, and fetched again if it differs. What other processes
    have listed meanwhile stays. `report` is called as by `download`. Raises DataError when the disk cannot hold what is
    missing, before anything is fetched, and for a file that cannot be fetched.
    """
    missing = sum(map(missing_bytes, files))
    free = shutil.disk_usage(root.folder).free
    if missing > free:
        raise DataError(
            f"{root.folder} has {free / 1e9:.1f} GB free, and {missing / 1e9:.1f} GB are missing; free disk space, "
            "or fetch to a larger disk"
        )
    entries = read_manifest(root.folder)

    def fetch(file: DataFile) -> None:
        known = file.sha256 or entries.get(file.name, {}).get("sha256")
        if known and is_present(file) and hash_file(file.path) != known:
            logger.warning("%s is damaged; fetching it again", file.path)
            file.path.unlink()
            entries.pop(file.name, None)
        download(file, report=report)

    download_all(files, fetch)
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if entries.get(file.name, {}).get("bytes") != file.num_bytes:
            record = read_record(file.path)
            sha256 = file.sha256 or (record and record.sha256) or hash_file(file.path)
            found[file.name] = {"bytes": file.num_bytes, "sha256": sha256}
    with file_lock(root.folder / LOCK_NAME):
        content = {"files": {**read_manifest(root.folder), **found}}
        with write_whole(root.folder / MANIFEST_NAME, durable=True) as output:
            output.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

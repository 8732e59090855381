"""Places that files are fetched from: web servers, the Hugging Face hub, buckets.

A remote says what it holds, and sends a file from any byte on. All else (resuming, checking, retrying, sharing between
processes) is the same for all of them: data/download.py.

    https://host/prefix                              a web server; with a manifest.json, patterns work too
    hf://datasets/OWNER/NAME[@REVISION][/FOLDER]     a dataset of the hub, pinned to the commit first seen
    s3://bucket/prefix, gs://bucket/prefix           whatever fsspec knows
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from data.errors import DataError
from data.fetch.retry import TransientError, retried
from data.fetch.web import CHUNK_BYTES, TRANSIENT, WebFolder, changed

SCHEME = re.compile(r"[a-z][a-z0-9+]*://")
HUB_ROOT = re.compile(r"hf://(?P<datasets>datasets/)?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?P<folder>/.*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class Remote(Protocol):
    """A place with files below a root."""

    root: str
    """Its address; leads to the same files at any later time, where the place has revisions."""

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """`bytes` and, if known, `sha256` and `etag` of the named files, or of all; by path below the root."""
        ...

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> tuple[int, Iterator[bytes]]:
        """Where the answer starts, `start` or 0, and the bytes of the file from there to its end at `num_bytes`.

        Raises TransientError for what may pass, DataError for what will not: a file whose `etag` is another by now.
        """
        ...


class HubRepo(NamedTuple):
    """What a hub address names."""

    repo: str
    repo_type: str
    revision: str
    folder: str


def is_remote(root: str) -> bool:
    """Whether this is an address, not a folder."""
    return SCHEME.match(root) is not None


def open_remote(root: str) -> Remote:
    """The remote at an address; nothing is asked yet, except which commit a hub revision is.

    Raises DataError for an address of no known kind, and when the hub does not know it.
    """
    if root.startswith(("http://", "https://")):
        return WebFolder(root)
    if root.startswith("hf://"):
        return HubFolder(parse_hub(root))
    return Bucket(root)


def parse_hub(root: str) -> HubRepo:
    """The parts of `hf://[datasets/]OWNER/NAME[@REVISION][/FOLDER]`; DataError if it is not of that form."""
    match = HUB_ROOT.fullmatch(root)
    if match is None:
        raise DataError(f"{root} is no address on the hub; write hf://datasets/OWNER/NAME@REVISION")
    repo_type = "dataset" if match["datasets"] else "model"
    return HubRepo(match["repo"], repo_type, match["revision"] or "main", (match["folder"] or "").strip("/"))


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


class HubFolder(WebFolder):
    """A folder of a hub repository at one commit: listed by its client, fetched like any web file."""

    def __init__(self, address: HubRepo) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers

        repo, repo_type, commit, folder = address
        if not COMMIT.fullmatch(commit):
            commit = str(_asked(lambda: HfApi().repo_info(repo, repo_type=repo_type, revision=commit).sha, repo))
        self._address = address._replace(revision=commit)
        kind = "datasets/" if repo_type == "dataset" else ""
        super().__init__(
            f"hf://{kind}{repo}@{commit}/{folder}".rstrip("/"),
            partial(_hub_url, address=self._address),
            build_hf_headers(),
        )

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        from huggingface_hub import HfApi, RepoFile

        repo, repo_type, revision, folder = self._address

        def ask() -> dict[str, dict[str, Any]]:
            entries = HfApi().list_repo_tree(
                repo, folder or None, recursive=True, revision=revision, repo_type=repo_type
            )
            files = [entry for entry in entries if isinstance(entry, RepoFile)]
            start = len(folder) + 1 if folder else 0
            return {
                file.path[start:]: {"bytes": file.size, "sha256": file.lfs.sha256 if file.lfs else None}
                for file in files
            }

        found = _asked(ask, repo)
        return found if names is None else {name: found[name] for name in names if name in found}

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> tuple[int, Iterator[bytes]]:
        if is_offline():
            raise DataError(
                f"HF_HUB_OFFLINE is set and {name} of {self.root} is not on this machine; unset it, or fetch the file "
                "first with `python -m data fetch`"
            )
        return super().read(name, start, num_bytes, etag)


class Bucket:
    """A prefix of object storage, or of any other file system that fsspec knows."""

    def __init__(self, root: str) -> None:
        import fsspec

        scheme = root.split("://")[0]
        try:
            self._files, self._prefix = fsspec.url_to_fs(root)
        except ImportError as error:
            package = EXTRAS.get(scheme, str(error))
            raise DataError(f"{root} needs the package {package}; install it with pip") from error
        except (ValueError, TypeError, OSError) as error:
            raise DataError(f"{root} is of no known kind ({error}); use https://, hf://, s3:// or gs://") from error
        self.root = root

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        try:
            found = self._files.find(self._prefix, detail=True)
        except Exception as error:  # each file system has its own
            raise DataError(
                f"{self.root} cannot be listed ({error}); correct data.root or your access to it"
            ) from error
        start = len(self._prefix.rstrip("/")) + 1
        entries = {path[start:]: {"bytes": item["size"], "etag": _etag_of(item)} for path, item in found.items()}
        return entries if names is None else {name: entries[name] for name in names if name in entries}

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> tuple[int, Iterator[bytes]]:
        return start, self._read(f"{self._prefix.rstrip('/')}/{name}", start, etag)

    def _read(self, path: str, start: int, etag: str | None) -> Iterator[bytes]:
        try:
            self._files.invalidate_cache()  # what it was like when it was listed
            with self._files.open(path, "rb") as file:
                found = _etag_of(self._files.info(path))
                if etag and found and found != etag:
                    raise changed(f"{self.root}: {path}")
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{self.root} no longer has {path}; correct data.root or the file list") from error
        except Exception as error:  # each file system has its own
            raise TransientError(f"{path} broke off ({type(error).__name__})") from error


def _etag_of(item: Mapping[str, Any]) -> str | None:
    """What tells versions of an object apart: each file system spells it its own way."""
    etag = item.get("ETag") or item.get("etag")
    return str(etag) if etag else None


def _hub_url(name: str, address: HubRepo) -> str:
    from huggingface_hub import hf_hub_url

    repo, repo_type, revision, folder = address
    return hf_hub_url(repo, f"{folder}/{name}".lstrip("/"), repo_type=repo_type, revision=revision)


def _asked(ask: Callable[[], Any], repo: str) -> Any:
    """The hub's answer; what may pass is tried again, so that a busy hub costs a minute and not a rank."""
    if is_offline():
        raise DataError(
            f"HF_HUB_OFFLINE is set and what {repo} holds is not all listed on this machine; unset it, or fetch the "
            "files first with `python -m data fetch`"
        )

    def attempt() -> Any:
        try:
            return ask()
        except Exception as error:  # the client's, its HTTP library's, and the system's
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = f"the hub does not tell what {repo} holds ({str(error).strip().splitlines()[0]})"
            if isinstance(error, ValueError) or (status is not None and status < 500 and status not in TRANSIENT):
                raise DataError(f"{reason}; check its name, its revision and your access to it") from error
            raise TransientError(reason) from error

    return retried(attempt)

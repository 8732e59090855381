"""Files of a Hugging Face hub repository at one commit: listed by the hub's own client, fetched like any web file."""

import dataclasses
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from data.fetch.answer import Answer, Piece
from data.fetch.retry import TransientError, retried
from data.fetch.web import TRANSIENT, WebFolder

if TYPE_CHECKING:
    from huggingface_hub import HfUri

CONNECT_SECONDS = 10.0
COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_hub(root: str) -> "HfUri":
    """Returns the parts of `hf://[datasets/]OWNER/NAME[@REVISION][/FOLDER]`; raises DataError for another form."""
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        return parse_hf_uri(root)
    except HfUriError as error:
        raise DataError(f"{root} is no address on the hub; write hf://datasets/OWNER/NAME@REVISION") from error


def is_offline() -> bool:
    """Returns whether the hub must not be asked (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def check_reachable(address: "HfUri") -> None:
    """Raises DataError if no connection to the hub can be made: once, for a person who waits.

    What the hub answers, and how long it takes for that, is left to `HubFolder`.
    """
    from huggingface_hub import HfApi

    if is_offline():
        return
    try:
        HfApi().repo_info(address.id, repo_type=address.type, revision=address.revision, timeout=CONNECT_SECONDS)
    except Exception as error:  # the client's, its HTTP library's, and the system's
        if getattr(error, "response", None) is None and "Connect" in type(error).__name__:
            raise DataError(
                f"the hub cannot be reached ({str(error).strip().splitlines()[0]}), so {address.id} cannot be fetched: "
                "check the network, or give a folder of this machine"
            ) from error


class HubFolder(WebFolder):
    """A folder of a hub repository; a `data.fetch.remote.Remote`."""

    is_pinned = True

    def __init__(self, address: "HfUri") -> None:
        """Asks which commit the revision is; raises DataError when the hub does not know it."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers

        repo, repo_type, commit = address.id, address.type, address.revision or "main"
        if not COMMIT.fullmatch(commit):
            commit = str(
                _ask_hub(lambda: HfApi().repo_info(repo, repo_type=repo_type, revision=commit).sha, repo, True)
            )
        self._address = dataclasses.replace(address, revision=commit)
        kind = "" if repo_type == "model" else f"{repo_type}s/"
        super().__init__(
            f"hf://{kind}{repo}@{commit}/{address.path_in_repo}".rstrip("/"), self._url_in_repo, build_hf_headers()
        )

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Returns size and, for LFS files, sha256 of the named files, or of all; raises DataError."""
        from huggingface_hub import HfApi, RepoFile

        address, folder = self._address, self._address.path_in_repo

        def ask() -> dict[str, dict[str, Any]]:
            entries = HfApi().list_repo_tree(
                address.id, folder or None, recursive=True, revision=address.revision, repo_type=address.type
            )
            files = [entry for entry in entries if isinstance(entry, RepoFile)]
            start = len(folder) + 1 if folder else 0
            return {
                file.path[start:]: {"bytes": file.size, "sha256": file.lfs.sha256 if file.lfs else None}
                for file in files
            }

        found = _ask_hub(ask, address.id)
        return found if names is None else {name: found[name] for name in names if name in found}

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> Answer:
        """Returns as WebFolder does; raises DataError at once when the hub must not be asked."""
        self._check_online(name)
        return super().read(name, start, num_bytes, etag)

    def read_range(self, name: str, start: int, stop: int, num_bytes: int, etag: str | None = None) -> Piece:
        """Returns as WebFolder does; raises DataError at once when the hub must not be asked."""
        self._check_online(name)
        return super().read_range(name, start, stop, num_bytes, etag)

    def _check_online(self, name: str) -> None:
        if is_offline():
            raise DataError(
                f"HF_HUB_OFFLINE is set and {name} of {self.root} is not on this machine; unset it, or fetch the file "
                "first with `python -m data fetch`"
            )

    def _url_in_repo(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        address = self._address
        path = f"{address.path_in_repo}/{name}".lstrip("/")
        return hf_hub_url(address.id, path, repo_type=address.type, revision=address.revision)


def find_snapshot(address: "HfUri") -> Path:
    """Returns the folder in the hub client's own cache; raises DataError when nothing of the repository is there."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(
            address.id, repo_type=address.type, revision=address.revision or "main", local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"HF_HUB_OFFLINE is set and nothing of {address.id} is on this machine; unset it, or fetch the files first "
            "with `python -m data fetch`"
        ) from error
    return Path(snapshot) / address.path_in_repo


def _ask_hub(ask: Callable[[], Any], repo: str, is_first: bool = False) -> Any:
    """Returns the hub's answer; tries again what may pass, so that a busy hub costs a minute and not a rank.

    If nothing has been asked before and no connection can be made, raises DataError at once.
    """
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
            if is_first and _is_unreachable(error):
                raise DataError(f"{reason}; connect this machine to the network, and type the same again") from error
            if isinstance(error, ValueError) or (status is not None and status < 500 and status not in TRANSIENT):
                raise DataError(f"{reason}; check its name, its revision and your access to it") from error
            raise TransientError(reason) from error

    return retried(attempt)


def _is_unreachable(error: BaseException | None) -> bool:
    """Returns whether no connection was made, whatever the client's HTTP library made of that."""
    while error is not None and not isinstance(error, ConnectionRefusedError | socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None

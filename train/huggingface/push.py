"""Uploads an exported folder to the hub."""

from pathlib import Path

from train.errors import TrainError


def check_repository(name: str) -> None:
    """Raises TrainError unless the hub can have a repository of this name. Nothing is asked of the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise TrainError(f"--push {name!r} cannot be the name of a repository: give OWNER/NAME ({error})") from error
    if "/" not in name:
        raise TrainError(f"--push {name!r} names no owner: give OWNER/NAME")


def push(folder: Path, repository: str) -> str:
    """Uploads a folder to a hub repository, which is made, private, if it is not there; returns the commit's address.

    The token is that of `hf auth login`, or HF_TOKEN. What an earlier try has uploaded is not sent again. Raises
    TrainError with the hub's reason.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.name}"))
    except Exception as error:  # the client's own, its HTTP library's, its storage's and the system's
        cause = error.__cause__ or error
        reason = (str(cause).strip() or repr(cause)).splitlines()[0]
        raise TrainError(
            f"{folder} is written, but could not be uploaded to {repository} ({reason}): check the name, `hf auth "
            f"whoami` and the network, then `hf upload --private {repository} {folder}`"
        ) from error

"""Uploads an exported folder to the hub."""

from pathlib import Path

from train.errors import TrainError


def push(folder: Path, repository: str) -> str:
    """Uploads a folder to a hub repository, which is made, private, if it is not there; returns its address.

    The token is that of `hf auth login`, or HF_TOKEN. Raises TrainError with the hub's reason.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainError(
            f"{folder} is written, but could not be uploaded to {repository} ({reason}): check the name, `hf auth "
            f"whoami` and the network, then `hf upload {repository} {folder}`"
        ) from error

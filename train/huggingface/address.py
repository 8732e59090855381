"""Places that weights come from, by their addresses alone: no tensor is read, and torch is not imported."""

import re
from pathlib import Path

from train.config import RunConfig

HUB = "hf://"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")


def is_hub_id(source: str) -> bool:
    """Returns whether a text is `OWNER/NAME@REVISION`."""
    return _HUB_ID.fullmatch(source) is not None


def hub_address(source: str) -> str | None:
    """Returns the address of a model on the hub, or None for a path."""
    if source.startswith(HUB):
        return source
    return HUB + source if is_hub_id(source) and not Path(source).expanduser().exists() else None


def folder_problem(source: str) -> str | None:
    """Returns what is wrong with a source that is no folder, with what it may be; None for one that is."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return None
    state = "no folder" if folder.exists() else "absent"
    first = "train that run first, or " if folder.parent == Path(RunConfig.run_root) else ""
    return (
        f"{source} is {state}: {first}give a Hugging Face folder, a run, a checkpoint, or a model of the hub as "
        f"{HUB}OWNER/NAME@REVISION"
    )

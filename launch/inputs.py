"""What a run reads, looked for before any process starts: it takes a moment here, and half a minute in the ranks."""

import re
from pathlib import Path

from common.errors import UserError
from data.config import DataKind
from data.fetch.remote import is_remote
from data.fetch.roots import open_root
from data.text.backend import training_files
from data.tokens.files import list_token_files
from train.config import RunConfig
from train.errors import TrainError
from train.run_folder import RunFolder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")


def check_inputs(config: RunConfig) -> None:
    """Raises TrainError with all that a run would read and that is absent on this machine, in one line.

    A run that has done its steps reads nothing, and one with a checkpoint no initial weights.
    """
    newest = RunFolder.of(config).newest_checkpoint()
    if newest is not None and newest >= config.max_steps:
        return
    problems = [data_problem(config), None if newest is not None else weights_problem(config)]
    if found := [problem for problem in problems if problem]:
        raise TrainError("; and ".join(found))


def weights_problem(config: RunConfig) -> str | None:
    """Returns what is wrong with the place of `init_from`; None for one that is there, or is on the hub."""
    source = config.init_from
    if source is None or source.startswith("hf://") or Path(source).expanduser().is_dir():
        return None
    if HUB_ID.fullmatch(source):
        return None
    return (
        f"init_from={source} is absent: give a Hugging Face folder, a run, a checkpoint, or a model of the hub as "
        "hf://OWNER/NAME@REVISION"
    )


def data_problem(config: RunConfig) -> str | None:
    """Returns what is missing of the data; None for data on a server, which is not asked here."""
    data = config.data
    if is_remote(data.root):
        return None
    try:
        root = open_root(data.root, data.cache_dir)
        if data.kind is DataKind.tokens:
            list_token_files(root, Path(str(data.file_list)).expanduser())
        else:
            training_files(data, root)
    except UserError as error:
        return str(error)
    if data.tokenizer and not is_remote(data.tokenizer) and not (root.folder / data.tokenizer).is_file():
        return f"data.tokenizer: there is no file {root.folder / data.tokenizer}; name the tokenizer.json of the text"
    return None

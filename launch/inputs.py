"""What a run reads, looked for before any process starts: it takes a moment here, and half a minute in the ranks."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.config import DataConfig, DataKind
from data.fetch.files import DataFile
from data.fetch.remote import is_remote
from data.fetch.roots import Root, open_root
from data.text.backend import training_files
from data.tokenizer import DocumentEncoder
from data.tokens.files import list_token_files
from data.tokens.layout import TokenLayout, layout_of
from data.tokens.mixed import token_sources
from model.config import ModelConfig
from train.config import RunConfig
from train.errors import TrainError
from train.huggingface.address import folder_problem, hub_address
from train.run_folder import RunFolder
from train.vocabulary import vocabulary_problem

FIRST_IDS = 1 << 14  # of a token file, which are looked at: a moment's reading
NUM_FILES = 32  # of all, evenly spread, of which these are


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
    problem = None if source is None or hub_address(source) else folder_problem(source)
    return problem and f"init_from={problem}"


def data_problem(config: RunConfig) -> str | None:
    """Returns what is missing of the data, or does not belong to the model; None for data on a server."""
    data = config.data
    if is_remote(data.root):
        return None
    try:
        root = open_root(data.root, data.cache_dir)
        if data.kind is DataKind.tokens:
            problem = _token_problem(_token_files(data, root), config.model)
        else:
            problem = None
            training_files(data, root)
        return problem or _tokenizer_problem(config, root) or _probe_problem(config, root)
    except UserError as error:
        return str(error)


def _tokenizer_problem(config: RunConfig, root: Root) -> str | None:
    data = config.data
    largest, eos_token_id = None, None
    if data.tokenizer is not None and not is_remote(data.tokenizer):
        path = root.folder / data.tokenizer
        if not path.is_file():
            return f"data.tokenizer: there is no file {path}; name the tokenizer.json of the text"
        largest, eos_token_id = _ids_of(path, data.eos_token)
    if data.kind is DataKind.tokens and data.eos_token_id is not None:
        eos_token_id = data.eos_token_id
    return None if eos_token_id is None else vocabulary_problem(largest, eos_token_id, config.model)


def _probe_problem(config: RunConfig, root: Root) -> str | None:
    named = config.position_watch.probe_tokenizer
    if named is None or is_remote(named) or (root.folder / named).is_file():
        return None
    return (
        f"position_watch.probe_tokenizer: there is no file {root.folder / named}; name a tokenizer.json, or leave it "
        "out for that of the data"
    )


@functools.cache  # the members of a sweep share it
def _ids_of(tokenizer: Path, eos_token: str) -> tuple[int, int]:
    """Returns the largest id of a tokenizer, and the one that ends documents. Raises DataError."""
    encoder = DocumentEncoder(tokenizer, eos_token)
    return encoder.max_token_id, encoder.eos_token_id


def _token_files(data: DataConfig, root: Root) -> list[tuple[DataFile, TokenLayout]]:
    """Returns the token files of a run and how they are stored. Raises DataError if one is missing or none."""
    if data.file_list is not None:
        files = list_token_files(root, Path(data.file_list).expanduser(), token_dtype=data.token_dtype)
        return [(file, layout_of(file, data.token_dtype)) for file in files]
    return [
        (file, layout_of(file, data.sources[name].token_dtype))
        for name, files in token_sources(data, root).items()
        for file in files
    ]


def _token_problem(files: Sequence[tuple[DataFile, TokenLayout]], model: ModelConfig) -> str | None:
    """Returns which file has ids that the model has not, among the first of some files; None if none is seen."""
    for file, layout in files[:: max(1, len(files) // NUM_FILES)]:
        ids = np.fromfile(file.path, layout.dtype, FIRST_IDS, offset=layout.start)
        if ids.size and ids.max() >= model.vocab_size:
            return (
                f"{file.path} holds token id {ids.max()}, but model.vocab_size={model.vocab_size}: it was made with "
                "another tokenizer, or is damaged"
            )
    return None

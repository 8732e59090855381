"""Bytes on disk of a run: data, checkpoints, exports."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.config import DataConfig, DataKind
from data.fetch.remote import is_remote
from data.fetch.roots import open_root
from data.text.backend import training_files
from data.tokens.files import list_token_files, read_file_list
from data.tools.summary import published_tokens
from model.accounting import num_parameters
from train.config import RunConfig
from train.engine.memory import checkpoint_bytes

TOKEN_BYTES = 4
CACHED_BYTES = 2  # per token of text that is read, compressed: an estimate
GIB = 2**30


@dataclass(frozen=True)
class Disk:
    """Bytes of each part."""

    data: int | None
    """What the training reads, wherever it lies; None: not known without a network."""
    cache: int
    """What is fetched and ingested, at most."""
    checkpoints: int
    """Those that are kept, and the one being written."""
    conversion: int
    """Once more masters and moments, when a run continues on other ranks or another ZeRO stage."""
    exports: int
    """fp32 weights at the end, and further exports."""

    @property
    def in_run_folder(self) -> int:
        """What run_root needs."""
        return self.checkpoints + self.conversion + self.exports


def disk(config: RunConfig) -> Disk:
    """Returns the bytes on disk. Reads the sizes of local files, and nothing from a network."""
    parameters = num_parameters(config.model, config.positions)
    settings = config.checkpoint
    kept = settings.keep + 1 + (config.max_steps // settings.keep_every if settings.keep_every else 0)
    exports = int(settings.export_hf and config.export_problem() is None)
    exports += config.max_steps // settings.export_every if settings.export_every else 0
    data = data_bytes(config.data)
    return Disk(
        data=data,
        cache=cache_bytes(config, data),
        checkpoints=kept * checkpoint_bytes(config, on_gpu=True),
        conversion=12 * parameters,
        exports=exports * 4 * parameters,
    )


def data_bytes(data: DataConfig) -> int | None:
    """Returns the bytes of all training files; of token files that are absent, those that were published.

    None if that is not known without a network.
    """
    if not is_remote(data.root) and Path(data.root).expanduser().is_dir():
        try:
            return _present_bytes(data)
        except (UserError, OSError):
            pass  # incomplete: the doctor and the launch say what is missing
    if data.kind is DataKind.text:
        return None
    try:
        file_list = Path(str(data.file_list)).expanduser()
        return TOKEN_BYTES * sum(published_tokens(read_file_list(file_list), file_list))
    except (UserError, OSError):
        return None


def cache_bytes(config: RunConfig, data: int | None) -> int:
    """Returns the most that the cache takes: what is read of text, or fetched of token files, or its own bound."""
    bound = None if config.data.max_cache_gib is None else int(config.data.max_cache_gib * GIB)
    if config.data.kind is DataKind.text:
        read = CACHED_BYTES * config.max_steps * config.global_batch_size * config.sequence_length
        needed = read if data is None else min(read, data)
    else:
        needed = data or 0 if is_remote(config.data.root) else 0
    return needed if bound is None else min(needed, bound)


def _present_bytes(data: DataConfig) -> int:
    root = open_root(data.root)
    if data.kind is DataKind.tokens:
        return sum(file.num_bytes for file in list_token_files(root, Path(str(data.file_list)).expanduser()))
    return sum(file.num_bytes for files in training_files(data, root).values() for file in files)

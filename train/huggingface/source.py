"""Where weights come from: `init_from`, and the SOURCE of `python -m model import` and `generate`.

    checkpoints/olmo2-1b, runs/NAME/hf       a Hugging Face folder: config.json and safetensors
    runs/NAME                                a run: its newest whole checkpoint, or hf/ if that is of the same step
    runs/NAME/checkpoints/step-0000100       a checkpoint, of any ZeRO stage and number of ranks
    hf://OWNER/NAME@REVISION                 a model of the hub; OWNER/NAME@REVISION is the same

Files of the hub are fetched to checkpoints/hub/, once; a broken connection goes on where it broke off, and the commit
is the one first seen.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from data.fetch import hub
from data.fetch.download import download, download_all, missing_bytes
from data.fetch.roots import LISTING_NAME, open_root
from model.hf_config import hf_config
from model.weights import Source, hf_keys, open_hf, parameter_shapes
from report.run_folder import RunFiles
from train.checkpoint.manifest import MANIFEST, DamageError
from train.checkpoint.masters import read_masters
from train.checkpoint.store import (
    TRAINER,
    Checkpoint,
    checkpoint_folders,
    folder_name,
    newest_checkpoint,
    read_checkpoint,
)
from train.compose.app import run_config_of
from train.config import RunConfig
from train.errors import TrainError
from train.huggingface.address import HUB, folder_problem, hub_address
from train.run_folder import RunFolder

_OF_A_MODEL = re.compile(r"-(hf|step-\d+)$")  # after the run's name, in that of a folder of evaluations
_HUB_FOLDER = Path("checkpoints/hub")
_HUB_FILES = ("*.json", "*.safetensors")


class Kind(Enum):
    """What a folder with weights is."""

    hugging_face = "hugging face"
    checkpoint = "checkpoint"
    run = "run"


@dataclass(frozen=True)
class Saved:
    """A checkpoint with the config that it was saved with."""

    checkpoint: Checkpoint
    config: RunConfig


def is_run_or_checkpoint(path: Path) -> bool:
    """Returns whether a path is the folder of a run, or of a checkpoint."""
    return (path / TRAINER).is_file() or RunFiles(path).checkpoints.is_dir()


def open_saved(path: Path, step: int | None = None) -> Saved:
    """Returns the checkpoint at `path`, or of the run there: the newest whole one, or that of `step`.

    Raises TrainError if there is none, or if it is damaged.
    """
    checkpoint = _find(path, step)
    config = run_config_of(checkpoint.trainer_state()["config"], str(checkpoint.folder))
    run = checkpoint.folder.parent.parent  # where it lies now, whatever it was called when it was saved
    if (run / checkpoint.folder.parent.name) == RunFiles(run).checkpoints:
        config.run_root, config.name = str(run.parent), run.resolve().name
    return Saved(checkpoint, config)


def check_source(source: str) -> None:
    """Raises TrainError unless `source` can be one; nothing is fetched or read."""
    if hub_address(source) is None:
        _kind(Path(source).expanduser(), source)


def check_target(folder: Path) -> None:
    """Raises TrainError unless weights can be written there: it is absent, and not among a run's checkpoints."""
    if folder.exists():
        raise TrainError(f"{folder} exists; remove it or choose another folder")
    for parent in folder.resolve().parents:
        if any((checkpoint / MANIFEST).is_file() for checkpoint in checkpoint_folders(parent)):
            raise TrainError(f"{folder} is among the checkpoints of a run: choose another folder")


def local_folder(source: str) -> Path:
    """Returns the folder of a source: for one on the hub, that which it is fetched to, there or not yet."""
    address = hub_address(source)
    if address is None:
        return Path(source).expanduser()
    return _HUB_FOLDER / re.sub(r"[^\w.@-]+", "--", address.removeprefix(HUB))


def check_reachable(source: str) -> None:
    """Raises DataError if `source` has to be fetched from the hub and there is no way to it.

    For commands that a person waits for: `fetch_source` tries for a minute, as runs need it.
    """
    address = hub_address(source)
    if address is not None and not (local_folder(source) / LISTING_NAME).is_file():
        hub.check_reachable(hub.parse_hub(address))


def fetch_source(source: str, report: Callable[[int], None] = lambda num_bytes: None) -> Path:
    """Returns the folder of a source; what lies on the hub is fetched to it first.

    `report` gets the number of bytes that are there, whenever some have arrived. Raises DataError if it cannot be
    fetched, and TrainError if `source` is nothing that holds weights.
    """
    address, folder = hub_address(source), local_folder(source)
    if address is None:
        return folder
    root = open_root(address, str(folder))
    files = root.find(_HUB_FILES, "init_from")
    if root.remote is not None:  # else offline, from the hub client's own cache
        missing = sum(map(missing_bytes, files))
        if missing:
            print(f"fetching {missing / 1e9:.2f} GB of {root.remote.root} to {folder}", flush=True)
        arrivals = _Arrivals(sum(file.num_bytes for file in files), missing, report)
        download_all(files, lambda file: download(file, report=arrivals.add))
    return root.folder


def open_source(folder: Path) -> Source:
    """Opens what `fetch_source` has returned; no tensor is read yet. Raises ModelError and TrainError."""
    kind = _kind(folder, str(folder))
    if kind is Kind.hugging_face:
        return open_hf(folder)
    if kind is Kind.run:
        run = RunFolder(folder)
        newest = newest_checkpoint(run.checkpoints)
        if run.exported_step() is not None and (newest is None or newest.step == run.exported_step()):
            return open_hf(run.hf)
    return open_checkpoint(open_saved(folder))


def open_checkpoint(saved: Saved) -> Source:
    """Opens the fp32 weights of a checkpoint. Raises TrainError if it is damaged."""
    run = saved.config
    keys = hf_keys(run.model, run.positions)
    names = {key: name for name, key in keys.items()}
    shapes = {keys[name]: shape for name, shape in parameter_shapes(run.model, run.positions).items()}
    masters = read_masters(saved.checkpoint)
    if masters.keys() != keys.keys():
        different = sorted(masters.keys() ^ keys.keys())
        raise TrainError(f"{saved.checkpoint.folder} has other parameters than its config: {different[0]} and others")

    def read(key: str) -> Tensor:
        return masters[names[key]]()

    return Source(str(saved.checkpoint.folder), _described(run), shapes, read)


class _Arrivals:
    """How many bytes of several files are there; prints a line after each tenth of what was missing."""

    def __init__(self, total: int, missing: int, report: Callable[[int], None]) -> None:
        self._total, self._missing, self._report = total, missing, report
        self._num_bytes, self._tenths = 0, 0
        self._lock = threading.Lock()  # each file has a thread

    def add(self, num_bytes: int) -> None:
        """Notes that bytes have arrived, or with a negative number that some were dropped."""
        with self._lock:
            self._num_bytes += num_bytes
            self._report(self._num_bytes)
            rest = self._total - self._num_bytes
            tenths = 10 * (self._missing - rest) // self._missing if self._missing else 0
            if self._tenths < tenths < 10:
                print(f"fetched {tenths}0 %, {rest / 1e9:.2f} GB to go", flush=True)
            self._tenths = max(tenths, self._tenths)


def _described(run: RunConfig) -> dict[str, Any]:
    """Returns what a config.json would say of a run's model."""
    precisions = {
        "position_precision": run.positions.precision.value,
        "norm_precision": run.model.norm_precision.value,
    }
    return hf_config(run.model, run.positions, "float32", run.sequence_length) | precisions


def _kind(folder: Path, source: str) -> Kind:
    """Returns what a folder is. Raises TrainError, saying what `source` may be."""
    if problem := folder_problem(source):
        raise TrainError(problem)
    if (folder / MANIFEST).is_file() and (folder / TRAINER).is_file():
        return Kind.checkpoint
    if (folder / "config.json").is_file():
        return Kind.hugging_face
    if _is_run(folder):
        return Kind.run
    if RunFiles(folder).events.is_file():
        raise TrainError(f"{source} is a run that has saved no checkpoint yet: let it train until it saves one")
    meant = _meant(folder)
    raise TrainError(
        f"{source} holds neither a config.json (Hugging Face) nor a checkpoint, and is no run that has saved one"
        + (f": give {meant}" if meant else "")
    )


def _is_run(folder: Path) -> bool:
    run = RunFolder(folder)
    return run.exported_step() is not None or bool(checkpoint_folders(run.checkpoints))


def _meant(folder: Path) -> str | None:
    """Returns what is meant by a run's folder of checkpoints, or by the evaluations of a run; None for others."""
    if steps := checkpoint_folders(folder):
        return f"{steps[0]} for the newest, or the run, {folder.parent}"
    run = Path(RunConfig.run_root) / _OF_A_MODEL.sub("", folder.resolve().name)
    return f"the run, {run}" if _is_run(run) else None


def _find(path: Path, step: int | None) -> Checkpoint:
    try:
        if (path / MANIFEST).is_file():
            return read_checkpoint(path)
        root = RunFiles(path).checkpoints
        if step is not None:
            if (root / folder_name(step)).is_dir():
                return read_checkpoint(root / folder_name(step))
            steps = ", ".join(folder.name for folder in checkpoint_folders(root)) or "none"
            raise TrainError(f"{path} has no checkpoint of step {step}; there are: {steps}")
    except DamageError as error:
        raise TrainError(f"{path} is damaged ({error}): take another checkpoint") from error
    newest = newest_checkpoint(root)
    if newest is None:
        other = "; Hugging Face folders are for `python -m model import`" if (path / "config.json").is_file() else ""
        raise TrainError(
            f"{path} is no run with a whole checkpoint, and no checkpoint: give runs/NAME or one of its checkpoints"
            f"{other}"
        )
    return newest

"""A checkpoint of a stranger, sound in all but what its pickles call, runs nothing when it is loaded."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.train.checkpoint.test_resume import sign
from tests.train.probe import Outcome, start
from tests.train.tiny import tiny, write_tokens
from train.checkpoint.manifest import digest_file
from train.distributed import Ranks

# What is given is of ZeRO 2: the file that is altered, and the ZeRO stage of the run that meets it.
ALTERED = {
    "model": ("mp_rank_*_model_states.pt", 2),
    "optimizer": ("*optim_states.pt", 2),
    "generators": ("rng-rank-*.pt", 2),
    "converted": ("*optim_states.pt", 1),
}


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


def alter(checkpoint: Path, pattern: str, marker: Path) -> None:
    """Adds the payload to a file, and lists the file as it is now."""
    [path] = checkpoint.glob(pattern)
    torch.save({**torch.load(path, weights_only=False), "more": Payload(marker)}, path)
    record = {"size": path.stat().st_size, "digest": digest_file(path)}
    sign(checkpoint, lambda body: body["files"][path.name].update(record))


def all_starts(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    start(tiny(root, name="given", max_steps=2), ranks)
    seen = {}
    for name, (pattern, stage) in ALTERED.items():
        shutil.copytree(root / "runs/given", root / "runs" / name)
        alter(root / "runs" / name / "checkpoints/step-0000002", pattern, root / f"ran-{name}")
        seen[name] = start(tiny(root, name=name, max_steps=3, engine__zero_stage=stage), ranks)
    return seen


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loading")
    write_tokens(root / "tokens")
    return root


@pytest.mark.system
def test_nothing_that_a_checkpoint_holds_is_run(root: Path) -> None:
    [seen] = run_ranks(all_starts, 1, root)
    assert list(root.glob("ran-*")) == []
    for name, outcome in seen.items():
        refused = f"{root}/runs/{name}/checkpoints/step-0000002 holds posix.mkdir, which no checkpoint of this program "
        assert outcome.reason.startswith(refused) and "\n" not in outcome.reason, name

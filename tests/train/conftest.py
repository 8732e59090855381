"""Short runs on two ranks and on one, by subject: each fixture is made once, and several tests look at it.

All runs lie in one root, so that a test can compare those of two subjects. A subject is made when the first test asks
for it.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model.config import PositionsConfig
from tests.distributed import run_ranks
from tests.train.probe import Outcome, start
from tests.train.tiny import tiny, write_tokenizer, write_tokens
from train.callbacks.config import WandbMode
from train.distributed import Ranks
from train.engine.config import Precision
from train.loss_config import LossDenominator
from train.run_folder import RunFolder

NUM_STEPS, STOP_STEP = 8, 3
RESUMED: dict[str, dict[str, Any]] = {
    f"zero{stage}-{precision.value}": {"engine__zero_stage": stage, "engine__precision": precision}
    for precision in (Precision.fp32, Precision.bf16)
    for stage in (1, 2, 3)
}
for name in ("zero1-fp32", "zero2-bf16", "zero3-fp32"):  # each stage once with micro-batches that add up
    RESUMED[name]["micro_batch_size"] = 2
WORKERS = {"data__num_workers": 2}
ROUTES: dict[
    str, list[tuple[int, int, int, Precision]]
] = {  # (ranks, up to step, ZeRO stage, precision) of each segment
    "travelled-fp32": [
        (2, 2, 1, Precision.fp32),
        (1, 4, 2, Precision.fp32),
        (2, 6, 3, Precision.fp32),
        (2, 7, 0, Precision.fp32),
        (2, 8, 1, Precision.fp32),
    ],
    "travelled-bf16": [
        (2, 2, 1, Precision.bf16),
        (1, 4, 3, Precision.bf16),
        (2, 6, 1, Precision.bf16),
        (2, 7, 2, Precision.fp32),
        (2, 8, 2, Precision.bf16),
    ],
}
SAVING = {"checkpoint__interval": 2, "checkpoint__keep": 2}
ONE_RANK: dict[str, dict[str, Any]] = {
    "one-rank-zero1": {"engine__zero_stage": 1, "engine__precision": Precision.bf16},
    "one-rank-zero3": {"engine__zero_stage": 3},
}


@dataclass
class Runs:
    """The runs of one subject."""

    root: Path
    outcomes: dict[str, list[Outcome]]
    """One outcome per rank, by run name; a run that was started twice has NAME and NAME/again."""

    def folder(self, name: str) -> RunFolder:
        """Returns the folder of a run."""
        return RunFolder(self.root / "runs" / name)


def on_ranks(world_size: int, work: Callable[..., dict[str, Outcome]], *arguments: Any) -> dict[str, list[Outcome]]:
    """Returns each rank's outcomes of `work(ranks, *arguments)` by run name."""
    seen = run_ranks(work, world_size, *arguments)
    return {name: [rank[name] for rank in seen] for name in seen[0]}


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, `runs`, beside their data."""
    root = tmp_path_factory.mktemp("train")
    write_tokens(root / "tokens")
    write_tokenizer(root / "tokenizer.json")
    return root


def run_stages(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """Each stage and precision undisturbed, and stopped by a signal to one rank, probed and resumed."""
    seen = {"zero0": start(tiny(root, name="zero0", engine__zero_stage=0), ranks)}
    for name, changes in RESUMED.items():
        seen[name] = start(tiny(root, name=name, **changes), ranks)
    offline = {"wandb__mode": WandbMode.offline, **RESUMED["zero2-fp32"]}
    for name, changes in {**RESUMED, "workers": WORKERS, "wandb": offline}.items():
        probing = {"position_watch__probe_tokenizer": str(root / "tokenizer.json"), "position_watch__probe_interval": 2}
        stopped = tiny(root, name=f"{name}-stopped", **{**changes, **probing})
        seen[stopped.name] = start(stopped, ranks, stop_rank=1, stop_step=STOP_STEP)
        if name == "zero2-fp32" and ranks.is_main:
            shutil.copytree(root / "runs" / stopped.name, root / "runs" / "other-launch")
        ranks.barrier()
        seen[f"{stopped.name}/again"] = start(stopped, ranks)
    return seen


@pytest.fixture(scope="session")
def stages(runs_root: Path) -> Runs:
    """Every ZeRO stage and precision on two ranks, undisturbed and resumed."""
    return Runs(runs_root, on_ranks(2, run_stages, runs_root))


def run_crashes(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """A crash past the last checkpoint; saves in the background; checkpoints and records damaged or deleted."""
    crashing = tiny(root, name="crashed", **SAVING)
    seen = {"crashed": start(crashing, ranks, crash_step=5), "crashed/again": start(crashing, ranks)}
    seen["behind"] = start(tiny(root, name="behind", checkpoint__background=True, **SAVING), ranks)
    for name, spared in (("damaged", "step-0000006"), ("all-damaged", None)):
        if ranks.is_main:
            copy = RunFolder(shutil.copytree(root / "runs" / "crashed", root / "runs" / name))
            for folder in copy.checkpoints.glob("step-*"):
                if folder.name != spared:
                    flip_a_bit(next(folder.glob("*rank_1*optim_states.pt")))
        ranks.barrier()
        seen[name] = start(tiny(root, name=name, **SAVING), ranks)
    for name in ("emptied", "deleted"):
        if ranks.is_main:
            copy = RunFolder(shutil.copytree(root / "runs" / "crashed", root / "runs" / name))
            if name == "deleted":
                shutil.rmtree(copy.checkpoints)
            else:
                copy.metrics.write_text("5\nnull\n")
                copy.events.write_text("")
        ranks.barrier()
        seen[name] = start(tiny(root, name=name, **SAVING), ranks)
    return seen


def flip_a_bit(path: Path) -> None:
    """Damages the middle of a file without changing its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture(scope="session")
def crashes(runs_root: Path) -> Runs:
    """Runs that crashed or whose checkpoints were damaged, on two ranks."""
    return Runs(runs_root, on_ranks(2, run_crashes, runs_root))


def run_segments(ranks: Ranks, root: Path, segments: dict[str, tuple[int, int, Precision]]) -> dict[str, Outcome]:
    """One segment (up to step, ZeRO stage, precision) of each route."""
    seen = {}
    for name, (step, stage, precision) in segments.items():
        changes = {"max_steps": step, "engine__zero_stage": stage, "engine__precision": precision}
        micro_batch_size = 4 if ranks.world_size == 1 else 2
        config = tiny(root, name=name, micro_batch_size=micro_batch_size, **SAVING, **changes)
        seen[f"{name}/{step}"] = start(config, ranks)
    return seen


@pytest.fixture(scope="session")
def routes(runs_root: Path) -> Runs:
    """Runs that continue on other ranks, stages and precisions; the outcomes of a segment under NAME/STEP."""
    outcomes: dict[str, list[Outcome]] = {}
    for segments in zip(*ROUTES.values(), strict=True):
        [world_size] = {segment[0] for segment in segments}
        parts = {name: segment[1:] for name, segment in zip(ROUTES, segments, strict=True)}
        outcomes |= on_ranks(world_size, run_segments, runs_root, parts)
    return Runs(runs_root, outcomes)


def run_splits(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """The same batches in other micro-batches and denominators."""
    if ranks.world_size == 1:
        apart = tiny(root, name="one-rank-documents", micro_batch_size=None, mask_documents=True)
        saved = {
            name: start(tiny(root, name=name, max_steps=1, micro_batch_size=4, **changes), ranks)
            for name, changes in ONE_RANK.items()
        }
        return {
            "one-rank": start(tiny(root, name="one-rank", micro_batch_size=4), ranks),
            "one-rank-documents": start(apart, ranks),
            **saved,
        }
    all_tokens = tiny(root, name="all-tokens", loss__denominator=LossDenominator.all_tokens)
    return {
        "documents": start(tiny(root, name="documents", mask_documents=True), ranks),
        "all-tokens": start(all_tokens, ranks),
    }


@pytest.fixture(scope="session")
def splits(runs_root: Path) -> Runs:
    """The same batches on one rank and on two."""
    return Runs(runs_root, on_ranks(2, run_splits, runs_root) | on_ranks(1, run_splits, runs_root))


def run_exports(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """A backbone that is exported, and a run that starts from it."""
    backbone = {"positions": PositionsConfig(scheme="rope"), **RESUMED["zero3-bf16"]}
    kept = {"checkpoint__export_hf": True, "checkpoint__export_every": 1, "checkpoint__interval": 1}
    tokenizer = {"data__tokenizer": str(root / "tokenizer.json")}
    exported = tiny(root, name="exported", max_steps=2, **kept, **tokenizer, **backbone)
    still = {"max_steps": 1, "optimizer__lr": 0.0, "checkpoint__export_hf": True}
    imported = tiny(root, name="imported", init_from=str(RunFolder.of(exported).path), **still)
    seen = {"exported": start(exported, ranks), "imported": start(imported, ranks)}
    earlier = tiny(root, name="earlier", init_from=str(RunFolder.of(exported).checkpoints / "step-0000001"), **still)
    return seen | {"earlier": start(earlier, ranks)}


@pytest.fixture(scope="session")
def exports(runs_root: Path) -> Runs:
    """A run that exports its weights and one that imports them."""
    return Runs(runs_root, on_ranks(2, run_exports, runs_root))


def run_refusals(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """Runs that must not go on, or whose updates are all dropped."""
    diverging = {"optimizer__lr": 1e30, "engine__max_skipped_updates": 3}
    skipping = {"optimizer__lr": 1e30, "max_steps": 1, "loss__z_loss_weight": 1e38}
    return {
        "diverging": start(tiny(root, name="diverging", **diverging), ranks),
        "skipped": start(tiny(root, name="skipped", **skipping), ranks),
        "vocabulary": start(tiny(root, name="vocabulary", model__vocab_size=64), ranks),
    }


@pytest.fixture(scope="session")
def refusals(runs_root: Path) -> Runs:
    """Runs with bad numbers and bad tokens."""
    return Runs(runs_root, on_ranks(2, run_refusals, runs_root))

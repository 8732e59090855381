"""Many short runs on two ranks and on one, made once for the room: each test looks at some of them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model.config import PositionsConfig, Scheme
from tests.distributed import run_ranks
from tests.train.probe import Outcome, start
from tests.train.tiny import tiny, write_tokenizer, write_tokens
from train.callbacks.config import WandbMode
from train.distributed import Ranks
from train.engine_config import Precision
from train.loss_config import LossDenominator
from train.run_folder import RunFolder

NUM_STEPS, STOP_STEP = 8, 3
RESUMED: dict[str, dict[str, Any]] = {
    f"zero{stage}-{precision.value}": {"engine__zero_stage": stage, "engine__precision": precision}
    for precision in (Precision.fp32, Precision.bf16)
    for stage in (1, 2, 3)
}
WORKERS = {"data__num_workers": 2}
ROUTES: dict[str, list[tuple[int, int, int, Precision]]] = {  # (ranks, up to step, ZeRO stage, precision) of each leg
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


@dataclass
class Runs:
    """Outcomes by run name, one per rank; those of a run that was started twice under NAME and NAME/again."""

    root: Path
    two: list[dict[str, Outcome]]
    one: dict[str, Outcome]
    later: list[dict[str, Outcome]]


def travel(ranks: Ranks, root: Path, steps: range) -> dict[str, Outcome]:
    """The legs of all routes that end at one of `steps` and belong to as many ranks as there are."""
    seen = {}
    for name, legs in ROUTES.items():
        for world_size, step, stage, precision in legs:
            if world_size == ranks.world_size and step in steps:
                changes = {"max_steps": step, "engine__zero_stage": stage, "engine__precision": precision}
                micro_batch_size = 4 if world_size == 1 else 2
                config = tiny(root, name=name, micro_batch_size=micro_batch_size, **SAVING, **changes)
                seen[f"{name}/{step}"] = start(config, ranks)
    return seen


def on_two_ranks(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """Each stage and precision straight, and stopped by a signal to one rank and probed; a crash; runs that must not
    go on."""
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
    crashing = tiny(root, name="crashed", **SAVING)
    seen["crashed"] = start(crashing, ranks, crash_step=5)
    seen["crashed/again"] = start(crashing, ranks)
    seen["documents"] = start(tiny(root, name="documents", mask_documents=True), ranks)
    seen["all-tokens"] = start(tiny(root, name="all-tokens", loss__denominator=LossDenominator.all_tokens), ranks)
    backbone = {"positions": PositionsConfig(scheme=Scheme.rope), **RESUMED["zero3-bf16"]}
    exported = tiny(root, name="exported", max_steps=2, checkpoint__export_hf=True, **backbone)
    seen["exported"] = start(exported, ranks)
    still = {"max_steps": 1, "optimizer__lr": 0.0, "checkpoint__export_hf": True}
    seen["imported"] = start(tiny(root, name="imported", init_from=str(RunFolder.of(exported).path), **still), ranks)
    diverging = {"optimizer__lr": 1e30, "engine__max_skipped_updates": 3}
    seen["diverging"] = start(tiny(root, name="diverging", **diverging), ranks)
    skipping = {"optimizer__lr": 1e30, "max_steps": 1, "loss__z_loss_weight": 1e38}
    seen["skipped"] = start(tiny(root, name="skipped", **skipping), ranks)
    seen["vocabulary"] = start(tiny(root, name="vocabulary", model__vocab_size=64), ranks)
    seen["behind"] = start(tiny(root, name="behind", checkpoint__background=True, **SAVING), ranks)
    return {**seen, **travel(ranks, root, range(3))}


def on_one_rank(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """Some of them again, in larger micro-batches."""
    return {
        "zero2-fp32": start(tiny(root, name="one-rank", micro_batch_size=4), ranks),
        "documents": start(tiny(root, name="one-rank-documents", micro_batch_size=None, mask_documents=True), ranks),
        **travel(ranks, root, range(3, 5)),
    }


def on_two_ranks_again(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """The routes to their ends, and runs whose newest checkpoint, or all of them, are damaged."""
    seen = travel(ranks, root, range(5, NUM_STEPS + 1))
    damaged = tiny(root, name="damaged", **SAVING)
    for name, spared in (("damaged", "step-0000006"), ("damaged/again", None)):
        if ranks.is_main:
            runs = root / "runs"
            shutil.copytree(runs / "crashed", runs / "damaged", dirs_exist_ok=True)
            for folder in (runs / "damaged" / "checkpoints").glob("step-*"):
                if folder.name != spared:
                    flip_a_bit(next(folder.glob("*rank_1*optim_states.pt")))
        ranks.barrier()
        seen[name] = start(damaged, ranks)
    return seen


def flip_a_bit(path: Path) -> None:
    """Damage in the middle of a file that leaves its size alone."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("train")
    write_tokens(root / "tokens")
    write_tokenizer(root / "tokenizer.json")
    two = run_ranks(on_two_ranks, 2, root, timeout=400)
    [one] = run_ranks(on_one_rank, 1, root, timeout=400)
    later = run_ranks(on_two_ranks_again, 2, root, timeout=400)
    return Runs(root, two, one, later)

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
from train.config import LossDenominator, Precision, WandbMode
from train.distributed import Ranks
from train.run_folder import RunFolder

NUM_STEPS, STOP_STEP = 8, 3
RESUMED: dict[str, dict[str, Any]] = {
    f"zero{stage}-{precision.value}": {"engine__zero_stage": stage, "engine__precision": precision}
    for precision in (Precision.fp32, Precision.bf16)
    for stage in (1, 2, 3)
}
WORKERS = {"data__num_workers": 2}
SAVING = {"checkpoint__interval": 2, "checkpoint__keep": 2}


@dataclass
class Runs:
    """Outcomes by run name, one per rank; those of a run that was started twice under NAME and NAME/again."""

    root: Path
    two: list[dict[str, Outcome]]
    one: dict[str, Outcome]


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
    seen["vocabulary"] = start(tiny(root, name="vocabulary", model__vocab_size=64), ranks)
    for name, changes in {"other-stage": RESUMED["zero1-fp32"], "other-precision": RESUMED["zero2-bf16"]}.items():
        seen[name] = start(tiny(root, name="other-launch", **changes), ranks)
    return seen


def on_one_rank(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    """Some of them again, in larger micro-batches."""
    return {
        "zero2-fp32": start(tiny(root, name="one-rank", micro_batch_size=4), ranks),
        "documents": start(tiny(root, name="one-rank-documents", micro_batch_size=None, mask_documents=True), ranks),
        "other-size": start(tiny(root, name="other-launch"), ranks),
    }


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("train")
    write_tokens(root / "tokens")
    write_tokenizer(root / "tokenizer.json")
    two = run_ranks(on_two_ranks, 2, root, timeout=300)
    [one] = run_ranks(on_one_rank, 1, root)
    return Runs(root, two, one)

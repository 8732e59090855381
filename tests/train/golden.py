"""Golden losses: what short runs of a tiny model gave when their numbers were last known to be right.

`python -m tests.train.golden` writes them again. Do that only for a change that is meant to change numbers, and
say so in its commit.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from common.files import write_text_whole
from model.config import PositionPrecision
from tests.distributed import run_ranks
from tests.train.probe import metrics, start
from tests.train.tiny import tiny, write_tokens
from train.distributed import Ranks
from train.loss_config import LossDenominator

FILE = Path(__file__).with_name("golden.json")
NUM_STEPS = 6
CASES: dict[str, dict[str, Any]] = {
    "rope": {"positions__scheme": "rope", "positions__start_layer": None},
    "nope": {"positions__scheme": "nope", "positions__start_layer": None},
    "r2n1": {"positions__scheme": "r2n1", "positions__start_layer": None},
    "repo": {},
    "repo with documents apart": {"mask_documents": True},
    "repo as published": {
        "positions__precision": PositionPrecision.reference,
        "loss__denominator": LossDenominator.all_tokens,
    },
}
COLUMNS = ("train/loss", "train/ce_loss", "optim/grad_norm")

Golden = dict[str, dict[str, list[float]]]


def train_all(ranks: Ranks, root: Path) -> Golden:
    """Trains every case on one rank in fp32; returns the columns of its metrics by case."""
    seen: Golden = {}
    for name, changes in CASES.items():
        run = name.replace(" ", "-")
        start(tiny(root, name=run, max_steps=NUM_STEPS, model__num_layers=3, **changes), ranks)
        rows = metrics(root, run)
        seen[name] = {column: [row[column] for row in rows] for column in COLUMNS}
    return seen


def measure(root: Path) -> Golden:
    """Returns what the present code gives."""
    write_tokens(root / "tokens")
    [seen] = run_ranks(train_all, 1, root)
    return dict(seen)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_text_whole(FILE, json.dumps(measure(Path(folder)), indent=1) + "\n", durable=False)

"""Probes while a model trains: the figures of `python -m evaluate probe`, at any stage, without a trace in training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from evaluate.config import ProbeConfig
from evaluate.samples import Samples
from evaluate.subject import ModelSubject
from evaluate.tasks import build_tasks
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.distributed import run_ranks
from tests.train.probe import Outcome, metrics, start
from tests.train.tiny import tiny, write_tokenizer, write_tokens
from train.config import RunConfig
from train.distributed import Ranks
from train.errors import TrainError
from train.evaluation.probes import Probes

PROBES = ProbeConfig(task=["copy", "reverse"], length=[64, 90], num_samples=5)  # over ranks and micro-batches of two
NAMES = [f"eval/probe/{task}-{length}/nll" for task in PROBES.task for length in PROBES.length]


def configured(root: Path, name: str, **changes: Any) -> RunConfig:
    """Evaluated every third step, of which there is nothing, and probed every second."""
    asked = {
        "evaluation__interval": 3,
        "evaluation__probe_interval": 2,
        "evaluation__probes": PROBES,
        "evaluation__micro_batch_size": 2,
        "position_watch__probe_tokenizer": str(root / "tokenizer.json"),
        "max_steps": 5,
    }
    return tiny(root, name=name, **{**asked, **changes})


def run_on_two(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    still = {"optimizer__lr": 0.0, "max_steps": 1}
    return {
        "still": start(configured(root, "still", engine__zero_stage=3, **still), ranks),
        "probed": start(configured(root, "probed"), ranks),
        "without": start(configured(root, "without", evaluation__probe_interval=None), ranks),
        "stopped": start(configured(root, "stopped", stop_step=3), ranks),
        "stopped/again": start(configured(root, "stopped"), ranks),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probes")
    write_tokens(root / "tokens")
    write_tokenizer(root / "tokenizer.json")
    return root


@pytest.fixture(scope="module")
def two(root: Path) -> list[dict[str, Outcome]]:
    return run_ranks(run_on_two, 2, root)


def probed(root: Path, name: str) -> dict[int, dict[str, float]]:
    rows = {row["step"]: {key: row[key] for key in row if key.startswith("eval/")} for row in metrics(root, name)}
    return {step: row for step, row in rows.items() if row}


def test_the_figures_are_those_of_the_command(two: Any, root: Path) -> None:
    config = configured(root, "expected")
    model = Olmo2(config.model, config.positions)
    initialise(model, random_weights(config.model, config.positions, config.seed), "cpu")
    subject = ModelSubject(
        model, Tokenizer.from_file(str(root / "tokenizer.json")), torch.device("cpu"), [config.model.eos_token_id]
    )
    expected = {}
    for name, task in build_tasks(PROBES).items():
        for length in PROBES.length:
            samples = [Samples(name, task, length, PROBES, subject.encode)[index] for index in range(5)]
            values = [subject.nll(each.prompt, each.answer) / len(each.answer) for each in samples]
            expected[f"eval/probe/{name}-{length}/nll"] = sum(values) / 5
    assert probed(root, "still") == {1: pytest.approx(expected, rel=1e-5)}


def test_probes_have_their_own_interval_and_change_no_loss(two: Any, root: Path) -> None:
    assert {step: list(row) for step, row in probed(root, "probed").items()} == {2: NAMES, 4: NAMES, 5: NAMES}
    trained = [{key: row[key] for key in row if not key.startswith("eval/")} for row in metrics(root, "probed")]
    assert trained == metrics(root, "without")
    assert [rank["probed"].draws for rank in two] == [rank["without"].draws for rank in two]


def test_a_run_that_goes_on_is_probed_as_the_straight_one(two: Any, root: Path) -> None:
    found = probed(root, "stopped")
    assert list(found) == [2, 3, 4, 5]
    assert {step: found[step] for step in (2, 4, 5)} == probed(root, "probed")


def test_without_a_tokenizer_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"evaluation\.probe_interval is set, but no tokenizer is known"):
        Probes.build(configured(tmp_path, "lost", position_watch__probe_tokenizer=None))
    assert Probes.build(configured(tmp_path, "none", evaluation__probe_interval=None)) is None

"""Probes while a model trains: the figures of `python -m evaluate probe`, at any stage, without a trace in training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from evaluate.config import ProbeConfig
from evaluate.probe import plan, run
from evaluate.results import Results
from evaluate.samples import Samples
from evaluate.subject import ModelSubject
from evaluate.tasks.lists import Lists
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.distributed import run_ranks
from tests.train.probe import metrics, start
from tests.train.tiny import tiny, write_tokenizer, write_tokens
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.config import Precision
from train.errors import TrainError
from train.evaluation.probes import Probes

pytestmark = pytest.mark.system
PROBES = ProbeConfig(  # five samples over two ranks and micro-batches of two
    task=["copy", "connectivity"], length=[300, 360], num_samples=5, max_items=5, generate=False
)
NAMES = [
    f"eval/probe/{task}-{length}/{figure}"
    for task, figures in (("copy", ("nll", "score")), ("connectivity", ("nll", "choice", "score")))
    for length in PROBES.length
    for figure in figures
]
WITHOUT_GENERATING = [name for name in NAMES if not name.endswith("/score")]


class Spelling(Lists):
    """Copies whose score is the share of vowels, of which even a model of random weights says some."""

    score = staticmethod(lambda output, gold: sum(letter in "aeiou" for letter in output) / max(1, len(output)))


def configured(root: Path, name: str, **changes: Any) -> RunConfig:
    """Evaluated every third step, of which there is nothing, and probed every second."""
    asked = {
        "evaluation__interval": 3,
        "evaluation__probe_interval": 2,
        "evaluation__micro_batch_size": 2,
        "evaluation__probes": replace(PROBES, generate=True),
        "position_watch__probe_tokenizer": str(root / "tokenizer.json"),
        "max_steps": 5,
    }
    return tiny(root, name=name, **{**asked, **changes})


def spelled(ranks: Ranks, root: Path, zero_stage: int, precision: Precision) -> dict[str, float]:
    """Returns the figures of copies scored by their vowels, on an engine that has not trained."""
    probes = replace(PROBES, task=["copy"], generate=True)
    changes = {"engine__zero_stage": zero_stage, "engine__precision": precision, "evaluation__probes": probes}
    config = configured(root, f"spelled-{zero_stage}", **changes)
    engine = build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    task = Probes.build(config)
    assert task is not None
    task._questions = [replace(own, task=Spelling(probes, is_reversed=False)) for own in task._questions]
    found = task.run(engine, ranks, lambda: False)
    assert found is not None
    assert (
        task.run(engine, ranks, iter([False] * 4 + [True]).__next__) is None
    )  # within the answers of the first length
    engine.close()
    return found


def run_on_two(ranks: Ranks, root: Path) -> dict[str, Any]:
    still = {"optimizer__lr": 0.0, "max_steps": 1, "evaluation__probes": PROBES}
    return {
        "spelled": [
            spelled(ranks, root, stage, precision)
            for stage, precision in ((0, Precision.fp32), (1, Precision.bf16), (2, Precision.fp32))
        ],
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
def two(root: Path) -> list[dict[str, Any]]:
    return run_ranks(run_on_two, 2, root)


def probed(root: Path, name: str) -> dict[int, dict[str, float]]:
    rows = {row["step"]: {key: row[key] for key in row if key.startswith("eval/")} for row in metrics(root, name)}
    return {step: row for step, row in rows.items() if row}


@pytest.fixture(scope="module")
def subject(root: Path) -> ModelSubject:
    """What the command asks, with the weights that every run begins with."""
    config = configured(root, "expected")
    model = Olmo2(config.model, config.positions)
    initialise(model, random_weights(config.model, config.positions, config.seed), "cpu")
    tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    return ModelSubject(model, tokenizer, torch.device("cpu"), [config.model.eos_token_id])


def test_the_figures_are_those_of_the_command(two: Any, root: Path, subject: ModelSubject, tmp_path: Path) -> None:
    expected = {}
    for planned in plan(subject, PROBES)[0]:
        found = run(subject, PROBES, planned, Results(tmp_path, {}), lambda *progress: None)
        name = f"eval/probe/{found.task}-{found.length}"
        expected[f"{name}/nll"] = found.nll.value
        if found.choice is not None:
            expected[f"{name}/choice"] = found.choice.value / 100
    assert list(expected) == WITHOUT_GENERATING
    assert probed(root, "still") == {1: pytest.approx(expected, rel=1e-5)}


def test_scores_are_those_of_the_answers_that_the_command_generates(two: Any, subject: ModelSubject) -> None:
    task = Spelling(PROBES, is_reversed=False)
    expected = {}
    for length in PROBES.length:
        samples = Samples("copy", task, length, PROBES, subject.encode)
        fitted = [samples[index] for index in range(5)]
        outputs = [subject.decode(subject.continued(each.prompt, each.max_new_tokens)) for each in fitted]
        expected[f"eval/probe/copy-{length}/score"] = sum(task.score(output, ()) for output in outputs) / 5
    assert min(expected.values()) > 0
    for rank in two:
        plain, half, split = rank["spelled"]
        assert {name: plain[name] for name in expected} == pytest.approx(expected, rel=1e-9)
        assert {name: split[name] for name in expected} == pytest.approx(expected, rel=1e-9)
        assert all(0 <= half[name] <= 1 for name in expected)


def test_answers_need_whole_weights(root: Path) -> None:
    with pytest.raises(TrainError, match=r"generate=true needs whole weights on every rank, which engine.zero_stage=3"):
        Probes.build(configured(root, "partitioned", engine__zero_stage=3))
    assert RunConfig(name="default").evaluation.probes.generate is False


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

"""A mistake on the command line is one line on standard error and exit code 2; everything else composes."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.hydra import Hydra

from tests.composing import compose, run_app
from tests.train.tiny import tiny
from train.compose.app import EXIT_OK, EXIT_USER_ERROR, hydra_app, load_run_config, save_run_config
from train.engine.config import Precision
from train.errors import TrainError
from train.optimizer_config import OptimizerConfig

ROOT = Path(__file__).parents[3]
DEMO = "experiment=demo"


def test_any_key_can_be_set_and_the_rest_stays() -> None:
    plain, changed = compose(DEMO), compose(DEMO, "optimizer.lr=0.5", "model=small", "positions.start_layer=4")
    assert (changed.optimizer.lr, changed.model.hidden_size, changed.positions.start_layer) == (0.5, 768, 4)
    assert plain.optimizer.lr != 0.5 and plain.data == changed.data


def test_a_command_line_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    compose_config = Hydra.compose_config

    def noted(hydra: Hydra, *arguments: Any, **options: Any) -> Any:
        seen.append(arguments)
        return compose_config(hydra, *arguments, **options)

    monkeypatch.setattr(Hydra, "compose_config", noted)
    assert compose(DEMO, "seed=7").seed == 7
    assert len(seen) == 1


def test_sources_can_be_named_on_the_command_line() -> None:
    def sources(*arguments: str) -> dict[str, tuple[list[str], float]]:
        return {name: (one.files, one.weight) for name, one in compose(DEMO, *arguments).data.sources.items()}

    shipped, mine = sources(), {"mine": (["x/*"], 2.0)}
    assert sources("data.sources={mine: {files: [x/*], weight: 2}}") == mine
    assert sources("data.sources={}", "data.sources={mine: {files: [x/*], weight: 2}}") == mine
    assert sources("data.sources.mine.files=[x/*]", "data.sources.mine.weight=2") == shipped | mine
    assert sources("+data.sources={mine: {files: [x/*], weight: 2}}") == shipped | mine
    assert sources("data.sources.web.weight=3")["web"] == (shipped["web"][0], 3.0)


def test_composing_silences_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("train.callbacks.weights_and_biases")
    compose(DEMO)
    logger.warning("W&B is not available")
    assert caplog.messages == ["W&B is not available"]


def test_a_saved_config_comes_back_the_same(tmp_path: Path) -> None:
    config = tiny(tmp_path, optimizer__betas=[0.8, 0.9], micro_batch_size=None)
    save_run_config(config, tmp_path / "new" / "config.yaml")
    assert load_run_config(tmp_path / "new" / "config.yaml") == config
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: x, optimizer: {lrr: 1}}", "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'"),
        ("{name: x, seed: many}", "seed takes a whole number, and 'many' is none"),
    ],
)
def test_a_config_file_is_checked_like_a_command_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(TrainError, match=message):
        load_run_config(tmp_path / "config.yaml")


def test_help_shows_examples_and_no_arguments_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app("--help") == (EXIT_OK, [])
    assert run_app() == (EXIT_USER_ERROR, [])
    assert capsys.readouterr().out == "usage\nusage\n"
    assert hydra_app.__doc__


def worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m train` as a person starts it."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "absent.yaml"], "there is no config file absent.yaml: "),
        ([DEMO, "init_from=absent"], "init_from=absent is absent: "),
    ],
)
def test_the_worker_reports_mistakes_in_one_line_too(arguments: list[str], message: str, tmp_path: Path) -> None:
    extra = [] if arguments[0] == "--config" else [f"run_root={tmp_path}", "wandb.mode=disabled"]
    ended = worker(*arguments, *extra)
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1


def test_the_recipe_can_be_printed_and_read_back() -> None:
    ended = worker(DEMO, "--cfg", "job", "optimizer.lr=0.25")
    assert ended.returncode == EXIT_OK
    printed = yaml.safe_load(ended.stdout)
    assert printed["optimizer"]["lr"] == 0.25
    assert printed["engine"]["precision"] == Precision.auto.value
    assert printed["optimizer"].keys() == OptimizerConfig.__dataclass_fields__.keys()

"""A mistake on the command line is one line on standard error and exit code 2; everything else composes."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.composing import compose, run_app
from tests.train.tiny import tiny
from train.compose.app import EXIT_OK, EXIT_USER_ERROR, hydra_app, load_run_config, save_run_config
from train.engine.config import Precision
from train.errors import TrainError
from train.optimizer_config import OptimizerConfig

ROOT = Path(__file__).parents[3]
DEMO = "experiment=demo"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([DEMO, "optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "+optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "optimiser.lr=1"], "there is no config key 'optimiser'; did you mean 'optimizer'?"),
        ([DEMO, "modle=tiny"], "there is no config key 'modle'; did you mean 'model'?"),
        ([DEMO, "xyzzy=1"], "there is no config key 'xyzzy': `python -m launch keys` prints all that there are"),
        ([DEMO, "lr=1"], "there is no config key 'lr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "learning_rate=1"], "there is no config key 'learning_rate'; did you mean 'optimizer.lr'?"),
        ([DEMO, "num_gpus=8"], "there is no config key 'num_gpus'; did you mean 'launch.processes'?"),
        ([DEMO, "batch_size=8"], "there is no config key 'batch_size'; did you mean 'global_batch_size'?"),
        ([DEMO, "resume=true"], "there is no config key 'resume': the same command, run again, continues the run"),
        ([DEMO, "optimizer.name=x"], "there is no config key 'optimizer.name': `python -m launch keys optimizer.`"),
        ([DEMO, "gc_interval=1"], "there is no config key 'gc_interval'; did you mean 'logging.gc_interval'?"),
        ([DEMO, "data.sources.web.weigt=1"], "there is no config key 'data.sources.web.weigt'; did you mean "),
        ([DEMO, "data.sources.web=a/*.zst"], "a/*.zst is given where keys belong: data.sources.NAME.files, data"),
        ([DEMO, "optimizer.lr=fast"], "optimizer.lr takes a number, and 'fast' is none"),
        ([DEMO, "max_steps=1.5"], "max_steps takes a whole number, and '1.5' is none"),
        ([DEMO, "wandb=off"], "there is no wandb=off: set wandb.mode=offline, online or disabled"),
        ([DEMO, "wandb=false"], "there is no wandb=false: set wandb.mode=offline, online or disabled"),
        ([DEMO, "engine.precision=fp31"], "engine.precision: Invalid value 'fp31', expected one of [auto, bf16, fp32]"),
        ([DEMO, "model=tinny"], "there is no model=tinny; choose one of olmo2-1b, olmo2-7b, small, tiny"),
        ([DEMO, "optimizer=adam"], "there is no optimizer=adam; choose one of published"),
        ([DEMO, "optimizer.betas=0.9"], "optimizer.betas takes a list, as in 'optimizer.betas=[...]'"),
        ([DEMO, "hydra/launcher=joblib"], "there is no hydra/launcher=joblib here: "),
        ([DEMO, "positions/yarn=default"], "positions/yarn is not among the groups of this run: add it with a plus, "),
        ([DEMO, "~optimizer.lr"], "optimizer.lr cannot be deleted: set it to another value"),
        ([DEMO, "max_steps"], "'max_steps' is not of the form key=value"),
        (["demo"], "'demo' is not of the form key=value; did you mean experiment=demo?"),
        ([DEMO, "data.eos_token=<eos>"], "the value in 'data.eos_token=<eos>' has characters that need quotes: "),
        ([DEMO, "seed=1,2"], "seed=1,2 gives several values: add -m to run each, or write 'seed=[1,2]' for a list"),
        ([DEMO, "-max_steps=5"], "there is no option -max_steps; keys are set without a dash, as in max_steps=5"),
        ([DEMO, "--max_steps=5"], "there is no option --max_steps; keys are set without a dash, as in max_steps=5"),
        ([DEMO, "--cfg"], "option --cfg needs one of job, hydra, all, as in --cfg job"),
        ([DEMO, "--cfg", "job", "-m"], "--cfg prints one config: leave out -m, and give each key one value"),
        (["experiment="], "experiment is not given; choose one of demo, demo-backbone, "),
        (["experiment=dmeo"], "there is no experiment=dmeo; choose one of demo, demo-backbone, "),
        (["name=x"], "experiment is not given; choose one of demo, demo-backbone, "),
        ([DEMO, "engine.zero_stage=4"], "engine.zero_stage=4 does not exist: choose 0, 1, 2 or 3"),
        ([DEMO, "optimizer.betas=[0.9]"], "optimizer.betas=[0.9] must be two numbers in [0, 1)"),
        ([DEMO, "optimizer.lr=nan"], "optimizer.lr=nan is out of range: it must be a number of at least 0"),
        ([DEMO, "logging.interval=3"], "position_watch.interval=10 must be a multiple of logging.interval=3"),
        ([DEMO, "schedule.warmup_steps=999"], "schedule.decay_steps="),
        ([DEMO, "model.hidden_size=130"], "model.num_heads is 4, which does not cut model.hidden_size 130"),
        ([DEMO, "positions.start_layer=6"], "positions.start_layer is 6 and model.num_layers is 6; choose 0 to 5"),
        ([DEMO, "data.root=''"], "data.root is not set"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(*arguments) == (EXIT_USER_ERROR, [])
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {line}")
    assert output.err.count("\n") == 1 and output.out == ""


def test_any_key_can_be_set_and_the_rest_stays() -> None:
    plain, changed = compose(DEMO), compose(DEMO, "optimizer.lr=0.5", "model=small", "positions.start_layer=4")
    assert (changed.optimizer.lr, changed.model.hidden_size, changed.positions.start_layer) == (0.5, 768, 4)
    assert plain.optimizer.lr != 0.5 and plain.data == changed.data


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

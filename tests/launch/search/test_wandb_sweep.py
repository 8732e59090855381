"""The sweep file of W&B: valid by W&B's own schema, and what its agent would run is a run of ours."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from launch.search.wandb_sweep import wandb_sweep, write_wandb_sweep
from tests.composing import compose
from train.callbacks.config import WandbMode
from train.compose.search import Range, compose_search


def agent_command(sweep: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """Returns what `wandb agent` starts for a point, put together as its code does."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args  # takes a second

    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"]}
    words: list[str] = []
    for chunk in create_sweep_command(sweep["command"]):
        is_macro = chunk.startswith("${") and chunk.endswith("}")
        words += macros.get(chunk[2:-1], []) if is_macro else [chunk]
    return words


def test_the_file_is_valid_and_its_command_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text(
        "search: {trials: 7}\n"
        "space:\n"
        "  optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\n"
        "  optimizer.weight_decay: {low: 0.0, high: 0.2}\n"
        "  schedule.warmup_steps: {low: 1, high: 9}\n"
        "  optimizer.repo_warmup_steps: {low: 1, high: 100, log: true}\n"
        "  data.seed: {low: 1, high: 5, step: 2}\n"
        "  init_from: [null, a b]\n"
        "  mask_documents: [true, false]\n"
    )
    search = compose_search([f"sweep={space}", "experiment=demo-backbone", "name=w", "max_steps=50"])
    assert write_wandb_sweep(search, tmp_path / "sweep.yaml") == 0
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    sweep = load_sweep_config(str(tmp_path / "sweep.yaml"))
    assert sweep is not None and sweep == wandb_sweep(search)
    schema = json.loads(
        Path(__file__).with_name("wandb-sweep-schema.json").read_text()
    )  # of W&B's package sweeps 0.3.0
    checker = jsonschema.FormatChecker()
    checker.checks("float")(lambda value: isinstance(value, float))
    checker.checks("integer")(lambda value: isinstance(value, int))
    jsonschema.Draft7Validator(schema, format_checker=checker).validate(sweep)
    parameters = sweep["parameters"]
    assert parameters["optimizer.lr"] == {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    assert parameters["schedule.warmup_steps"] == {"distribution": "int_uniform", "min": 1, "max": 9}
    assert parameters["data.seed"] == {"values": [1, 3, 5]} and parameters["init_from"] == {"values": ["null", "'a b'"]}
    whole = parameters["optimizer.repo_warmup_steps"]["values"]
    assert (whole[0], whole[-1]) == (1, 100) and all(isinstance(value, int) for value in whole)

    point = {key: of["values"][0] if "values" in of else of["max"] for key, of in parameters.items()}
    env, python, *words = agent_command(sweep, point)
    assert [env, python, *words[:2]] == ["/usr/bin/env", "python", "-m", "launch"]
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")  # the agent sets it
    config = compose(*words[2:])
    assert (config.name, config.wandb.group, config.wandb.mode) == ("w-mine-abc123", "w-mine", WandbMode.online)
    assert (config.optimizer.lr, config.schedule.warmup_steps, config.max_steps) == (1e-2, 9, 50)
    assert (config.init_from, config.mask_documents, config.data.seed) == (None, True, 1)


def test_a_range_of_floats_with_steps_lists_them() -> None:
    assert Range(0.0, 0.2, step=0.1).values == pytest.approx([0.0, 0.1, 0.2])

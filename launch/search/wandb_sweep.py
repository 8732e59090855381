"""The space of a search as a sweep file of W&B, for `wandb sweep FILE` and then `wandb agent` on any machines.

W&B's server chooses the points then, without rungs. An agent's command is `python -m launch`; the name of each run ends
in the id that the agent gives it.
"""

from pathlib import Path
from typing import Any

import yaml

from common.files import write_text_whole
from report.metrics import EVAL_LOSS
from train.compose.outside import as_given
from train.compose.search import Choices, Range, Search, Value, written
from train.errors import EXIT_OK

NUM_VALUES = 20  # of whole numbers on a logarithmic scale


def wandb_sweep(search: Search) -> dict[str, Any]:
    """Returns the sweep file as plain data."""
    config = search.config
    base = search.study
    own = [f"name={base}-${{oc.env:WANDB_RUN_ID}}", f"wandb.group={base}", "wandb.mode=online"]
    kept = [line for line in search.given if not line.startswith(("name=", "wandb.group=", "wandb.mode="))]
    return {
        "name": base,
        "project": config.wandb.project,
        **({"entity": config.wandb.entity} if config.wandb.entity else {}),
        "program": "launch/__main__.py",  # for W&B's pages; `command` is what runs
        "method": "bayes",
        "metric": {"name": EVAL_LOSS, "goal": "minimize"},
        "run_cap": config.launch.search.trials,
        "parameters": {key: _parameter(parameter) for key, parameter in search.space.items()},
        "command": ["${env}", "${interpreter}", "-m", "launch", *as_given(kept), *own, "${args_no_hyphens}"],
    }


def write_wandb_sweep(search: Search, path: Path) -> int:
    """Writes the sweep file and prints how to use it; returns the exit code."""
    content = yaml.safe_dump(wandb_sweep(search), sort_keys=False)
    write_text_whole(path, content, durable=False)
    print(f"{path}: `wandb sweep {path}` registers it and prints the `wandb agent` command to run in this folder")
    return EXIT_OK


def _parameter(parameter: Range | Choices) -> dict[str, Any]:
    if isinstance(parameter, Choices):
        return {"values": [_value(choice) for choice in parameter.ends]}
    name = "log_uniform_values" if parameter.log else "uniform"
    given: dict[str, Any] = {"min": parameter.low, "max": parameter.high}
    if parameter.is_whole and parameter.log:  # W&B's own would give 4.0 for 4
        ratio = (parameter.high / parameter.low) ** (1 / (NUM_VALUES - 1))
        return {"values": sorted({round(parameter.low * ratio**index) for index in range(NUM_VALUES)})}
    if parameter.step is not None:
        return {"values": parameter.values}
    if parameter.is_whole:
        name = "int_uniform"
    return {"distribution": name, **given}


def _value(choice: Value) -> Value:
    """Returns a choice such that W&B's `key=choice` is what the command line takes."""
    return choice if isinstance(choice, int | float) and not isinstance(choice, bool) else written(choice)

"""Runs the Hydra application on a given command line, with a task that only keeps the config."""

import sys

from train.compose.app import EXIT_OK, hydra_app
from train.compose.command_line import is_sweep
from train.compose.sweep import Member, sweep_app
from train.config import RunConfig


def run_app(*arguments: str) -> tuple[int, list[RunConfig]]:
    """Returns the exit code and every config that was composed, in order."""
    composed: list[RunConfig] = []

    def task(config: RunConfig) -> int:
        composed.append(config)
        return EXIT_OK

    def sweep(members: list[Member]) -> int:
        composed.extend(member.config for member in members)
        return EXIT_OK

    before = sys.argv
    sys.argv = ["app", *arguments]
    try:
        if is_sweep(arguments):
            return sweep_app(sweep), composed
        return hydra_app(task, "usage"), composed
    finally:
        sys.argv = before


def compose(*arguments: str) -> RunConfig:
    """Returns the one config that these arguments give. Raises AssertionError if there is another number of them."""
    code, composed = run_app(*arguments)
    assert code == EXIT_OK
    [config] = composed
    return config

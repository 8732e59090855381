"""The real Hydra application on a command line of the test's own, without what it would start."""

import sys

from train.compose.app import EXIT_OK, hydra_app
from train.config import RunConfig


def run_app(*arguments: str) -> tuple[int, list[RunConfig]]:
    """The exit code and every config that was composed, in order."""
    composed: list[RunConfig] = []

    def task(config: RunConfig) -> int:
        composed.append(config)
        return EXIT_OK

    before = sys.argv
    sys.argv = ["app", *arguments]
    try:
        return hydra_app(task, "usage"), composed
    finally:
        sys.argv = before


def compose(*arguments: str) -> RunConfig:
    """The one config that these arguments give."""
    code, composed = run_app(*arguments)
    assert code == EXIT_OK
    [config] = composed
    return config

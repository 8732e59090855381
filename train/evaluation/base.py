"""The interface of evaluation tasks, and the registry of those in this folder."""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import train.evaluation
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.engine import Engine


class EvaluationTask(ABC):
    """One measurement of the model in training."""

    interval: int | None = None
    """Steps between runs of the task; None: evaluation.interval."""

    @classmethod
    @abstractmethod
    def build(cls, config: RunConfig) -> Self | None:
        """Returns the task for a run, or None if its config has nothing to measure. Raises UserError.

        Runs on every rank before the first step.
        """

    @abstractmethod
    def run(self, engine: Engine, ranks: Ranks, stop_requested: Callable[[], bool]) -> dict[str, float] | None:
        """Returns metrics by name, the same on all ranks, or None if a stop was requested before the end.

        Every rank calls it. It changes nothing that is learned: it uses `engine.evaluate` or `engine.forward_only`, and
        no random number. It calls `stop_requested` now and then, on all ranks alike, and returns None if that is true.
        """


def evaluation_tasks() -> list[type[EvaluationTask]]:
    """Returns the tasks of this folder, in the order of their modules' names."""
    found = []
    for info in pkgutil.iter_modules(train.evaluation.__path__):
        module = importlib.import_module(f"train.evaluation.{info.name}")
        found += [
            kind
            for _, kind in inspect.getmembers(module, inspect.isclass)
            if kind.__module__ == module.__name__ and issubclass(kind, EvaluationTask) and not inspect.isabstract(kind)
        ]
    return found

"""Runs the evaluation tasks every N steps, after the last one and at stop_step; logs what they measure with the step.

A task may have an N of its own. A stop request ends an evaluation early. Its step is then evaluated when the run
resumes, and logged as an addition to the row of that step.
"""

from typing import Any

from train.callbacks.callback import StatefulCallback, TrainerInterface
from train.evaluation.base import EvaluationTask, evaluation_tasks


class Evaluator(StatefulCallback):
    """Decides when to evaluate: what is measured is in train/evaluation."""

    name = "evaluator"

    def __init__(self, interval: int | None) -> None:
        """Evaluates every `interval` steps and after the last one; None: only after the last one."""
        self._interval = interval
        self._tasks: list[EvaluationTask] = []
        self._evaluated_step = 0

    def on_start(self, trainer: TrainerInterface) -> None:
        built = [kind.build(trainer.config) for kind in evaluation_tasks()]
        self._tasks = [task for task in built if task is not None]
        if trainer.step and self._is_due(trainer):  # a stop was requested within its evaluation
            results = self._evaluate(trainer)
            if results:
                trainer.log(results)

    def on_evaluate(self, trainer: TrainerInterface) -> None:
        if self._is_due(trainer):
            for name, value in (self._evaluate(trainer) or {}).items():
                trainer.record(name, value)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated_step": self._evaluated_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._evaluated_step = state["evaluated_step"]

    def _is_due(self, trainer: TrainerInterface) -> bool:
        return bool(self._due(trainer)) and self._evaluated_step != trainer.step

    def _due(self, trainer: TrainerInterface) -> list[EvaluationTask]:
        if trainer.step in (trainer.until, trainer.max_steps):
            return self._tasks
        intervals = ((task, task.interval or self._interval) for task in self._tasks)
        return [task for task, interval in intervals if interval is not None and trainer.step % interval == 0]

    def _evaluate(self, trainer: TrainerInterface) -> dict[str, float] | None:
        """Returns the metrics of all tasks by name, or None if a stop was requested before the end."""
        metrics: dict[str, float] = {}
        for task in self._due(trainer):
            results = task.run(trainer.engine, trainer.ranks, trainer.stop_requested)
            if results is None:
                trainer.is_cut_short = True
                return None
            metrics |= results
        self._evaluated_step = trainer.step
        return metrics

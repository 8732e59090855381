"""The contract of callbacks: what they may do, and when each hook is called.

To add something periodic, write a subclass in a file of its own in this folder and list it in build.py. A
callback gets its own part of the config in its constructor and sees the trainer in its hooks. It never changes the
loop. Hooks run in the order of the list, on every rank, unless `main_rank_only` is set.

What a trainer offers them is `TrainerInterface`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol

from train.checkpoint.checkpoints import Checkpoints
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.engine import Engine, Update
from train.errors import Stop
from train.run_folder import RunFolder
from train.watch.alert import Alert


class TrainerInterface(Protocol):
    """What callbacks see of the trainer (train/trainer.py)."""

    config: RunConfig
    ranks: Ranks
    folder: RunFolder
    engine: Engine
    checkpoints: Checkpoints
    step: int
    """Number of the current update, from 1; after it, updates done."""
    tokens: int
    """Tokens read so far, over all ranks."""
    update: Update
    """The last update."""
    step_seconds: float
    """Duration of the last step."""
    data_seconds: float
    """The part of it that waited for data."""
    is_cut_short: bool
    """Whether work of the last step is left to the next start; set by the callback that leaves it."""

    @property
    def max_steps(self) -> int:
        """Number of the last step."""
        ...

    @property
    def until(self) -> int:
        """Number of the step that this start ends with: the last one, or the config's stop_step."""
        ...

    @property
    def is_logged(self) -> bool:
        """Whether the metrics of this step are logged."""
        ...

    def record(self, name: str, value: Any) -> None:
        """Adds a metric to this step: a number, a tensor, or a list of numbers."""

    def log(self, metrics: dict[str, Any]) -> None:
        """Hands metrics of `step` to the callbacks at once; every rank calls it."""

    def alert(self, alert: Alert) -> None:
        """Tells all callbacks what the position watch found; every rank calls it."""

    def probed(self, path: Path) -> None:
        """Tells all callbacks that the positions of the probe texts are written; every rank calls it."""

    def save(self, *, required: bool = False) -> None:
        """Saves a checkpoint of the current step; every rank calls it."""

    def stop(self, stop: Stop) -> None:
        """Ends the run after this step, with a checkpoint; every rank calls it."""

    def roll_back(self, alert: Alert) -> None:
        """Goes back, after this step, to the last checkpoint before the alert; every rank calls it."""

    def stop_requested(self) -> bool:
        """Returns whether any rank was asked to stop; every rank calls it."""
        ...


class Callback:
    """A callback that does nothing; override the hooks you need."""

    main_rank_only: ClassVar[bool] = False
    """Whether the hooks are called on the main rank alone: for what writes or prints, and uses no collective."""

    def on_start(self, trainer: TrainerInterface) -> None:
        """Runs once, before the first step, after a checkpoint is restored."""

    def on_step_start(self, trainer: TrainerInterface) -> None:
        """Runs before the batch of `trainer.step` is read."""

    def on_gradients(self, trainer: TrainerInterface) -> None:
        """Runs after the last backward pass of the step, before the update: gradients are whole and unclipped."""

    def on_skip(self, trainer: TrainerInterface, reason: str) -> None:
        """Runs before `on_update` when the update of this step was not applied."""

    def on_update(self, trainer: TrainerInterface) -> None:
        """Runs after the update: time to `record` metrics."""

    def on_evaluate(self, trainer: TrainerInterface) -> None:
        """Runs after `on_update`, before the metrics are logged: time to evaluate, and to `record` the results.

        A hook that takes long calls `trainer.stop_requested()` now and then, on all ranks alike, and returns if it
        is true.
        """

    def on_metrics(self, trainer: TrainerInterface, metrics: dict[str, Any]) -> None:
        """Runs at every logged step with its metrics: `step`, and numbers or lists of numbers (one per head) by name.

        A resumed run may first log the evaluation of the step that it resumes after: `step` and `eval/` names only.
        """

    def on_alert(self, trainer: TrainerInterface, alert: Alert) -> None:
        """Runs when the position watch raises or ends an alert."""

    def on_probe(self, trainer: TrainerInterface, path: Path) -> None:
        """Runs after the positions of the probe texts at `trainer.step` are written to `path` (main rank)."""

    def on_step_end(self, trainer: TrainerInterface) -> None:
        """Runs after the metrics of the step are logged: time to save."""

    def on_checkpoint(self, trainer: TrainerInterface, folder: str) -> None:
        """Runs after a checkpoint is published; `folder` is its name. In background mode its step is an earlier one."""

    def on_save_failed(self, trainer: TrainerInterface, reason: str) -> None:
        """Runs when a checkpoint could not be written and training continues."""

    def on_finish(self, trainer: TrainerInterface) -> None:
        """Runs once, after the last step and its checkpoint: time to export. May raise a CollectiveError."""

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        """Runs once, when the loop has ended, whatever the reason; not after a crash of one rank.

        An exception here is logged, and the other callbacks still run.
        """

    def close(self) -> None:
        """Releases resources; runs last, also after a crash, on every rank."""


class StatefulCallback(Callback, ABC):
    """A callback whose state is saved in checkpoints, under its name."""

    name: ClassVar[str]
    """The key of the state in a checkpoint; it must not change. A subclass without one is a TypeError."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not getattr(cls, "name", None):
            raise TypeError(f"{cls.__name__} has state: give it a `name`, the key of that state in checkpoints")

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns JSON-serialisable state; the main rank's is saved."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; runs before `on_start` when a run resumes."""

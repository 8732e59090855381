"""The whole extension surface: what a callback may do, and when it is called.

To add something periodic, write a subclass in a file of its own in this folder and list it in build.py. A
callback sees the trainer and calls `trainer.record(name, value)`; it never changes the loop. Methods run on every rank,
in the order of the list, so a callback may use `trainer.ranks`; one that writes or prints asks `trainer.ranks.is_main`.

What a trainer offers: `step`, `tokens`, `is_logged`, `config`, `ranks`, `folder` (paths of the run), `stream` (data),
`engine.model` (the module, for hooks), `engine.full_parameters()` (whole values, at any ZeRO stage), `update` (what
became of the last one), `record`, `alert`, `save`, `stop`.
"""

from typing import TYPE_CHECKING, Any

from train.watch.alert import Alert

if TYPE_CHECKING:
    from train.trainer import Trainer


class Callback:
    """Does nothing; override what you need."""

    name: str | None = None
    """Under this name `state_dict` goes into checkpoints; None: nothing to save."""

    def on_start(self, trainer: "Trainer") -> None:
        """Once, before the first step, after a checkpoint is restored."""

    def on_step_start(self, trainer: "Trainer") -> None:
        """Before the batch of `trainer.step` is read."""

    def on_gradients(self, trainer: "Trainer") -> None:
        """After the last backward pass of the step, before the update: gradients are whole and unclipped."""

    def on_update(self, trainer: "Trainer") -> None:
        """After the update: time to `record` metrics."""

    def on_skip(self, trainer: "Trainer", reason: str) -> None:
        """Before `on_update`, when the update of this step was not applied."""

    def on_metrics(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        """At every logged step, with all metrics of the step: numbers, or lists of numbers (one per head)."""

    def on_alert(self, trainer: "Trainer", alert: Alert) -> None:
        """When the position watch finds something, or finds it over; on every rank."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """When all has been said about the step: time to save, or to evaluate.

        What takes long asks `trainer.stop_requested()` now and then, on all ranks alike, and returns if it is so.
        """

    def on_checkpoint(self, trainer: "Trainer", folder: str) -> None:
        """After a checkpoint is published: of this step, or in the background of an earlier one, as its name says."""

    def on_save_failed(self, trainer: "Trainer", reason: str) -> None:
        """When a checkpoint could not be written and training goes on."""

    def on_stop(self, trainer: "Trainer", reason: str) -> None:
        """Once, when the loop ends: `finished`, or what stopped it. Not called after a crash of one rank."""

    def close(self) -> None:
        """Once, at the very end, crash or not: give back what was taken."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable state for the checkpoint; the main rank's is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse; called before `on_start` when a run resumes."""

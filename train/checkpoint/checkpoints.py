"""The one owner of a run's checkpoints: find, decide, load, save, and what happens when the disk is full.

A save that fails during training is reported, and training continues: the next interval saves again. Only a required
save, at the end of the run or before it stops, raises.
"""

from collections.abc import Callable
from typing import Any

from common.words import config_text
from data.stream import changed_data
from model.weights import Weights, checked_weights, random_weights
from report.run_folder import FINISHED
from train.changes import Changes, changed_keys, check_changes, refuse_changes
from train.checkpoint.resume import Start, choose_start, find_checkpoint, load_checkpoint, other_layout_weights
from train.checkpoint.rollback import (
    Rollback,
    complete_rollback,
    parse_rollbacks,
    record_rollback,
    write_rollbacks,
)
from train.checkpoint.save import Saver
from train.checkpoint.store import Checkpoint, Layout, folder_name, good_step, whole_steps
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.engine import Engine
from train.errors import BadNumbersError, SaveError, StopReason, TrainError
from train.huggingface.companions import other_tokenizer
from train.huggingface.fetching import fetch_on_main
from train.huggingface.source import check_source, open_source
from train.records import durable_records
from train.run_folder import RunFolder, explained_write_errors
from train.watch.alert import Alert


class Checkpoints:
    """The checkpoints of one run. Every method is collective: all ranks call it, in the same order."""

    def __init__(self, config: RunConfig, ranks: Ranks, folder: RunFolder, layout: Layout) -> None:
        self._config = config
        self._ranks = ranks
        self._folder = folder
        self._layout = layout
        self._saver = Saver(folder.checkpoints, config.checkpoint, layout, ranks)
        self._saved_step: int | None = None  # that needs no further save
        self.rollbacks: list[Rollback] = []
        """Of the run so far, the oldest first; known after `choose_start`."""
        self._on_published: Callable[[str], None] = lambda folder: None
        self._on_failed: Callable[[str], None] = lambda reason: None

    def choose_start(self) -> Start:
        """Finds the newest whole checkpoint and decides what the run starts from, after what is left of a rollback.

        Raises TrainError if the config is that of another run than the checkpoint's.
        """
        with explained_write_errors(self._folder.path):
            self.rollbacks = self._ranks.on_main(lambda: complete_rollback(self._folder))
        start = choose_start(find_checkpoint(self._folder, self._ranks), self._config.init_from)
        if start.import_from is not None:
            try:
                check_source(start.import_from)
            except TrainError as error:
                raise TrainError(f"init_from={error}") from error  # the message begins with the source
        if start.resume is not None:
            saved = start.resume.trainer_state()
            check_changes(start.resume.folder, saved["config"], self._config)
            in_checkpoint = parse_rollbacks(saved.get("rollbacks", []))
            if len(in_checkpoint) > len(self.rollbacks):  # the file was lost
                self.rollbacks = in_checkpoint
                with explained_write_errors(self._folder.path):
                    self._ranks.on_main(lambda: write_rollbacks(self._folder.checkpoints, in_checkpoint))
        return start

    def roll_back(self, step: int, alert: Alert) -> str | None:
        """Records that the run goes back to before `alert`, raised at `step`; the next start does so.

        Returns why that is not possible, or None.
        """
        self.finish()  # a save in the background, which could delete the checkpoint that is chosen
        root, config = self._folder.checkpoints, self._config
        return self._ranks.on_main(
            lambda: record_rollback(
                root, self.rollbacks, step, alert, config.position_watch, config.checkpoint.interval
            )
        )

    def is_finished(self, start: Start) -> bool:
        """Returns whether nothing is left to do: the last step is done, what follows it, and a wanted export."""
        if start.resume is None:
            return False
        step, last = start.resume.step, self._config.max_steps
        is_wanted = self._config.checkpoint.export_hf and self._config.export_problem() is None
        exported = self._folder.exported_step() == step or not is_wanted
        return step > last or (step == last and exported and self._folder.has_ended(step, FINISHED))

    def is_at_stop_step(self, start: Start) -> bool:
        """Returns whether the run is where stop_step asks it to stop, and has done what belongs to that step."""
        stop_step = self._config.stop_step
        if start.resume is None or stop_step is None or stop_step == self._config.max_steps:
            return False
        step = start.resume.step
        return step > stop_step or (step == stop_step and self._folder.has_ended(step, StopReason.stop_step.word))

    def describe_finished(self, start: Start) -> str:
        """Returns what to print for a finished run: that it is done, and which given settings it did not use."""
        assert start.resume is not None
        name, step, last = self._config.name, start.resume.step, self._config.max_steps
        changes = changed_keys(start.resume.trainer_state()["config"], self._config)
        done = f"{name} has done all of its {last} steps; raise max_steps to train longer"
        if step > last:
            done = f"{name} has done {step} steps, more than max_steps={last}: nothing is left to train"
            changes.pop("max_steps", None)
        if not changes:
            return done
        texts = {key: (config_text(was), config_text(is_now)) for key, (was, is_now) in changes.items()}
        listed = ", ".join(f"{key} (was {was}, is {is_now})" for key, (was, is_now) in texts.items())
        return f"{done}; it was not trained with {listed}: give a run with other settings another name"

    def check_data(self, start: Start, fingerprint: dict[str, str]) -> None:
        """Raises TrainError if the data is not that of the checkpoint, unless `checkpoint.accept_changes` allows it.

        Prints what else changed since the checkpoint, and logs it as one event.
        """
        if start.resume is None:
            return
        saved = start.resume.trainer_state()
        new_data = changed_data(saved["fingerprint"], fingerprint)
        refuse_changes(start.resume.folder, new_data, self._config.checkpoint.accept_changes)
        if self._ranks.is_main:
            self._log_changes(start.resume, saved["config"])

    def initial_weights(self, start: Start, go_on: Callable[[], None] = lambda: None) -> Weights | None:
        """Returns values for every parameter, or None if `restore` brings them all.

        `go_on` is called, on all ranks, again and again as long as a download makes progress.
        """
        config = self._config
        if start.resume is not None:
            return other_layout_weights(start.resume, self._layout, config.model, config.positions, self._ranks)
        if start.import_from is not None:
            place = start.import_from
            source = open_source(fetch_on_main(place, self._ranks, go_on))
            if self._ranks.is_main and source.place != place:
                print(f"{config.name} begins from {source.place}")
            if self._ranks.is_main and (warning := other_tokenizer(config)):
                print(warning, flush=True)
            return checked_weights(source, config.model, config.positions, config.seed, is_conversion=True)
        return random_weights(config.model, config.positions, config.seed)

    def restore(self, checkpoint: Checkpoint, engine: Engine) -> dict[str, Any]:
        """Loads parameters, optimizer and random generators; returns the trainer's saved state."""
        self._saved_step = checkpoint.step
        return load_checkpoint(checkpoint, engine, self._layout, self._ranks, self._config.seed)

    def report_to(self, on_published: Callable[[str], None], on_failed: Callable[[str], None]) -> None:
        """Sets what is called with the folder name of each published checkpoint, and with the reason of each failure
        that does not end the run.
        """
        self._on_published, self._on_failed = on_published, on_failed

    def save(self, step: int, engine: Engine, state: Callable[[], dict[str, Any]], *, required: bool) -> None:
        """Saves a checkpoint of `step`, unless that is done; in the background if so configured and not required.

        Raises BadNumbersError if a parameter or the optimizer's state is not finite, and SaveError if the save is
        required and cannot be written.
        """
        if self._saved_step != step:
            self.finish()  # an earlier step's; its failure is reported
            if self._ranks.sum([not engine.is_finite()])[0]:
                raise BadNumbersError(
                    f"the weights or the optimizer's state are not finite after step {step}, and were not saved: "
                    f"{self.advice(step)} with a lower optimizer.lr, or with guard=spikes"
                )
            self._begin(step, engine, state(), required)
        if required or not self._config.checkpoint.background:
            self.finish(required=required)

    def finish(self, *, wait: bool = True, required: bool = False) -> None:
        """Publishes what was written in the background; without `wait`, only if every rank has written its files.

        Raises SaveError if it could not be written and is required.
        """
        try:
            published = self._saver.finish(wait=wait)
        except SaveError as error:
            self._fail(error, required)
            return
        if published is not None:
            self._folder.forget_saved_records()
            self._on_published(published.name)

    def advice(self, good_before: int) -> str:
        """Returns what to do about bad numbers: which checkpoint is known to be good, and how to continue from it.

        `good_before`: the last update whose gradient was finite.
        """
        steps = self._ranks.on_main(lambda: whole_steps(self._folder.checkpoints))
        good = good_step(steps, good_before)
        if good is None:
            return f"no checkpoint is known to be good: {'delete all of them and ' if steps else ''}run it again"
        later = "delete the later ones and " if max(steps) > good else ""
        return f"the last checkpoint known to be good is {folder_name(good)}: {later}run it again"

    def _begin(self, step: int, engine: Engine, state: dict[str, Any], required: bool) -> None:
        self._ranks.on_main(self._folder.keep_locked)
        try:
            in_a_row = state["skipped_in_a_row"]
            self._saver.begin(
                *(step, engine, state),
                records=durable_records(self._folder) if self._ranks.is_main else {},
                good_before=step - in_a_row if in_a_row else None,
            )
            self._saved_step = step
        except SaveError as error:
            self._fail(error, required)

    def _fail(self, error: SaveError, required: bool) -> None:
        self._saved_step = None
        if required:
            raise error
        self._on_failed(str(error))

    def _log_changes(self, checkpoint: Checkpoint, saved: dict[str, Any]) -> None:
        changes: Changes = {}
        if checkpoint.layout.world_size != self._layout.world_size:
            changes["ranks"] = (checkpoint.layout.world_size, self._layout.world_size)
        changes |= changed_keys(saved, self._config)
        if changes:
            width = max(map(len, changes))
            print(f"{self._config.name} continues from step {checkpoint.step} with changes:")
            for key, (was, is_now) in changes.items():
                print(f"  {key:<{width}}  {config_text(was)} -> {config_text(is_now)}")
            self._folder.log_event("changes", step=checkpoint.step, changes=changes)

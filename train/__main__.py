"""python -m train: the worker, one process per rank, that a launcher starts.

  python -m train experiment=repo-1b-50b --cfg job      print the whole recipe and do nothing
  python -m train experiment=demo max_steps=20          train in this one process
  python -m train --config runs/demo/config.yaml        what a launcher runs, on every rank
  torchrun --nproc-per-node 8 -m train experiment=repo-1b-50b      the same without our launcher

Any key of the recipe can be set as key=value. The same command, run again, continues the run.
"""

import logging
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from data.stream import BatchStream, build_stream, changed_data
from model.config import ModelConfig
from model.weights import Weights, hf_weights, random_weights
from report.run_folder import FINISHED
from train.callbacks import build_callbacks
from train.callbacks.callback import Callback
from train.changes import Changes, changed_keys, check_changes, refuse_changes
from train.checkpoint import Checkpoint, Layout, Start, choose_start, find_checkpoint, other_layout_weights
from train.compose import USER_ERRORS, hydra_app, load_run_config, save_run_config
from train.config import RunConfig
from train.distributed import Ranks, leave, seed_generators
from train.engine import Engine, resolve_precision
from train.errors import EXIT_ALERTED, EXIT_CRASHED, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, AgreedError, TrainError
from train.processes import stop_with_parent
from train.run_folder import ALERTED, RunFolder, explained_write_errors
from train.trainer import EndedError, Trainer
from train.watchdog import Watchdog

PATIENCE = 3  # seconds in which the end of another rank ends this one, before it says what is known already


def train(config: RunConfig, ranks: Ranks, callbacks: Sequence[Callback] = ()) -> int:
    """The recipe; `callbacks` come after those that every run has.

    Returns the exit code: EXIT_OK, or after a checkpoint EXIT_STOPPED for a signal, EXIT_ALERTED for an alert.
    """
    folder = RunFolder.of(config)
    with folder.lock() if ranks.is_main else nullcontext(), Watchdog(config.watchdog, ranks, folder) as watchdog:
        precision = resolve_precision(config.engine.precision, ranks.device, config.engine.zero_stage)
        layout = Layout.of(config, ranks.world_size, precision)
        start = choose_start(find_checkpoint(folder, ranks), config.init_from)
        if start.resume is not None:
            check_changes(start.resume.folder, start.resume.trainer_state()["config"], config)
            if is_finished(start.resume, config, folder):
                if ranks.is_main:
                    done, asked = start.resume.step, config.max_steps
                    print(
                        f"{config.name} has done {done} of {asked} steps: nothing is left; a higher max_steps goes on"
                    )
                return EXIT_OK
        if ranks.is_main and (idle := idle_steps(config)):
            print(idle)
        watchdog.enter("preparing the data")
        stream = build_stream(
            config.data,
            sequence_length=config.sequence_length,
            global_batch_size=config.global_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        check_vocabulary(stream, config.model)
        if start.resume is not None:
            new_data = changed_data(start.resume.trainer_state()["fingerprint"], stream.fingerprint)
            refuse_changes(start.resume.folder, new_data, config.checkpoint.accept_changes)
            if ranks.is_main:
                tell_changes(folder, start.resume, config, layout)
        watchdog.enter("reading or converting weights")
        weights = initial_weights(config, start, layout, ranks)
        if ranks.is_main:
            with explained_write_errors(folder.path):
                save_run_config(config, folder.config)
        seed_generators(config.seed + ranks.rank)
        watchdog.enter("building the engine")
        engine = Engine(config, ranks, weights)
        watchdog.enter("restoring the run")
        trainer = Trainer(config, ranks, folder, engine, stream, [*build_callbacks(config), *callbacks], watchdog)
        reason = trainer.fit(start.resume)
        ranks.barrier()  # the main rank may still be exporting
        engine.close()
        return {FINISHED: EXIT_OK, ALERTED: EXIT_ALERTED}.get(reason, EXIT_STOPPED)


def is_finished(checkpoint: Checkpoint, config: RunConfig, folder: RunFolder) -> bool:
    """Whether nothing is left to do: the last step is done, and the export too if there is to be one."""
    exported = folder.exported_step() == checkpoint.step or not config.checkpoint.export_hf
    return checkpoint.step > config.max_steps or (checkpoint.step == config.max_steps and exported)


def idle_steps(config: RunConfig) -> str | None:
    """A line for somebody who has raised `max_steps` alone. The published run itself ends with 11 steps in 23,852."""
    decayed, steps = config.schedule.decay_steps, config.max_steps
    if config.schedule.final_fraction or steps <= 1.01 * decayed:
        return None
    return (
        f"{config.name}: steps {decayed} to {steps} will have a learning rate of 0 and learn nothing: "
        f"set schedule.decay_steps={steps} too"
    )


def check_vocabulary(stream: BatchStream, model: ModelConfig) -> None:
    """Raise TrainError, before the first step, if the data was made with another tokenizer than the model's."""
    if stream.max_token_id is not None and stream.max_token_id >= model.vocab_size:
        raise TrainError(
            f"the tokenizer of the data has ids up to {stream.max_token_id}, but model.vocab_size={model.vocab_size}: "
            "set the one that belongs to the other"
        )
    if stream.eos_token_id != model.eos_token_id:
        raise TrainError(
            f"documents of the data end with id {stream.eos_token_id}, but model.eos_token_id={model.eos_token_id}: "
            "set the one that belongs to the other"
        )


def tell_changes(folder: RunFolder, checkpoint: Checkpoint, config: RunConfig, layout: Layout) -> None:
    """Print in what a continued run differs from its checkpoint, key by key, and log it as one event."""
    changes: Changes = {}
    if checkpoint.layout.world_size != layout.world_size:
        changes["ranks"] = (checkpoint.layout.world_size, layout.world_size)
    changes |= changed_keys(checkpoint.trainer_state()["config"], config)
    if changes:
        width = max(map(len, changes))
        print(f"{config.name} goes on from step {checkpoint.step} with changes:")
        for key, (was, is_now) in changes.items():
            print(f"  {key:<{width}}  {was} -> {is_now}")
        folder.log_event("changes", step=checkpoint.step, changes=changes)


def initial_weights(config: RunConfig, start: Start, layout: Layout, ranks: Ranks) -> Weights | None:
    """Values for every parameter; None if loading a checkpoint brings them."""
    if start.resume is not None:
        return other_layout_weights(start.resume, layout, config.model, config.positions, ranks)
    if start.import_from is not None:
        return hf_weights(start.import_from, config.model, config.positions, config.seed)
    return random_weights(config.model, config.positions, config.seed)


def work(config: RunConfig) -> int:
    """Join the other ranks, train, and turn errors into one line and an exit code."""
    ranks = Ranks()
    if ranks.world_size > 1:  # a launcher started it
        stop_with_parent()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("data").setLevel(logging.INFO if ranks.is_main else logging.WARNING)
    try:
        ranks.join()
        return train(config, ranks)
    except AgreedError as error:
        if ranks.is_main:
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(PATIENCE)  # the end of this rank would end the main one before it has spoken
        return error.exit_code
    except USER_ERRORS as error:
        if not ranks.is_main:
            time.sleep(PATIENCE)  # the main rank most likely says the same
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except EndedError:
        return EXIT_STOPPED
    except KeyboardInterrupt:  # before the trainer listens to signals
        return EXIT_STOPPED
    except Exception:
        if ranks.world_size > 1:
            time.sleep(PATIENCE)  # a lost connection is most likely the end of a rank that has said why
        traceback.print_exc()
        return EXIT_CRASHED


def main() -> int:
    """Entry point."""
    if sys.argv[1:2] == ["--config"] and len(sys.argv) == 3:
        try:
            config = load_run_config(Path(sys.argv[2]))
        except USER_ERRORS as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        return work(config)
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        print("error: python -m train is one run; a sweep is `python -m launch -m ...`", file=sys.stderr)
        return EXIT_USER_ERROR
    return hydra_app(work, __doc__ or "")


if __name__ == "__main__":
    leave(main())

"""python -m train: the worker that a launcher starts, one process per rank.

  python -m train experiment=repo-1b-50b --cfg job      print the whole recipe and do nothing
  python -m train experiment=demo max_steps=20          train in this one process
  python -m train --config runs/demo/config.yaml        what a launcher runs, on every rank
  torchrun --nproc-per-node 8 -m train experiment=repo-1b-50b      plain torchrun, without python -m launch

Any key of the recipe can be set as key=value. The same command, run again, continues the run.
"""

import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from common.console import keep_on_without_reader
from common.errors import UserError
from common.processes import PARENT
from data.errors import DataError
from data.mix import describe_mix, too_many_epochs
from data.stream import BatchStream, build_stream
from model.config import ModelConfig
from report.comparison import flat
from train.callbacks.build import build_callbacks
from train.callbacks.callback import Callback
from train.checkpoint.checkpoints import Checkpoints
from train.checkpoint.store import Layout
from train.compose.app import hydra_app, load_run_config, save_run_config
from train.compose.command_line import is_sweep
from train.config import RunConfig
from train.distributed import Ranks, leave, seed_generators
from train.engine.build import build_engine, resolve_precision
from train.errors import EXIT_CRASHED, EXIT_STOPPED, EXIT_USER_ERROR, CollectiveError, StopReason, TrainError
from train.processes import stop_with_parent
from train.records import mend_records
from train.run_folder import RunFolder, explained_write_errors
from train.signals import StopSignals
from train.trainer import LostPeersError, Trainer
from train.vocabulary import vocabulary_problem
from train.watchdog import Watchdog

OTHER_RANKS_DELAY = 3.0  # seconds that a rank waits before it prints what the main rank most likely prints as well


def train(
    config: RunConfig,
    ranks: Ranks,
    callbacks: Sequence[Callback] = (),
    clock: Callable[[], float] = time.monotonic,
    *,
    until_exit: bool = False,
) -> int:
    """Runs the recipe on this rank and returns the exit code; `callbacks` come after those that every run has.

    `clock`, in seconds, is what the watchdog measures its limits with. With `until_exit`, stop signals have no effect
    once the run has ended.

    A run that is rolled back starts again in this process, as after a kill.

    Raises UserError for what a user can put right, and LostPeersError.
    """
    folder = RunFolder.of(config)
    lock = folder.lock() if ranks.is_main else nullcontext()
    signals = StopSignals(is_main=ranks.is_main, until_exit=until_exit)
    with lock, Watchdog(config.watchdog, ranks, folder, clock) as watchdog:
        while (reason := train_once(config, ranks, folder, callbacks, watchdog, signals)) is StopReason.rollback:
            free_memory()
            watchdog.begin_again()
        return reason.exit_code


def train_once(
    config: RunConfig,
    ranks: Ranks,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    watchdog: Watchdog,
    signals: StopSignals,
) -> StopReason:
    """Runs the recipe from its newest checkpoint to the end, a stop or a rollback; returns which."""
    watchdog.enter("start")
    precision = resolve_precision(config.engine.precision, ranks.device, config.engine.zero_stage)
    checkpoints = Checkpoints(config, ranks, folder, Layout.of(config, ranks.world_size, precision))
    start = checkpoints.choose_start()
    ranks.on_main(lambda: mend_records(folder, start.resume))
    if checkpoints.is_finished(start):
        say(ranks, checkpoints.describe_finished(start))
        return StopReason.finished
    if checkpoints.is_at_stop_step(start):
        say(ranks, f"{config.name} is at its stop_step={config.stop_step}; without it, the same command continues")
        return StopReason.stop_step
    watchdog.enter("preparing the data")
    stream = build_data(config, ranks)
    checkpoints.check_data(start, stream.fingerprint)
    ranks.on_main(lambda: describe_data(config, stream, is_resumed=start.resume is not None))
    watchdog.enter("reading or converting weights")
    weights = checkpoints.initial_weights(start, watchdog.go_on)
    watchdog.enter("building the engine")
    record_start(config, ranks, folder)
    engine = build_engine(config, ranks, weights)
    watchdog.enter("restoring the run")
    every_run = build_callbacks(config)
    trainer = Trainer(config, ranks, folder, engine, stream, [*every_run, *callbacks], checkpoints, watchdog, signals)
    stop = trainer.fit(start.resume)
    ranks.barrier()  # the main rank may still be writing the last page of the report
    engine.close()
    return stop.reason


def free_memory() -> None:
    """Frees what a closed engine held on the device: the next one needs the same again."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def say(ranks: Ranks, line: str) -> None:
    """Prints a line on the main rank."""
    if ranks.is_main:
        print(line)


def build_data(config: RunConfig, ranks: Ranks) -> BatchStream:
    """Returns this rank's stream of batches. Raises DataError, and TrainError if it does not fit the model."""
    stream = build_stream(
        config.data,
        sequence_length=config.sequence_length,
        global_batch_size=config.global_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    check_vocabulary(stream, config.model)
    return stream


def describe_data(config: RunConfig, stream: BatchStream, *, is_resumed: bool) -> None:
    """Prints what the whole run takes from each source.

    Raises DataError where it needs more passes over one than its `max_epochs`; a run that goes on only prints that.
    """
    mix, planned = stream.mix(), config.max_steps * config.global_batch_size * config.sequence_length
    weights = {name: source.weight for name, source in config.data.sources.items()}
    unused = [name for name, weight in weights.items() if weight == 0.0 and config.data.file_list is None]
    for line in describe_mix(mix, planned, unused):
        print(line)
    problem = too_many_epochs(mix, planned, weights)
    if problem and not is_resumed:
        raise DataError(problem)
    if problem:
        print(problem)


def record_start(config: RunConfig, ranks: Ranks, folder: RunFolder) -> None:
    """Writes the config into the run folder, and seeds this rank's random generators."""
    if ranks.is_main:
        with explained_write_errors(folder.path):
            save_run_config(config, folder.config)
        if warning := idle_steps(config):
            print(warning)
        if config.checkpoint.export_hf and (problem := config.export_problem()):
            print(f"{config.name} will not be exported: {problem}")
    seed_generators(config.seed + ranks.rank)


def idle_steps(config: RunConfig) -> str | None:
    """Returns a warning if `max_steps` was raised alone; the published run itself ends with 11 such steps."""
    decayed, steps = config.schedule.decay_steps, config.max_steps
    if config.schedule.final_fraction or steps <= 1.01 * decayed:
        return None
    return (
        f"{config.name}: steps {decayed} to {steps} have a learning rate of 0 and learn nothing: "
        f"set schedule.decay_steps={steps} too"
    )


def check_agreement(config: RunConfig, ranks: Ranks) -> None:
    """Raises TrainError on every rank unless all have the same settings: each machine composes its own."""
    all_settings = [flat(plain) for plain in ranks.gather(config.as_plain())]
    for rank, settings in enumerate(all_settings):
        for key in [key for key in settings if not key.startswith("launch.") and settings[key] != all_settings[0][key]]:
            raise TrainError(
                f"{key} is {all_settings[0][key]} on rank 0 and {settings[key]} on rank {rank}: start the same command "
                "on every machine"
            )


def check_vocabulary(stream: BatchStream, model: ModelConfig) -> None:
    """Raises TrainError, before the first step, if the data was made with another tokenizer than the model's."""
    if problem := vocabulary_problem(stream.max_token_id, stream.eos_token_id, model):
        raise TrainError(problem)


def work(config: RunConfig) -> int:
    """Joins the other ranks and trains; turns errors into one line and an exit code."""
    ranks = Ranks()
    if ranks.world_size > 1 or PARENT in os.environ:  # a launcher started it
        stop_with_parent()
    logging.basicConfig(format="%(message)s")
    for name in ("data", "model"):
        logging.getLogger(name).setLevel(logging.INFO if ranks.is_main else logging.WARNING)
    if not ranks.is_main:  # every rank finds the same about validation rows and encoders: one warning is enough
        for name in ("data.validation", "data.tokenizer"):
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ranks.join()
        check_agreement(config, ranks)
        return train(config, ranks, until_exit=True)
    except CollectiveError as error:
        if ranks.is_main:
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(OTHER_RANKS_DELAY)  # the end of this rank would end the main one before it prints
        return error.reason.exit_code
    except UserError as error:
        if not ranks.is_main:
            time.sleep(OTHER_RANKS_DELAY)
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except LostPeersError:
        return EXIT_STOPPED
    except KeyboardInterrupt:  # before the trainer handles signals
        return EXIT_STOPPED
    except Exception:
        if ranks.world_size > 1:
            time.sleep(OTHER_RANKS_DELAY)  # a lost connection is most likely caused by a rank that says why
        traceback.print_exc()
        return EXIT_CRASHED


def main() -> int:
    """Parses the command line and trains; returns the exit code."""
    if sys.argv[1:2] == ["--config"] and len(sys.argv) == 3:
        try:
            config = load_run_config(Path(sys.argv[2]))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        return work(config)
    if is_sweep(sys.argv[1:]):
        print("error: python -m train is one run; a sweep is `python -m launch -m ...`", file=sys.stderr)
        return EXIT_USER_ERROR
    return hydra_app(work, __doc__ or "")


if __name__ == "__main__":
    keep_on_without_reader()
    leave(main())

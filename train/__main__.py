"""python -m train: the worker, one process per rank, that a launcher starts.

  python -m train experiment=repo-1b-50b --cfg job      print the whole recipe and do nothing
  python -m train experiment=demo max_steps=20          train in this one process
  python -m train --config runs/demo/launch.yaml        what a launcher runs, on every rank
  torchrun --nproc-per-node 8 -m train experiment=repo-1b-50b      the same without our launcher

Any key of the recipe can be set as key=value. The same command, run again, continues the run.
"""

import sys
import time
import traceback
from pathlib import Path

from model.weights import Weights, hf_weights, random_weights
from train.callbacks import build_callbacks
from train.checkpoint import Checkpoint, Start, check_resumable, choose_start, newest_checkpoint
from train.compose import (
    EXIT_CRASHED,
    EXIT_OK,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    USER_ERRORS,
    hydra_app,
    load_run_config,
    save_run_config,
)
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.engine import Engine
from train.run_folder import FINISHED, RunFolder
from train.trainer import Trainer

PATIENCE = 3  # seconds in which the end of another rank ends this one, before it says what is known already


def train(config: RunConfig, ranks: Ranks) -> int:
    """The recipe. Returns the exit code: EXIT_OK, or EXIT_STOPPED if a signal ended it after a checkpoint."""
    from data.stream import build_stream

    folder = RunFolder.of(config)
    start = choose_start(newest_checkpoint(folder.checkpoints), config.init_from)
    if start.resume is not None:
        check_resumable(start.resume, config)
        if is_finished(start.resume, config, folder):
            return EXIT_OK
    if ranks.is_main:
        save_run_config(config, folder.config)
    weights = initial_weights(config, start)
    stream = build_stream(
        config.data,
        sequence_length=config.sequence_length,
        global_batch_size=config.global_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    engine = Engine(config, ranks, weights)
    trainer = Trainer(config, ranks, folder, engine, stream, build_callbacks(config))
    reason = trainer.fit(start.resume)
    return EXIT_OK if reason == FINISHED else EXIT_STOPPED


def is_finished(checkpoint: Checkpoint, config: RunConfig, folder: RunFolder) -> bool:
    """Whether nothing is left to do: the last step is done, and the export too if there is to be one."""
    exported = folder.hf.is_dir() or not config.checkpoint.export_hf
    return checkpoint.step >= config.max_steps and exported


def initial_weights(config: RunConfig, start: Start) -> Weights | None:
    """Values for every parameter; None if a checkpoint brings them."""
    if start.resume is not None:
        return None
    if start.import_from is not None:
        return hf_weights(start.import_from, config.model, config.positions, config.seed)
    return random_weights(config.model, config.positions, config.seed)


def work(config: RunConfig) -> int:
    """Join the other ranks, train, and turn errors into one line and an exit code."""
    ranks = Ranks()
    try:
        ranks.join()
        return train(config, ranks)
    except USER_ERRORS as error:
        if not ranks.is_main:
            time.sleep(PATIENCE)  # the main rank most likely says the same
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
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
    return hydra_app(work, __doc__ or "")


if __name__ == "__main__":
    leave(main())

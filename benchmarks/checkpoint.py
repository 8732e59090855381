"""What a checkpoint costs: how long training stands still, the whole save, verifying, loading, converting; its bytes.

    python -m benchmarks.checkpoint                        the tiny model and one of 269 M parameters, on this process
    torchrun --nproc-per-node 8 -m benchmarks.checkpoint --models olmo2-1b --folder /path/on/the/real/disk
    python -m benchmarks.checkpoint engine.zero_stage=3    any key of the config

DeepSpeed's own save, which neither digests nor flushes to the disk, is measured beside ours. What was just written is
read from the page cache: from a cold disk, verifying and loading together take the time of reading once. Where 1B does
not fit, its figures are calculated from the largest model's bytes per second, and say so.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks.figures import Figure, Origin, report
from model.accounting import num_parameters
from model.weights import random_weights
from train.checkpoint.resume import find_checkpoint, load_checkpoint
from train.checkpoint.save import Saver
from train.checkpoint.store import Layout, read_checkpoint
from train.checkpoint.universal import make_universal
from train.compose.app import CONFIG_FOLDER, to_run_config
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.engine.build import build_engine
from train.engine.engine import Engine, MicroBatch
from train.run_folder import RunFolder

LENGTH = 16  # tokens of the one update that gives the optimizer its state
LARGE = "olmo2-1b"
Row = dict[str, float]


def configured(model: str, folder: Path, overrides: list[str]) -> RunConfig:
    """Returns the real recipe with this model; bf16, so that a parameter takes its 14 bytes on any device."""
    arguments = [f"model={model}", "positions.start_layer=null", "engine.precision=bf16", f"run_root={folder}"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        composed = compose("config", ["experiment=repo-1b-50b", f"name={model}", *arguments, *overrides])
    return to_run_config(composed)


def trained(config: RunConfig, ranks: Ranks) -> Engine:
    """Returns an engine after one update on random tokens, one row per rank."""
    config.global_batch_size, config.micro_batch_size = ranks.world_size, 1
    engine = build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    tokens = torch.randint(config.model.vocab_size, (1, LENGTH), device=ranks.device)
    engine.accumulate(MicroBatch(tokens, tokens.roll(-1, 1)), LENGTH * ranks.world_size)
    engine.update(1e-6, 1.0)
    return engine


def seconds(ranks: Ranks, work: Callable[[], Any]) -> float:
    """Returns the seconds of `work` on the slowest rank; the GPU is idle before and after."""
    synchronise = torch.cuda.synchronize if ranks.device.type == "cuda" else lambda: None
    synchronise()
    ranks.barrier()
    start = time.perf_counter()
    work()
    synchronise()
    return max(ranks.gather(time.perf_counter() - start))


def measure(model: str, folder: Path, overrides: list[str], repeats: int, ranks: Ranks) -> Row:
    """Medians over `repeats` saves of each kind, then one of each way back."""
    config = configured(model, folder, overrides)
    config.checkpoint.keep = 1
    run = RunFolder.of(config)
    engine = trained(config, ranks)
    layout = Layout.of(config, ranks.world_size, engine.precision)
    times: dict[str, list[float]] = {name: [] for name in ("DeepSpeed", "at once", "stall", "behind")}
    for step in range(repeats):
        times["DeepSpeed"].append(seconds(ranks, lambda: _save_plainly(engine, folder / "plain")))
        for background in (False, True):
            config.checkpoint.background = background
            saver = Saver(run.checkpoints, config.checkpoint, layout, ranks)
            number = 2 * step + background + 1
            begin = seconds(ranks, lambda saver=saver, number=number: saver.begin(number, engine, {}))  # type: ignore[misc]
            finish = seconds(ranks, lambda saver=saver: saver.finish(wait=True))  # type: ignore[misc]
            times["behind" if background else "at once"].append(begin + finish)
            if background:
                times["stall"].append(begin)
    row: Row = {name: statistics.median(values) for name, values in times.items()}
    checkpoint = read_checkpoint(next(iter(sorted(run.checkpoints.glob("step-*"), reverse=True))))
    row["verify"] = seconds(ranks, lambda: find_checkpoint(run, ranks))
    row["load"] = seconds(ranks, lambda: load_checkpoint(checkpoint, engine, layout, ranks, config.seed))
    row["convert"] = seconds(ranks, lambda: ranks.on_main(lambda: make_universal(checkpoint)))
    row["bytes"] = sum(record.size for record in checkpoint.files.values())
    row["parameters"] = num_parameters(config.model, config.positions)
    engine.close()
    ranks.barrier()
    if ranks.is_main:
        shutil.rmtree(folder / "plain")
        shutil.rmtree(run.path)
    return row


def _save_plainly(engine: Engine, folder: Path) -> None:
    """Saves as a trainer without this package does."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    deepspeed_engine = engine._engine
    deepspeed_engine.checkpoint_engine = TorchCheckpointEngine(deepspeed_engine._config)
    deepspeed_engine.save_checkpoint(str(folder), tag="only")


def scaled(row: Row, model: str, overrides: list[str]) -> Row:
    """Returns the figures of another model at the same bytes and seconds per parameter."""
    config = configured(model, Path(), overrides)
    parameters = num_parameters(config.model, config.positions)
    return {name: value * parameters / row["parameters"] for name, value in row.items()} | {"parameters": parameters}


def figures(model: str, row: Row, origin: Origin = Origin.measured) -> list[Figure]:
    """Returns the figures of one model."""
    named = f"checkpoint of {model}, {row['parameters'] / 1e6:,.0f} M parameters"
    times = [Figure(f"{named}: {what}", row[name], "s", origin=origin) for name, what in TIMES.items()]
    return [Figure(f"{named}: size", row["bytes"] / 1e9, "GB", origin=origin), *times]


TIMES = {
    "DeepSpeed": "DeepSpeed's own save",
    "at once": "a save at once",
    "stall": "a save in the background, training stands still",
    "behind": "a save in the background, until published",
    "verify": "verifying",
    "load": "loading",
    "convert": "converting to the universal form",
}


def main() -> None:
    """Reports the figures of each model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["tiny", "small"])
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: a temporary folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="key=value of the config")
    arguments = parser.parse_intermixed_args()
    ranks = Ranks()
    ranks.join()
    root = arguments.folder or ranks.on_main(lambda: Path(tempfile.mkdtemp(prefix="checkpoint-")))
    device = torch.cuda.get_device_name() if ranks.device.type == "cuda" else "CPU"
    if ranks.is_main:
        print(f"{ranks.world_size} x {device}, torch {torch.__version__}, on {root}, medians of {arguments.repeats}")
    row: Row = {}
    for model in arguments.models:
        with redirect_stdout(StringIO()):  # resuming says what it does
            row = measure(model, root, arguments.overrides, arguments.repeats, ranks)
        if ranks.is_main:
            report(*figures(model, row))
    if ranks.is_main and LARGE not in arguments.models:
        report(*figures(LARGE, scaled(row, LARGE, arguments.overrides), Origin.calculated))
    if ranks.is_main and arguments.folder is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
    leave(0)

"""The time of whole training steps with RePo and with RoPE, in one process: RePo's cost, tokens per second and MFU.

    python -m benchmarks.step                 the demo's model, on a GPU if there is one
    python -m benchmarks.step --experiment repo-1b-50b global_batch_size=32 micro_batch_size=8      the real shape

Steps of the two models alternate, and the median of each is reported. On a shared machine only the ratio is reliable.
"""

import argparse
import statistics
import time

import torch
from hydra import compose, initialize_config_dir

from model.accounting import flops_per_token
from model.weights import random_weights
from train.compose.app import CONFIG_FOLDER, to_run_config
from train.config import RunConfig
from train.devices import bf16_peak
from train.distributed import Ranks, leave
from train.engine.build import build_engine
from train.engine.engine import Engine, MicroBatch


def configured(experiment: str, positions: str, overrides: list[str]) -> RunConfig:
    """Returns the config of the experiment with `positions`, a file of configs/positions/."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return to_run_config(compose("config", [f"experiment={experiment}", f"positions={positions}", *overrides]))


def one_step(engine: Engine, config: RunConfig, tokens: torch.Tensor) -> float:
    """Makes one update on `tokens` [B, T], with the next token as label, and returns its seconds."""
    start = time.perf_counter()
    for first in range(0, config.global_batch_size, engine.micro_batch_size):
        rows = tokens[first : first + engine.micro_batch_size]
        engine.accumulate(MicroBatch(rows, rows.roll(-1, 1)), tokens.numel())
    engine.update(1e-6, 1.0)
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Prints seconds per step, tokens/s and MFU of each model, and what RePo adds in percent."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each, after two that warm up")
    parser.add_argument("overrides", nargs="*", help="key=value of the config")
    arguments = parser.parse_args()
    ranks = Ranks()
    ranks.join()
    configs = {name: configured(arguments.experiment, name, arguments.overrides) for name in ("rope", "repo")}
    engines = {
        name: build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
        for name, config in configs.items()
    }
    shape = (configs["repo"].global_batch_size, configs["repo"].sequence_length)
    tokens = torch.randint(configs["repo"].model.vocab_size, shape, device=ranks.device)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(arguments.steps + 2):
        for name, engine in engines.items():
            seconds[name].append(one_step(engine, configs[name], tokens))
    device = torch.cuda.get_device_name() if ranks.device.type == "cuda" else "CPU"
    peak = bf16_peak(device)
    print(f"{arguments.experiment} on {device}, torch {torch.__version__}, {shape[0]} x {shape[1]} tokens a step")
    medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    for name, median in medians.items():
        rate = tokens.numel() / median
        flops = flops_per_token(configs[name].model, configs[name].positions, shape[1], causal=False)
        mfu = f"{rate * flops / peak:.1%}" if peak else "-"
        print(f"{name}  {median:.3f} s/step  {rate:,.0f} tokens/s  MFU {mfu}")
    print(f"RePo's cost: {medians['repo'] / medians['rope'] - 1:+.1%} of a RoPE step")


if __name__ == "__main__":
    main()
    leave(0)

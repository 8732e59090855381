"""The time of whole training steps with RePo, with RoPE and, on a CPU, in `transformers`: in one process, alternating.

    python -m benchmarks.step                 the demo's model, on a GPU if there is one
    python -m benchmarks.step model=small global_batch_size=4 sequence_length=512      another size
    python -m benchmarks.step --experiment repo-1b-50b global_batch_size=32 micro_batch_size=8      the real shape

A GPU is measured by the wall clock; a CPU by the time of the process on one thread, which hardly grows on a busy
machine. Ratios are medians over the rounds, each of steps made one after the other. A step of `transformers` is its
Olmo2 with the same micro-batches, clipping and torch's AdamW, in fp32, without DeepSpeed and without z-loss.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks.figures import Figure, report
from model.accounting import flops_per_token
from model.hf_config import hf_config
from model.weights import random_weights
from train.compose.app import CONFIG_FOLDER, to_run_config
from train.config import RunConfig
from train.devices import bf16_peak
from train.distributed import Ranks, leave
from train.engine.build import build_engine
from train.engine.config import Precision
from train.engine.engine import Engine, MicroBatch

WARM_UP = 2  # rounds
MOST_OF_TRANSFORMERS, MOST_OF_ROPE = 1.0, {"cpu": 1.03, "cuda": 1.015}


def configured(experiment: str, positions: str, overrides: list[str]) -> RunConfig:
    """Returns the config of the experiment with `positions`, a file of configs/positions/."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return to_run_config(compose("config", [f"experiment={experiment}", f"positions={positions}", *overrides]))


def one_step(engine: Engine, config: RunConfig, tokens: torch.Tensor) -> None:
    """Makes one update on `tokens` [B, T], with the next token as label."""
    for first in range(0, config.global_batch_size, engine.micro_batch_size):
        rows = tokens[first : first + engine.micro_batch_size]
        engine.accumulate(MicroBatch(rows, rows.roll(-1, 1)), tokens.numel())
    engine.update(1e-6, 1.0)


def clock(device: torch.device) -> float:
    """Returns seconds of the wall on a GPU, which it waits for, and of the process on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def step_of_transformers(config: RunConfig, micro_batch_size: int, tokens: torch.Tensor) -> Callable[[], None]:
    """Returns a function that makes one update of `transformers`' Olmo2, with the same settings."""
    from transformers import Olmo2Config, Olmo2ForCausalLM

    described: dict[str, Any] = hf_config(config.model, config.positions, "float32")
    model = Olmo2ForCausalLM(Olmo2Config(**described))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=config.optimizer.weight_decay
    )
    parts = tokens.split(micro_batch_size)

    def step() -> None:
        for rows in parts:
            (model(input_ids=rows, labels=rows).loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def rounds(steps: dict[str, Callable[[], None]], device: torch.device) -> Iterator[dict[str, float]]:
    """Yields the seconds of one step of each, by name, again and again; each round begins with the next one."""
    names, start = list(steps), 0
    while True:
        seconds = {}
        for name in (*names[start:], *names[:start]):
            began = clock(device)
            steps[name]()
            seconds[name] = clock(device) - began
        yield seconds
        start = (start + 1) % len(names)


def main() -> None:
    """Reports seconds per step, tokens/s and MFU of each model, and the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--rounds", type=int, default=24, help=f"timed steps of each, after {WARM_UP} that warm up")
    parser.add_argument("overrides", nargs="*", help="key=value of the config")
    arguments = parser.parse_intermixed_args()
    ranks = Ranks()
    ranks.join()
    device = ranks.device
    configs = {name: configured(arguments.experiment, name, arguments.overrides) for name in ("rope", "repo")}
    engines = {
        name: build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
        for name, config in configs.items()
    }
    rope = configs["rope"]
    tokens = torch.randint(rope.model.vocab_size, (rope.global_batch_size, rope.sequence_length), device=device)
    steps: dict[str, Callable[[], None]] = {
        name: partial(one_step, engine, configs[name], tokens) for name, engine in engines.items()
    }
    if device.type == "cpu":
        torch.set_num_threads(1)
        if engines["rope"].precision is Precision.fp32:
            steps["transformers"] = step_of_transformers(rope, engines["rope"].micro_batch_size, tokens)
    seconds = list(islice(rounds(steps, device), WARM_UP, WARM_UP + arguments.rounds))
    name_of_device = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = bf16_peak(name_of_device)
    print(
        f"{arguments.experiment} on {name_of_device}, torch {torch.__version__}, ZeRO {rope.engine.zero_stage}, "
        f"{tokens.shape[0]} x {tokens.shape[1]} tokens a step in {engines['rope'].num_micro_batches} micro-batches"
    )
    for name in steps:
        rate = tokens.numel() / statistics.median(each[name] for each in seconds)
        report(Figure(f"training step, {name}", rate, "tokens/s"))
        if peak:
            flops = flops_per_token(configs[name].model, configs[name].positions, tokens.shape[1], causal=False)
            report(Figure(f"training step, {name}: MFU", 100 * rate * flops / peak, "%"))

    def ratio(name: str, other: str) -> float:
        return statistics.median(each[name] / each[other] for each in seconds)

    report(Figure("time of a step, RePo over RoPE", ratio("repo", "rope"), at_most=MOST_OF_ROPE[device.type]))
    if "transformers" in steps:
        for name, title in (("rope", "RoPE"), ("repo", "RePo")):
            what = f"time of a step, {title} over `transformers`"
            report(Figure(what, ratio(name, "transformers"), at_most=MOST_OF_TRANSFORMERS))


if __name__ == "__main__":
    main()
    leave(0)

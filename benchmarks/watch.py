"""What a reading of the position watch costs, and its share of the time of training at the default interval.

    python -m benchmarks.watch                 the demo's model, on whatever device there is
    python -m benchmarks.watch --experiment repo-1b-50b global_batch_size=32      the real shape

Steps with and without a reading alternate in one process, and the cost is the median difference of neighbours. On a CPU
it is the process's CPU time, which does not grow on a busy machine; on a GPU wall time. A reading costs the same at
every step, so its share is inversely proportional to the interval.
"""

import argparse
import statistics

import torch

from benchmarks.figures import Figure, report
from benchmarks.step import clock, configured
from model.weights import random_weights
from train.distributed import Ranks, leave
from train.engine.build import build_engine
from train.engine.engine import Engine, MicroBatch
from train.watch.detectors import Detectors
from train.watch.meter import Meter

MOST_PERCENT = 0.5  # of the time of training


def step_seconds(engine: Engine, tokens_bt: torch.Tensor, detectors: Detectors | None) -> float:
    """Returns the seconds of one update on random tokens, with a reading if there are detectors to observe it."""
    start = clock(engine.device)
    meter = None if detectors is None else Meter(engine, filtered_rows=False)
    for first in range(0, len(tokens_bt), engine.micro_batch_size):
        rows = tokens_bt[first : first + engine.micro_batch_size]
        engine.accumulate(MicroBatch(rows, rows.roll(-1, 1)), tokens_bt.numel())
    if meter is not None:
        meter.read_gradients()
    update = engine.update(1e-6, 1.0)
    if meter is not None and detectors is not None:
        reading = meter.finish(1, update.grad_norm, world_size=1)
        assert reading is not None
        reading.metrics()
        detectors.observe(reading)
    return clock(engine.device) - start


def main() -> None:
    """Reports the seconds of a step and of a reading, and the share of a reading at an interval."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each kind, after two untimed ones")
    parser.add_argument("--interval", type=int, default=100, help="steps between readings; 100 is the default of runs")
    parser.add_argument("overrides", nargs="*", help="key=value of the config")
    arguments = parser.parse_args()
    ranks = Ranks()
    ranks.join()
    config = configured(arguments.experiment, "repo", arguments.overrides)
    engine = build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    shape = (config.global_batch_size, config.sequence_length)
    tokens_bt = torch.randint(config.model.vocab_size, shape, device=ranks.device)
    detectors = Detectors(config.sequence_length)
    pairs = [
        (step_seconds(engine, tokens_bt, None), step_seconds(engine, tokens_bt, detectors))
        for _ in range(arguments.steps + 2)
    ][2:]
    without = statistics.median(plain for plain, _ in pairs)
    cost = statistics.median(watched - plain for plain, watched in pairs)
    share = cost / (arguments.interval * without)
    num_layers = len(list(engine.model.learned_positions()))
    device = torch.cuda.get_device_name() if ranks.device.type == "cuda" else "CPU"
    print(
        f"{arguments.experiment} on {device}, {shape[0]} x {shape[1]} tokens a step, "
        f"{engine.num_micro_batches} micro-batches, {num_layers} layers x {config.model.key_value_heads} heads"
    )
    report(
        Figure("a step without a reading", without, "s"),
        Figure("a reading of the position watch, of its step", 100 * cost / without, "%"),
        Figure(f"readings every {arguments.interval} steps, of the time", 100 * share, "%", at_most=MOST_PERCENT),
    )


if __name__ == "__main__":
    main()
    leave(0)

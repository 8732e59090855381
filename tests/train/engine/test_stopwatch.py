"""The stopwatch adds up what runs inside it, and nothing else."""

import torch

from train.engine.stopwatch import Stopwatch


def test_only_time_inside_counts_and_a_lap_starts_again() -> None:
    now = 0.0
    stopwatch = Stopwatch(torch.device("cpu"), clock=lambda: now)
    for inside, outside in ((2.0, 10.0), (3.0, 20.0)):
        with stopwatch:
            now += inside
        now += outside
    assert stopwatch.lap() == 5.0
    with stopwatch:
        now += 1.0
    assert stopwatch.lap() == 1.0
    assert stopwatch.lap() == 0.0

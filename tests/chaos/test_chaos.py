"""Kills at random moments leave no trace in what a run has learned."""

import os
from pathlib import Path

from tests.chaos.harness import Leg, differences, losses, run_under_fire, run_undisturbed
from train.run_folder import RunFolder

NUM_KILLS = 5


def test_five_kills_leave_every_loss_as_it_would_have_been(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    kills, ended = run_under_fire(tmp_path, "under-fire", [Leg(NUM_KILLS)], "data.num_workers=0", seed=seed)
    run_undisturbed(tmp_path, "undisturbed", ended, "data.num_workers=0")
    assert len(kills) == NUM_KILLS
    undisturbed, under_fire = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "under-fire")
    assert differences(undisturbed, under_fire) == []
    assert sorted(losses(under_fire)) == list(range(1, ended[-1].last_step + 1))

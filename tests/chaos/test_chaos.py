"""Kills at random moments change nothing in what a run has learned."""

import os
from pathlib import Path

from tests.chaos.harness import Segment, differences, losses, run_undisturbed, run_with_kills
from train.run_folder import RunFolder

NUM_KILLS = 5


def test_five_kills_leave_every_loss_as_it_would_have_been(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    kills, ended = run_with_kills(tmp_path, "killed", [Segment(NUM_KILLS)], "data.num_workers=0", seed=seed)
    run_undisturbed(tmp_path, "undisturbed", ended, "data.num_workers=0")
    assert len(kills) == NUM_KILLS
    undisturbed, killed = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "killed")
    assert differences(undisturbed, killed) == []
    assert sorted(losses(killed)) == list(range(1, ended[-1].last_step + 1))

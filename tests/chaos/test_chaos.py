"""Kills at random moments change nothing in what a run has learned."""

import os
from pathlib import Path

from tests.chaos.harness import Segment, differences, run
from train.run_folder import RunFolder

LAST_STEP, NUM_KILLS = 36, 5


def test_five_kills_leave_every_loss_as_it_would_have_been(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    run(tmp_path, "undisturbed", [Segment(LAST_STEP)], "data.num_workers=0")
    kills = run(tmp_path, "killed", [Segment(LAST_STEP, num_kills=NUM_KILLS)], "data.num_workers=0", seed=seed)
    assert len(kills) == NUM_KILLS
    assert differences(RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "killed")) == []

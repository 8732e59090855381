"""The numbers of training do not change unnoticed."""

import json
from pathlib import Path

import pytest

from tests.train.golden import CASES, COLUMNS, FILE, NUM_STEPS, Golden, measure

NOISE = 2e-5  # relative: other CPUs add up in another order


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return measure(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradient_norms_are_the_golden_ones(seen: Golden, case: str) -> None:
    golden: Golden = json.loads(Path(FILE).read_text())
    for column in COLUMNS:
        assert len(seen[case][column]) == NUM_STEPS
        assert seen[case][column] == pytest.approx(golden[case][column], rel=NOISE), column


def test_golden_cases_differ_from_one_another(seen: Golden) -> None:
    last = [seen[case]["train/loss"][-1] for case in CASES]
    assert len({round(loss, 6) for loss in last}) == len(CASES)
